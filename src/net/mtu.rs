//! The MTU when the configuration gives none: what the node itself can send outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    link,
    netlink::Netlink,
    route::{self, Installed},
};
use crate::error::Result;

/// Ethernet's, when the node has no default route.
const FALLBACK: u32 = 1500;
/// The most that IPv4 can carry in a packet, and the least that IPv6 needs of a link (RFC 8200).
const RANGE: (u32, u32) = (1280, 65_535);
/// Addresses reserved for documentation (RFC 5737, RFC 3849): the default route, and seldom
/// another, leads to them.
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The MTU in bytes of the device that the node's default routes lead through; the smallest when
/// there are several, 1500 when there is none.
///
/// # Errors
/// [`Kind::Kernel`](crate::error::Kind::Kernel) when the kernel can't be asked.
pub fn default_mtu() -> Result<u32> {
    let mut socket = link::socket()?;
    let mut devices = Vec::new();
    for outside in OUTSIDE {
        devices.extend(default_route(&mut socket, outside)?.map_or(vec![], |route| route.links));
    }
    devices.sort_unstable();
    devices.dedup();
    let mut mtu = None;
    for device in devices {
        let found = link::by_index(&mut socket, device)?.map(|link| link.mtu);
        mtu = found.into_iter().chain(mtu).min();
    }
    Ok(mtu.unwrap_or(FALLBACK).clamp(RANGE.0, RANGE.1))
}

/// The default route of lowest metric. The kernel's own search finds it without reading the table,
/// unless a more special route covers the address that was asked for.
fn default_route(socket: &mut Netlink, outside: IpAddr) -> Result<Option<Installed>> {
    let is_default = |route: &Installed| route.dst.prefix() == 0;
    match route::matching(socket, outside)? {
        None => Ok(None),
        Some(route) if is_default(&route) && route.unicast => Ok(Some(route)),
        Some(_) => {
            let all = route::all(socket, outside.is_ipv4())?;
            Ok(all.into_iter().filter(is_default).min_by_key(|route| route.priority))
        }
    }
}

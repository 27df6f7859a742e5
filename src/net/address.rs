//! Addresses of the pod side, and permanent neighbour entries on both sides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::RouteType,
};
use nix::errno::Errno;
use rtnetlink::AddressMessageBuilder;

use super::{
    mac::Mac,
    netlink::{Ask, Netlink},
    plan::{Neighbour, Plan},
};
use crate::error::Result;

/// An address of a link, as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assigned {
    /// The address.
    pub ip: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// Whether duplicate address detection lets it be used.
    pub usable: bool,
}

/// The pod's link-local prefix (RFC 4291, section 2.5.6): the gateway is in it, so it is on the link.
const POD_LINK_LOCAL: u8 = 64;
/// The host side's. For a shorter prefix a kernel that forwards joins the subnet's anycast address,
/// and to leave that when the link is deleted takes a second RCU grace period: 20 ms of each DEL.
const HOST_LINK_LOCAL: u8 = 128;

/// The requests that give the pod side, the link of that index, its addresses. Each may be repeated.
pub fn of_pod(plan: &Plan, index: u32) -> impl Iterator<Item = Ask<RouteNetlinkMessage>> {
    let link_local = plan.pod_link_local.map(|ip| (IpAddr::V6(ip), POD_LINK_LOCAL));
    let addresses = plan.addresses.iter().map(|&ip| (ip, if ip.is_ipv4() { 32 } else { 128 }));
    link_local
        .into_iter()
        .chain(addresses)
        .map(move |(ip, prefix)| assign(ip, prefix, index, &plan.pod_ifname))
}

/// The requests that give the host side, the link of that index, its addresses.
pub fn of_host(plan: &Plan, index: u32) -> impl Iterator<Item = Ask<RouteNetlinkMessage>> {
    plan.host_link_local
        .into_iter()
        .map(move |ip| assign(ip.into(), HOST_LINK_LOCAL, index, &plan.mark.host_ifname))
}

fn assign(ip: IpAddr, prefix: u8, index: u32, name: &str) -> Ask<RouteNetlinkMessage> {
    let message = RouteNetlinkMessage::NewAddress(address(ip, prefix, index));
    Ask::new(format!("add address {ip}/{prefix} to {name}"), message, NLM_F_CREATE | NLM_F_REPLACE)
}

fn address(ip: IpAddr, prefix: u8, index: u32) -> AddressMessage {
    match ip {
        IpAddr::V4(ip) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, prefix).build()
        }
        IpAddr::V6(ip) => {
            let mut message =
                AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(ip, prefix).build();
            // Nobody else can hold the address on a link of two ends: detection would only cost the
            // pod its first second.
            message.header.flags = AddressHeaderFlags::Nodad;
            if ip.is_unicast_link_local() {
                message.header.scope = AddressScope::Link;
            }
            message
        }
    }
}

/// The addresses of the link of that index.
///
/// # Errors
/// [`Kind::Kernel`](crate::error::Kind::Kernel).
pub fn assigned(socket: &mut Netlink, index: u32) -> Result<Vec<Assigned>> {
    let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let replies = socket.dump("list addresses", &all)?;
    Ok(replies
        .into_iter()
        .filter_map(|reply| match reply {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                read(&message)
            }
            _ => None,
        })
        .collect())
}

/// The addresses of one family by which others, or the node itself, may speak to the socket's
/// namespace: all but link-local ones.
///
/// # Errors
/// [`Kind::Kernel`](crate::error::Kind::Kernel).
pub fn of_node(socket: &mut Netlink, v4: bool) -> Result<Vec<IpAddr>> {
    let mut all = AddressMessage::default();
    all.header.family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let replies = socket.dump("list addresses", &RouteNetlinkMessage::GetAddress(all))?;
    let addresses = replies.into_iter().filter_map(|reply| match reply {
        RouteNetlinkMessage::NewAddress(message) if message.header.scope != AddressScope::Link => {
            Some(read(&message)?.ip)
        }
        _ => None,
    });
    Ok(addresses.collect())
}

/// Whether the socket's namespace has an IPv4 address to speak to others from.
///
/// # Errors
/// [`Kind::Kernel`](crate::error::Kind::Kernel).
pub fn has_v4(socket: &mut Netlink) -> Result<bool> {
    let mut of_v4 = AddressMessage::default();
    of_v4.header.family = AddressFamily::Inet;
    let replies = socket.dump("list addresses", &RouteNetlinkMessage::GetAddress(of_v4))?;
    Ok(replies.iter().any(|reply| match reply {
        RouteNetlinkMessage::NewAddress(message) => message.header.scope != AddressScope::Host,
        _ => false,
    }))
}

fn read(message: &AddressMessage) -> Option<Assigned> {
    let mut ip = None;
    let mut flags = AddressFlags::empty();
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link IFA_ADDRESS is the other end; IFA_LOCAL is always ours.
            AddressAttribute::Local(local) => ip = Some(*local),
            AddressAttribute::Address(address) => ip = ip.or(Some(*address)),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed;
    let usable = !flags.intersects(unusable) || flags.contains(AddressFlags::Optimistic);
    Some(Assigned { ip: ip?, prefix: message.header.prefix_len, usable })
}

/// The requests that make the neighbours permanent on the link of that index.
pub fn introduce(
    neighbours: &[Neighbour],
    index: u32,
) -> impl Iterator<Item = Ask<RouteNetlinkMessage>> {
    neighbours.iter().map(move |neighbour| {
        let mut message = neighbour_message(neighbour.ip, index);
        message.header.state = NeighbourState::Permanent;
        let mac = NeighbourAttribute::LinkLayerAddress(neighbour.mac.0.to_vec());
        message.attributes.push(mac);
        Ask::new(
            format!("add neighbour {} at {}", neighbour.ip, neighbour.mac),
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    })
}

/// The requests that make the node answer on the host side, the link of that index, for the pod's
/// gateways.
pub fn answer(plan: &Plan, index: u32) -> impl Iterator<Item = Ask<RouteNetlinkMessage>> {
    let gateways = plan.pod_neighbours.iter().filter(|_| plan.answers);
    gateways.map(move |gateway| {
        let mut message = neighbour_message(gateway.ip, index);
        message.header.flags = NeighbourFlags::Proxy;
        Ask::new(
            format!("answer for {} on {}", gateway.ip, plan.mark.host_ifname),
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    })
}

/// The MAC of a permanent neighbour entry on the link of that index, if there is such an entry.
///
/// # Errors
/// [`Kind::Kernel`](crate::error::Kind::Kernel).
pub fn neighbour(socket: &mut Netlink, ip: IpAddr, index: u32) -> Result<Option<Mac>> {
    let message = RouteNetlinkMessage::GetNeighbour(neighbour_message(ip, index));
    let ask = Ask::new(format!("look up neighbour {ip}"), message, 0);
    let replies = match socket.exchange(vec![ask]) {
        Ok(replies) => replies,
        Err(refusal) if matches!(refusal.errno, Errno::ENOENT | Errno::ENODEV) => return Ok(None),
        Err(refusal) => return Err(refusal.into()),
    };
    Ok(replies.into_iter().find_map(|reply| match reply {
        RouteNetlinkMessage::NewNeighbour(message)
            if message.header.state == NeighbourState::Permanent =>
        {
            message.attributes.into_iter().find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(mac) => mac.try_into().ok().map(Mac),
                _ => None,
            })
        }
        _ => None,
    }))
}

fn neighbour_message(ip: IpAddr, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = index;
    message.header.kind = RouteType::Unspec;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(ip)));
    message
}

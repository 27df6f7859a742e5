//! Routes of the pod and to the pod.

use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
        RouteProtocol, RouteScope, RouteType, RouteVia,
    },
};
use nix::errno::Errno;

use super::{
    netlink::{Ask, Netlink},
    plan::Plan,
};
use crate::{error::Result, spec::Route};

/// Linux rtnetlink.h, `RT_TABLE_MAIN`.
const MAIN: u32 = 254;
/// The same, `RT_TABLE_LOCAL`.
const LOCAL: u8 = 255;
/// A metric above that of any route of the kernel's own.
const LOOPBACK_METRIC: u32 = 4096;

/// A route as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The destination.
    pub dst: IpNetwork,
    /// The next hop; none means directly on the link.
    pub gw: Option<IpAddr>,
    /// The link, or the first of several.
    pub oif: Option<u32>,
    /// Every link of a multipath route, else the one.
    pub links: Vec<u32>,
    /// The table.
    pub table: u32,
    /// The metric.
    pub priority: u32,
    /// Every next hop of a multipath route, else the one.
    pub next_hops: Vec<IpAddr>,
    /// Whether packets are sent on, rather than dropped or refused.
    pub unicast: bool,
    /// Whether packets are for the node itself.
    pub local: bool,
}

/// The requests that give the pod its routes, through the link of that index in the pod.
pub fn from_pod(plan: &Plan, index: u32) -> impl Iterator<Item = Ask<RouteNetlinkMessage>> {
    plan.pod_routes.iter().map(move |route| {
        // Each of a pod's interfaces has a route of its own to the same gateway; the kernel takes
        // the one whose link the route through it names. Any other route is the first interface's.
        let again = if route.gw.is_none() { NLM_F_APPEND } else { NLM_F_EXCL };
        Ask::new(
            format!("add route to {} in the pod", route.dst),
            RouteNetlinkMessage::NewRoute(message(route, index)),
            NLM_F_CREATE | again,
        )
    })
}

/// The requests that give the node its routes to the pod, through the host side of that index.
///
/// Exclusive: a route to the same address through another link means that another pod has it.
pub fn to_pod(plan: &Plan, index: u32) -> impl Iterator<Item = Ask<RouteNetlinkMessage>> {
    plan.host_routes.iter().map(move |&dst| {
        Ask::new(
            format!("add route to {dst} through {}", plan.mark.host_ifname),
            RouteNetlinkMessage::NewRoute(message(&Route::to(dst), index)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    })
}

/// The request, in the host's namespace, that makes packets to ::1 the node's own also where they come
/// through the host side of that index: answers to what was sent from ::1 and translated on its way.
///
/// The kernel takes ::1 on no wire, and looks it up for the link that a packet came by (what
/// `route_localnet` is for IPv4). The node's own packets to ::1 keep the way through the loopback, whose
/// metric is lower.
pub fn loopback(plan: &Plan, index: u32) -> Option<Ask<RouteNetlinkMessage>> {
    if !plan.loopback_v6 {
        return None;
    }
    let mut message = message(&Route::to(IpAddr::from(Ipv6Addr::LOCALHOST).into()), index);
    message.header.table = LOCAL;
    message.header.kind = RouteType::Local;
    message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Table(_)));
    message.attributes.push(RouteAttribute::Priority(LOOPBACK_METRIC));
    let what = format!("add local route to ::1 through {}", plan.mark.host_ifname);
    // Every pod with host ports has one.
    let append = NLM_F_CREATE | NLM_F_APPEND;
    Some(Ask::new(what, RouteNetlinkMessage::NewRoute(message), append))
}

fn message(route: &Route, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    let table = route.table.unwrap_or(MAIN);
    message.header = RouteHeader {
        address_family: family(route.dst.ip()),
        destination_prefix_length: route.dst.prefix(),
        // Tables above 255 don't fit the header and go into the attribute alone.
        table: u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
        protocol: RouteProtocol::Static,
        scope: match route.scope {
            Some(scope) => RouteScope::from(scope),
            None if route.gw.is_none() => RouteScope::Link,
            None => RouteScope::Universe,
        },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(table));
    attributes.push(RouteAttribute::Destination(route.dst.network().into()));
    attributes.push(RouteAttribute::Oif(index));
    attributes.extend(route.gw.map(|gw| RouteAttribute::Gateway(gw.into())));
    attributes.extend(route.priority.map(RouteAttribute::Priority));
    let metrics: Vec<_> = [route.mtu.map(RouteMetric::Mtu), route.advmss.map(RouteMetric::Advmss)]
        .into_iter()
        .flatten()
        .collect();
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// All unicast routes of one family in the socket's namespace. For a pod's few routes; on a node
/// with a thousand pods use [`matching`].
///
/// # Errors
/// [`Kind::Kernel`](crate::error::Kind::Kernel).
pub fn all(socket: &mut Netlink, v4: bool) -> Result<Vec<Installed>> {
    let mut message = RouteMessage::default();
    message.header.address_family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let replies = socket.dump("list routes", &RouteNetlinkMessage::GetRoute(message))?;
    Ok(replies.into_iter().filter_map(in_reply).filter(|route| route.unicast).collect())
}

/// The routing entry by which the node would send to `ip`, found by the kernel's own search.
/// Asked for the entry itself (`RTM_F_FIB_MATCH`, Linux 4.13), not for what it resolves to.
///
/// # Errors
/// [`Kind::Kernel`](crate::error::Kind::Kernel); that no route leads there is no error.
pub fn matching(socket: &mut Netlink, ip: IpAddr) -> Result<Option<Installed>> {
    look_up(socket, ip, None)
}

/// The routing entry for a packet to `ip` that came in through the link of that index, likewise.
///
/// # Errors
/// As [`matching`].
pub fn matching_from(socket: &mut Netlink, ip: IpAddr, index: u32) -> Result<Option<Installed>> {
    look_up(socket, ip, Some(index))
}

fn look_up(socket: &mut Netlink, ip: IpAddr, iif: Option<u32>) -> Result<Option<Installed>> {
    let mut message = RouteMessage::default();
    let dst = IpNetwork::from(ip);
    message.header.address_family = family(ip);
    message.header.destination_prefix_length = dst.prefix();
    message.header.flags = RouteFlags::FibMatch;
    message.attributes.push(RouteAttribute::Destination(ip.into()));
    message.attributes.extend(iif.map(RouteAttribute::Iif));
    let message = RouteNetlinkMessage::GetRoute(message);
    match socket.exchange(vec![Ask::new(format!("look up the route to {ip}"), message, 0)]) {
        Ok(replies) => Ok(replies.into_iter().find_map(in_reply)),
        Err(refusal) => match refusal.errno {
            // The last is a kernel's without IPv6.
            Errno::ENETUNREACH | Errno::ESRCH | Errno::EOPNOTSUPP => Ok(None),
            // What blackhole, unreachable and prohibit routes answer with.
            Errno::EINVAL | Errno::EHOSTUNREACH | Errno::EACCES => Ok(Some(Installed::barred(dst))),
            _ => Err(refusal.into()),
        },
    }
}

fn in_reply(reply: RouteNetlinkMessage) -> Option<Installed> {
    let RouteNetlinkMessage::NewRoute(message) = reply else { return None };
    let header = &message.header;
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut route = Installed {
        dst: IpNetwork::new(any, header.destination_prefix_length).ok()?,
        gw: None,
        oif: None,
        links: Vec::new(),
        table: header.table.into(),
        priority: 0,
        next_hops: Vec::new(),
        unicast: header.kind == RouteType::Unicast,
        local: matches!(header.kind, RouteType::Local | RouteType::Broadcast | RouteType::Anycast),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(dst) => {
                route.dst = IpNetwork::new(plain(dst)?, header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Gateway(gw) => route.gw = plain(gw),
            RouteAttribute::Oif(oif) => route.links.push(*oif),
            RouteAttribute::MultiPath(hops) => {
                route.links.extend(hops.iter().map(|hop| hop.interface_index));
                let attributes = hops.iter().flat_map(|hop| &hop.attributes);
                route.next_hops.extend(attributes.filter_map(next_hop));
            }
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(priority) => route.priority = *priority,
            _ => {}
        }
    }
    route.oif = route.links.first().copied();
    route.next_hops.extend(message.attributes.iter().filter_map(next_hop));
    Some(route)
}

/// The next hop, also where an IPv4 route has one of IPv6 (Linux 5.2).
fn next_hop(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(gw) => plain(gw),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    }
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

impl Installed {
    /// What leads nowhere: an entry that drops or refuses what it matches.
    fn barred(dst: IpNetwork) -> Self {
        Self {
            dst,
            gw: None,
            oif: None,
            links: Vec::new(),
            table: 0,
            priority: 0,
            next_hops: Vec::new(),
            unicast: false,
            local: false,
        }
    }

    /// Whether this is the planned route, through the link of that index. One through the gateway
    /// may also be there through another link, whose it was before; or have been moved from the main
    /// table to another one, as plugins that route by source address do with all of a link's routes.
    pub fn is(&self, planned: &Route, index: u32) -> bool {
        let alike = self.dst == planned.dst
            && planned.priority.is_none_or(|priority| priority == self.priority);
        let in_place = self.table == planned.table.unwrap_or(MAIN);
        let movable = planned.gw.is_some() && planned.table.is_none();
        alike
            && if self.links.contains(&index) {
                self.gw == planned.gw && (in_place || movable)
            } else {
                planned.gw.is_some() && in_place
            }
    }
}

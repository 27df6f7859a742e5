//! What must exist in the kernel for one attachment: decided here, without looking at the kernel.
//!
//! ADD applies a plan, CHECK compares it with the kernel, a test prints it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde::Serialize;

use super::{
    mac::Mac,
    names::{self, Mark},
    sysctl::Sysctl,
};
use crate::{
    attachment::Attachment,
    error::{Error, Kind, Result},
    spec::{
        Address, Route,
        capability::{Bandwidth, PortMapping},
    },
};

/// The pod's IPv4 gateway: link-local (RFC 3927), so it can't clash with anything routed.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The pod's IPv6 gateway: link-local, and no interface identifier made from a MAC equals it.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What a configured MTU has to be. RFC 791 has every IPv4 module forward 68 bytes, RFC 8200 (section 5)
/// every link that carries IPv6 carry 1280; a veth takes no more than 65535.
pub const MTU_RULE: &str =
    "must be 0, or 68 to 65535 bytes, and no less than 1280 where the pod has an IPv6 address";

/// linux/rtnetlink.h, `RT_SCOPE_LINK`: destinations on the link itself.
const SCOPE_LINK: u8 = 253;

/// What a plan is made from.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The network's name.
    pub network: &'a str,
    /// The container id and interface name.
    pub attachment: &'a Attachment,
    /// MTU of both ends in bytes.
    pub mtu: u32,
    /// The pod side's MAC; none takes the one that follows from the ids.
    pub mac: Option<Mac>,
    /// The leased addresses. The pod holds each as /32 or /128; the subnet is what the pod can reach
    /// without a default route. In routed mode no interface owns the subnet's gateway: a route
    /// through it goes through the link-local one.
    pub addresses: &'a [Address],
    /// The pod's routes beyond the one to its gateway.
    pub routes: &'a [Route],
    /// The node's ports that lead to the pod.
    pub ports: &'a [PortMapping],
    /// What the pod's traffic is limited to.
    pub bandwidth: Bandwidth,
}

/// A permanent neighbour entry: who would otherwise have to be asked for by ARP or ND.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Neighbour {
    /// The neighbour's address.
    pub ip: IpAddr,
    /// Its MAC.
    pub mac: Mac,
}

/// Everything that must exist for one attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The host side's name, MAC and alias.
    #[serde(flatten)]
    pub mark: Mark,
    /// The pod side's name.
    pub pod_ifname: String,
    /// The pod side's MAC.
    pub pod_mac: Mac,
    /// MTU of both ends in bytes.
    pub mtu: u32,
    /// The pod's addresses, each as /32 or /128.
    pub addresses: Vec<IpAddr>,
    /// The pod side's IPv6 link-local address, set by us so that no duplicate detection delays it;
    /// none without IPv6.
    pub pod_link_local: Option<Ipv6Addr>,
    /// The host side's, not the gateway's address: one that all pods' links held would make each ADD
    /// dearer by every pod that is there. By it a node without IPv6 addresses of its own reaches its
    /// pods and tells them of errors.
    pub host_link_local: Option<Ipv6Addr>,
    /// The gateways, as the pod sees them.
    pub pod_neighbours: Vec<Neighbour>,
    /// Whether the node answers a pod that asks for its gateway: one whose MAC was asked for. The tuning
    /// plugin, which many chains end with, sets that MAC once more, and the kernel forgets the pod's
    /// neighbours, permanent or not, whenever a MAC is set.
    pub answers: bool,
    /// The pod's addresses, as the host sees them.
    pub host_neighbours: Vec<Neighbour>,
    /// The pod's routes; a `gw` of none means directly on the link.
    pub pod_routes: Vec<Route>,
    /// The node's routes to the pod, one for each address.
    pub host_routes: Vec<IpNetwork>,
    /// Whether the node takes packets for ::1 from the host side: answers to what it sent from there
    /// to a host port.
    pub loopback_v6: bool,
    /// What the pod's traffic is limited to.
    pub bandwidth: Bandwidth,
    /// Settings of the node and of the host side, in the host's namespace.
    pub sysctls: Vec<Sysctl>,
}

impl Plan {
    /// Decides what must exist.
    ///
    /// # Errors
    /// [`Kind::Config`]: an address that no pod can have, a route's next hop that a routed pod can't have, a route of a family in
    /// which the pod has no address, or a host port of one, an MTU too small for IPv6, or a MAC that no
    /// interface can own.
    pub fn new(request: &Request<'_>) -> Result<Self> {
        let pod_mac = request.mac.unwrap_or_else(|| names::pod_mac(request.attachment));
        let mark = Mark::new(request.network, request.attachment);
        let addresses: Vec<_> = request.addresses.iter().map(Address::ip).collect();
        let families = Families::of(&addresses);
        check_addresses(&addresses)?;
        check_link(request.mtu, pod_mac, families)?;
        check_ports(request.ports, families)?;

        Ok(Self {
            pod_ifname: request.attachment.ifname().to_owned(),
            pod_mac,
            mtu: request.mtu,
            pod_link_local: families.v6.then(|| link_local(pod_mac)),
            host_link_local: families.v6.then(|| link_local(mark.host_mac)),
            pod_neighbours: families
                .gateways()
                .map(|ip| Neighbour { ip, mac: mark.host_mac })
                .collect(),
            answers: request.mac.is_some(),
            host_neighbours: addresses.iter().map(|&ip| Neighbour { ip, mac: pod_mac }).collect(),
            pod_routes: pod_routes(request, families)?,
            host_routes: addresses.iter().map(|&ip| IpNetwork::from(ip)).collect(),
            bandwidth: request.bandwidth,
            loopback_v6: families.v6 && on_loopback(request.ports, false),
            sysctls: sysctls(&mark.host_ifname, families, request),
            mark,
            addresses,
        })
    }
}

/// The address families that the pod has an address of.
#[derive(Debug, Clone, Copy)]
struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    fn of(addresses: &[IpAddr]) -> Self {
        Self {
            v4: addresses.iter().any(IpAddr::is_ipv4),
            v6: addresses.iter().any(IpAddr::is_ipv6),
        }
    }

    fn gateways(self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.then_some(IpAddr::V4(GATEWAY_V4));
        v4.into_iter().chain(self.v6.then_some(IpAddr::V6(GATEWAY_V6)))
    }

    fn has(self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// The gateway of an address's family.
pub fn gateway_for(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { GATEWAY_V4.into() } else { GATEWAY_V6.into() }
}

/// An allocator's configuration, or another IPAM plugin, may give anything.
fn check_addresses(addresses: &[IpAddr]) -> Result<()> {
    for (at, &ip) in addresses.iter().enumerate() {
        let special = ip.is_loopback() || ip.is_multicast() || ip.is_unspecified();
        let why = if special || ip == IpAddr::V4(Ipv4Addr::BROADCAST) || ip == gateway_for(ip) {
            "can't be a pod's"
        } else if addresses[..at].contains(&ip) {
            "was given twice"
        } else {
            continue;
        };
        return Err(Error::new(Kind::Config, format!("address {ip} {why}")));
    }
    Ok(())
}

fn check_link(mtu: u32, mac: Mac, families: Families) -> Result<()> {
    let least = if families.v6 { 1280 } else { 68 };
    if !(least..=65_535).contains(&mtu) {
        return Err(Error::new(Kind::Config, format!("mtu is {mtu}: {MTU_RULE}")));
    }
    if !mac.is_assignable() {
        return Err(Error::new(Kind::Config, format!("mac {mac} can't be an interface's address")));
    }
    Ok(())
}

/// A mapping for any address of a family that the pod lacks is left out; one for a certain address
/// would be lost without a word.
fn check_ports(ports: &[PortMapping], families: Families) -> Result<()> {
    match ports.iter().find(|port| port.address().is_some_and(|ip| !families.has(ip))) {
        Some(port) => {
            let msg = format!(
                "host port {port}: the pod has no address of that family; leave the hostIP out, or add a range to ipam.ranges"
            );
            Err(Error::new(Kind::Config, msg))
        }
        None => Ok(()),
    }
}

/// RFC 4291, appendix A: the interface identifier made from a MAC.
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0.map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
}

/// The route to each gateway first, then those asked for; where no default route is among them, the
/// subnets of the pod's addresses too, so that it reaches its own network.
fn pod_routes(request: &Request<'_>, families: Families) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    if families.v4 {
        // IPv6 needs none: the link-local prefix is on the link by itself.
        routes.push(Route::to(IpNetwork::from(IpAddr::V4(GATEWAY_V4))));
    }
    for address in request.addresses {
        let subnet = address.subnet();
        let covered = request.routes.iter().any(|route| {
            route.dst.is_ipv4() == subnet.is_ipv4()
                && (route.dst.prefix() == 0 || route.dst == subnet)
                && route.table.is_none()
        });
        let single = subnet == IpNetwork::from(address.ip());
        let route = Route { gw: Some(gateway_for(address.ip())), ..Route::to(subnet) };
        if !covered && !single && !routes.contains(&route) {
            routes.push(route);
        }
    }
    for route in request.routes {
        check_route(route, request.addresses, families)?;
        routes.push(Route { gw: Some(gateway_for(route.dst.ip())), ..route.clone() });
    }
    Ok(routes)
}

fn check_route(route: &Route, addresses: &[Address], families: Families) -> Result<()> {
    let dst = route.dst;
    if !families.has(dst.ip()) {
        let msg = format!(
            "route to {dst}: the pod has no address of that family; leave the route out, or add a range to ipam.ranges"
        );
        return Err(Error::new(Kind::Config, msg));
    }
    if let Some(scope) = route.scope.filter(|&scope| scope >= SCOPE_LINK) {
        let msg = format!(
            "route to {dst} of scope {scope}: a routed pod's link holds no neighbours; leave the scope out"
        );
        return Err(Error::new(Kind::Config, msg));
    }
    let Some(gw) = route.gw else { return Ok(()) };
    let own = gw == gateway_for(dst.ip()) || addresses.iter().any(|a| a.gateway == Some(gw));
    if own && gw.is_ipv4() == dst.is_ipv4() {
        return Ok(());
    }
    let msg = format!(
        "route to {dst} through {gw}: a routed pod has no next hop but its gateway; leave gw out"
    );
    Err(Error::new(Kind::Config, msg))
}

/// Whether one of the mappings can be reached through a loopback address of that family.
fn on_loopback(ports: &[PortMapping], v4: bool) -> bool {
    let mut ports = ports.iter().filter(|port| port.is_of(v4));
    ports.any(|port| port.address().is_none_or(|ip| ip.is_loopback()))
}

fn sysctls(host_ifname: &str, families: Families, request: &Request<'_>) -> Vec<Sysctl> {
    let mut sysctls = Vec::new();
    // As the reference plugins do: without forwarding no packet gets past the node. The kernel
    // stops heeding router advertisements with IPv6 forwarding unless accept_ra is 2.
    if families.v4 {
        sysctls.push(Sysctl::shared("ipv4/ip_forward", "1"));
    }
    if families.v6 {
        sysctls.push(Sysctl::shared("ipv6/conf/all/forwarding", "1"));
    }
    // A pod must not talk its node into a default route by a forged router advertisement
    // (CVE-2020-10749), whichever families it was given. Without IPv6 of its own its link has none at
    // all: the kernel would give it a multicast route, and look through those of all links to add one.
    sysctls.push(if families.v6 {
        Sysctl::own(format!("ipv6/conf/{host_ifname}/accept_ra"), "0")
    } else {
        Sysctl::own(format!("ipv6/conf/{host_ifname}/disable_ipv6"), "1")
    });
    // What the node sends from 127.0.0.1 to a host port leaves by this interface with another source,
    // and comes back to it. The table's guard keeps the pod from speaking to 127.0.0.1 by itself.
    if families.v4 && on_loopback(request.ports, true) {
        sysctls.push(Sysctl::own(format!("ipv4/conf/{host_ifname}/route_localnet"), "1"));
    }
    if request.mac.is_some() {
        // The node answers for the gateway at once, not after a random while.
        let at_once =
            |family| Sysctl::own(format!("{family}/neigh/{host_ifname}/proxy_delay"), "0");
        sysctls.extend(families.v4.then(|| at_once("ipv4")));
        if families.v6 {
            sysctls.push(at_once("ipv6"));
            sysctls.push(Sysctl::own(format!("ipv6/conf/{host_ifname}/proxy_ndp"), "1"));
        }
    }
    sysctls
}

#[cfg(test)]
mod tests;

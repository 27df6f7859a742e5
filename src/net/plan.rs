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
    spec::{Address, Route, capability::PortMapping},
};

/// The pod's IPv4 gateway: link-local (RFC 3927), so it can't clash with anything routed.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The pod's IPv6 gateway: link-local, and no interface identifier made from a MAC equals it.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

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
    /// The pod's addresses, as the host sees them.
    pub host_neighbours: Vec<Neighbour>,
    /// The pod's routes; a `gw` of none means directly on the link.
    pub pod_routes: Vec<Route>,
    /// The node's routes to the pod, one for each address.
    pub host_routes: Vec<IpNetwork>,
    /// Whether the node takes packets for ::1 from the host side: answers to what it sent from there
    /// to a host port.
    pub loopback_v6: bool,
    /// Settings of the node and of the host side, in the host's namespace.
    pub sysctls: Vec<Sysctl>,
}

impl Plan {
    /// Decides what must exist.
    ///
    /// # Errors
    /// [`Kind::Config`]: a route's next hop that a routed pod can't have, a route of a family in
    /// which the pod has no address, or a host port of one, an MTU too small for IPv6, or a MAC that no
    /// interface can own.
    pub fn new(request: &Request<'_>) -> Result<Self> {
        let pod_mac = request.mac.unwrap_or_else(|| names::pod_mac(request.attachment));
        let mark = Mark::new(request.network, request.attachment);
        let addresses: Vec<_> = request.addresses.iter().map(Address::ip).collect();
        let families = Families::of(&addresses);
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
            host_neighbours: addresses.iter().map(|&ip| Neighbour { ip, mac: pod_mac }).collect(),
            pod_routes: pod_routes(request, families)?,
            host_routes: addresses.iter().map(|&ip| IpNetwork::from(ip)).collect(),
            loopback_v6: families.v6 && on_loopback(request.ports, false),
            sysctls: sysctls(&mark.host_ifname, families, request.ports),
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

fn check_link(mtu: u32, mac: Mac, families: Families) -> Result<()> {
    // RFC 8200, section 5: every link that carries IPv6 has at least 1280 bytes; IPv4 asks for 68.
    let least = if families.v6 { 1280 } else { 68 };
    if !(least..=65_535).contains(&mtu) {
        let msg = format!("mtu {mtu} is outside {least} to 65535");
        return Err(Error::new(Kind::Config, msg));
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
            let msg = format!("host port {port}: the pod has no address of that family");
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
        let msg = format!("route to {dst} has no address of its family in the pod");
        return Err(Error::new(Kind::Config, msg));
    }
    if let Some(scope) = route.scope.filter(|&scope| scope >= SCOPE_LINK) {
        let msg =
            format!("route to {dst} of scope {scope}: a routed pod's link holds no neighbours");
        return Err(Error::new(Kind::Config, msg));
    }
    let Some(gw) = route.gw else { return Ok(()) };
    let own = gw == gateway_for(dst.ip()) || addresses.iter().any(|a| a.gateway == Some(gw));
    if own && gw.is_ipv4() == dst.is_ipv4() {
        return Ok(());
    }
    let msg = format!("route to {dst} through {gw}: a routed pod has no next hop but its gateway");
    Err(Error::new(Kind::Config, msg))
}

/// Whether one of the mappings can be reached through a loopback address of that family.
fn on_loopback(ports: &[PortMapping], v4: bool) -> bool {
    let mut ports = ports.iter().filter(|port| port.is_of(v4));
    ports.any(|port| port.address().is_none_or(|ip| ip.is_loopback()))
}

fn sysctls(host_ifname: &str, families: Families, ports: &[PortMapping]) -> Vec<Sysctl> {
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
    // (CVE-2020-10749), whichever families it was given.
    sysctls.push(Sysctl::own(format!("ipv6/conf/{host_ifname}/accept_ra"), "0"));
    // What the node sends from 127.0.0.1 to a host port leaves by this interface with another source,
    // and comes back to it. The table's guard keeps the pod from speaking to 127.0.0.1 by itself.
    if families.v4 && on_loopback(ports, true) {
        sysctls.push(Sysctl::own(format!("ipv4/conf/{host_ifname}/route_localnet"), "1"));
    }
    sysctls
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::capability::Protocol;

    fn v4() -> Address {
        let address = "10.88.0.5/24".parse().unwrap();
        Address { address, gateway: "10.88.0.1".parse().ok() }
    }

    fn v6() -> Address {
        Address { address: "fd00:88::5/64".parse().unwrap(), gateway: None }
    }

    /// A request of dual-stack size, changed by `change`.
    fn plan(
        addresses: &[Address],
        routes: &[Route],
        change: impl FnOnce(&mut Request<'_>),
    ) -> Result<Plan> {
        let attachment = Attachment::new("c1", "eth0").unwrap();
        let mut request = Request {
            network: "podnet",
            attachment: &attachment,
            mtu: 1500,
            mac: None,
            addresses,
            routes,
            ports: &[],
        };
        change(&mut request);
        Plan::new(&request)
    }

    fn default_routes() -> Vec<Route> {
        ["0.0.0.0/0", "::/0"].map(|dst| Route::to(dst.parse().unwrap())).into()
    }

    /// Every route as `dst via gw`.
    fn shown(routes: &[Route]) -> Vec<String> {
        let via = |gw: Option<IpAddr>| gw.map_or("link".into(), |gw| gw.to_string());
        routes.iter().map(|route| format!("{} via {}", route.dst, via(route.gw))).collect()
    }

    #[test]
    fn dual_stack_plan_in_full() {
        let plan = plan(&[v4(), v6()], &default_routes(), |_| {}).unwrap();
        let (host_mac, pod_mac) = ("06:63:ef:3e:71:70", "ba:21:a1:8d:d8:ab");
        let want = serde_json::json!({
            "host_ifname": "weir96f196d4e8b",
            "alias": "weir:podnet/c1/eth0",
            "pod_ifname": "eth0",
            "host_mac": host_mac,
            "pod_mac": pod_mac,
            "mtu": 1500,
            "addresses": ["10.88.0.5", "fd00:88::5"],
            "host_link_local": "fe80::463:efff:fe3e:7170",
            "pod_link_local": "fe80::b821:a1ff:fe8d:d8ab",
            "pod_neighbours": [
                {"ip": "169.254.1.1", "mac": host_mac},
                {"ip": "fe80::1", "mac": host_mac},
            ],
            "host_neighbours": [
                {"ip": "10.88.0.5", "mac": pod_mac},
                {"ip": "fd00:88::5", "mac": pod_mac},
            ],
            "pod_routes": [
                {"dst": "169.254.1.1/32"},
                {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
                {"dst": "::/0", "gw": "fe80::1"},
            ],
            "host_routes": ["10.88.0.5/32", "fd00:88::5/128"],
            "loopback_v6": false,
            "sysctls": [
                {"key": "ipv4/ip_forward", "value": "1", "shared": true},
                {"key": "ipv6/conf/all/forwarding", "value": "1", "shared": true},
                {"key": "ipv6/conf/weir96f196d4e8b/accept_ra", "value": "0", "shared": false},
            ],
        });
        assert_eq!(serde_json::to_value(&plan).unwrap(), want);
    }

    #[test]
    fn ipv4_alone_needs_nothing_of_ipv6_but_the_guard() {
        let plan = plan(&[v4()], &[], |_| {}).unwrap();
        assert_eq!((plan.pod_link_local, plan.host_link_local), (None, None));
        assert_eq!(
            shown(&plan.pod_routes),
            ["169.254.1.1/32 via link", "10.88.0.0/24 via 169.254.1.1"]
        );
        let keys: Vec<_> = plan.sysctls.iter().map(|sysctl| sysctl.key.as_str()).collect();
        assert_eq!(
            keys,
            ["ipv4/ip_forward", &format!("ipv6/conf/{}/accept_ra", plan.mark.host_ifname)]
        );
    }

    #[test]
    fn only_a_port_that_the_loopback_leads_to_opens_it() {
        let opened = |host_ip: Option<&str>| {
            let port = PortMapping {
                host_port: 8080,
                container_port: 80,
                protocol: Protocol::Tcp,
                host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            };
            let ports = [port];
            let attachment = Attachment::new("c1", "eth0").unwrap();
            let request = Request {
                network: "podnet",
                attachment: &attachment,
                mtu: 1500,
                mac: None,
                addresses: &[v4(), v6()],
                routes: &[],
                ports: &ports,
            };
            let plan = Plan::new(&request).unwrap();
            let localnet = plan.sysctls.iter().any(|sysctl| sysctl.key.ends_with("route_localnet"));
            (localnet, plan.loopback_v6)
        };
        assert_eq!(opened(None), (true, true));
        assert_eq!(opened(Some("0.0.0.0")), (true, false));
        assert_eq!(opened(Some("127.0.0.1")), (true, false));
        assert_eq!(opened(Some("::")), (false, true));
        assert_eq!(opened(Some("::1")), (false, true));
        assert_eq!(opened(Some("192.0.2.1")), (false, false));
        assert_eq!(opened(Some("2001:db8::1")), (false, false));
    }

    #[test]
    fn a_subnet_route_gives_way_to_a_default_route() {
        let plan = plan(&[v4(), v6()], &default_routes()[1..], |_| {}).unwrap();
        assert_eq!(
            shown(&plan.pod_routes),
            ["169.254.1.1/32 via link", "10.88.0.0/24 via 169.254.1.1", "::/0 via fe80::1"]
        );
    }

    #[test]
    fn the_subnets_gateway_means_ours() {
        let route = Route { gw: Some("10.88.0.1".parse().unwrap()), ..default_routes().remove(0) };
        let plan = plan(&[v4()], &[route], |_| {}).unwrap();
        assert_eq!(plan.pod_routes[1].gw, Some(GATEWAY_V4.into()));
    }

    #[test]
    fn what_no_routed_pod_can_have_is_refused() {
        let said = |plan: Result<Plan>| {
            let err = plan.unwrap_err();
            assert_eq!(err.kind(), Kind::Config);
            err.msg().to_owned()
        };
        let default = || default_routes().remove(0);
        let elsewhere = Route { gw: "10.88.0.9".parse().ok(), ..default() };
        assert!(said(plan(&[v4()], &[elsewhere], |_| {})).contains("through 10.88.0.9"));
        let local = Route { scope: Some(253), ..default() };
        assert!(said(plan(&[v4()], &[local], |_| {})).contains("of scope 253"));
        assert!(said(plan(&[v4()], &default_routes(), |_| {})).contains("route to ::/0"));
        assert!(said(plan(&[v6()], &[], |request| request.mtu = 1279)).contains("mtu 1279"));
        let group = Mac([1, 0, 0, 0, 0, 1]);
        let plan = plan(&[v4()], &[], |request| request.mac = Some(group));
        assert!(said(plan).contains("mac 01:00:00:00:00:01"));
    }
}

//! Addresses that the node itself needs, and that a range may reach over by mistake: with a route to
//! a pod in its way the node would lose itself, or its gateway.

use std::{fmt, net::IpAddr};

use ipnetwork::IpNetwork;

use super::{
    link::{self, Link},
    netlink::Netlink,
    route::{self, Installed},
};
use crate::error::Result;

/// What the node claims for itself.
#[derive(Debug)]
pub struct Claims {
    socket: Netlink,
    /// The next hops of all routes, read once an address is in one of the node's own networks.
    next_hops: Option<Vec<IpAddr>>,
}

/// A range and a network that the node is in, which have addresses in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// Subnet of the range.
    pub range: IpNetwork,
    /// The node's network.
    pub network: IpNetwork,
    /// The interface that leads there.
    pub link: String,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, network, link } = self;
        write!(
            f,
            "range {range} overlaps {network}, a network of the node's own on {link}: a pod may get \
             the address of a host there; take a range that nothing else uses"
        )
    }
}

impl Claims {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// [`Kind::Kernel`](crate::error::Kind::Kernel): no socket.
    pub fn new() -> Result<Self> {
        Ok(Self { socket: link::socket()?, next_hops: None })
    }

    /// Why the node can't spare the address, if it can't. One search of the kernel's, of some ten
    /// microseconds; only for an address in one of the node's own networks all routes are read, once.
    ///
    /// # Errors
    /// [`Kind::Kernel`](crate::error::Kind::Kernel).
    pub fn reason(&mut self, ip: IpAddr) -> Result<Option<&'static str>> {
        let Some(route) = route::matching(&mut self.socket, ip)? else { return Ok(None) };
        self.need(&route, ip)
    }

    /// As [`reason`](Self::reason), or who has the address already: the node has a route to it alone, as to
    /// a pod whose record was lost or is in another state directory. The interface `own` is what an earlier
    /// call for the same attachment left, and will be replaced. The same one search; only where there is such
    /// a route its interface is looked up.
    ///
    /// # Errors
    /// [`Kind::Kernel`](crate::error::Kind::Kernel).
    pub fn taken(&mut self, ip: IpAddr, own: Option<&str>) -> Result<Option<String>> {
        let Some(route) = route::matching(&mut self.socket, ip)? else { return Ok(None) };
        if let Some(why) = self.need(&route, ip)? {
            return Ok(Some(why.to_owned()));
        }
        // What drops or refuses may be a route to a whole network: the search doesn't say which.
        let Some(oif) = route.oif.filter(|_| route.unicast && route.dst == ip.into()) else {
            return Ok(None);
        };
        // The route went with its interface meanwhile.
        let Some(link) = link::by_index(&mut self.socket, oif)? else { return Ok(None) };
        let Link { name, alias, .. } = &link;
        Ok((own != Some(name)).then(|| {
            format!("is in use: the node has a route to it through {name} (alias {alias:?})")
        }))
    }

    /// What the node needs an address for, given the route by which it would send there.
    fn need(&mut self, route: &Installed, ip: IpAddr) -> Result<Option<&'static str>> {
        if route.local {
            return Ok(Some("is the node's own"));
        }
        let next_hop =
            route.next_hops.contains(&ip) || (is_on_link(route) && self.next_hops()?.contains(&ip));
        Ok(next_hop.then_some("is the next hop of one of the node's routes"))
    }

    fn next_hops(&mut self) -> Result<&[IpAddr]> {
        if self.next_hops.is_none() {
            let mut all = Vec::new();
            for v4 in [true, false] {
                let routes = route::all(&mut self.socket, v4)?;
                all.extend(routes.into_iter().flat_map(|route| route.next_hops));
            }
            self.next_hops = Some(all);
        }
        Ok(self.next_hops.as_deref().unwrap_or_default())
    }
}

/// The networks that the node is in and that reach into one of these subnets. Reads all routes.
///
/// # Errors
/// [`Kind::Kernel`](crate::error::Kind::Kernel).
pub fn overlaps(subnets: &[IpNetwork]) -> Result<Vec<Overlap>> {
    let mut socket = link::socket()?;
    let mut found = Vec::new();
    for v4 in [true, false] {
        let mut subnets = subnets.iter().filter(|subnet| subnet.is_ipv4() == v4).peekable();
        if subnets.peek().is_none() {
            continue;
        }
        let mut own = route::all(&mut socket, v4)?;
        own.retain(|route| is_on_link(route) && route.dst != IpNetwork::from(route.dst.ip()));
        for &range in subnets {
            for route in own.iter().filter(|route| meet(range, route.dst)) {
                let link = route.oif.map(|oif| link::by_index(&mut socket, oif)).transpose()?;
                let link = link.flatten().map_or("another interface".into(), |link| link.name);
                found.push(Overlap { range, network: route.dst, link });
            }
        }
    }
    Ok(found)
}

/// Those of the subnets whose addresses, where no pod has them, the node sends on to another router,
/// and the interface by which it does.
///
/// # Errors
/// [`Kind::Kernel`](crate::error::Kind::Kernel).
pub fn leaving(subnets: &[IpNetwork]) -> Result<Vec<(IpNetwork, String)>> {
    let mut socket = link::socket()?;
    let mut found = Vec::new();
    for &subnet in subnets {
        // No pod gets the address of the network itself.
        let route = route::matching(&mut socket, subnet.network())?;
        let Some(route) = route.filter(|route| route.unicast && !is_on_link(route)) else {
            continue;
        };
        let link = route.oif.map(|oif| link::by_index(&mut socket, oif)).transpose()?.flatten();
        found.extend(link.map(|link| (subnet, link.name)));
    }
    Ok(found)
}

/// Whether the node is itself in the network that the route leads to. A default route without a next
/// hop, as tunnels have it, leads to others' networks.
fn is_on_link(route: &Installed) -> bool {
    route.unicast && route.next_hops.is_empty() && route.dst.prefix() > 0
}

/// Networks of one family meet if one of them begins within the other.
fn meet(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_meet_whichever_is_the_wider() {
        let meet = |a: &str, b: &str| meet(a.parse().unwrap(), b.parse().unwrap());
        assert!(meet("10.0.0.0/8", "10.88.0.0/24") && meet("10.88.0.0/24", "10.0.0.0/8"));
        assert!(meet("fd00::/64", "fd00::/64"));
        assert!(!meet("10.88.0.0/24", "10.88.1.0/24") && !meet("0.0.0.0/0", "::/0"));
    }
}

//! CHECK: tells what the kernel has otherwise than the plan.
//!
//! What later plugins of a chain add (addresses, routes, rules, qdiscs) is none of our business;
//! what the plan needs must be there. Links and routes are asked for one by one, so that a thousand
//! pods on the node don't make a check slower.

use std::net::Ipv6Addr;

use super::{
    address,
    link::{self, Link},
    netlink::Netlink,
    netns::Netns,
    plan::{Neighbour, Plan},
    qdisc, route,
    sysctl::Sysctl,
};
use crate::error::{Error, Kind, Result};

/// Compares the kernel with the plan.
///
/// # Errors
/// [`Kind::Difference`] naming the first one found, [`Kind::Netns`] when the namespace can't be
/// entered, [`Kind::Kernel`] when the kernel can't be asked.
pub fn compare(plan: &Plan, netns: &Netns, host_ifindex: Option<u32>) -> Result<()> {
    let mut host = link::socket()?;
    let mut pod = netns.run(link::socket)??;

    let host_link = host_link(plan, &mut host, host_ifindex)?;
    let pod_link = pod_link(plan, &mut pod, &host_link)?;
    addresses(plan, &mut pod, &pod_link)?;
    pod_routes(plan, &mut pod, &pod_link)?;
    host_routes(plan, &mut host, &host_link)?;
    // One that was forgotten is asked for, where the node answers.
    let forgotten = plan.answers;
    neighbours(&plan.pod_neighbours, &mut pod, &pod_link, "the pod", forgotten)?;
    neighbours(&plan.host_neighbours, &mut host, &host_link, "the node", false)?;
    if let Some(limit) = &plan.bandwidth.ingress {
        let checked = qdisc::check(&mut host, &host_link.name, host_link.index, limit);
        checked.map_err(|err| mended_by(err, "weir reconcile puts the limit back"))?;
    }
    if let Some(limit) = &plan.bandwidth.egress {
        let checked = qdisc::check(&mut pod, &pod_link.name, pod_link.index, limit);
        // What is inside the pod is the pod's to take away: what limits it on the node is there.
        checked.map_err(|err| mended_by(err, "start the pod anew to have it held there too"))?;
    }
    plan.sysctls.iter().try_for_each(Sysctl::check)
}

fn difference<T>(msg: String) -> Result<T> {
    Err(Error::new(Kind::Difference, msg))
}

fn mended_by(err: Error, mend: &str) -> Error {
    match err.kind() {
        Kind::Difference => Error::new(Kind::Difference, format!("{}; {mend}", err.msg())),
        _ => err,
    }
}

fn host_link(plan: &Plan, host: &mut Netlink, index: Option<u32>) -> Result<Link> {
    let name = &plan.mark.host_ifname;
    let found = match index {
        Some(index) => link::by_index(host, index)?,
        None => link::by_name(host, name)?,
    };
    let Some(link) = found else {
        return difference(format!("interface {name} is missing on the node; start the pod anew"));
    };
    if link.alias != plan.mark.alias {
        let is = &link.alias;
        return difference(format!(
            "interface {name} has alias {is:?} instead of {:?}",
            plan.mark.alias
        ));
    }
    if !link.up {
        return difference(format!("interface {name} on the node is down"));
    }
    if link.mtu != plan.mtu {
        let is = link.mtu;
        return difference(format!("interface {name} on the node has mtu {is}, not {}", plan.mtu));
    }
    Ok(link)
}

fn pod_link(plan: &Plan, pod: &mut Netlink, host: &Link) -> Result<Link> {
    let name = &plan.pod_ifname;
    let Some(link) = link::by_name(pod, name)? else {
        return difference(format!("interface {name} is missing in the pod"));
    };
    if link.peer != Some(host.index) {
        return difference(format!("interface {name} in the pod is not the peer of {}", host.name));
    }
    if !link.up {
        return difference(format!("interface {name} in the pod is down"));
    }
    if link.mac != Some(plan.pod_mac) {
        let is = link.mac.map_or("none".into(), |mac| mac.to_string());
        return difference(format!(
            "interface {name} in the pod has mac {is} instead of {}: the node sends to that one; ask \
             weir for the other (capability mac), or say where the list with the plugin that sets it is \
             (confDir)",
            plan.pod_mac
        ));
    }
    // A later plugin may lower it, but more than the host side takes would be dropped there.
    if link.mtu > plan.mtu {
        let is = link.mtu;
        return difference(format!("interface {name} in the pod has mtu {is}, above {}", plan.mtu));
    }
    Ok(link)
}

fn addresses(plan: &Plan, pod: &mut Netlink, link: &Link) -> Result<()> {
    let assigned = address::assigned(pod, link.index)?;
    for &ip in &plan.addresses {
        match assigned.iter().find(|address| address.ip == ip) {
            None => return difference(format!("address {ip} is missing on {}", link.name)),
            Some(address) if !address.usable => {
                return difference(format!("address {ip} on {} is not usable", link.name));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn pod_routes(plan: &Plan, pod: &mut Netlink, link: &Link) -> Result<()> {
    for v4 in [true, false] {
        let mut planned = plan.pod_routes.iter().filter(|route| route.dst.is_ipv4() == v4);
        if planned.clone().next().is_none() {
            continue;
        }
        let installed = route::all(pod, v4)?;
        let missing = planned.find(|route| !installed.iter().any(|is| is.is(route, link.index)));
        if let Some(route) = missing {
            let via = route.gw.map_or(String::new(), |gw| format!(" via {gw}"));
            return difference(format!("route to {}{via} is missing in the pod", route.dst));
        }
    }
    Ok(())
}

fn host_routes(plan: &Plan, host: &mut Netlink, link: &Link) -> Result<()> {
    for dst in &plan.host_routes {
        let route = route::matching(host, dst.ip())?.filter(|route| route.dst == *dst);
        match route {
            None => return difference(format!("route to {dst} is missing on the node")),
            Some(route) if !route.links.contains(&link.index) => {
                return difference(format!("route to {dst} on the node leads away from the pod"));
            }
            Some(_) => {}
        }
    }
    if plan.loopback_v6 {
        let ip = Ipv6Addr::LOCALHOST.into();
        let route = route::matching_from(host, ip, link.index)?;
        if !route.is_some_and(|route| route.local && route.links.contains(&link.index)) {
            return difference(format!("local route to ::1 through {} is missing", link.name));
        }
    }
    Ok(())
}

fn neighbours(
    planned: &[Neighbour],
    socket: &mut Netlink,
    link: &Link,
    place: &str,
    may_be_missing: bool,
) -> Result<()> {
    for neighbour in planned {
        let is = address::neighbour(socket, neighbour.ip, link.index)?;
        let missing = is.is_none() && may_be_missing;
        if is != Some(neighbour.mac) && !missing {
            let is = is.map_or("missing".into(), |mac| format!("at {mac}"));
            return difference(format!(
                "permanent neighbour {} of {place} is {is} instead of at {}",
                neighbour.ip, neighbour.mac
            ));
        }
    }
    Ok(())
}

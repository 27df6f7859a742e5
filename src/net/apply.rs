//! ADD: makes the kernel have what the plan says, in two steps.
//!
//! Between them the pair exists, with its indices known, and is down: time to hook up what must see
//! its first packet.

use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;

use super::{
    address,
    link::{self, Link},
    mac::Mac,
    netlink::{Ask, Netlink, Refusal},
    netns::Netns,
    plan::Plan,
    qdisc, route,
    sysctl::{self, Sysctl},
    undo::Undo,
};
use crate::error::{Error, Kind, Result};

/// The two ends of the pair that [`create`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Links {
    /// The host side's index, in the host's namespace.
    pub host_ifindex: u32,
    /// The pod side's index, in the pod's namespace.
    pub pod_ifindex: u32,
    /// The host side's MAC.
    pub host_mac: Mac,
    /// The pod side's MAC.
    pub pod_mac: Mac,
}

/// A pair that was created and whose ends are still down, so that no packet has passed it yet.
#[derive(Debug)]
pub struct Pair<'a> {
    /// Its two ends.
    pub links: Links,
    plan: &'a Plan,
    netns: &'a Netns,
    host: Netlink,
    pod: Netlink,
}

/// Makes the plan's pair and marks its host side as ours; pushes what reverses it.
///
/// An interface that an earlier, killed call for the same attachment left behind is replaced.
///
/// # Errors
/// [`Kind::NameTaken`] when the pod has an interface of that name, [`Kind::Kernel`] naming what the
/// kernel refused, [`Kind::Netns`] when the namespace can't be entered.
pub fn create<'a>(plan: &'a Plan, netns: &'a Netns, undo: &mut Undo) -> Result<Pair<'a>> {
    let mut host = link::socket()?;
    let mut pod = netns.run(link::socket)??;
    create_or_replace(plan, netns, &mut host, &mut pod)?;
    let mark = plan.mark.clone();
    undo.push(format!("delete {}", mark.host_ifname), move || link::remove(None, &mark, None));
    let links = adopt(plan, &mut host)?;
    Ok(Pair { links, plan, netns, host, pod })
}

impl Pair<'_> {
    /// Brings both ends up, with their addresses, neighbours and routes, and the node's settings.
    ///
    /// The settings that all pods share come last: a call that fails leaves them as they were.
    ///
    /// # Errors
    /// [`Kind::Kernel`] naming what the kernel refused, [`Kind::Netns`] when the namespace can't be
    /// entered. [`create`]'s reversal takes away what was done by then.
    pub fn connect(mut self) -> Result<Links> {
        let (plan, links) = (self.plan, self.links);
        let (node, own): (Vec<_>, Vec<_>) = plan.sysctls.iter().partition(|sysctl| sysctl.shared);
        own.into_iter().try_for_each(Sysctl::set)?;
        // The end that comes up second can send at once, the first only when a worker of the kernel
        // has seen its carrier: what the node sent until then would be counted and dropped.
        let held = plan.bandwidth.egress.as_ref();
        let held =
            held.map(|limit| qdisc::hold(&plan.pod_ifname, links.pod_ifindex, plan.mtu, limit));
        self.pod.exchange(held.into_iter().chain(link::raise_in_pod(plan)).collect())?;
        lead_to_pod(plan, &mut self.host, links.host_ifindex)?;
        furnish(plan, self.netns, &mut self.pod, links.pod_ifindex)?;
        node.into_iter().try_for_each(Sysctl::set)?;
        Ok(links)
    }
}

/// Creates the pair; an interface of our own in the way is replaced, once.
fn create_or_replace(
    plan: &Plan,
    netns: &Netns,
    host: &mut Netlink,
    pod: &mut Netlink,
) -> Result<()> {
    let Err(refusal) = host.exchange(vec![link::create(plan, netns)]) else { return Ok(()) };
    if refusal.errno != Errno::EEXIST {
        return Err(refusal.into());
    }
    if link::by_name(pod, &plan.pod_ifname)?.is_some() {
        let msg = format!("interface {} already exists in {netns}", plan.pod_ifname);
        return Err(Error::new(Kind::NameTaken, msg));
    }
    match link::by_name(host, &plan.mark.host_ifname)? {
        Some(left) if plan.mark.is_on(&left.alias, left.mac) => link::delete(host, &left)?,
        Some(foreign) => return Err(in_the_way(&foreign)),
        None => return Err(refusal.into()),
    }
    host.exchange(vec![link::create(plan, netns)])?;
    Ok(())
}

fn in_the_way(foreign: &Link) -> Error {
    let msg = format!(
        "interface {} is in the way and isn't this attachment's (alias {:?}); rename or delete it",
        foreign.name, foreign.alias
    );
    Error::new(Kind::Kernel, msg)
}

fn without_ipv6(refusal: &Refusal) -> Error {
    let msg = "the pod has an IPv6 address, and this node's kernel has no IPv6: take the IPv6 range \
               out of the network, or boot without ipv6.disable=1";
    Error::new(Kind::Kernel, msg).details(refusal)
}

/// Marks the host side as ours, and learns both indices from it.
fn adopt(plan: &Plan, host: &mut Netlink) -> Result<Links> {
    let ipv6 = plan.host_link_local.is_some() || sysctl::ipv6_on_links(plan.mtu);
    let replies =
        host.exchange(link::adopt(plan, ipv6)).map_err(|refusal| match refusal.errno {
            Errno::EAFNOSUPPORT => without_ipv6(&refusal),
            _ => refusal.into(),
        })?;
    let unseen = || {
        let msg = format!("{} vanished while it was set up", plan.mark.host_ifname);
        Error::new(Kind::Kernel, msg)
    };
    let link = link::in_replies(replies).ok_or_else(unseen)?;
    Ok(Links {
        host_ifindex: link.index,
        // IFLA_LINK of a veth is its peer's index in the peer's namespace.
        pod_ifindex: link.peer.ok_or_else(unseen)?,
        host_mac: plan.mark.host_mac,
        pod_mac: plan.pod_mac,
    })
}

/// Gives the pod its addresses, neighbours and routes. A route that the pod has already, through
/// another of its links, stays as it is: to add to it would spread the first link's traffic over both.
fn furnish(plan: &Plan, netns: &Netns, pod: &mut Netlink, index: u32) -> Result<()> {
    let addresses = || address::of_pod(plan, index);
    let rest =
        || address::introduce(&plan.pod_neighbours, index).chain(route::from_pod(plan, index));
    let carrier = [link::settle(&plan.pod_ifname)];
    let all: Vec<_> = carrier.into_iter().chain(addresses()).chain(rest()).collect();
    let Err(refusal) = pod.exchange(all) else { return Ok(()) };
    if ipv6_disabled(&refusal, plan) {
        // Some runtimes switch IPv6 off in a new namespace. With it off, everything of IPv6 was
        // refused and everything of IPv4 was done.
        let key = format!("ipv6/conf/{}/disable_ipv6", plan.pod_ifname);
        netns.run(|| Sysctl::own(key, "0").set())??;
    } else if refusal.errno != Errno::EEXIST {
        return Err(refusal.into());
    }
    // Only the first refusal of a batch is told, so that what may be there is tried one by one.
    pod.exchange(addresses().collect())?;
    let missing = |refusal: Refusal| match refusal.errno {
        Errno::EEXIST => Ok(()),
        _ => Err(Error::from(refusal)),
    };
    for ask in rest() {
        pod.exchange(vec![ask]).map(drop).or_else(missing)?;
    }
    Ok(())
}

/// The kernel refuses an address on a link with `disable_ipv6` by EACCES.
fn ipv6_disabled(refusal: &Refusal, plan: &Plan) -> bool {
    plan.pod_link_local.is_some() && refusal.errno == Errno::EACCES
}

/// Brings the node's end up, with its address, its neighbours, and the routes to the pod.
fn lead_to_pod(plan: &Plan, host: &mut Netlink, index: u32) -> Result<()> {
    let held = plan.bandwidth.ingress.as_ref();
    let held = held.map(|limit| qdisc::hold(&plan.mark.host_ifname, index, plan.mtu, limit));
    let asks: Vec<Ask<RouteNetlinkMessage>> = held
        .into_iter()
        .chain(link::raise(plan))
        .chain(address::of_host(plan, index))
        .chain(address::introduce(&plan.host_neighbours, index))
        .chain(address::answer(plan, index))
        .chain(route::to_pod(plan, index))
        .chain(route::loopback(plan, index))
        .collect();
    let Err(refusal) = host.exchange(asks) else { return Ok(()) };
    if refusal.errno != Errno::EEXIST {
        return Err(refusal.into());
    }
    Err(occupied(plan, host, index).unwrap_or_else(|| refusal.into()))
}

/// Names the link that already has a route to one of the pod's addresses.
fn occupied(plan: &Plan, host: &mut Netlink, index: u32) -> Option<Error> {
    plan.host_routes.iter().find_map(|dst| {
        let route = route::matching(host, dst.ip()).ok()??;
        let oif = route.oif.filter(|&oif| route.dst == *dst && oif != index)?;
        let link = link::by_index(host, oif).ok()??;
        let msg = format!(
            "address {} is in use: the node has a route to it through {} (alias {:?})",
            dst.ip(),
            link.name,
            link.alias
        );
        Some(Error::new(Kind::Kernel, msg))
    })
}

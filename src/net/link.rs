//! The veth pair: made in one message, found again by index and alias, taken away.

use std::os::fd::BorrowedFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute,
        LinkExtentMask, LinkFlags, LinkMessage,
    },
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::{errno::Errno, net::if_::if_nametoindex};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{
    mac::Mac,
    names::Mark,
    netlink::{Ask, Netlink, Refusal},
    netns::Netns,
    plan::Plan,
    removal,
};
use crate::error::{Error, Kind, Result};

/// A request about links.
type LinkAsk = Ask<RouteNetlinkMessage>;

/// Opens a socket for links, addresses, routes and neighbours of the calling thread's namespace.
///
/// # Errors
/// [`Kind::Kernel`].
pub fn socket() -> Result<Netlink> {
    Netlink::open(NETLINK_ROUTE)
}

/// What the kernel says of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alias, or empty.
    pub alias: String,
    /// Its MAC, where it has one of six bytes.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// For a veth: the other end's index, in the other end's namespace.
    pub peer: Option<u32>,
    /// For a veth whose other end is in another namespace: the number of that in this one.
    pub peer_netns: Option<i32>,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            alias: String::new(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            peer: None,
            peer_netns: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Link(peer) => link.peer = Some(peer),
                LinkAttribute::LinkNetNsId(number) => link.peer_netns = Some(number),
                _ => {}
            }
        }
        link
    }
}

/// The request, in the host's namespace, that makes the pair.
///
/// It creates both ends in their final namespaces: an end that is moved afterwards costs an RCU
/// grace period under the kernel's one lock for network configuration. It asks for one queue each
/// way: the kernel would make one per possible CPU, with their entries in sysfs, and use the first.
pub fn create(plan: &Plan, netns: &Netns) -> LinkAsk {
    let (host, pod) = (&plan.mark.host_ifname, &plan.pod_ifname);
    let peer = LinkUnspec::new_with_name(pod)
        .append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1))
        .address(plan.pod_mac.0.to_vec())
        .mtu(plan.mtu)
        .setns_by_fd(netns.raw_fd())
        .build();
    let pair = LinkVeth::new(host, pod)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1))
        .address(plan.mark.host_mac.0.to_vec())
        .mtu(plan.mtu)
        .build();
    Ask::new(
        format!("create veth pair {host} and {pod} in the pod"),
        RouteNetlinkMessage::NewLink(pair),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// The requests, in the host's namespace, that give the host side its alias, which the kernel takes
/// only after creation, and ask for its state. Never in one batch with [`create`]: were that refused
/// because another's interface has the name, they would change the other's.
///
/// With `ipv6` the kernel is kept from giving it a link-local address, also where the pod has IPv4
/// alone: it would come a while later, and cost a DEL on a forwarding node a grace period more.
pub fn adopt(plan: &Plan, ipv6: bool) -> Vec<LinkAsk> {
    let name = &plan.mark.host_ifname;
    let host = LinkUnspec::new_with_name(name).alias(plan.mark.alias.clone());
    vec![
        set(format!("mark {name} as ours"), silence(host, ipv6)),
        get(format!("look up {name}"), LinkUnspec::new_with_name(name)),
    ]
}

/// The requests, in the host's namespace, that bring the host side up.
pub fn raise(plan: &Plan) -> [LinkAsk; 2] {
    let name = &plan.mark.host_ifname;
    [set(format!("bring {name} up"), LinkUnspec::new_with_name(name).up()), settle(name)]
}

/// The requests, in the pod's namespace, that bring the pod side and the loopback up.
pub fn raise_in_pod(plan: &Plan) -> Vec<LinkAsk> {
    let name = &plan.pod_ifname;
    let pod = LinkUnspec::new_with_name(name);
    vec![
        set(format!("prepare {name}"), silence(pod, plan.pod_link_local.is_some())),
        set(format!("bring {name} in the pod up"), LinkUnspec::new_with_name(name).up()),
        set("bring lo in the pod up".into(), LinkUnspec::new_with_name("lo").up()),
    ]
}

/// The request that makes the carrier of a link that has just come up count at once: whoever asks
/// for a link's state has the kernel act on it first (Linux 6.8). Otherwise a worker does, within a
/// second at most.
pub fn settle(name: &str) -> LinkAsk {
    get(format!("look up {name}"), LinkUnspec::new_with_name(name)).unread()
}

/// With IPv6, keeps the kernel from making a link-local address by itself: that one would go
/// through duplicate address detection, a second in which the pod is not reachable by it.
fn silence(builder: LinkMessageBuilder<LinkUnspec>, ipv6: bool) -> LinkMessageBuilder<LinkUnspec> {
    if !ipv6 {
        return builder;
    }
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let spec = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]);
    builder.append_extra_attribute(spec)
}

fn set(what: String, builder: LinkMessageBuilder<LinkUnspec>) -> LinkAsk {
    Ask::new(what, RouteNetlinkMessage::SetLink(builder.build()), 0)
}

fn get(what: String, builder: LinkMessageBuilder<LinkUnspec>) -> LinkAsk {
    let terse = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    Ask::new(what, RouteNetlinkMessage::GetLink(builder.append_extra_attribute(terse).build()), 0)
}

/// The link among the replies of [`adopt`] or a look-up.
pub fn in_replies(replies: Vec<RouteNetlinkMessage>) -> Option<Link> {
    replies.into_iter().find_map(|reply| match reply {
        RouteNetlinkMessage::NewLink(message) => Some(Link::from(message)),
        _ => None,
    })
}

/// The link of that name, if there is one.
///
/// # Errors
/// [`Kind::Kernel`].
pub fn by_name(socket: &mut Netlink, name: &str) -> Result<Option<Link>> {
    look_up(socket, name, LinkUnspec::new_with_name(name))
}

/// Whether there is a link of that name. For when there mostly is none: it takes a tenth of a look-up.
///
/// # Errors
/// [`Kind::Kernel`].
pub fn is_there(name: &str) -> Result<bool> {
    match if_nametoindex(name) {
        Ok(_) => Ok(true),
        Err(Errno::ENODEV | Errno::ENXIO) => Ok(false),
        Err(errno) => {
            let msg = format!("can't look up interface {name}");
            Err(Error::new(Kind::Kernel, msg).details(errno))
        }
    }
}

/// The link of that index, if there is one.
///
/// # Errors
/// [`Kind::Kernel`].
pub fn by_index(socket: &mut Netlink, index: u32) -> Result<Option<Link>> {
    look_up(socket, &format!("number {index}"), LinkUnspec::new_with_index(index))
}

/// All links.
///
/// # Errors
/// [`Kind::Kernel`].
pub fn all(socket: &mut Netlink) -> Result<Vec<Link>> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let replies = socket.dump("list interfaces", &RouteNetlinkMessage::GetLink(message))?;
    let links = replies.into_iter().filter_map(|reply| match reply {
        RouteNetlinkMessage::NewLink(message) => Some(Link::from(message)),
        _ => None,
    });
    Ok(links.collect())
}

fn look_up(
    socket: &mut Netlink,
    what: &str,
    builder: LinkMessageBuilder<LinkUnspec>,
) -> Result<Option<Link>> {
    match socket.exchange(vec![get(format!("look up interface {what}"), builder)]) {
        Ok(replies) => Ok(in_replies(replies)),
        Err(refusal) if is_gone(&refusal) => Ok(None),
        Err(refusal) => Err(refusal.into()),
    }
}

fn is_gone(refusal: &Refusal) -> bool {
    matches!(refusal.errno, Errno::ENODEV | Errno::ENXIO)
}

/// Deletes the attachment's veth pair, and with it its addresses, routes and neighbours on both
/// sides. Nothing there to delete is success.
///
/// The link is found by its index or its name, whichever of the two it still has, and deleted only
/// if it bears the attachment's mark: names can be taken and indices reused by others. `along` stays open
/// until the kernel is done, as [`removal`] says.
///
/// # Errors
/// [`Kind::Kernel`] when the kernel refuses.
pub fn remove(host_ifindex: Option<u32>, mark: &Mark, along: Option<BorrowedFd<'_>>) -> Result<()> {
    let mut socket = socket()?;
    let ours = |link: &Link| mark.is_on(&link.alias, link.mac);
    let mut found = match host_ifindex {
        Some(index) => by_index(&mut socket, index)?.filter(ours),
        None => None,
    };
    if found.is_none() {
        found = by_name(&mut socket, &mark.host_ifname)?.filter(ours);
    }
    found.map_or(Ok(()), |link| delete_along(&mut socket, &link, along))
}

/// Deletes a link by its index; one that has just gone is success. Returns when the link is out of
/// every table, and its name free.
///
/// # Errors
/// [`Kind::Kernel`] when the kernel refuses.
pub fn delete(socket: &mut Netlink, link: &Link) -> Result<()> {
    delete_along(socket, link, None)
}

fn delete_along(socket: &mut Netlink, link: &Link, along: Option<BorrowedFd<'_>>) -> Result<()> {
    match removal::announced(socket, link, along) {
        Err(refusal) if !is_gone(&refusal) => Err(Error::from(refusal)),
        _ => Ok(()),
    }
}

/// The request that deletes a link.
pub fn deletion(link: &Link) -> LinkAsk {
    let message = LinkUnspec::new_with_index(link.index).build();
    Ask::new(format!("delete interface {}", link.name), RouteNetlinkMessage::DelLink(message), 0)
}

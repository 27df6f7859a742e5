//! Connection tracking: what the kernel remembers of where a flow goes is forgotten when that has changed.
//!
//! A rule of translation is looked up for a flow's first packet only. A UDP flow has no end, so a client
//! that keeps sending to a host port would go on to reach the pod that had it before, or nobody. One of TCP has
//! a beginning that is sent again and again, under the same ports, until it is answered.
//!
//! Since Linux 6.12 the kernel deletes by a filter: 0.2 ms, however many buckets its table has. Before,
//! the flows are read and deleted one by one, and to read takes a lock per bucket: 20 ms for 262,144.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, Nla};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{
        ConntrackAttribute, ConntrackMessage, ConntrackMessageType, IPTuple, ProtoTuple,
        Protocol as TupleProtocol, Status, Tuple,
    },
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::{
    address, link,
    netlink::{Ask, Netlink},
};
use crate::{
    error::Result,
    spec::{
        Address,
        capability::{PortMapping, Protocol},
    },
};

/// linux/netfilter/nfnetlink_conntrack.h, `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`, `CTA_ZONE`,
/// `CTA_STATUS_MASK`, and `CTA_FILTER` with what is in it.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const STATUS_MASK: u16 = 26;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// net/netfilter/nf_internals.h, `CTA_FILTER_F_CTA_*`: which parts of the tuple are compared.
const IP_SOURCE: u32 = 1;
const IP_DESTINATION: u32 = 1 << 1;
const PROTOCOL: u32 = 1 << 3;
const DESTINATION_PORT: u32 = 1 << 5;
/// From more deletions on, each of which walks the table, it is read once.
const MAX_DELETIONS: usize = 64;

/// Forgets the UDP flows to these ports of the node that don't go to the pod with these addresses.
///
/// # Errors
/// [`Kind::Kernel`](crate::error::Kind::Kernel).
pub fn forget_others(ports: &[PortMapping], addresses: &[Address]) -> Result<()> {
    if !has_udp(ports) {
        return Ok(());
    }
    let mut socket = Netlink::open(NETLINK_NETFILTER)?;
    let udp = ports.iter().copied().filter(|port| port.protocol == Protocol::Udp);
    for pod in of_each_family(addresses) {
        let ports: Vec<_> = udp.clone().filter(|port| port.is_of(pod.is_ipv4())).collect();
        if ports.is_empty() {
            continue;
        }
        let own = address::of_node(&mut link::socket()?, pod.is_ipv4())?;
        let targets = ports.iter().flat_map(|port| {
            let any = port.address().is_none().then(|| own.iter().copied());
            let addresses = port.address().into_iter().chain(any.into_iter().flatten());
            addresses.map(|ip| Filter::To(ip, port.host_port))
        });
        let targets: Vec<_> = targets.take(MAX_DELETIONS + 1).collect();
        if targets.len() <= MAX_DELETIONS && delete(&mut socket, pod, &targets)? {
            continue;
        }
        let lead = Lead { pod, ports: &ports, own: &own };
        delete_one_by_one(&mut socket, &udp_of(pod), pod, |flow| lead.is_missed_by(flow))?;
    }
    Ok(())
}

/// The ports of the node that lead to a pod, of one family.
struct Lead<'a> {
    pod: IpAddr,
    ports: &'a [PortMapping],
    /// The node's addresses.
    own: &'a [IpAddr],
}

impl Lead<'_> {
    /// Whether a flow is to one of the ports and doesn't go to the pod.
    fn is_missed_by(&self, flow: &Flow) -> bool {
        let (to, to_port) = flow.original.destination;
        let is_to = |port: &PortMapping| match port.address() {
            Some(ip) => ip == to,
            None => self.own.contains(&to),
        };
        let mut mapped = self.ports.iter().filter(|port| {
            port.host_port == to_port && is_to(port) && flow.protocol == port.protocol.number()
        });
        mapped.any(|port| flow.reply.source != (self.pod, port.container_port))
    }
}

/// Forgets the UDP flows that the pod with these addresses answers: it ends, and ports of the node led
/// to it. By a netfilter socket that is open anyhow: none can be closed soon after a deletion.
///
/// # Errors
/// [`Kind::Kernel`](crate::error::Kind::Kernel).
pub fn forget_mapped(
    socket: &mut Netlink,
    ports: &[PortMapping],
    addresses: &[Address],
) -> Result<()> {
    if !has_udp(ports) {
        return Ok(());
    }
    of_each_family(addresses).try_for_each(|pod| {
        if delete(socket, pod, &[Filter::AnsweredBy(pod)])? {
            return Ok(());
        }
        delete_one_by_one(socket, &udp_of(pod), pod, |flow| flow.reply.source.0 == pod)
    })
}

/// What is translated, though nothing may have been for a while.
#[derive(Debug, Default)]
pub struct Mended<'a> {
    /// The addresses of pods that are masqueraded.
    pub masqueraded: BTreeSet<IpAddr>,
    /// The networks towards which they are not.
    pub networks: Vec<IpNetwork>,
    /// The host ports that lead to pods, with each pod's addresses.
    pub exposed: Vec<(&'a [PortMapping], &'a [Address])>,
}

/// Forgets what began meanwhile and would go on without: of UDP, under an address to which no answer comes back,
/// what the masqueraded pods began; of whatever protocol, what was not answered so far, whose beginning is sent
/// again and goes as it went.
///
/// # Errors
/// [`Kind::Kernel`](crate::error::Kind::Kernel).
pub fn forget_untranslated(mended: &Mended<'_>) -> Result<()> {
    let mut socket = Netlink::open(NETLINK_NETFILTER)?;
    for v4 in [true, false] {
        let exposed = mended.exposed.iter().filter_map(|(ports, addresses)| {
            let pod = addresses.iter().map(Address::ip).find(|ip| ip.is_ipv4() == v4)?;
            Some((pod, ports.iter().copied().filter(|port| port.is_of(v4)).collect::<Vec<_>>()))
        });
        let exposed: Vec<_> = exposed.collect();
        let pods = mended.masqueraded.iter().filter(|pod| pod.is_ipv4() == v4);
        let Some(any) = pods.copied().chain(exposed.iter().map(|(pod, _)| *pod)).next() else {
            continue;
        };
        let own = address::of_node(&mut link::socket()?, v4)?;
        let leads: Vec<_> =
            exposed.iter().map(|(pod, ports)| Lead { pod: *pod, ports, own: &own }).collect();
        delete_one_by_one(&mut socket, &udp_of(any), any, |flow| mended.is_bare(flow))?;
        delete_one_by_one(&mut socket, &unanswered_of(any), any, |flow| {
            let strays = mended.is_bare(flow) || leads.iter().any(|lead| lead.is_missed_by(flow));
            strays && !flow.answered
        })?;
    }
    Ok(())
}

impl Mended<'_> {
    /// Whether a flow is of a pod that is masqueraded, towards the outside, and isn't.
    fn is_bare(&self, flow: &Flow) -> bool {
        let (source, to) = (flow.original.source, flow.original.destination);
        self.masqueraded.contains(&source.0)
            && (flow.reply.source.0, flow.reply.destination.0) == (to.0, source.0)
            && !self.networks.iter().any(|network| network.contains(to.0))
    }
}

fn has_udp(ports: &[PortMapping]) -> bool {
    ports.iter().any(|port| port.protocol == Protocol::Udp)
}

/// The addresses that host ports lead to.
fn of_each_family(addresses: &[Address]) -> impl Iterator<Item = IpAddr> {
    let first = |v4| addresses.iter().map(Address::ip).find(move |ip| ip.is_ipv4() == v4);
    first(true).into_iter().chain(first(false))
}

/// Which flows of UDP to delete.
enum Filter {
    /// Those to that address and port.
    To(IpAddr, u16),
    /// Those that are answered from that address.
    AnsweredBy(IpAddr),
}

/// One direction of a flow; of a protocol without ports they are 0.
struct Side {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
}

/// A flow as the kernel remembers it.
struct Flow {
    /// As IP has it.
    protocol: u8,
    /// Whether both directions were seen.
    answered: bool,
    original: Side,
    reply: Side,
    /// What deletes it, and no other.
    identity: Vec<ConntrackAttribute>,
}

/// Has the kernel delete the flows that it finds by itself; says whether it can.
fn delete(socket: &mut Netlink, pod: IpAddr, filters: &[Filter]) -> Result<bool> {
    for filter in filters {
        let message = filtered(pod, ConntrackMessageType::Delete, filter);
        match socket.exchange(vec![Ask::new("forget tracked connections", message, 0)]) {
            Ok(_) => {}
            // Older kernels take the tuple for that of one flow, and miss the rest of it.
            Err(refusal) if refusal.errno == Errno::EINVAL => return Ok(false),
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Ok(true)
}

/// Deletes those that are stale of the flows of the address's family that are answered to the request.
fn delete_one_by_one(
    socket: &mut Netlink,
    request: &NetfilterMessage,
    pod: IpAddr,
    stale: impl Fn(&Flow) -> bool,
) -> Result<()> {
    let flows: Vec<NetfilterMessage> = socket.dump("list tracked connections", request)?;
    for flow in flows.into_iter().filter_map(flow).filter(stale) {
        let message = inet(pod, ConntrackMessage::Delete(flow.identity));
        match socket.exchange(vec![Ask::new("forget a tracked connection", message, 0)]) {
            Err(refusal) if refusal.errno != Errno::ENOENT => return Err(refusal.into()),
            _ => {}
        }
    }
    Ok(())
}

/// The request for all flows of UDP of the address's family.
fn udp_of(pod: IpAddr) -> NetfilterMessage {
    let tuple = [Tuple::Proto(vec![ProtoTuple::Protocol(TupleProtocol::Udp)])];
    let original = (TUPLE_ORIGINAL, FILTER_ORIGINAL);
    compared(pod, ConntrackMessageType::Get, original, &tuple, PROTOCOL)
}

/// The request for all flows of the address's family of which one direction alone was seen.
fn unanswered_of(pod: IpAddr) -> NetfilterMessage {
    let mask = DefaultNla::new(STATUS_MASK, Status::SeenReply.bits().to_be_bytes().to_vec());
    let none = ConntrackAttribute::CtaStatus(Status::empty());
    inet(pod, ConntrackMessage::Get(vec![none, ConntrackAttribute::Other(mask)]))
}

fn filtered(pod: IpAddr, what: ConntrackMessageType, filter: &Filter) -> NetfilterMessage {
    let udp = ProtoTuple::Protocol(TupleProtocol::Udp);
    match filter {
        Filter::To(ip, port) => {
            let ip = Tuple::Ip(vec![IPTuple::DestinationAddress(*ip)]);
            let tuple = [ip, Tuple::Proto(vec![udp, ProtoTuple::DestinationPort(*port)])];
            let flags = IP_DESTINATION | PROTOCOL | DESTINATION_PORT;
            compared(pod, what, (TUPLE_ORIGINAL, FILTER_ORIGINAL), &tuple, flags)
        }
        Filter::AnsweredBy(ip) => {
            let ip = Tuple::Ip(vec![IPTuple::SourceAddress(*ip)]);
            let tuple = [ip, Tuple::Proto(vec![udp])];
            compared(pod, what, (TUPLE_REPLY, FILTER_REPLY), &tuple, IP_SOURCE | PROTOCOL)
        }
    }
}

/// A request about the flows that have, in that side's tuple, the parts that the flags name.
fn compared(
    pod: IpAddr,
    what: ConntrackMessageType,
    (side, filter): (u16, u16),
    tuple: &[Tuple],
    flags: u32,
) -> NetfilterMessage {
    let flags = DefaultNla::new(filter, flags.to_ne_bytes().to_vec());
    // The library's own attributes can't say of a filter that it holds others.
    let attributes = vec![nested(side, tuple), nested(FILTER, &[flags])];
    inet(pod, ConntrackMessage::Other { message_type: what.into(), attributes })
}

/// An attribute that holds others.
fn nested<T: Nla>(kind: u16, inner: &[T]) -> DefaultNla {
    let mut bytes = vec![0; inner.buffer_len()];
    inner.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

fn inet(pod: IpAddr, message: ConntrackMessage) -> NetfilterMessage {
    let family =
        if pod.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

fn flow(reply: NetfilterMessage) -> Option<Flow> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = reply.inner else {
        return None;
    };
    let (mut original, mut reply, mut protocol, mut status) = (None, None, None, None);
    let mut identity = Vec::new();
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => {
                original = side(&tuple);
                protocol = protocol_of(&tuple);
                identity.push(ConntrackAttribute::CtaTupleOrig(tuple));
            }
            ConntrackAttribute::CtaTupleReply(tuple) => reply = side(&tuple),
            ConntrackAttribute::CtaStatus(flags) => status = Some(flags),
            ConntrackAttribute::Other(other) if other.kind() == ZONE => {
                identity.push(ConntrackAttribute::Other(other));
            }
            _ => {}
        }
    }
    let answered = status?.contains(Status::SeenReply);
    Some(Flow { protocol: protocol?, answered, original: original?, reply: reply?, identity })
}

fn protocol_of(tuple: &[Tuple]) -> Option<u8> {
    let parts = tuple.iter().filter_map(|part| match part {
        Tuple::Proto(parts) => Some(parts),
        _ => None,
    });
    parts.flatten().find_map(|part| match part {
        ProtoTuple::Protocol(protocol) => Some((*protocol).into()),
        _ => None,
    })
}

fn side(tuple: &[Tuple]) -> Option<Side> {
    let (mut from, mut to, mut source, mut destination) = (None, None, 0, 0);
    for part in tuple {
        match part {
            Tuple::Ip(ips) => ips.iter().for_each(|ip| match ip {
                IPTuple::SourceAddress(ip) => from = Some(*ip),
                IPTuple::DestinationAddress(ip) => to = Some(*ip),
                _ => {}
            }),
            Tuple::Proto(ports) => ports.iter().for_each(|port| match port {
                ProtoTuple::SourcePort(port) => source = *port,
                ProtoTuple::DestinationPort(port) => destination = *port,
                _ => {}
            }),
            _ => {}
        }
    }
    Some(Side { source: (from?, source), destination: (to?, destination) })
}

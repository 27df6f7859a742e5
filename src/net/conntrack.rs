//! Connection tracking: what the kernel remembers of where a flow goes is forgotten when that has changed.
//!
//! A rule of translation is looked up for a flow's first packet only. A UDP flow has no end, so a client
//! that keeps sending to a host port would go on to reach the pod that had it before, or nobody. Flows
//! are read, filtered in the kernel (`CTA_FILTER`, Linux 5.8), and deleted one by one: the table is
//! walked once, and no flow to the same port of another host is hit.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, Nla};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{
        ConntrackAttribute, ConntrackMessage, ConntrackMessageType, IPTuple, ProtoTuple,
        Protocol as TupleProtocol, Tuple,
    },
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::{
    link,
    netlink::{Ask, Netlink},
    route,
};
use crate::{
    error::Result,
    spec::{
        Address,
        capability::{PortMapping, Protocol},
    },
};

/// linux/netfilter/nfnetlink_conntrack.h, `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`, `CTA_ZONE`, and
/// `CTA_FILTER` with what is in it.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// net/netfilter/nf_internals.h, `CTA_FILTER_F_CTA_*`: which parts of the tuple are compared.
const IP_SOURCE: u32 = 1;
const PROTOCOL: u32 = 1 << 3;
const DESTINATION_PORT: u32 = 1 << 5;

/// Forgets the UDP flows to these ports of the node that don't go to the pod with these addresses.
///
/// # Errors
/// [`Kind::Kernel`](crate::error::Kind::Kernel).
pub fn forget_others(ports: &[PortMapping], addresses: &[Address]) -> Result<()> {
    let ports: Vec<_> = ports.iter().filter(|port| port.protocol == Protocol::Udp).collect();
    if ports.is_empty() {
        return Ok(());
    }
    let mut own: Own = Own { socket: link::socket()?, known: Vec::new() };
    for pod in of_each_family(addresses) {
        let mut ports = ports.iter().filter(|port| port.is_of(pod.is_ipv4()));
        let Some(first) = ports.next() else { continue };
        let one = ports.clone().all(|port| port.host_port == first.host_port);
        let filter = Filter::Original(one.then_some(first.host_port));
        forget(pod, filter, |flow| {
            let ports = std::iter::once(first).chain(ports.clone());
            let mut mapped = ports.filter(|port| {
                let stale = flow.reply.source != (pod, port.container_port);
                stale && port.host_port == flow.original.destination.1
            });
            let (to, _) = flow.original.destination;
            Ok(mapped.any(|port| port.address().is_none_or(|ip| ip == to)) && own.has(to)?)
        })?;
    }
    Ok(())
}

/// Forgets the UDP flows that go to the pod with these addresses through these ports of the node.
///
/// # Errors
/// [`Kind::Kernel`](crate::error::Kind::Kernel).
pub fn forget_mapped(ports: &[PortMapping], addresses: &[Address]) -> Result<()> {
    let ports: Vec<_> = ports.iter().filter(|port| port.protocol == Protocol::Udp).collect();
    if ports.is_empty() {
        return Ok(());
    }
    of_each_family(addresses).try_for_each(|pod| {
        forget(pod, Filter::Reply(pod), |flow| {
            let mapped = flow.original.destination.0 != pod;
            let (_, from) = flow.reply.source;
            Ok(mapped && ports.iter().any(|port| port.container_port == from))
        })
    })
}

/// The addresses that host ports lead to.
fn of_each_family(addresses: &[Address]) -> impl Iterator<Item = IpAddr> {
    let first = |v4| addresses.iter().map(Address::ip).find(move |ip| ip.is_ipv4() == v4);
    first(true).into_iter().chain(first(false))
}

/// The addresses that were asked about, and whether they are the node's own.
struct Own {
    socket: Netlink,
    known: Vec<(IpAddr, bool)>,
}

impl Own {
    fn has(&mut self, ip: IpAddr) -> Result<bool> {
        if let Some((_, own)) = self.known.iter().find(|(known, _)| *known == ip) {
            return Ok(*own);
        }
        let own = route::matching(&mut self.socket, ip)?.is_some_and(|route| route.local);
        self.known.push((ip, own));
        Ok(own)
    }
}

/// Which flows the kernel tells of.
enum Filter {
    /// Those of UDP, to that port if it is one.
    Original(Option<u16>),
    /// Those of UDP that are answered from that address.
    Reply(IpAddr),
}

/// One direction of a flow.
struct Side {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
}

/// A flow as the kernel remembers it.
struct Flow {
    original: Side,
    reply: Side,
    /// What deletes it, and no other.
    identity: Vec<ConntrackAttribute>,
}

/// Deletes the flows of the address's family that the filter and then `stale` let through.
fn forget(pod: IpAddr, filter: Filter, mut stale: impl FnMut(&Flow) -> Result<bool>) -> Result<()> {
    let mut socket = Netlink::open(NETLINK_NETFILTER)?;
    let replies: Vec<NetfilterMessage> =
        socket.dump("list tracked connections", &get(pod, filter))?;
    for flow in replies.into_iter().filter_map(flow) {
        if !stale(&flow)? {
            continue;
        }
        let message = inet(pod, ConntrackMessage::Delete(flow.identity));
        let ask = Ask::new("forget a tracked connection", message, NLM_F_ACK);
        match socket.exchange(vec![ask]) {
            Err(refusal) if refusal.errno != Errno::ENOENT => return Err(refusal.into()),
            _ => {}
        }
    }
    Ok(())
}

fn get(pod: IpAddr, filter: Filter) -> NetfilterMessage {
    let protocol = ProtoTuple::Protocol(TupleProtocol::Udp);
    let (side, compared, tuple, flags) = match filter {
        Filter::Original(port) => {
            let port_flag = if port.is_some() { DESTINATION_PORT } else { 0 };
            let port = port.map(ProtoTuple::DestinationPort);
            let tuple = vec![Tuple::Proto([protocol].into_iter().chain(port).collect())];
            (TUPLE_ORIGINAL, FILTER_ORIGINAL, tuple, PROTOCOL | port_flag)
        }
        Filter::Reply(from) => {
            let ip = Tuple::Ip(vec![IPTuple::SourceAddress(from)]);
            let tuple = vec![ip, Tuple::Proto(vec![protocol])];
            (TUPLE_REPLY, FILTER_REPLY, tuple, PROTOCOL | IP_SOURCE)
        }
    };
    let flags = DefaultNla::new(compared, flags.to_ne_bytes().to_vec());
    // The library's own attributes can't say of a filter that it holds others.
    let attributes = vec![nested(side, &tuple), nested(FILTER, &[flags])];
    let message_type = ConntrackMessageType::Get.into();
    inet(pod, ConntrackMessage::Other { message_type, attributes })
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
    let (mut original, mut reply) = (None, None);
    let mut identity = Vec::new();
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => {
                original = side(&tuple);
                identity.push(ConntrackAttribute::CtaTupleOrig(tuple));
            }
            ConntrackAttribute::CtaTupleReply(tuple) => reply = side(&tuple),
            ConntrackAttribute::Other(other) if other.kind() == ZONE => {
                identity.push(ConntrackAttribute::Other(other));
            }
            _ => {}
        }
    }
    Some(Flow { original: original?, reply: reply?, identity })
}

fn side(tuple: &[Tuple]) -> Option<Side> {
    let (mut from, mut to, mut source, mut destination) = (None, None, None, None);
    for part in tuple {
        match part {
            Tuple::Ip(ips) => ips.iter().for_each(|ip| match ip {
                IPTuple::SourceAddress(ip) => from = Some(*ip),
                IPTuple::DestinationAddress(ip) => to = Some(*ip),
                _ => {}
            }),
            Tuple::Proto(ports) => ports.iter().for_each(|port| match port {
                ProtoTuple::SourcePort(port) => source = Some(*port),
                ProtoTuple::DestinationPort(port) => destination = Some(*port),
                _ => {}
            }),
            _ => {}
        }
    }
    Some(Side { source: (from?, source?), destination: (to?, destination?) })
}

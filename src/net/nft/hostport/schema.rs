//! The table's part for host ports: `nft list table inet weir` shows what these messages make.
//!
//! ```text
//! table inet weir {
//!     map hostports4 {
//!         type inet_proto . inet_service : ipv4_addr . inet_service
//!         elements = { tcp . 8080 comment "<container id>/eth0" : 10.88.0.5 . 80 }
//!     }
//!     map hostports_at4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//!     set hairpin4 { type ipv4_addr . ipv4_addr; elements = { 10.88.0.5 . 10.88.0.5 } }
//!     # … and the same for IPv6
//!     chain hostports_guard {
//!         type filter hook prerouting priority raw; policy accept;
//!         iifname "weir*" meta nfproto ipv4 ip daddr 127.0.0.0/8 drop
//!         iifname "weir*" meta nfproto ipv4 ip saddr 127.0.0.0/8 drop
//!     }
//!     chain hostports_in {
//!         type nat hook prerouting priority dstnat; policy accept;
//!         meta nfproto ipv4 ip daddr 127.0.0.0/8 return
//!         fib daddr type != local return
//!         meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @hostports_at4
//!         meta nfproto ipv4 dnat ip to meta l4proto . th dport map @hostports4
//!         # … and the same for IPv6
//!     }
//!     chain hostports_out { type nat hook output priority dstnat; # … as hostports_in
//!     }
//!     chain hostports_back {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         oifname "weir*" meta nfproto ipv4 ip saddr 127.0.0.0/8 masquerade
//!         meta nfproto ipv4 ip saddr . ip daddr @hairpin4 masquerade
//!         # … and the same for IPv6, with ::1
//!     }
//! }
//! ```
//!
//! For 127.0.0.1 to work, the kernel has to be told (`route_localnet`) to take such addresses from and
//! to a pod's interface. The guard keeps the pod from making use of that (CVE-2020-8558): what it sends
//! from or to 127.0.0.0/8 is dropped before the translation, whose replies never look like that. The
//! first rule of `hostports_in` keeps others on the node's own networks from reaching what was mapped
//! for 127.0.0.1 alone.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::{
    NetfilterMessage,
    nftables::{
        DataAttribute, InetHookNumber, MetaKey, NfTablesMessage, Operator, SetAttribute,
        SetElementAttribute, SetElementList, SetElementMessage, SetFlags, SetMessage,
    },
};

use super::element::{Element, Place};
use crate::{
    attachment::Attachment,
    net::nft::{
        batch::{self, Chain, Message, TABLE, ask, inet, transaction},
        expression::{
            Expression, compare, drop_packet, is_family, is_in, is_interface, is_local, leave,
            load_meta, load_network, load_port, map, masquerade, redirect,
        },
        family::Family,
    },
};

const GUARD: Chain = Chain {
    name: "hostports_guard",
    kind: "filter",
    hook: InetHookNumber::PreRouting,
    priority: -300,
};
const IN: Chain =
    Chain { name: "hostports_in", kind: "nat", hook: InetHookNumber::PreRouting, priority: -100 };
const OUT: Chain =
    Chain { name: "hostports_out", kind: "nat", hook: InetHookNumber::LocalOut, priority: -100 };
const BACK: Chain =
    Chain { name: "hostports_back", kind: "nat", hook: InetHookNumber::PostRouting, priority: 100 };
const CHAINS: [Chain; 4] = [GUARD, IN, OUT, BACK];

/// How the host sides of our pods are called (contract, section 4).
const POD_INTERFACES: &str = "weir";
/// The numbers of `nft`'s data types inet_proto and inet_service.
const PROTOCOL_TYPE: u32 = 12;
const PORT_TYPE: u32 = 13;
/// Bits of a data type's number in the number of a concatenation.
const TYPE_BITS: u32 = 6;

/// What the kernel has of an element.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub key: Vec<u8>,
    pub data: Option<Vec<u8>>,
    /// Whom its comment names.
    pub owner: Option<Attachment>,
}

/// The transaction that adds elements, none of which may be there already.
pub fn add(owner: &Attachment, elements: &[Element]) -> Vec<Message> {
    transaction(puts(owner, elements))
}

/// The transaction that makes all of this part of the table. Exclusive, it fails if there is any;
/// otherwise it makes what is missing and the rules anew.
pub fn create(owner: &Attachment, elements: &[Element], exclusive: bool) -> Vec<Message> {
    let mut asks =
        vec![ask("create table", NfTablesMessage::NewTable(batch::table()), NLM_F_CREATE)];
    let flags = if exclusive { NLM_F_CREATE | NLM_F_EXCL } else { NLM_F_CREATE };
    for place in Place::ALL {
        asks.push(ask("create map", NfTablesMessage::NewSet(set(place)), flags));
    }
    for chain in CHAINS {
        asks.push(ask("create chain", NfTablesMessage::NewChain(chain.message()), NLM_F_CREATE));
        if !exclusive {
            asks.push(ask("clear chain", NfTablesMessage::DeleteRule(chain.rules()), 0));
        }
    }
    for (chain, text, expressions) in rules() {
        let rule = NfTablesMessage::NewRule(chain.rule(text, expressions));
        asks.push(ask("add rule", rule, NLM_F_CREATE | NLM_F_APPEND));
    }
    asks.extend(puts(owner, elements));
    transaction(asks)
}

/// The transaction that deletes elements, all of which must be there.
pub fn delete(elements: &[&Element]) -> Vec<Message> {
    let asks = elements.iter().map(|element| {
        let message = of_one(element, vec![key(element)]);
        ask("delete element", NfTablesMessage::DeleteSetElement(message), 0)
    });
    transaction(asks.collect())
}

/// The request for one element.
pub fn get(element: &Element) -> Message {
    let message = of_one(element, vec![key(element)]);
    ask("look up element", NfTablesMessage::GetSetElement(message), 0)
}

/// The request for all elements of a map.
pub fn list(place: Place) -> NetfilterMessage {
    let set = SetElementList::Set(place.set().name.into());
    let attributes = vec![SetElementList::Table(TABLE.into()), set];
    inet(NfTablesMessage::GetSetElement(SetElementMessage { attributes }))
}

/// The elements in a reply.
pub fn found(message: SetElementMessage) -> Vec<Found> {
    batch::elements_in(message).into_iter().map(read).collect()
}

/// The chains, and how many rules each has.
pub fn chains() -> [(Chain, u32); 4] {
    let rules = rules();
    CHAINS.map(|chain| {
        let own = rules.iter().filter(|(of, _, _)| of.name == chain.name);
        (chain, own.fold(0, |count, _| count + 1))
    })
}

/// The comments of all rules.
pub fn comments() -> impl Iterator<Item = &'static str> {
    rules().into_iter().map(|(_, text, _)| text)
}

fn read(attributes: Vec<SetElementAttribute>) -> Found {
    let mut found = Found { key: Vec::new(), data: None, owner: None };
    for attribute in attributes {
        match attribute {
            SetElementAttribute::Key(DataAttribute::Value(bytes)) => found.key = bytes,
            SetElementAttribute::Data(DataAttribute::Value(bytes)) => found.data = Some(bytes),
            SetElementAttribute::UserData(data) => {
                let names = batch::comment_text(&data).and_then(|text| text.split_once('/'));
                found.owner = names.and_then(|(id, ifname)| Attachment::new(id, ifname).ok());
            }
            _ => {}
        }
    }
    found
}

fn key(element: &Element) -> SetElementAttribute {
    SetElementAttribute::Key(DataAttribute::Value(element.key.clone()))
}

fn of_one(element: &Element, attributes: Vec<SetElementAttribute>) -> SetElementMessage {
    batch::elements(element.place.set().name, vec![attributes])
}

fn puts(owner: &Attachment, elements: &[Element]) -> Vec<Message> {
    let comment = batch::comment(&format!("{}/{}", owner.container_id(), owner.ifname()));
    let put = |element: &Element| {
        let mut attributes = vec![key(element)];
        let data = element.data.clone().map(DataAttribute::Value);
        attributes.extend(data.map(SetElementAttribute::Data));
        attributes.push(SetElementAttribute::UserData(comment.clone()));
        let message = NfTablesMessage::NewSetElement(of_one(element, attributes));
        ask("add element", message, NLM_F_CREATE | NLM_F_EXCL)
    };
    elements.iter().map(put).collect()
}

fn set(place: Place) -> SetMessage {
    let mut attributes = vec![
        SetAttribute::Table(TABLE.into()),
        SetAttribute::Name(place.set().name.into()),
        SetAttribute::Id(place.set().id),
    ];
    let socket = [(PROTOCOL_TYPE, 4), (PORT_TYPE, 4)];
    let address = |family: Family| (family.data_type(), family.bytes());
    let (family, key) = match place {
        Place::Any(family) => (Some(family), socket.to_vec()),
        Place::At(family) => (Some(family), [&[address(family)][..], &socket].concat()),
        Place::Hairpin(family) => (None, vec![address(family); 2]),
    };
    let (kind, length) = concatenation(&key);
    attributes.extend([SetAttribute::KeyType(kind), SetAttribute::KeyLen(length)]);
    if let Some(family) = family {
        let (kind, length) = concatenation(&[address(family), (PORT_TYPE, 4)]);
        attributes.extend([
            SetAttribute::Flags(SetFlags::Map),
            SetAttribute::DataType(kind),
            SetAttribute::DataLen(length),
        ]);
    }
    SetMessage { attributes }
}

/// Type number and length of several fields, each of whole registers, one behind the other.
fn concatenation(fields: &[(u32, u32)]) -> (u32, u32) {
    fields
        .iter()
        .fold((0, 0), |(kinds, bytes), (kind, length)| (kinds << TYPE_BITS | kind, bytes + length))
}

/// A rule: its chain, its comment, and what it does.
type Rule = (Chain, &'static str, Vec<Expression>);

fn rules() -> Vec<Rule> {
    use Family::{V4, V6};
    let guard = |offset| {
        let packets = [is_interface(MetaKey::Iifname, POD_INTERFACES), is_family(V4)].concat();
        [packets, vec![load_network(offset, 1, 0), loopback_v4(), drop_packet()]].concat()
    };
    let to_loopback = vec![load_network(V4.destination(), 1, 0), loopback_v4(), leave()];
    let elsewhere = || [is_local(Operator::NotEqual).to_vec(), vec![leave()]].concat();
    let mut rules = vec![
        (GUARD, "weir: no pod speaks to the node's 127.0.0.0/8", guard(V4.destination())),
        (GUARD, "weir: no pod speaks as 127.0.0.0/8", guard(V4.source())),
        (
            IN,
            "weir: 127.0.0.0/8 is for the node alone",
            [is_family(V4).to_vec(), to_loopback].concat(),
        ),
        (IN, "weir: from outside, only to the node's addresses", elsewhere()),
        (IN, "weir: from outside to an IPv4 address", by_address(V4)),
        (IN, "weir: from outside to any IPv4 address", by_port(V4)),
        (IN, "weir: from outside to an IPv6 address", by_address(V6)),
        (IN, "weir: from outside to any IPv6 address", by_port(V6)),
        (OUT, "weir: from the node, only to its own addresses", elsewhere()),
        (OUT, "weir: from the node to an IPv4 address", by_address(V4)),
        (OUT, "weir: from the node to any IPv4 address", by_port(V4)),
        (OUT, "weir: from the node to an IPv6 address", by_address(V6)),
        (OUT, "weir: from the node to any IPv6 address", by_port(V6)),
    ];
    rules.extend([
        (BACK, "weir: answers to 127.0.0.0/8 come back", from_loopback(V4)),
        (BACK, "weir: answers to ::1 come back", from_loopback(V6)),
        (BACK, "weir: IPv4 answers of a pod to itself come back", to_itself(V4)),
        (BACK, "weir: IPv6 answers of a pod to itself come back", to_itself(V6)),
    ]);
    rules
}

/// Goes on only if the first register's first byte is that of 127.0.0.0/8.
fn loopback_v4() -> Expression {
    compare(Operator::Equal, vec![127])
}

fn by_address(family: Family) -> Vec<Expression> {
    let bytes = family.bytes();
    let mut expressions = is_family(family).to_vec();
    expressions.extend([
        load_network(family.destination(), bytes, 0),
        load_meta(MetaKey::L4Proto, bytes),
        load_port(bytes + 4),
        map(Place::At(family).set()),
        redirect(family),
    ]);
    expressions
}

fn by_port(family: Family) -> Vec<Expression> {
    let mut expressions = is_family(family).to_vec();
    expressions.extend([
        load_meta(MetaKey::L4Proto, 0),
        load_port(4),
        map(Place::Any(family).set()),
        redirect(family),
    ]);
    expressions
}

fn from_loopback(family: Family) -> Vec<Expression> {
    let mut expressions = is_interface(MetaKey::Oifname, POD_INTERFACES).to_vec();
    expressions.extend(is_family(family));
    expressions.extend(match family {
        Family::V4 => [load_network(family.source(), 1, 0), loopback_v4()],
        Family::V6 => {
            let loopback = std::net::Ipv6Addr::LOCALHOST.octets().to_vec();
            [load_network(family.source(), 16, 0), compare(Operator::Equal, loopback)]
        }
    });
    expressions.push(masquerade());
    expressions
}

fn to_itself(family: Family) -> Vec<Expression> {
    let mut expressions = is_family(family).to_vec();
    expressions.extend([
        load_network(family.source(), family.bytes(), 0),
        load_network(family.destination(), family.bytes(), family.bytes()),
        is_in(Place::Hairpin(family).set(), false),
        masquerade(),
    ]);
    expressions
}

//! The table's part for masquerade: `nft list table inet weir` shows what these messages make.
//!
//! ```text
//! table inet weir {
//!     set masquerade4 { type ipv4_addr; flags interval; elements = { 10.88.0.0/24 } }
//!     set masquerade6 { type ipv6_addr; flags interval; elements = { fd00:88::/64 } }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         meta nfproto ipv4 ip saddr @masquerade4 ip daddr != @masquerade4 ip daddr != 224.0.0.0/4 masquerade
//!         meta nfproto ipv6 ip6 saddr @masquerade6 ip6 daddr != @masquerade6 ip6 daddr != ff00::/8 masquerade
//!     }
//! }
//! ```

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::{
    NetfilterMessage,
    nftables::{
        DataAttribute, InetHookNumber, NfTablesMessage, Operator, RuleMessage, SetAttribute,
        SetElementAttribute, SetElementFlags, SetElementList, SetElementMessage, SetFlags,
        SetMessage,
    },
};

use super::{
    has,
    interval::{Change, Edge, Interval},
};
use crate::net::nft::{
    batch::{self, Chain, Message, TABLE, ask, inet, transaction},
    expression::{Expression, Set, compare, is_family, is_in, load_network, mask, masquerade},
    family::Family,
};

/// The one chain.
pub const CHAIN: Chain =
    Chain { name: "postrouting", kind: "nat", hook: InetHookNumber::PostRouting, priority: 100 };

/// The chain, and how many rules it has: one for each family.
pub fn chains() -> [(Chain, u32); 1] {
    [(CHAIN, 2)]
}

/// The set of a family's subnets.
pub fn set_of(family: Family) -> Set {
    match family {
        Family::V4 => Set { name: "masquerade4", id: 1 },
        Family::V6 => Set { name: "masquerade6", id: 2 },
    }
}

/// The comment of a family's rule.
pub fn comment(family: Family) -> &'static str {
    match family {
        Family::V4 => "weir: IPv4 from pod networks to elsewhere",
        Family::V6 => "weir: IPv6 from pod networks to elsewhere",
    }
}

/// The transaction that adds subnets to the sets of a table that is there.
pub fn add_elements(subnets: &[IpNetwork]) -> Vec<Message> {
    transaction(Family::BOTH.iter().filter_map(|&family| put(family, subnets)).collect())
}

/// The transaction that makes the whole table. Exclusive, it fails if there is one; otherwise it
/// makes what is missing and the rules anew.
pub fn create(subnets: &[IpNetwork], exclusive: bool) -> Vec<Message> {
    let flags = if exclusive { NLM_F_CREATE | NLM_F_EXCL } else { NLM_F_CREATE };
    let mut asks = vec![ask("create table", NfTablesMessage::NewTable(batch::table()), flags)];
    for family in Family::BOTH {
        asks.push(ask("create set", NfTablesMessage::NewSet(set(family)), NLM_F_CREATE));
    }
    asks.push(ask("create chain", NfTablesMessage::NewChain(CHAIN.message()), NLM_F_CREATE));
    if !exclusive {
        asks.push(ask("clear chain", NfTablesMessage::DeleteRule(CHAIN.rules()), 0));
    }
    for family in Family::BOTH {
        let append = NLM_F_CREATE | NLM_F_APPEND;
        asks.push(ask("add rule", NfTablesMessage::NewRule(rule(family)), append));
    }
    asks.extend(Family::BOTH.iter().filter_map(|&family| put(family, subnets)));
    transaction(asks)
}

/// The transaction that takes intervals from and puts others into the sets.
pub fn change_elements(changes: &[(Family, Change)]) -> Vec<Message> {
    let mut asks = Vec::new();
    for (family, change) in changes {
        if !change.remove.is_empty() {
            let gone = elements(*family, &change.remove);
            asks.push(ask("replace elements", NfTablesMessage::DeleteSetElement(gone), 0));
        }
        if !change.add.is_empty() {
            let new = elements(*family, &change.add);
            asks.push(ask("add elements", NfTablesMessage::NewSetElement(new), NLM_F_CREATE));
        }
    }
    transaction(asks)
}

/// The request for all elements of a family's set.
pub fn get_elements(family: Family) -> NetfilterMessage {
    let set = SetElementList::Set(set_of(family).name.into());
    let attributes = vec![SetElementList::Table(TABLE.into()), set];
    inet(NfTablesMessage::GetSetElement(SetElementMessage { attributes }))
}

/// The edges in a reply to [`get_elements`].
pub fn edges(message: SetElementMessage) -> Vec<Edge> {
    batch::elements_in(message).into_iter().filter_map(edge).collect()
}

fn edge(attributes: Vec<SetElementAttribute>) -> Option<Edge> {
    let mut at = None;
    let mut starts = true;
    for attribute in attributes {
        match attribute {
            SetElementAttribute::Key(DataAttribute::Value(bytes)) => {
                at = Some(bytes.iter().fold(0, |sum, &byte| sum << 8 | u128::from(byte)));
            }
            SetElementAttribute::Flags(flags) => {
                starts = !flags.contains(SetElementFlags::IntervalEnd);
            }
            _ => {}
        }
    }
    at.map(|at| Edge { at, starts })
}

fn put(family: Family, subnets: &[IpNetwork]) -> Option<Message> {
    let mut intervals: Vec<Interval> = Vec::new();
    for interval in subnets.iter().filter(|subnet| has(family, subnet)).map(Interval::from) {
        if !intervals.contains(&interval) {
            intervals.push(interval);
        }
    }
    let message = NfTablesMessage::NewSetElement(elements(family, &intervals));
    (!intervals.is_empty()).then(|| ask("add elements", message, NLM_F_CREATE))
}

fn elements(family: Family, intervals: &[Interval]) -> SetElementMessage {
    let edges = intervals.iter().flat_map(|interval| {
        let start = vec![SetElementAttribute::Key(key(family, interval.start))];
        let end = interval.end.map(|end| {
            vec![
                SetElementAttribute::Key(key(family, end)),
                SetElementAttribute::Flags(SetElementFlags::IntervalEnd),
            ]
        });
        [start].into_iter().chain(end)
    });
    batch::elements(set_of(family).name, edges.collect())
}

fn key(family: Family, at: u128) -> DataAttribute {
    let bytes = at.to_be_bytes();
    let width = bytes.len() - family.bytes() as usize;
    DataAttribute::Value(bytes[width..].to_vec())
}

fn set(family: Family) -> SetMessage {
    let Set { name, id } = set_of(family);
    let attributes = vec![
        SetAttribute::Table(TABLE.into()),
        SetAttribute::Name(name.into()),
        SetAttribute::Flags(SetFlags::Interval),
        SetAttribute::KeyType(family.data_type()),
        SetAttribute::KeyLen(family.bytes()),
        SetAttribute::Id(id),
    ];
    SetMessage { attributes }
}

fn rule(family: Family) -> RuleMessage {
    let mut expressions: Vec<Expression> = is_family(family).into();
    expressions.extend([
        load_network(family.source(), family.bytes(), 0),
        is_in(set_of(family), false),
        load_network(family.destination(), family.bytes(), 0),
        is_in(set_of(family), true),
    ]);
    expressions.extend(not_multicast(family));
    expressions.push(masquerade());
    CHAIN.rule(comment(family), expressions)
}

/// Multicast never leaves with a translated source: its receivers answer to the pod or not at all.
fn not_multicast(family: Family) -> Vec<Expression> {
    match family {
        // 224.0.0.0/4
        Family::V4 => vec![
            load_network(family.destination(), 4, 0),
            mask(vec![0xf0, 0, 0, 0]),
            compare(Operator::NotEqual, vec![0xe0, 0, 0, 0]),
        ],
        // ff00::/8
        Family::V6 => {
            vec![load_network(family.destination(), 1, 0), compare(Operator::NotEqual, vec![0xff])]
        }
    }
}

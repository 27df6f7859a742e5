//! The messages of the table: `nft list table inet weir` shows what they make.
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
use netlink_packet_core::{
    DecodeError, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NetlinkDeserializable, NetlinkHeader,
    NlasIterator,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    nftables::{
        Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute,
        Expressions, Hook, HookNumber, InetHookNumber, ListAttribute, Lookup, Meta, MetaKey,
        NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage, SetAttribute,
        SetElementAttribute, SetElementFlags, SetElementList, SetElementMessage, SetFlags,
        SetMessage, TableAttribute, TableMessage,
    },
    none::ControlMessage,
};

use super::interval::{Change, Edge, Interval};
use crate::net::netlink::Ask;

const TABLE: &str = "weir";
/// The one chain.
pub const CHAIN: &str = "postrouting";
/// linux/netfilter/nfnetlink.h: the subsystem that a transaction is for.
const SUBSYSTEM: u16 = 10;
/// linux/netfilter_ipv4.h, `NF_IP_PRI_NAT_SRC`; the same for IPv6.
const PRIORITY_SRCNAT: u32 = 100;
/// linux/netfilter/nf_tables.h: payload base and lookup flag.
const NETWORK_HEADER: u32 = 1;
const LOOKUP_INVERTED: u32 = 1;
/// The same: the attribute `NFTA_RULE_USERDATA`, and the size of `struct nfgenmsg` before attributes.
const RULE_USERDATA: u16 = 7;
const NFGENMSG_BYTES: usize = 4;
/// libnftnl's user data of a rule: type of a comment, which `nft` shows.
const COMMENT: u8 = 0;

type Message = Ask<NetfilterMessage>;
type Expression = ListAttribute<ExpressionAttribute>;

/// The address families of which each has a set and a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn has(self, subnet: &IpNetwork) -> bool {
        subnet.is_ipv4() == (self == Self::V4)
    }

    pub fn set(self) -> &'static str {
        match self {
            Self::V4 => "masquerade4",
            Self::V6 => "masquerade6",
        }
    }

    pub fn bits(self) -> u32 {
        self.bytes() * 8
    }

    fn bytes(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// The numbers of `nft`'s data types ipv4_addr and ipv6_addr, by which it prints the elements.
    fn key_type(self) -> u32 {
        match self {
            Self::V4 => 7,
            Self::V6 => 8,
        }
    }

    /// Unique within a transaction.
    fn set_id(self) -> u32 {
        match self {
            Self::V4 => 1,
            Self::V6 => 2,
        }
    }

    /// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
    fn protocol(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Where source and destination address start in the network header.
    fn offsets(self) -> (u32, u32) {
        match self {
            Self::V4 => (12, 16),
            Self::V6 => (8, 24),
        }
    }

    fn comment(self) -> &'static str {
        match self {
            Self::V4 => "weir: IPv4 from pod networks to elsewhere",
            Self::V6 => "weir: IPv6 from pod networks to elsewhere",
        }
    }

    fn key(self, at: u128) -> DataAttribute {
        let bytes = at.to_be_bytes();
        let width = bytes.len() - self.bytes() as usize;
        DataAttribute::Value(bytes[width..].to_vec())
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
    let table = TableMessage { attributes: vec![TableAttribute::Name(TABLE.into())] };
    let mut asks = vec![ask("create table", NfTablesMessage::NewTable(table), flags)];
    for family in Family::BOTH {
        asks.push(ask("create set", NfTablesMessage::NewSet(set(family)), NLM_F_CREATE));
    }
    asks.push(ask("create chain", NfTablesMessage::NewChain(chain()), NLM_F_CREATE));
    if !exclusive {
        asks.push(ask("clear chain", NfTablesMessage::DeleteRule(all_rules()), 0));
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
    let attributes =
        vec![SetElementList::Table(TABLE.into()), SetElementList::Set(family.set().into())];
    inet(NfTablesMessage::GetSetElement(SetElementMessage { attributes }))
}

/// The request for all rules of the chain.
pub fn get_rules() -> NetfilterMessage {
    inet(NfTablesMessage::GetRule(all_rules()))
}

/// A rule's user data: all that [`get_rules`] is asked for. To decode the expressions as well would
/// take longer than everything else in a CHECK.
#[derive(Debug)]
pub struct UserData(Option<Vec<u8>>);

impl UserData {
    /// Whether it is the comment of the family's masquerade rule.
    pub fn is_of(&self, family: Family) -> bool {
        self.0.as_ref().is_some_and(|data| *data == comment(family))
    }
}

impl NetlinkDeserializable for UserData {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let attributes = payload.get(NFGENMSG_BYTES..).unwrap_or_default();
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute?;
            if attribute.kind() == RULE_USERDATA {
                return Ok(Self(Some(attribute.value().to_vec())));
            }
        }
        Ok(Self(None))
    }
}

/// The edges in a reply to [`get_elements`].
pub fn edges(message: SetElementMessage) -> Vec<Edge> {
    let lists = message.attributes.into_iter().filter_map(|attribute| match attribute {
        SetElementList::Elements(elements) => Some(elements),
        _ => None,
    });
    lists.flatten().filter_map(edge).collect()
}

fn edge(element: ListAttribute<SetElementAttribute>) -> Option<Edge> {
    let ListAttribute::Element(attributes) = element else { return None };
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

/// Frames changes so that all take effect or none.
fn transaction(asks: Vec<Message>) -> Vec<Message> {
    let bracket = |message: ControlMessage| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
        Ask::bracket(NetfilterMessage::new(header, message))
    };
    let mut framed = vec![bracket(ControlMessage::BatchBegin)];
    framed.extend(asks);
    framed.push(bracket(ControlMessage::BatchEnd));
    framed
}

fn ask(what: &str, message: NfTablesMessage, flags: u16) -> Message {
    Ask::new(format!("{what} of nftables table inet {TABLE}"), inet(message), flags)
}

fn inet(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), message)
}

fn put(family: Family, subnets: &[IpNetwork]) -> Option<Message> {
    let mut intervals: Vec<Interval> = Vec::new();
    for interval in subnets.iter().filter(|subnet| family.has(subnet)).map(Interval::from) {
        if !intervals.contains(&interval) {
            intervals.push(interval);
        }
    }
    let message = NfTablesMessage::NewSetElement(elements(family, &intervals));
    (!intervals.is_empty()).then(|| ask("add elements", message, NLM_F_CREATE))
}

fn elements(family: Family, intervals: &[Interval]) -> SetElementMessage {
    let edges = intervals.iter().flat_map(|interval| {
        let start = vec![SetElementAttribute::Key(family.key(interval.start))];
        let end = interval.end.map(|end| {
            vec![
                SetElementAttribute::Key(family.key(end)),
                SetElementAttribute::Flags(SetElementFlags::IntervalEnd),
            ]
        });
        [start].into_iter().chain(end).map(ListAttribute::Element)
    });
    let attributes = vec![
        SetElementList::Table(TABLE.into()),
        SetElementList::Set(family.set().into()),
        SetElementList::Elements(edges.collect()),
    ];
    SetElementMessage { attributes }
}

fn set(family: Family) -> SetMessage {
    let attributes = vec![
        SetAttribute::Table(TABLE.into()),
        SetAttribute::Name(family.set().into()),
        SetAttribute::Flags(SetFlags::Interval),
        SetAttribute::KeyType(family.key_type()),
        SetAttribute::KeyLen(family.bytes()),
        SetAttribute::Id(family.set_id()),
    ];
    SetMessage { attributes }
}

fn chain() -> ChainMessage {
    let hook = vec![
        Hook::Number(HookNumber::Inet(InetHookNumber::PostRouting)),
        Hook::Priority(PRIORITY_SRCNAT),
    ];
    let attributes = vec![
        ChainAttribute::Table(TABLE.into()),
        ChainAttribute::Name(CHAIN.into()),
        ChainAttribute::Hook(hook),
        ChainAttribute::Type("nat".into()),
    ];
    ChainMessage { attributes }
}

fn all_rules() -> RuleMessage {
    let attributes = vec![RuleAttribute::Table(TABLE.into()), RuleAttribute::Chain(CHAIN.into())];
    RuleMessage { attributes }
}

fn rule(family: Family) -> RuleMessage {
    let (source, destination) = family.offsets();
    let mut expressions = vec![
        Expressions::Meta(vec![
            Meta::DestinationRegister(Register::Reg1),
            Meta::Key(MetaKey::Nfproto),
        ])
        .into(),
        compare(Operator::Equal, vec![family.protocol()]),
        load(source, family.bytes()),
        look_up(family, false),
        load(destination, family.bytes()),
        look_up(family, true),
    ];
    expressions.extend(not_multicast(family, destination));
    let masquerade = Expressions::Other { expression_type: "masq".into(), attributes: Vec::new() };
    expressions.push(masquerade.into());

    let mut message = all_rules();
    message.attributes.push(RuleAttribute::Expressions(expressions));
    message.attributes.push(RuleAttribute::UserData(comment(family)));
    message
}

/// Multicast never leaves with a translated source: its receivers answer to the pod or not at all.
fn not_multicast(family: Family, destination: u32) -> Vec<Expression> {
    match family {
        // 224.0.0.0/4
        Family::V4 => {
            let mask = Expressions::Bitwise(vec![
                Bitwise::SourceRegister(Register::Reg1),
                Bitwise::DestinationRegister(Register::Reg1),
                Bitwise::Length(4),
                Bitwise::Mask(DataAttribute::Value(vec![0xf0, 0, 0, 0])),
                Bitwise::Xor(DataAttribute::Value(vec![0; 4])),
            ]);
            vec![
                load(destination, 4),
                mask.into(),
                compare(Operator::NotEqual, vec![0xe0, 0, 0, 0]),
            ]
        }
        // ff00::/8
        Family::V6 => vec![load(destination, 1), compare(Operator::NotEqual, vec![0xff])],
    }
}

fn load(offset: u32, bytes: u32) -> Expression {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(NETWORK_HEADER),
        Payload::Offset(offset),
        Payload::Len(bytes),
    ])
    .into()
}

fn look_up(family: Family, inverted: bool) -> Expression {
    let mut lookup = vec![
        Lookup::Set(family.set().into()),
        Lookup::SourceRegister(Register::Reg1),
        Lookup::SetId(family.set_id()),
    ];
    if inverted {
        lookup.push(Lookup::Flags(LOOKUP_INVERTED));
    }
    Expressions::Lookup(lookup).into()
}

fn compare(operator: Operator, value: Vec<u8>) -> Expression {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
    .into()
}

/// A comment in libnftnl's form: type, length, text with a closing zero.
fn comment(family: Family) -> Vec<u8> {
    let text = family.comment();
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [COMMENT, length].into_iter().chain(text.bytes()).chain([0]).collect()
}

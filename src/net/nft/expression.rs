//! The words that rules are made of (linux/netfilter/nf_tables.h).

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
    Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
};

use super::family::Family;

/// `NFT_PAYLOAD_NETWORK_HEADER` and `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// `NFT_LOOKUP_F_INV`.
const LOOKUP_INVERTED: u32 = 1;
/// `NFT_REG32_00`: the first of 16 registers of four bytes each.
const FIRST_REGISTER: u32 = 8;
/// `NF_DROP` of linux/netfilter.h.
const DROP: u32 = 0;
/// The attributes and values of the two expressions that the library doesn't spell out.
mod fib {
    pub const REGISTER: u16 = 1;
    pub const RESULT: u16 = 2;
    pub const FLAGS: u16 = 3;
    /// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`.
    pub const ADDRESS_TYPE: u32 = 3;
    pub const OF_DESTINATION: u32 = 2;
}
mod nat {
    pub const TYPE: u16 = 1;
    pub const FAMILY: u16 = 2;
    pub const ADDRESS: u16 = 3;
    pub const PORT: u16 = 5;
    /// `NFT_NAT_DNAT`.
    pub const DESTINATION: u32 = 1;
}
/// `RTN_LOCAL` of linux/rtnetlink.h.
const LOCAL: u32 = 2;

pub type Expression = ListAttribute<ExpressionAttribute>;

/// A set or map that a rule looks in, and its number within a transaction.
#[derive(Debug, Clone, Copy)]
pub struct Set {
    pub name: &'static str,
    pub id: u32,
}

/// The register that begins `bytes` behind the first.
fn register(bytes: u32) -> Register {
    Register::from(FIRST_REGISTER + bytes / 4)
}

/// Goes on only with packets of that family.
pub fn is_family(family: Family) -> [Expression; 2] {
    [load_meta(MetaKey::Nfproto, 0), compare(Operator::Equal, vec![family.protocol()])]
}

/// Goes on only with packets that came in (or go out) through an interface whose name begins so.
pub fn is_interface(key: MetaKey, prefix: &str) -> [Expression; 2] {
    [load_meta(key, 0), compare(Operator::Equal, prefix.into())]
}

/// Goes on only with packets whose destination is (or isn't) one of the node's own addresses.
pub fn is_local(operator: Operator) -> [Expression; 2] {
    let number = |kind: u16, value: u32| DefaultNla::new(kind, value.to_be_bytes().to_vec());
    let attributes = vec![
        number(fib::REGISTER, register(0).into()),
        number(fib::RESULT, fib::ADDRESS_TYPE),
        number(fib::FLAGS, fib::OF_DESTINATION),
    ];
    let kind = Expressions::Other { expression_type: "fib".into(), attributes };
    [kind.into(), compare(operator, LOCAL.to_ne_bytes().to_vec())]
}

/// Puts a property of the packet into the register that begins `at` bytes behind the first.
pub fn load_meta(key: MetaKey, at: u32) -> Expression {
    Expressions::Meta(vec![Meta::DestinationRegister(register(at)), Meta::Key(key)]).into()
}

/// Puts `bytes` of the network header into the register that begins `at` bytes behind the first.
pub fn load_network(offset: u32, bytes: u32, at: u32) -> Expression {
    load(NETWORK_HEADER, offset, bytes, at)
}

/// Puts the transport header's destination port into the register that begins `at` bytes behind the
/// first: in TCP, UDP and SCTP alike it is the second field.
pub fn load_port(at: u32) -> Expression {
    load(TRANSPORT_HEADER, 2, 2, at)
}

fn load(base: u32, offset: u32, bytes: u32, at: u32) -> Expression {
    Expressions::Payload(vec![
        Payload::DestinationRegister(register(at)),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(bytes),
    ])
    .into()
}

/// Masks the first register.
pub fn mask(mask: Vec<u8>) -> Expression {
    let length = mask.len();
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(register(0)),
        Bitwise::DestinationRegister(register(0)),
        Bitwise::Length(u32::try_from(length).unwrap_or(u32::MAX)),
        Bitwise::Mask(DataAttribute::Value(mask)),
        Bitwise::Xor(DataAttribute::Value(vec![0; length])),
    ])
    .into()
}

/// Goes on only if the first register compares so.
pub fn compare(operator: Operator, value: Vec<u8>) -> Expression {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(register(0)),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
    .into()
}

/// Goes on only if what begins in the first register is (or, inverted, isn't) in the set.
pub fn is_in(set: Set, inverted: bool) -> Expression {
    let mut lookup = lookup(set);
    if inverted {
        lookup.push(Lookup::Flags(LOOKUP_INVERTED));
    }
    Expressions::Lookup(lookup).into()
}

/// Goes on only if the map has what begins in the first register, with its value there instead.
pub fn map(map: Set) -> Expression {
    let mut lookup = lookup(map);
    lookup.push(Lookup::DestinationRegister(register(0)));
    Expressions::Lookup(lookup).into()
}

fn lookup(set: Set) -> Vec<Lookup> {
    vec![Lookup::Set(set.name.into()), Lookup::SourceRegister(register(0)), Lookup::SetId(set.id)]
}

/// Gives the packet, and all of its connection, the destination that begins in the first register:
/// address, then port.
pub fn redirect(family: Family) -> Expression {
    let number = |kind: u16, value: u32| DefaultNla::new(kind, value.to_be_bytes().to_vec());
    let attributes = vec![
        number(nat::TYPE, nat::DESTINATION),
        number(nat::FAMILY, family.protocol().into()),
        number(nat::ADDRESS, register(0).into()),
        number(nat::PORT, register(family.bytes()).into()),
    ];
    Expressions::Other { expression_type: "nat".into(), attributes }.into()
}

/// Gives the packet, and all of its connection, the node's address as its source.
pub fn masquerade() -> Expression {
    Expressions::Other { expression_type: "masq".into(), attributes: Vec::new() }.into()
}

/// Ends the chain without having done anything.
pub fn leave() -> Expression {
    verdict(Verdict::Return)
}

/// Drops the packet.
pub fn drop_packet() -> Expression {
    verdict(Verdict::Other(DROP))
}

fn verdict(verdict: Verdict) -> Expression {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(verdict)])),
    ])
    .into()
}

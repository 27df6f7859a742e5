//! The messages of the table, whatever is in it, and how they are framed.

use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, NlasIterator};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    nftables::{
        ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, ListAttribute,
        NfTablesMessage, RuleAttribute, RuleMessage, SetElementAttribute, SetElementList,
        SetElementMessage, TableAttribute, TableMessage,
    },
    none::ControlMessage,
};

use super::expression::Expression;
use crate::net::netlink::Ask;

/// The table's name.
pub const TABLE: &str = "weir";
/// linux/netfilter/nfnetlink.h: the subsystem that a transaction is for.
const SUBSYSTEM: u16 = 10;
/// linux/netfilter/nf_tables.h: the attribute `NFTA_RULE_USERDATA`, and the size of `struct nfgenmsg`
/// before attributes.
const RULE_USERDATA: u16 = 7;
const NFGENMSG_BYTES: usize = 4;
/// libnftnl's user data: type of a comment, which `nft` shows. The same for rules and elements.
const COMMENT: u8 = 0;
/// linux/netfilter/nf_tables.h, `NFT_USERDATA_MAXLEN`, without type, length and closing zero.
const COMMENT_MAX: usize = 253;

pub type Message = Ask<NetfilterMessage>;

/// A chain that the kernel calls: its name, type (`nat`, `filter`), hook and priority.
#[derive(Debug, Clone, Copy)]
pub struct Chain {
    pub name: &'static str,
    pub kind: &'static str,
    pub hook: InetHookNumber,
    /// linux/netfilter_ipv4.h, `enum nf_ip_hook_priorities`; the same for IPv6.
    pub priority: i32,
}

impl Chain {
    pub fn message(&self) -> ChainMessage {
        let hook = vec![
            Hook::Number(HookNumber::Inet(self.hook)),
            Hook::Priority(u32::from_ne_bytes(self.priority.to_ne_bytes())),
        ];
        let attributes = vec![
            ChainAttribute::Table(TABLE.into()),
            ChainAttribute::Name(self.name.into()),
            ChainAttribute::Hook(hook),
            ChainAttribute::Type(self.kind.into()),
        ];
        ChainMessage { attributes }
    }

    /// The chain by its name alone.
    pub fn named(&self) -> ChainMessage {
        let name = ChainAttribute::Name(self.name.into());
        ChainMessage { attributes: vec![ChainAttribute::Table(TABLE.into()), name] }
    }

    /// All rules of the chain.
    pub fn rules(&self) -> RuleMessage {
        let chain = RuleAttribute::Chain(self.name.into());
        RuleMessage { attributes: vec![RuleAttribute::Table(TABLE.into()), chain] }
    }

    /// One rule of the chain, with a comment by which it is found again.
    pub fn rule(&self, text: &str, expressions: Vec<Expression>) -> RuleMessage {
        let mut message = self.rules();
        message.attributes.push(RuleAttribute::Expressions(expressions));
        message.attributes.push(RuleAttribute::UserData(comment(text)));
        message
    }
}

pub fn table() -> TableMessage {
    TableMessage { attributes: vec![TableAttribute::Name(TABLE.into())] }
}

/// Elements of a set or map: to add, to delete, or to ask for.
pub fn elements(set: &str, elements: Vec<Vec<SetElementAttribute>>) -> SetElementMessage {
    let list = elements.into_iter().map(ListAttribute::Element).collect();
    let attributes = vec![
        SetElementList::Table(TABLE.into()),
        SetElementList::Set(set.into()),
        SetElementList::Elements(list),
    ];
    SetElementMessage { attributes }
}

/// The attributes of the elements in a reply.
pub fn elements_in(message: SetElementMessage) -> Vec<Vec<SetElementAttribute>> {
    let lists = message.attributes.into_iter().filter_map(|attribute| match attribute {
        SetElementList::Elements(elements) => Some(elements),
        _ => None,
    });
    let element = |element: ListAttribute<SetElementAttribute>| match element {
        ListAttribute::Element(attributes) => Some(attributes),
        _ => None,
    };
    lists.flatten().filter_map(element).collect()
}

/// The request for all rules of the table.
pub fn get_rules() -> NetfilterMessage {
    let attributes = vec![RuleAttribute::Table(TABLE.into())];
    inet(NfTablesMessage::GetRule(RuleMessage { attributes }))
}

/// A comment in libnftnl's form: type, length, text with a closing zero.
pub fn comment(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(COMMENT_MAX)];
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [COMMENT, length].iter().chain(text).chain(&[0]).copied().collect()
}

/// The text of a [`comment`]; none if it is something else.
pub fn comment_text(data: &[u8]) -> Option<&str> {
    match data {
        [COMMENT, length, text @ ..] if text.len() == usize::from(*length) => {
            std::str::from_utf8(text).ok()?.strip_suffix('\0')
        }
        _ => None,
    }
}

/// A rule's user data: all that [`get_rules`] is asked for. To decode the expressions as well would
/// take longer than everything else in a CHECK.
#[derive(Debug)]
pub struct UserData(Option<Vec<u8>>);

impl UserData {
    /// Whether it is that comment.
    pub fn is(&self, text: &str) -> bool {
        self.0.as_ref().is_some_and(|data| *data == comment(text))
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

/// Frames changes so that all take effect or none.
pub fn transaction(asks: Vec<Message>) -> Vec<Message> {
    let bracket = |message: ControlMessage| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
        Ask::bracket(NetfilterMessage::new(header, message))
    };
    let mut framed = vec![bracket(ControlMessage::BatchBegin)];
    framed.extend(asks);
    framed.push(bracket(ControlMessage::BatchEnd));
    framed
}

pub fn ask(what: &str, message: NfTablesMessage, flags: u16) -> Message {
    Ask::new(format!("{what} of nftables table inet {TABLE}"), inet(message), flags)
}

pub fn inet(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_comes_back_and_what_is_none_does_not() {
        assert_eq!(comment_text(&comment("a/b")), Some("a/b"));
        let long = "x".repeat(300);
        assert_eq!(comment_text(&comment(&long)).map(str::len), Some(COMMENT_MAX));
        for data in [&[][..], &[0], &[0, 0], &[0, 3, b'a', 0], &[1, 2, b'a', 0], &[0, 1, b'a']] {
            assert_eq!(comment_text(data), None, "{data:?}");
        }
    }
}

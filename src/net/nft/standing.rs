//! Whether chains have their rules: `nft flush table inet weir` leaves sets, maps and their elements, so
//! that elements go in as before and lead nowhere, while what the rules kept out gets in.
//!
//! The kernel keeps count of a chain's rules. To ask for that takes some microseconds a chain; to list the
//! rules, as CHECK does, ten times that. More rules than ours are somebody's who added to them.

use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner,
    nftables::{ChainAttribute, NfTablesMessage},
};
use nix::errno::Errno;

use super::{
    ATTEMPTS,
    batch::{Chain, Message, ask},
    lost_a_race,
};
use crate::net::netlink::{Netlink, Refusal};

/// How much there is of some chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// One at least is not there.
    Lacking,
    /// Rules are missing.
    Emptied,
    Whole,
}

/// Has a part of the table made, without elements, unless its chains have their rules: each comes with the
/// number of them. `create` is told whether to ask for exclusiveness.
pub fn stand(
    socket: &mut Netlink,
    chains: &[(Chain, u32)],
    create: impl Fn(bool) -> Vec<Message>,
) -> Result<(), Refusal> {
    let mut attempt = 0;
    loop {
        // The first to need them makes them, and for who is second at that they stand. Should there be
        // a part of them, or maps without a chain, they are put right.
        let exclusive = match standing(socket, chains)? {
            Standing::Whole => return Ok(()),
            Standing::Lacking => attempt == 0,
            Standing::Emptied => false,
        };
        match socket.exchange(create(exclusive)) {
            Ok(_) => return Ok(()),
            Err(refusal) if lost_a_race(&refusal) && attempt < ATTEMPTS => attempt += 1,
            Err(refusal) => return Err(refusal),
        }
    }
}

fn standing(socket: &mut Netlink, chains: &[(Chain, u32)]) -> Result<Standing, Refusal> {
    let look_up = |(chain, _): &(Chain, u32)| {
        ask("look up chain", NfTablesMessage::GetChain(chain.named()), 0)
    };
    match socket.exchange(chains.iter().map(look_up).collect()) {
        // One reply for each, in order.
        Ok(replies) => {
            let mut rules = replies.into_iter().map(rules);
            let whole = chains
                .iter()
                .all(|(_, wanted)| rules.next().flatten().is_some_and(|rules| rules >= *wanted));
            Ok(if whole { Standing::Whole } else { Standing::Emptied })
        }
        // Also a kernel without nf_tables, which says so again when it is asked to make them.
        Err(refusal)
            if matches!(refusal.errno, Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EINVAL) =>
        {
            Ok(Standing::Lacking)
        }
        Err(refusal) => Err(refusal),
    }
}

/// How many rules the chain of a reply has.
fn rules(reply: NetfilterMessage) -> Option<u32> {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = reply.inner else {
        return None;
    };
    chain.attributes.into_iter().find_map(|attribute| match attribute {
        ChainAttribute::Use(rules) => Some(rules),
        _ => None,
    })
}

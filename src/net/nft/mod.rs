//! The one nftables table of the node, `inet weir`: masquerade and host ports.
//!
//! Its rules are constant and look addresses up in sets and maps, so a pod costs at most a few elements,
//! added in some microseconds whether the table has one or thousands. A pod without host ports has
//! nothing in it, and so its DEL deletes nothing there (a process that deletes an element takes an RCU
//! grace period to finish).
//!
//! An ADD asks for the chains it needs, and sends its elements. Only where the rules, or the sets and maps,
//! are missing does it send all of its part of the table, in one transaction that fails if another ADD was
//! faster.
//! Talks netlink: to execute `nft` costs as much as two ADDs.

mod batch;
mod expression;
mod family;
pub mod hostport;
pub mod masquerade;
mod standing;

use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

pub use masquerade::{masquerade_check, masquerade_ensure, masquerade_mend, masquerade_narrow};

use super::netlink::{Netlink, Refusal};
use crate::error::{Error, Kind, Result};
use batch::{Message, UserData};

/// What to do where something of ours is missing.
const MEND: &str = "; mend it: weir reconcile";
/// How often a change is tried again that lost against another process.
const ATTEMPTS: u32 = 8;

/// Removes the table with all that is in it: masquerade and host ports of every pod. Says whether
/// there was one.
///
/// # Errors
/// [`Kind::Kernel`] when the kernel refuses; one without nf_tables has no table.
pub fn remove() -> Result<bool> {
    let mut socket = Netlink::open(NETLINK_NETFILTER)?;
    let removal = batch::ask("remove", NfTablesMessage::DeleteTable(batch::table()), 0);
    match socket.exchange(batch::transaction(vec![removal])) {
        Ok(_) => Ok(true),
        Err(refusal) if matches!(refusal.errno, Errno::ENOENT | Errno::EINVAL) => Ok(false),
        Err(refusal) => Err(refusal.into()),
    }
}

/// Whether a refusal says that another process changed the table meanwhile.
fn lost_a_race(refusal: &Refusal) -> bool {
    matches!(refusal.errno, Errno::EEXIST | Errno::ENOENT | Errno::ENOTEMPTY | Errno::EBUSY)
}

/// The error of a kernel without nf_tables. `mend` says how to do without.
fn lacking(refusal: &Refusal, need: &str, mend: &str) -> Error {
    let msg =
        format!("{need} needs nf_tables, which this kernel lacks: load the module, or {mend}");
    Error::new(Kind::Kernel, msg).details(refusal)
}

/// Has a part of the table made where it is missing, its rules anew, however often another process is
/// faster.
fn put_right(socket: &mut Netlink, create: impl Fn() -> Vec<Message>) -> Result<(), Refusal> {
    let mut attempt = 1;
    loop {
        match socket.exchange(create()) {
            Ok(_) => return Ok(()),
            Err(refusal) if lost_a_race(&refusal) && attempt < ATTEMPTS => attempt += 1,
            Err(refusal) => return Err(refusal),
        }
    }
}

/// The comments of all rules of the table.
fn rule_comments(socket: &mut Netlink) -> Result<Vec<UserData>, Refusal> {
    socket.dump("list nftables rules", &batch::get_rules())
}

/// Has elements added; the part of the table that they need is made where it is missing.
fn add_or_create(
    socket: &mut Netlink,
    add: impl Fn() -> Vec<Message>,
    create: impl Fn(bool) -> Vec<Message>,
) -> Result<(), Refusal> {
    let mut attempt = 0;
    loop {
        let Err(refusal) = socket.exchange(add()) else { return Ok(()) };
        if refusal.errno != Errno::ENOENT || attempt == ATTEMPTS {
            return Err(refusal);
        }
        // The first to need them makes them; should they be there in part (somebody deleted the
        // rest), they are put right without asking for exclusiveness.
        match socket.exchange(create(attempt == 0)) {
            Ok(_) => return Ok(()),
            Err(refusal) if lost_a_race(&refusal) => attempt += 1,
            Err(refusal) => return Err(refusal),
        }
    }
}

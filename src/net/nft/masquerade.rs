//! Masquerade: a network puts its subnets into the table, and no more.
//!
//! A packet from a network in the table to anywhere outside them all gets the node's address. A
//! network without `ipMasq` is not in the table, so it is outside: what comes to its pods from those
//! of a masqueraded network has the node's address, what they send there keeps their own. A pod costs
//! nothing, a network one set element, and a DEL deletes nothing.

pub mod interval;
mod schema;

use ipnetwork::IpNetwork;
use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner, nftables::NfTablesMessage,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use self::interval::{Interval, Intervals};
use super::{
    ATTEMPTS, MEND, family::Family, lacking, lost_a_race, put_right, rule_comments, standing::stand,
};
use crate::{
    error::{Error, Kind, Result},
    net::netlink::{Netlink, Refusal},
};

/// Masquerades what leaves `subnets` for the outside of all networks in the table.
///
/// # Errors
/// [`Kind::Kernel`] when the kernel refuses, for example for lack of nf_tables.
pub fn masquerade_ensure(subnets: &[IpNetwork]) -> Result<()> {
    if subnets.is_empty() {
        return Ok(());
    }
    let mut socket = Netlink::open(NETLINK_NETFILTER)?;
    stand(&mut socket, &schema::chains(), |exclusive| schema::create(&[], exclusive)).map_err(
        |refusal| match refusal.errno {
            Errno::EOPNOTSUPP => lacking(&refusal, "ipMasq", "set ipMasq to false"),
            _ => refusal.into(),
        },
    )?;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let Err(refusal) = socket.exchange(schema::add_elements(subnets)) else { return Ok(()) };
        let mended = match refusal.errno {
            // Somebody deleted the sets alone, or all just now.
            Errno::ENOENT => socket.exchange(schema::create(subnets, false)),
            // An interval set takes no overlapping elements.
            Errno::EEXIST | Errno::ENOTEMPTY => widen(&mut socket, subnets),
            _ => return Err(refusal.into()),
        };
        match mended {
            Ok(_) => return Ok(()),
            Err(refusal) if lost_a_race(&refusal) => last = Some(refusal),
            Err(refusal) => return Err(refusal.into()),
        }
    }
    let lost = || Error::new(Kind::Kernel, "can't add to nftables table inet weir");
    Err(last.map_or_else(lost, Error::from))
}

/// As [`masquerade_ensure`], and makes the rules again where something else took them away.
///
/// # Errors
/// As [`masquerade_ensure`].
pub fn masquerade_mend(subnets: &[IpNetwork]) -> Result<()> {
    if subnets.is_empty() {
        return Ok(());
    }
    // Without elements, which may overlap with what the sets still have.
    put_right(&mut Netlink::open(NETLINK_NETFILTER)?, || schema::create(&[], false))?;
    masquerade_ensure(subnets)
}

/// Adds subnets to sets that hold overlapping ones: what a wider one covers is left alone, what the
/// new one covers is replaced by it in the same transaction.
fn widen(socket: &mut Netlink, subnets: &[IpNetwork]) -> Result<Vec<NetfilterMessage>, Refusal> {
    let mut changes = Vec::new();
    for family in Family::BOTH {
        let present = read_set(socket, family)?;
        let wanted = subnets.iter().filter(|subnet| has(family, subnet)).map(Interval::from);
        changes.push((family, present.widened_by(wanted)));
    }
    socket.exchange(schema::change_elements(&changes))
}

fn has(family: Family, subnet: &IpNetwork) -> bool {
    Family::of(subnet.ip()) == family
}

/// Ends the masquerade of every subnet but these, and says which were too many. Without `really` it
/// only says so. That there is no table is no error.
///
/// # Errors
/// [`Kind::Kernel`] when the kernel refuses.
pub fn masquerade_narrow(subnets: &[IpNetwork], really: bool) -> Result<Vec<String>> {
    let mut socket = Netlink::open(NETLINK_NETFILTER)?;
    let (mut changes, mut surplus) = (Vec::new(), Vec::new());
    for family in Family::BOTH {
        let present = match read_set(&mut socket, family) {
            Ok(present) => present,
            Err(refusal) if refusal.errno == Errno::ENOENT => continue,
            Err(refusal) => return Err(refusal.into()),
        };
        let wanted = subnets.iter().filter(|subnet| has(family, subnet)).map(Interval::from);
        let change = present.narrowed_to(wanted);
        surplus.extend(change.remove.iter().map(|interval| interval.text(family.bytes() * 8)));
        if !change.remove.is_empty() {
            changes.push((family, change));
        }
    }
    if really && !changes.is_empty() {
        socket.exchange(schema::change_elements(&changes))?;
    }
    Ok(surplus)
}

/// Compares the table with what [`masquerade_ensure`] leaves.
///
/// # Errors
/// [`Kind::Difference`] naming what is missing, [`Kind::Kernel`] when the kernel can't be asked.
pub fn masquerade_check(subnets: &[IpNetwork]) -> Result<()> {
    let mut socket = Netlink::open(NETLINK_NETFILTER)?;
    let missing = |what: String| Error::new(Kind::Difference, format!("{what} is missing{MEND}"));
    let absent = |refusal: Refusal, what: String| match refusal.errno {
        Errno::ENOENT => missing(what),
        _ => refusal.into(),
    };
    for family in Family::BOTH {
        let mut wanted = subnets.iter().filter(|subnet| has(family, subnet)).peekable();
        if wanted.peek().is_none() {
            continue;
        }
        let set = schema::set_of(family).name;
        let present = read_set(&mut socket, family)
            .map_err(|refusal| absent(refusal, format!("nftables set inet weir {set}")))?;
        if let Some(subnet) = wanted.find(|&subnet| !present.cover(Interval::from(subnet))) {
            return Err(missing(format!("{subnet} in nftables set inet weir {set}")));
        }
        let chain = schema::CHAIN.name;
        let rule = format!("the masquerade rule of {set} in nftables chain inet weir {chain}");
        let rules = rule_comments(&mut socket).map_err(|refusal| absent(refusal, rule.clone()))?;
        if !rules.iter().any(|data| data.is(schema::comment(family))) {
            return Err(missing(rule));
        }
    }
    Ok(())
}

fn read_set(socket: &mut Netlink, family: Family) -> Result<Intervals, Refusal> {
    let replies: Vec<NetfilterMessage> =
        socket.dump("list nftables set elements", &schema::get_elements(family))?;
    let elements = replies.into_iter().filter_map(|reply| match reply.inner {
        NetfilterMessageInner::NfTables(NfTablesMessage::NewSetElement(message)) => Some(message),
        _ => None,
    });
    Ok(Intervals::new(elements.flat_map(schema::edges), family.bytes() * 8))
}

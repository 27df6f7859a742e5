//! Attachments that are provably dead: their runtime was killed, or the node, and no DEL will come.
//!
//! Proof is another boot, an ADD that was killed before it was done, a DEL or GC that began to take it away,
//! or a network namespace that is gone together with the host-side link. A vanished path alone proves nothing: a process can hold a
//! namespace whose path is gone, and then the link lives. Of a record that can't be read the link alone
//! tells, and that no ADD holds it.

use std::{fs, os::unix::fs::MetadataExt, time::Instant};

use super::{
    Call,
    teardown::{self, Search},
};
use crate::{
    attachment::Attachment,
    error::{Kind, Result},
    ipam::pool::Pool,
    net::{
        Mark, NetnsId,
        link::{self, Link},
        names,
    },
    record::{self, Begun, Entry, Record},
    state,
};

/// Whether nothing of the attachment can be alive. When in doubt, it lives.
pub fn is_dead(record: &Record, boot_id: &str) -> bool {
    let gone = || netns_gone(record) && link_gone(record).unwrap_or(false);
    record.boot_id != boot_id || record.abandoned || (!record.under_way && gone())
}

fn netns_gone(record: &Record) -> bool {
    let netns = &record.netns;
    match fs::metadata(&netns.path) {
        Ok(file) => (NetnsId { dev: file.dev(), ino: file.ino() }) != netns_id(record),
        Err(err) => err.kind() == std::io::ErrorKind::NotFound,
    }
}

fn netns_id(record: &Record) -> NetnsId {
    NetnsId { dev: record.netns.dev, ino: record.netns.ino }
}

fn link_gone(record: &Record) -> Result<bool> {
    let named = link::by_name(&mut link::socket()?, &record.host_ifname)?;
    Ok(named.is_none() && !teardown::has_link(record)?)
}

/// The dead attachments of the call's network.
///
/// # Errors
/// [`Kind::Io`]: the records can't be listed.
fn dead(call: &Call) -> Result<Vec<Attachment>> {
    let boot_id = state::boot_id()?;
    let all = record::list(&call.config.state_dir)?;
    let dead = all.into_iter().filter_map(|(attachment, entry)| match entry {
        Entry::Record(record)
            if record.network == call.config.name && is_dead(&record, &boot_id) =>
        {
            Some(attachment)
        }
        _ => None,
    });
    Ok(dead.collect())
}

/// Those of the call's network whose record can't be read and whose interface is gone. Their leases tell
/// the network.
fn bare(call: &Call) -> Result<Vec<Attachment>> {
    let state_dir = &call.config.state_dir;
    let mut unreadable = record::list(state_dir)?;
    unreadable.retain(|(_, entry)| matches!(entry, Entry::Unreadable(_)));
    if unreadable.is_empty() {
        return Ok(Vec::new());
    }
    let owners = Pool { state_dir, network: &call.config.name }.owners()?;
    let mut bare = Vec::new();
    for (attachment, _) in unreadable {
        let owner = Some(attachment);
        if owners.contains(&owner)
            && let Some(attachment) = owner
            && is_bare(&attachment)?
            && !record::is_held(state_dir, &attachment)?
        {
            bare.push(attachment);
        }
    }
    Ok(bare)
}

/// Whether the attachment's own interface is gone: where its record can't be read, all that tells.
///
/// # Errors
/// Those of asking the kernel.
pub fn is_bare(attachment: &Attachment) -> Result<bool> {
    Ok(link::by_name(&mut link::socket()?, &names::host_ifname(attachment))?.is_none())
}

/// The network and attachment that a link's alias names, if its name bears that out.
pub fn owner(link: &Link) -> Option<(String, Attachment)> {
    let mut parts = link.alias.strip_prefix("weir:")?.splitn(3, '/');
    let (network, id, ifname) = (parts.next()?, parts.next()?, parts.next()?);
    let attachment = Attachment::new(id, ifname).ok()?;
    let mark = Mark::new(network, &attachment);
    let ours = mark.is_on(&link.alias, link.mac) && mark.host_ifname == link.name;
    ours.then(|| (network.to_owned(), attachment))
}

/// The network that an attachment's own interface says it is of: where its record can't be read and another
/// IPAM plugin has the leases, all that tells.
///
/// # Errors
/// Those of asking the kernel.
pub fn network_by_link(attachment: &Attachment) -> Result<Option<String>> {
    let link = link::by_name(&mut link::socket()?, &names::host_ifname(attachment))?;
    let owner = link.as_ref().and_then(owner);
    Ok(owner.filter(|(_, of)| of == attachment).map(|(network, _)| network))
}

/// Whether an ADD that meets a full range would find addresses that nobody alive has. Changes nothing, and
/// reads each owner's record once, up to the first that is dead.
///
/// # Errors
/// [`Kind::Io`], and those of asking the kernel.
pub fn would_help(call: &Call) -> Result<bool> {
    let (state_dir, network) = (&call.config.state_dir, &call.config.name);
    let owners = Pool { state_dir, network }.owners()?;
    if owners.contains(&None) {
        return Ok(true);
    }
    let boot_id = state::boot_id()?;
    for (owner, entry) in record::each(state_dir, owners.into_iter().flatten())? {
        let dead = match entry {
            Entry::Absent => true,
            Entry::Record(record) => record.network == *network && is_dead(&record, &boot_id),
            Entry::Unreadable(_) => is_bare(&owner)? && !record::is_held(state_dir, &owner)?,
            Entry::OutOfReach(_) => false,
        };
        if dead {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes away what is left of an earlier attachment of these ids, if that is dead; says whether there was
/// such. A container that is started again has the ids that it had.
///
/// # Errors
/// As [`teardown::recorded`]; [`Kind::TryAgain`]: somebody works on it all the time.
pub fn finish_dead(call: &Call, attachment: &Attachment) -> Result<bool> {
    let until = Instant::now() + teardown::PATIENCE;
    let state_dir = &call.config.state_dir;
    let claim = record::claim(state_dir, attachment, until)?;
    let claim = claim.ok_or_else(|| teardown::held(state_dir, attachment))?;
    match &claim.entry {
        Entry::Record(record) if is_dead(record, &state::boot_id()?) => {
            teardown::recorded(call, attachment, record).map(|()| true)
        }
        // Somebody else did.
        Entry::Absent => Ok(true),
        _ => Ok(false),
    }
}

/// Takes an attachment away if it is dead, by what the journal has of it once it is held; says whether it
/// was. What somebody else holds is left to them.
///
/// # Errors
/// As [`teardown::recorded`].
pub fn end_dead(call: &Call, attachment: &Attachment) -> Result<bool> {
    let until = Instant::now() + teardown::MOMENT;
    let claim = record::claim(&call.config.state_dir, attachment, until)?;
    match claim.as_ref().map(|claim| &claim.entry) {
        Some(Entry::Record(record)) if is_dead(record, &state::boot_id()?) => {
            teardown::recorded(call, attachment, record).map(|()| true)
        }
        Some(Entry::Unreadable(_)) if is_bare(attachment)? => {
            teardown::unrecorded(call, attachment, Search::Everything).map(|()| true)
        }
        _ => Ok(false),
    }
}

/// Begins an attachment, in place of one that is dead.
///
/// # Errors
/// As [`Record::begin`].
pub fn begin(call: &Call, attachment: &Attachment, record: &Record) -> Result<Begun> {
    let begin = || record.begin(&call.config.state_dir);
    begin().or_else(|err| match err.kind() {
        Kind::NameTaken if finish_dead(call, attachment)? => begin(),
        _ => Err(err),
    })
}

/// Takes the dead attachments of the call's network away; says whether there were any.
///
/// # Errors
/// As [`dead`]; one that can't be taken away is told on stderr.
pub fn reclaim(call: &Call) -> Result<bool> {
    let dead: Vec<_> = dead(call)?.into_iter().chain(bare(call)?).collect();
    for attachment in &dead {
        if let Err(err) = end_dead(call, attachment) {
            eprintln!("weir: can't take away {attachment}, which is dead: {err}");
        }
    }
    Ok(!dead.is_empty())
}

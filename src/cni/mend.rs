//! Living attachments get back what something else took from them: hooks and limits that another tool took
//! off, host ports and masquerade that went with a `nft flush ruleset`.
//!
//! All of it is made again from the record alone. A DEL beside us must not leave behind what we put back. It
//! ends a hook with the link; elements of the table it takes away first, so they are put back only while we
//! hold the record, which a DEL waits for.

use std::{collections::BTreeSet, time::Instant};

use ipnetwork::IpNetwork;

use super::{
    counting, ports,
    reconcile::{Places, Report},
    teardown,
};
use crate::{
    attachment::Attachment,
    error::{Kind, Result},
    net::{conntrack, link, nft},
    record::{self, Claim, Entry, Plumbing, Record},
    spec::Address,
    telemetry::{self, limit},
};

/// What a living attachment lacked, and has again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mend {
    /// It was not counted any more.
    Counted,
    /// Its bandwidth was not held any more.
    Limited,
    /// Host ports didn't lead to it.
    Exposed,
    /// What it sent to the outside kept its own address.
    Masqueraded,
}

/// Puts back what living attachments lack; goes on past failures.
///
/// # Errors
/// Those of reading records and asking the kernel.
pub fn run(places: &Places, report: &mut Report, living: &[Record]) -> Result<()> {
    hooks(places, report, living)?;
    table(places, report, living)
}

/// Host ports and masquerade.
fn table(places: &Places, report: &mut Report, living: &[Record]) -> Result<()> {
    let plumbed: Vec<(&Record, &Plumbing)> = living
        .iter()
        .filter(|record| !record.under_way)
        .filter_map(|record| Some((record, record.plumbing.as_ref()?)))
        .collect();
    // All pods of a network have the same ones: asked about once.
    let networks: BTreeSet<&[IpNetwork]> =
        plumbed.iter().map(|(_, plumbing)| &*plumbing.masquerade).collect();
    let (mut lost, mut found) = (BTreeSet::new(), BTreeSet::new());
    for subnets in networks {
        if !subnets.is_empty() && lacks(report, nft::masquerade_check(subnets)) {
            lost.insert(subnets);
        }
    }
    let mut masqueraded = BTreeSet::new();
    for (record, plumbing) in plumbed {
        let attachment = record.attachment()?;
        let bare = lost.contains(&*plumbing.masquerade);
        let closed = lacks(report, ports::check(&attachment, plumbing));
        if !bare && !closed {
            continue;
        }
        let Some(_held) = hold(places, &attachment, record)? else { continue };
        let subnets = &*plumbing.masquerade;
        if bare && !found.contains(subnets) && report.note(nft::masquerade_mend(subnets)).is_some()
        {
            found.insert(subnets);
        }
        if found.contains(subnets) {
            masqueraded.extend(plumbing.addresses.iter().map(Address::ip));
            report.mended.push((attachment.clone(), Mend::Masqueraded));
        }
        if closed && report.note(ports::mend(&attachment, plumbing)).is_some() {
            report.mended.push((attachment, Mend::Exposed));
        }
    }
    let networks: Vec<IpNetwork> = lost.into_iter().flatten().copied().collect();
    report.note(conntrack::forget_unmasqueraded(&masqueraded, &networks));
    Ok(())
}

/// Whether a check found a difference.
fn lacks(report: &mut Report, checked: Result<()>) -> bool {
    match checked {
        Err(err) if err.kind() == Kind::Difference => true,
        checked => {
            report.note(checked);
            false
        }
    }
}

/// Keeps anybody from ending the attachment; `None` where that is what somebody does, or did.
fn hold(places: &Places, attachment: &Attachment, seen: &Record) -> Result<Option<Claim>> {
    let until = Instant::now() + teardown::MOMENT;
    let claim = record::claim(&places.state_dir, attachment, until)?;
    let lives = |claim: &Claim| {
        matches!(&claim.entry, Entry::Record(now) if **now == *seen) && teardown::still_there(seen)
    };
    Ok(claim.filter(lives))
}

/// Living pods whose hooks something else took off, or whose maps were lost, are counted again, and held to
/// their limits.
fn hooks(places: &Places, report: &mut Report, living: &[Record]) -> Result<()> {
    for record in living.iter().filter(|record| !record.under_way) {
        let Some(index) = record.host_ifindex else { continue };
        if !teardown::still_there(record) {
            continue;
        }
        let attachment = record.attachment()?;
        let counted = mend(report, record, || mend_count(&attachment, record, index));
        let limited = mend(report, record, || mend_limit(record, index));
        if [counted, limited] == [Mended::Whole; 2] {
            continue;
        }
        // Its DEL may have come between, and taken off what was not there yet.
        if matches!(record::find(&places.state_dir, &attachment)?, Entry::Absent) {
            unmend(report, &attachment, record, index)?;
            continue;
        }
        for (mended, what) in [(counted, Mend::Counted), (limited, Mend::Limited)] {
            if mended == Mended::Again {
                report.mended.push((attachment.clone(), what));
            }
        }
    }
    Ok(())
}

/// What came of mending something of a pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mended {
    /// Nothing was missing, or it could not be put back, which the report says.
    Whole,
    /// It was put back.
    Again,
    /// The interface went meanwhile.
    Gone,
}

/// `mend` says whether something was missing.
fn mend(report: &mut Report, record: &Record, mend: impl FnOnce() -> Result<bool>) -> Mended {
    match mend() {
        Ok(true) => Mended::Again,
        Err(_) if !teardown::still_there(record) => Mended::Gone,
        mended => {
            report.note(mended);
            Mended::Whole
        }
    }
}

fn mend_count(attachment: &Attachment, record: &Record, index: u32) -> Result<bool> {
    let Some(attached) = record.telemetry else { return Ok(false) };
    let identity = counting::identity(attachment, &record.pod);
    telemetry::mend(&record.bpf_dir, index, &identity, &attached)
}

/// The buckets; the queues are the network's, which CHECK tells of.
fn mend_limit(record: &Record, index: u32) -> Result<bool> {
    match &record.plumbing {
        Some(plumbing) if plumbing.guarded => {
            limit::mend(&record.bpf_dir, index, &plumbing.bandwidth)
        }
        _ => Ok(false),
    }
}

/// Takes away what was put back for an attachment that is gone.
fn unmend(report: &mut Report, attachment: &Attachment, record: &Record, index: u32) -> Result<()> {
    let stays = link::by_index(&mut link::socket()?, index)?.map(|link| link.index);
    if let Some(attached) = &record.telemetry {
        let id = attachment.container_id();
        report.note(telemetry::detach(&record.bpf_dir, id, attached, stays));
    }
    if stays.is_none() {
        report.note(limit::forget(&record.bpf_dir, index));
    }
    Ok(())
}

//! Living attachments get back what something else took from them: hooks and limits that another tool took
//! off, host ports and masquerade that went with a `nft flush ruleset`.
//!
//! All of it is made again from the record alone. A DEL beside us must not leave behind what we put back, so
//! it is put back only while we hold the record, which a DEL waits for.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;
use serde::Serialize;

use super::{
    counting, ports,
    reconcile::{Places, Report},
    teardown,
};
use crate::{
    attachment::Attachment,
    error::{Kind, Result},
    net::{conntrack, link, nft, qdisc},
    record::{self, Claim, Entry, Plumbing, Record},
    spec::{Address, capability::Limit},
    telemetry::{self, limit},
};

/// How long a call is between two things that belong together, as a rule.
pub const A_CALL: Duration = Duration::from_millis(100);

/// What a living attachment lacked, and has again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
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
    table(places, report, living)?;
    tell_disconnected(places, report, living)
}

/// Says whose interface on the node is gone, while its namespace is not: to make it again is to make the pod's
/// network again, which only an ADD does.
fn tell_disconnected(places: &Places, report: &mut Report, living: &[Record]) -> Result<()> {
    let is_cut = |record: &Record| {
        let settled = !(record.under_way || record.leaving || record.abandoned);
        settled && record.host_ifindex.is_some() && !teardown::still_there(record)
    };
    let cut: Vec<&Record> = living.iter().filter(|record| is_cut(record)).collect();
    if cut.is_empty() {
        return Ok(());
    }
    // Of most it is its DEL that has begun since.
    thread::sleep(A_CALL);
    for record in cut {
        let attachment = record.attachment()?;
        if let Entry::Record(now) = record::find(&places.state_dir, &attachment)?
            && *now == *record
            && is_cut(&now)
        {
            let name = &record.host_ifname;
            let why = "is gone, and so is the pod's network; let its runtime make the pod anew";
            report.left.push(format!("interface {name} of {attachment} {why}"));
        }
    }
    Ok(())
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
    // Whatever was away, or came back by an ADD since: flows that no rule met are told by themselves.
    let mut mended = conntrack::Mended::default();
    for (_, plumbing) in &plumbed {
        if !plumbing.masquerade.is_empty() {
            mended.masqueraded.extend(plumbing.addresses.iter().map(Address::ip));
            mended.networks.extend(&plumbing.masquerade);
        }
        if !plumbing.ports.is_empty() {
            mended.exposed.push((&plumbing.ports, &plumbing.addresses));
        }
    }
    mended.networks.sort_unstable();
    mended.networks.dedup();
    for (record, plumbing) in plumbed {
        let attachment = record.attachment()?;
        let bare = lost.contains(&*plumbing.masquerade);
        let closed = lacks(report, ports::check(&attachment, plumbing));
        if !bare && !closed {
            continue;
        }
        let held = report.note(hold(places, &attachment, record)).flatten();
        let Some(_held) = held else { continue };
        let subnets = &*plumbing.masquerade;
        if bare && !found.contains(subnets) && report.note(nft::masquerade_mend(subnets)).is_some()
        {
            found.insert(subnets);
        }
        if found.contains(subnets) {
            report.mended.push((attachment.clone(), Mend::Masqueraded));
        }
        if closed && report.note(ports::mend(&attachment, plumbing)).is_some() {
            report.mended.push((attachment, Mend::Exposed));
        }
    }
    report.note(conntrack::forget_untranslated(&mended));
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
        // To compare holds nobody up.
        if !teardown::still_there(record) || is_whole(record, index) {
            continue;
        }
        let attachment = record.attachment()?;
        let held = report.note(hold(places, &attachment, record)).flatten();
        let Some(_held) = held else { continue };
        let counted = mend_count(&attachment, record, index);
        let limited = mend_limit(record, index);
        for (mended, what) in [(counted, Mend::Counted), (limited, Mend::Limited)] {
            match mended {
                // The interface went meanwhile, without a DEL.
                Err(_) if !teardown::still_there(record) => {}
                mended => {
                    if report.note(mended) == Some(true) {
                        report.mended.push((attachment.clone(), what));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Whether hooks and limits are as they were left. That it can't be told is for who mends them to say.
fn is_whole(record: &Record, index: u32) -> bool {
    let counted = record
        .telemetry
        .is_none_or(|attached| telemetry::verify(&record.bpf_dir, index, &attached).is_ok());
    counted
        && record.plumbing.as_ref().filter(|plumbing| plumbing.guarded).is_none_or(|plumbing| {
            limit::verify(&record.bpf_dir, index, &plumbing.bandwidth).is_ok()
        })
        && queue(record).is_none_or(|(_, limit)| {
            let checked = link::socket()
                .and_then(|mut host| qdisc::check(&mut host, &record.host_ifname, index, limit));
            !checked.is_err_and(|err| err.kind() == Kind::Difference)
        })
}

/// The MTU and the limit of the queue on the host side, if the attachment has one.
pub(super) fn queue(record: &Record) -> Option<(u32, &Limit)> {
    let plumbing = record.plumbing.as_ref()?;
    Some((plumbing.mtu, plumbing.bandwidth.ingress.as_ref()?))
}

fn mend_count(attachment: &Attachment, record: &Record, index: u32) -> Result<bool> {
    let Some(attached) = record.telemetry else { return Ok(false) };
    let identity = counting::identity(attachment, &record.pod);
    telemetry::mend(&record.bpf_dir, index, &identity, &attached)
}

/// The buckets, and the queue on the host side; the one in the pod is the pod's to take away, of which CHECK tells,
/// and its bucket holds what it sends.
fn mend_limit(record: &Record, index: u32) -> Result<bool> {
    let buckets = match &record.plumbing {
        Some(plumbing) if plumbing.guarded => {
            limit::mend(&record.bpf_dir, index, &plumbing.bandwidth)?
        }
        _ => false,
    };
    let queue = match queue(record) {
        Some((mtu, limit)) => qdisc::mend(&record.host_ifname, index, mtu, limit)?,
        None => false,
    };
    Ok(buckets || queue)
}

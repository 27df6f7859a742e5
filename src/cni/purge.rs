//! The end of Weir on a node: all that counts goes, and what no pod needs any more. Pods that run
//! keep their network, unless they are to lose it.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Call, reclaim,
    reconcile::{Places, Report, Thing, Work},
    teardown::{self, Search},
};
use crate::{
    error::Result,
    net::{link, nft},
    record::{self, Entry},
    state,
    telemetry::{self, removal},
};

/// How long to wait for ADDs under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes away what Weir has on this node besides its files, in all of these places: with `all` also the networks
/// of the pods that run. Goes on past failures. Call it when no ADD can begin any more.
pub fn run(places: &[Places], all: bool) -> Report {
    let mut report = Report::default();
    if let Err(err) = purge(places, all, &mut report) {
        report.failures.push(err);
    }
    report
}

fn purge(places: &[Places], all: bool, report: &mut Report) -> Result<()> {
    // Who may still add there goes on being counted.
    let mut kept = BTreeSet::new();
    for it in places {
        // Those that had begun are in the records afterwards.
        let paused = record::pause_adds(&it.state_dir, PATIENCE).map(drop);
        let dropped = paused.and_then(|()| drop_attachments(it, all, report));
        if report.note(dropped).is_none() {
            kept.insert(&it.bpf_dir);
        }
    }
    if all {
        drop_links(report)?;
    }
    let bpf_dirs: BTreeSet<_> = places.iter().map(|it| &it.bpf_dir).collect();
    for bpf_dir in bpf_dirs.difference(&kept) {
        if let Some(removed) = report.note(removal::remove(bpf_dir))
            && removed.pins
        {
            report.drop(Thing::Pins, bpf_dir.display(), None, Ok(()));
        }
    }
    for it in places.iter().filter(|it| !kept.contains(&it.bpf_dir)) {
        let unhooked = unhook(it, report);
        report.note(unhooked);
    }
    let (mut left, mut unread) = (0, false);
    let state_dirs: BTreeSet<_> = places.iter().map(|it| it.state_dir.as_path()).collect();
    for state_dir in &state_dirs {
        match report.note(record::list(state_dir)).map(|records| records.len()) {
            Some(0) => drop_state(state_dir, report),
            Some(more) => left += more,
            // Whoever it was can't be known to be gone.
            None => unread = true,
        }
    }
    if left > 0 {
        let what = "the state dir and nftables table inet weir stay, too; --purge takes them away";
        report.left.push(format!(
            "the network of {left} attachment{}: {what}",
            if left == 1 { "" } else { "s" }
        ));
        return Ok(());
    }
    if unread {
        return Ok(());
    }
    drop_table(&state_dirs, report)
}

/// A state dir without a record.
fn drop_state(state_dir: &Path, report: &mut Report) {
    let shown = state_dir.display();
    match (state_dir.exists(), report.note(state::remove(state_dir))) {
        (true, Some(true)) => report.drop(Thing::State, shown, None, Ok(())),
        (_, Some(false)) => report.left.push(format!("{shown}: it has files that are not Weir's")),
        _ => {}
    }
}

/// The nftables table, unless there are pods whose records are elsewhere: it may be what they live by.
fn drop_table(state_dirs: &BTreeSet<&Path>, report: &mut Report) -> Result<()> {
    let links = link::all(&mut link::socket()?)?;
    let unknown = links.iter().filter(|link| reclaim::owner(link).is_some()).count();
    if unknown > 0 {
        let dirs: Vec<_> = state_dirs.iter().map(|dir| dir.display().to_string()).collect();
        let dirs = dirs.join(" or ");
        let mend = "if the configuration has another stateDir, give it by --state-dir";
        let what = "nftables table inet weir stays";
        report
            .left
            .push(format!("interfaces that no record in {dirs} knows, {unknown}: {what}; {mend}"));
    } else if report.note(nft::remove()) == Some(true) {
        report.drop(Thing::Table, "inet weir", None, Ok(()));
    }
    Ok(())
}

/// The dead go, and those whose network is another plugin's; with `all`, everyone.
fn drop_attachments(places: &Places, all: bool, report: &mut Report) -> Result<()> {
    let boot_id = state::boot_id()?;
    let until = Instant::now() + PATIENCE;
    let mut work = Work::begin(places);
    for (attachment, _) in record::list(&places.state_dir)? {
        let claim = match record::claim(&places.state_dir, &attachment, until) {
            Ok(Some(claim)) => claim,
            Ok(None) => {
                report.failures.push(teardown::held(&places.state_dir, &attachment));
                continue;
            }
            Err(err) => {
                report.failures.push(err);
                continue;
            }
        };
        match &claim.entry {
            Entry::Record(record)
                if all || record.plumbing.is_none() || reclaim::is_dead(record, &boot_id) =>
            {
                let end = |call: &Call| teardown::recorded(call, &attachment, record);
                let gone = work.end(record, end);
                if gone != Ok(None) {
                    let gone = gone.map(drop);
                    report.drop(Thing::Attachment, &attachment, Some(&record.network), gone);
                }
            }
            Entry::Unreadable(_) if all || reclaim::is_bare(&attachment)? => {
                let gone = teardown::unrecorded(&work.call(""), &attachment, Search::Everything);
                report.drop(Thing::Attachment, &attachment, None, gone);
            }
            _ => {}
        }
    }
    work.tell(report);
    Ok(())
}

/// The pods that run are counted no more, also where no pin is left that would lead to their hooks.
fn unhook(places: &Places, report: &mut Report) -> Result<()> {
    for (_, entry) in record::list(&places.state_dir)? {
        let Entry::Record(record) = &entry else { continue };
        let there = record.host_ifindex.filter(|_| teardown::still_there(record));
        if let (Some(attached), Some(index)) = (&record.telemetry, there) {
            report.note(telemetry::unhook(&record.bpf_dir, attached, index));
        }
    }
    Ok(())
}

/// Every interface that bears an attachment's mark, with or without a record.
fn drop_links(report: &mut Report) -> Result<()> {
    let mut socket = link::socket()?;
    for link in link::all(&mut socket)? {
        if let Some((network, _)) = reclaim::owner(&link) {
            let gone = link::delete(&mut socket, &link);
            report.drop(Thing::Link, &link.name, Some(&network), gone);
        }
    }
    Ok(())
}

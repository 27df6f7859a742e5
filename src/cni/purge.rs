//! The end of Weir on a node: all that counts goes, and what no pod needs any more. Pods that run
//! keep their network, unless they are to lose it.

use std::time::{Duration, Instant};

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
    telemetry::removal,
};

/// How long to wait for ADDs under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes away what Weir has on this node besides its files: with `all` also the networks of the pods
/// that run. Goes on past failures. Call it when no ADD can begin any more.
pub fn run(places: &Places, all: bool) -> Report {
    let mut report = Report::default();
    if let Err(err) = purge(places, all, &mut report) {
        report.failures.push(err);
    }
    report
}

fn purge(places: &Places, all: bool, report: &mut Report) -> Result<()> {
    // Those that had begun are in the records afterwards.
    drop(record::pause_adds(&places.state_dir, PATIENCE)?);
    drop_attachments(places, all, report)?;
    if all {
        drop_links(report)?;
    }
    let bpf_dir = &places.bpf_dir;
    if let Some(removed) = report.note(removal::remove(bpf_dir))
        && removed.pins
    {
        report.drop(Thing::Pins, bpf_dir.display(), None, Ok(()));
    }
    let left = record::list(&places.state_dir)?.len();
    if left > 0 {
        let what = "the state dir and nftables table inet weir stay, too; --purge takes them away";
        report.left.push(format!(
            "the network of {left} attachment{}: {what}",
            if left == 1 { "" } else { "s" }
        ));
        return Ok(());
    }
    // Their records are elsewhere, and the table may be what they live by.
    let links = link::all(&mut link::socket()?)?;
    let unknown = links.iter().filter(|link| reclaim::owner(link).is_some()).count();
    if unknown > 0 {
        let dir = places.state_dir.display();
        let mend = "if the configuration has another stateDir, give it by --state-dir";
        let what = "nftables table inet weir stays";
        report
            .left
            .push(format!("interfaces that no record in {dir} knows, {unknown}: {what}; {mend}"));
    } else if report.note(nft::remove()) == Some(true) {
        report.drop(Thing::Table, "inet weir", None, Ok(()));
    }
    let state_dir = &places.state_dir;
    let shown = state_dir.display();
    match (state_dir.exists(), report.note(state::remove(state_dir))) {
        (true, Some(true)) => report.drop(Thing::State, shown, None, Ok(())),
        (_, Some(false)) => report.left.push(format!("{shown}: it has files that are not Weir's")),
        _ => {}
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

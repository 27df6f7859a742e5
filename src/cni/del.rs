//! DEL: what the record names goes; what isn't there to go is success.

use std::time::{Duration, Instant, UNIX_EPOCH};

use super::{
    Call, chain,
    config::Misplaced,
    teardown::{self, Search},
};
use crate::{
    attachment::Attachment,
    error::Result,
    net::names,
    record::{self, Entry, Record},
};

/// Takes the attachment away, whichever network's configuration the call came with.
///
/// A directory of the configuration that is none is an error only after all that can be found without it is
/// gone (for some runtimes the first DEL is the only one), and only where it may lead to something of the
/// attachment. A record leads to all of it, wherever it is; where there is none in the right `stateDir`, and no link,
/// nothing tells of more. Without the right `stateDir` nobody knows, however often it was asked.
pub fn run(call: &Call, attachment: &Attachment, misplaced: Misplaced) -> Result<()> {
    let until = Instant::now() + teardown::PATIENCE;
    let claim = record::claim(&call.config.state_dir, attachment, until);
    if let Ok(Some(claim)) = &claim {
        claim.mark_ending();
    }
    let (gone, all) = match claim.as_ref().map(|claim| claim.as_ref().map(|claim| &claim.entry)) {
        Ok(Some(Entry::Record(record))) => (teardown::recorded(call, attachment, record), true),
        Ok(Some(Entry::Absent)) => {
            let lost = misplaced.state_dir.is_some();
            let search =
                if lost { Search::Everything } else { of_the_unrecorded(call, attachment) };
            let found = teardown::strays(call, attachment, search);
            let all = !lost && found == Ok(false);
            (found.map(drop), all)
        }
        Ok(Some(Entry::Unreadable(why))) => {
            eprintln!("weir: {why}; taking away what can be found without it");
            if misplaced.is_empty() {
                (teardown::unrecorded(call, attachment, Search::Everything), true)
            } else {
                // It stays, so that a DEL with the right places looks everywhere too.
                (teardown::strays(call, attachment, Search::Everything).map(drop), false)
            }
        }
        Ok(None) => (end_held(call, attachment), true),
        // What is wrong with the state dir keeps no link, and no host port, alive. The record stays, so that
        // a DEL that can read it finds the rest.
        Err(_) | Ok(Some(Entry::OutOfReach(_))) => {
            (teardown::strays(call, attachment, Search::Everything).map(drop), false)
        }
    };
    let gone = match (claim, gone) {
        (Err(err), Err(also)) => Err(err.details(also)),
        (claim, gone) => claim.and(gone),
    };
    match (misplaced.into_result(), gone) {
        (Ok(()), gone) => gone,
        (Err(wrong), Ok(())) if all => {
            let why = "no record, and nothing that can be found without it";
            eprintln!("weir: {wrong}; of {attachment} {why}, is left");
            Ok(())
        }
        (Err(wrong), Ok(())) => {
            let why = "what can be found without it is gone, what it leads to may be left";
            Err(wrong.details(format!("{why}: put it right and call again")))
        }
        (Err(wrong), Err(err)) if all => Err(err.details(wrong)),
        (Err(wrong), Err(also)) => Err(wrong.details(also)),
    }
}

/// Where to look for what an attachment without a record has. Behind another plugin there is no link of ours
/// that would tell of it: that is so by the result that came with the call, or by a configuration without IPAM.
fn of_the_unrecorded(call: &Call, attachment: &Attachment) -> Search {
    if chain::is_behind_another(&call.config, &names::host_ifname(attachment)) {
        Search::Hooks
    } else {
        Search::BehindTheLink
    }
}

/// Ends an attachment whose record somebody holds all the time: an ADD, an IPAM plugin that outlives it, or
/// another call that ends it. It would add, or take away, what the next call believes settled.
///
/// Only what an IPAM plugin started and left behind holds the record of an ADD that long begun; it stops
/// nobody.
fn end_held(call: &Call, attachment: &Attachment) -> Result<()> {
    const LONG: Duration = Duration::from_secs(120);
    let began = |record: &Record| UNIX_EPOCH + Duration::from_secs(record.created);
    match record::find(&call.config.state_dir, attachment)? {
        Entry::Record(record)
            if record.under_way && began(&record).elapsed().is_ok_and(|age| age > LONG) =>
        {
            teardown::recorded(call, attachment, &record)
        }
        // Gone just now.
        Entry::Absent => {
            teardown::strays(call, attachment, of_the_unrecorded(call, attachment)).map(drop)
        }
        _ => Err(teardown::held(&call.config.state_dir, attachment)),
    }
}

//! DEL: what the record names goes; what isn't there to go is success.

use std::time::{Duration, Instant, UNIX_EPOCH};

use super::{
    Call,
    teardown::{self, Search},
};
use crate::{
    attachment::Attachment,
    error::Result,
    record::{self, Entry, Record},
};

/// Takes the attachment away, whichever network's configuration the call came with.
///
/// `places` says what is wrong with the configuration's directories: that is an error, but only after
/// all that can be found without them is gone. For some runtimes the first DEL is the only one.
pub fn run(call: &Call, attachment: &Attachment, places: Result<()>) -> Result<()> {
    let until = Instant::now() + teardown::PATIENCE;
    let claim = record::claim(&call.config.state_dir, attachment, until);
    let gone = match claim.as_ref().map(|claim| claim.as_ref().map(|claim| &claim.entry)) {
        Ok(Some(Entry::Record(record))) => teardown::recorded(call, attachment, record),
        // The record may be where the configuration fails to lead.
        Ok(Some(Entry::Absent)) if places.is_err() => {
            teardown::unrecorded(call, attachment, Search::Everything)
        }
        Ok(Some(Entry::Absent)) => teardown::unrecorded(call, attachment, Search::BehindTheLink),
        Ok(Some(Entry::Unreadable(why))) => {
            eprintln!("weir: {why}; taking away what can be found without it");
            teardown::unrecorded(call, attachment, Search::Everything)
        }
        Ok(None) => end_held(call, attachment),
        // What is wrong with the state dir keeps no link, and no host port, alive.
        Err(_) => teardown::unrecorded(call, attachment, Search::Everything),
    };
    let gone = match (claim, gone) {
        (Err(err), Err(also)) => Err(err.details(also)),
        (claim, gone) => claim.and(gone),
    };
    match (places, gone) {
        (Err(wrong), Err(also)) => Err(wrong.details(also)),
        (places, gone) => places.and(gone),
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
        Entry::Absent => teardown::unrecorded(call, attachment, Search::BehindTheLink),
        _ => Err(teardown::held(attachment)),
    }
}

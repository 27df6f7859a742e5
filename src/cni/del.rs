//! DEL: what the record names goes; what isn't there to go is success.

use std::time::Instant;

use super::{
    Call,
    teardown::{self, Search},
};
use crate::{
    attachment::Attachment,
    error::Result,
    record::{self, Entry},
};

/// Takes the attachment away, whichever network's configuration the call came with.
///
/// `places` says what is wrong with the configuration's directories: that is an error, but only after
/// all that can be found without them is gone. For some runtimes the first DEL is the only one.
pub fn run(call: &Call, attachment: &Attachment, places: Result<()>) -> Result<()> {
    let until = Instant::now() + teardown::LEASE_WAIT;
    let gone = match record::settled(&call.config.state_dir, attachment, until) {
        Ok(Entry::Record(record)) => teardown::recorded(call, attachment, &record),
        // The record may be where the configuration fails to lead.
        Ok(Entry::Absent) if places.is_err() => {
            teardown::unrecorded(call, attachment, Search::Everything)
        }
        Ok(Entry::Absent) => teardown::unrecorded(call, attachment, Search::BehindTheLink),
        Ok(Entry::Unreadable(why)) => {
            eprintln!("weir: {why}; taking away what can be found without it");
            teardown::unrecorded(call, attachment, Search::Everything)
        }
        // What is wrong with the state dir keeps no link, and no host port, alive.
        Err(err) => match teardown::unrecorded(call, attachment, Search::Everything) {
            Ok(()) => Err(err),
            Err(also) => Err(err.details(also)),
        },
    };
    match (places, gone) {
        (Err(wrong), Err(also)) => Err(wrong.details(also)),
        (places, gone) => places.and(gone),
    }
}

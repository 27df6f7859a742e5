//! DEL: what the record names goes; what isn't there to go is success.

use std::time::Instant;

use super::{Call, teardown};
use crate::{
    attachment::Attachment,
    error::Result,
    record::{self, Entry},
};

/// Takes the attachment away, whichever network's configuration the call came with.
pub fn run(call: &Call, attachment: &Attachment) -> Result<()> {
    let until = Instant::now() + teardown::LEASE_WAIT;
    let found = match record::settled(&call.config.state_dir, attachment, until) {
        Ok(found) => found,
        // What is wrong with the state dir keeps no link, and no host port, alive.
        Err(err) => {
            return match teardown::unrecorded(call, attachment, true) {
                Ok(()) => Err(err),
                Err(also) => Err(err.details(also)),
            };
        }
    };
    match found {
        Entry::Record(record) => teardown::recorded(call, attachment, &record),
        Entry::Absent => teardown::unrecorded(call, attachment, false),
        Entry::Unreadable(why) => {
            eprintln!("weir: {why}; taking away what can be found without it");
            teardown::unrecorded(call, attachment, true)
        }
    }
}

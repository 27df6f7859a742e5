//! DEL: what the record names goes; what isn't there to go is success.

use super::{Call, teardown};
use crate::{
    attachment::Attachment,
    error::Result,
    record::{self, Entry},
};

/// Takes the attachment away, whichever network's configuration the call came with.
pub fn run(call: &Call, attachment: &Attachment) -> Result<()> {
    match record::find(&call.config.state_dir, attachment)? {
        Entry::Record(record) => teardown::recorded(call, attachment, &record),
        Entry::Absent => teardown::unrecorded(call, attachment, false),
        Entry::Unreadable(why) => {
            eprintln!("weir: {why}; taking away what can be found without it");
            teardown::unrecorded(call, attachment, true)
        }
    }
}

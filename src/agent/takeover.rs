//! Whether the maps have gone over to another version of Weir while this agent ran.
//!
//! Maps of another layout alone may be those of the version before, which wait for `weir reload`; or that
//! was done, by another version than this agent's, whose own maps are gone for good.

use std::path::Path;

use crate::error::{Error, Kind, Result};

/// What this agent has seen of the maps.
#[derive(Debug, Default)]
pub struct Takeover {
    /// Its own layout's, or none at all: those of another that are alone there later came after its start.
    begun: bool,
}

impl Takeover {
    /// The outcome of opening this version's maps, with the cause where it is a takeover. `others` tells
    /// how many layouts of other versions are there; `None` where that can't be told.
    pub fn judge(
        &mut self,
        opened: Result<()>,
        others: impl FnOnce() -> Option<usize>,
        bpf_dir: &Path,
    ) -> Result<()> {
        let others = if opened.is_ok() { Some(0) } else { others() };
        match others {
            Some(0) => self.begun = true,
            Some(_) if self.begun => {
                let msg = format!(
                    "another version of Weir has taken the maps in {} over; restart this agent with the \
                     executable of that version, no total is lost",
                    bpf_dir.display()
                );
                return Err(Error::new(Kind::Telemetry, msg));
            }
            _ => {}
        }
        opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(takeover: &mut Takeover, others: Option<usize>) -> String {
        let absent = Err(Error::new(Kind::Telemetry, "no maps"));
        takeover.judge(absent, || others, Path::new("/x")).unwrap_err().msg().to_owned()
    }

    #[test]
    fn only_what_came_after_the_agents_start_took_the_maps_over() {
        // The version before is still at work.
        let mut waits = Takeover::default();
        assert_eq!([Some(1), None].map(|others| judged(&mut waits, others)), ["no maps"; 2]);
        waits.judge(Ok(()), || None, Path::new("/x")).unwrap();
        assert!(judged(&mut waits, Some(1)).contains("restart this agent"));
        let mut idle = Takeover::default();
        assert_eq!(judged(&mut idle, Some(0)), "no maps");
        assert!(judged(&mut idle, Some(1)).contains("maps in /x over"));
        assert_eq!(judged(&mut idle, None), "no maps");
    }
}

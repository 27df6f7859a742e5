//! Whether the maps have gone over to another version of Weir while this agent ran.
//!
//! Maps of another layout alone may be those of the version before, which wait for `weir reload`; or that
//! was done, by another version than this agent's, whose own maps are gone for good.

use std::path::Path;

use crate::{
    error::{Error, Kind, Result},
    telemetry::{Census, pin},
};

/// What this agent has seen of the maps.
#[derive(Debug, Default)]
pub struct Takeover {
    /// Its own layout's, or none at all: those of another that are alone there later came after its start.
    begun: bool,
}

/// How this version's maps are.
#[derive(Debug)]
pub enum Standing {
    /// They can be read.
    Read,
    /// There are none.
    Absent(Error),
    /// They can't be read, or it can't be told whether there are any.
    Failed(Error),
    /// There are none any more, as a reload of another version carried them over.
    TakenOver(Error),
}

impl Takeover {
    /// The outcome of opening this version's maps, by who is counted. That some are `lost` was no reload's doing.
    pub fn judge(
        &mut self,
        opened: Result<()>,
        census: Option<&Census>,
        lost: bool,
        bpf_dir: &Path,
    ) -> Standing {
        let err = match opened {
            Ok(()) => {
                self.begun = true;
                return Standing::Read;
            }
            Err(err) => err,
        };
        match census {
            Some(Census { here: None, layouts, .. }) if layouts.is_empty() => {
                self.begun = true;
                Standing::Absent(err)
            }
            Some(Census { here: None, layouts, .. }) if self.begun && !lost => {
                let msg = format!(
                    "another version of Weir, with maps of layout {} where this agent's is {}, has taken the \
                     maps in {} over; restart this agent with the executable of that version, no total is lost",
                    layouts.join(" and "),
                    pin::SCHEMA,
                    bpf_dir.display()
                );
                Standing::TakenOver(Error::new(Kind::Telemetry, msg))
            }
            Some(Census { here: None, .. }) => Standing::Absent(err),
            _ => Standing::Failed(err),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where there are no maps of this version, and so many layouts of others.
    fn judged(takeover: &mut Takeover, others: Option<usize>, lost: bool) -> String {
        let census = others
            .map(|others| Census { layouts: vec!["0123".to_owned(); others], ..Census::default() });
        let absent = Err(Error::new(Kind::Telemetry, "no maps"));
        match takeover.judge(absent, census.as_ref(), lost, Path::new("/x")) {
            Standing::Read => "read".to_owned(),
            Standing::Absent(err) => format!("absent: {err}"),
            Standing::Failed(err) => format!("failed: {err}"),
            Standing::TakenOver(err) => err.to_string(),
        }
    }

    #[test]
    fn only_what_came_after_the_agents_start_took_the_maps_over() {
        // The version before is still at work.
        let mut waits = Takeover::default();
        assert_eq!(judged(&mut waits, Some(1), false), "absent: no maps");
        assert_eq!(judged(&mut waits, None, false), "failed: no maps");
        let standing = waits.judge(Ok(()), None, false, Path::new("/x"));
        assert!(matches!(standing, Standing::Read));
        let said = judged(&mut waits, Some(1), false);
        assert!(
            said.contains("layout 0123 where") && said.contains("restart this agent"),
            "{said}"
        );
        // Somebody removed this version's, and left the other's.
        assert_eq!(judged(&mut waits, Some(1), true), "absent: no maps");
        let mut idle = Takeover::default();
        assert_eq!(judged(&mut idle, Some(0), false), "absent: no maps");
        assert!(judged(&mut idle, Some(1), false).contains("maps in /x over"));
        assert_eq!(judged(&mut idle, None, false), "failed: no maps");
    }
}

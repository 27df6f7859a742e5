//! Weir plumbs a pod and measures what flows through it.
//!
//! ```text
//! one CNI call   stdin+env > request > config > lease > plan > create > attach (tc) > connect > reply > stdout
//!                            (raw)     (checked) (record)(pure) (each step pushes its undo)
//! one packet     pod veth > tc program > parse > count in pinned maps > agent: snapshot > families > /metrics
//! ```
//!
//! Imports point down: `cli`, `agent` and the `cni` verbs, then `ipam`, `net`, `record` and
//! `telemetry` (which don't know each other), then the pure parts, then `error`.

pub mod agent;
pub mod attachment;
pub mod cli;
pub mod cni;
pub mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod ipam;
pub mod net;
pub mod record;
pub mod spec;
pub mod state;
pub mod telemetry;

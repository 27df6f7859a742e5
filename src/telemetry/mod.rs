//! The programs and maps of this node, and how a pod is hooked to them.
//!
//! Policy: fail open. Whatever fails in here is a telemetry error; the ADD verb decides by
//! `telemetry.required` whether the pod starts without being counted.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{self, Result};

mod block;
mod carry;
mod clsact;
mod compare;
pub mod histogram;
mod hook;
mod hooked;
#[cfg(test)]
mod layout;
pub mod limit;
mod load;
mod lock;
mod mend;
mod merge;
mod occupant;
pub mod pin;
pub mod place;
pub mod reader;
pub mod records;
mod registry;
pub mod reload;
pub mod removal;
mod swap;
pub mod sys;
pub mod traces;
mod traffic;
pub mod whole;
pub mod wire;

pub use compare::{alias_of, name_of};
pub use registry::{Census, Elsewhere, Still};

/// Which hook the configuration asks for (`telemetry.attach`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// clsact, or tcx where the hook already has tcx programs.
    #[default]
    Auto,
    /// A clsact qdisc and two filters of our own.
    Clsact,
    /// Two pinned tcx links (Linux 6.6 or newer).
    Tcx,
}

/// The hook that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Filters on a clsact qdisc; they end with the link.
    Clsact,
    /// Pinned links; the pins outlive the link and are removed by [`detach`].
    Tcx,
}

/// Whose traffic is counted: the texts come from `CNI_ARGS` and the call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// `K8S_POD_NAMESPACE`, or empty.
    pub namespace: String,
    /// `K8S_POD_NAME`, or the container id.
    pub pod: String,
    /// `K8S_POD_UID`, or empty.
    pub uid: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// What [`attach`] did; the journal keeps it for CHECK and DEL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub struct Attached {
    /// The attachment id: key of every counter of this pod, never 0, never reused.
    pub pod: u32,
    /// The hook that was taken.
    pub mode: Mode,
}

/// What an [`attach`] is to do: for the journal, before anything is made.
pub fn intend(choice: Choice) -> Attached {
    hook::intend(choice)
}

/// Counts the traffic of the host-side interface `ifindex` (of the caller's network namespace).
///
/// The first call after a boot loads and pins programs and maps under `bpf_dir`; any later one
/// only opens the pins. Takes no longer than the lock's bound. Where it has to do otherwise than
/// intended, `journal` is told before the first map entry or hook is made, so that a call that is
/// killed leaves nothing that its record doesn't name.
///
/// # Errors
/// [`Kind::Telemetry`](crate::error::Kind::Telemetry) naming what is missing, or what `journal` says;
/// nothing is left attached.
pub fn attach(
    bpf_dir: &Path,
    choice: Choice,
    ifindex: u32,
    identity: &Identity,
    intent: Attached,
    journal: impl FnMut(Attached) -> Result<()>,
) -> Result<Attached> {
    hook::attach(bpf_dir, choice, ifindex, identity, intent, journal)
}

/// Ends the counting of a container's attachment whose link is gone or, where `stays` is the index
/// of a chained plugin's link, takes our filters off that. The totals stay readable for the agent's
/// grace time.
///
/// # Errors
/// [`Kind::Telemetry`](crate::error::Kind::Telemetry); what was already gone is no error, nor is what
/// was intended and never made.
pub fn detach(
    bpf_dir: &Path,
    container_id: &str,
    attached: &Attached,
    stays: Option<u32>,
) -> Result<()> {
    hook::detach(bpf_dir, container_id, attached, stays)
}

/// Takes our filters and links off an interface, also where the maps that would lead to them are gone. The maps,
/// if there are any, go on knowing it.
///
/// # Errors
/// [`Kind::Telemetry`](crate::error::Kind::Telemetry); what was already gone is no error.
pub fn unhook(bpf_dir: &Path, attached: &Attached, ifindex: u32) -> Result<()> {
    hook::unhook(bpf_dir, Some(ifindex), attached)
}

/// The living attachments of a container's interface, each with the host-side interface that it
/// counts: for who has lost what [`attach`] said. Reads a whole map, of some thousand entries at most.
///
/// # Errors
/// [`Kind::Telemetry`](crate::error::Kind::Telemetry); that nothing was ever loaded is no error.
pub fn find(bpf_dir: &Path, container_id: &str, ifname: &str) -> Result<Vec<(u32, Attached)>> {
    hook::find(bpf_dir, container_id, ifname)
}

/// Compares the kernel with what [`attach`] left. Waits half a second for a reload that swaps programs, which
/// takes some milliseconds.
///
/// # Errors
/// [`Kind::Difference`](crate::error::Kind::Difference) naming the missing filter, link or map entry;
/// [`Kind::TryAgain`](crate::error::Kind::TryAgain): a reload stands still.
pub fn verify(bpf_dir: &Path, ifindex: u32, attached: &Attached) -> Result<()> {
    compare::verify(bpf_dir, ifindex, attached, lock::A_MOMENT)
}

/// As [`verify`], and waits for nobody.
///
/// # Errors
/// As [`verify`]; [`Kind::TryAgain`](crate::error::Kind::TryAgain) while programs are swapped.
pub fn verify_at_once(bpf_dir: &Path, ifindex: u32, attached: &Attached) -> Result<()> {
    compare::verify(bpf_dir, ifindex, attached, lock::AT_ONCE)
}

/// Puts back what [`verify`] misses: hooks that somebody took off, or, where the maps were lost, the pod
/// itself, which then begins at 0. Says whether anything was missing.
///
/// # Errors
/// [`Kind::Telemetry`](crate::error::Kind::Telemetry), as [`attach`].
pub fn mend(
    bpf_dir: &Path,
    ifindex: u32,
    identity: &Identity,
    attached: &Attached,
) -> Result<bool> {
    mend::mend(bpf_dir, ifindex, identity, attached)
}

/// Whether an [`attach`] could work: `bpf_dir` is on a bpffs that can be written to, or could be made on one.
///
/// # Errors
/// [`Kind::Telemetry`](crate::error::Kind::Telemetry) with the mend.
pub fn probe(bpf_dir: &Path) -> Result<()> {
    pin::probe(bpf_dir)?;
    pin::read_only(bpf_dir)
        .map_or(Ok(()), |why| Err(error::Error::new(error::Kind::Telemetry, why)))
}

/// Who is counted, by this version and by others. Waits while a [`reload`](reload::reload) carries pods over.
///
/// # Errors
/// [`Kind::Telemetry`](crate::error::Kind::Telemetry) naming the pin, or what a bpffs or a privilege is missing for;
/// [`Kind::TryAgain`](crate::error::Kind::TryAgain): a reload takes ten seconds.
pub fn census(bpf_dir: &Path) -> Result<Census> {
    registry::census(bpf_dir, lock::WAIT).map(|still| still.census)
}

/// As [`census`], and waits for nobody.
///
/// # Errors
/// As [`census`]; [`Kind::TryAgain`](crate::error::Kind::TryAgain) while programs are swapped.
pub fn census_at_once(bpf_dir: &Path) -> Result<Census> {
    registry::census(bpf_dir, lock::AT_ONCE).map(|still| still.census)
}

/// As [`census`], to be held while the totals are read, so that no reload carries others over meanwhile: between
/// the two a pod would be there without its totals. Waits half a second.
///
/// # Errors
/// As [`census`]. What is read without it may be half of it.
pub fn hold_still(bpf_dir: &Path) -> Result<Still> {
    registry::census(bpf_dir, lock::A_MOMENT)
}

/// Loads and pins programs and maps if no earlier call did; what the first [`attach`] does by itself.
///
/// # Errors
/// [`Kind::Telemetry`](crate::error::Kind::Telemetry) with the kernel's word.
pub fn ensure_loaded(bpf_dir: &Path) -> Result<()> {
    load::ensure(bpf_dir)
}

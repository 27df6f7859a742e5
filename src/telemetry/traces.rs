//! Everything of ours in the kernel that counts for somebody, and the way to end it: for who looks
//! for what no attachment owns any more.

use std::{collections::BTreeMap, path::Path};

use super::{
    Attached, Mode, hook, limit, load, lock, pin, reader, registry,
    wire::{RawAttachment, field, text},
};
use crate::{attachment::Attachment, error::Result};

/// What the maps and the pinned links have of one attachment id.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The id and the hook.
    pub attached: Attached,
    entry: Option<RawAttachment>,
}

impl Trace {
    /// Whether it is this attachment's, by the names in its map entry (where a long id is cut).
    pub fn is_of(&self, attachment: &Attachment) -> bool {
        self.entry.is_some_and(|entry| {
            entry.container_id == field(attachment.container_id())
                && entry.ifname == field(attachment.ifname())
        })
    }

    /// Whose it is, by the same names; none where only a pinned link is left.
    pub fn owner(&self) -> Option<String> {
        let of = |entry: RawAttachment| {
            format!("container {} interface {}", text(&entry.container_id), text(&entry.ifname))
        };
        self.entry.map(of)
    }

    /// The interface that it counts, if it has not ended.
    pub fn ifindex(&self) -> Option<u32> {
        self.entry.map(|entry| entry.ifindex)
    }

    /// Ends it, and the limit of an interface that is gone. `stays` is as in [`detach`](super::detach).
    ///
    /// # Errors
    /// [`Kind::Telemetry`](crate::error::Kind::Telemetry).
    pub fn end(&self, bpf_dir: &Path, stays: Option<u32>) -> Result<()> {
        if let (None, Some(ifindex)) = (stays, self.ifindex()) {
            // Before the trace, which is what leads to it.
            limit::forget(bpf_dir, ifindex)?;
        }
        hook::end(bpf_dir, &self.attached, stays)
    }
}

/// The attachments in the maps that have had no DEL, and the pinned links of any.
///
/// # Errors
/// [`Kind::Telemetry`](crate::error::Kind::Telemetry); that nothing was ever loaded is no error.
pub fn list(bpf_dir: &Path) -> Result<Vec<Trace>> {
    let mut traces = BTreeMap::new();
    for known in registry::all(bpf_dir, lock::WAIT)? {
        for (pod, entry) in known.living()? {
            let attached = Attached { pod, mode: reader::mode(&entry) };
            traces.insert(pod, Trace { attached, entry: Some(entry) });
        }
    }
    for pod in pin::linked(bpf_dir)? {
        let attached = Attached { pod, mode: Mode::Tcx };
        traces.entry(pod).or_insert(Trace { attached, entry: None });
    }
    Ok(traces.into_values().collect())
}

/// Removes what a loader left that was killed; says whether there was such.
///
/// # Errors
/// [`Kind::Telemetry`](crate::error::Kind::Telemetry).
pub fn clear_load(bpf_dir: &Path) -> Result<bool> {
    load::clear_killed(bpf_dir)
}

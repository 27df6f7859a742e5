//! What the agent gives up when it has started: it opens pins, asks about hooks and serves pages,
//! for which root's own files and one capability are enough.

use rustix::{
    io::Errno,
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs},
};

use crate::error::{Context, Kind, Result};

/// Before Linux 5.19 any call of bpf(2) takes it where `kernel.unprivileged_bpf_disabled` is set;
/// newer kernels let the owner of a pin use it without.
const NEEDED: CapabilitySet = CapabilitySet::BPF;

/// Drops every capability but [`NEEDED`], of the calling thread and of those it starts, for good.
///
/// # Errors
/// [`Kind::Kernel`], which no kernel has a reason for.
pub fn drop_all_but_needed() -> Result<()> {
    let dropped = || -> Result<(), Errno> {
        let kept = capabilities(None)?.permitted & NEEDED;
        let inheritable = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?;
        set_no_new_privs(true)
    };
    dropped()
        .context(Kind::Kernel, || "can't drop the privileges that the agent has no use for".into())
}

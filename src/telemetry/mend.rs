//! Puts the hooks of a living pod back where something else took them off, and the pod back into
//! maps that were lost.

use std::path::Path;

use libbpf_rs::{MapCore, MapFlags};

use super::{
    Attached, Identity, Mode, clsact, compare,
    hook::{self, Pins},
    lock, pin, registry, sys, traffic,
    wire::{bytes_of, field},
};
use crate::error::{Context, Error, Kind, Result};

/// See [`super::mend()`].
pub fn mend(
    bpf_dir: &Path,
    ifindex: u32,
    identity: &Identity,
    attached: &Attached,
) -> Result<bool> {
    match compare::verify(bpf_dir, ifindex, attached, lock::WAIT) {
        Ok(()) => return Ok(false),
        Err(err) if err.kind() == Kind::Difference => {}
        Err(err) => return Err(err),
    }
    // It is a reload's to move it with its totals.
    if registry::is_anothers(bpf_dir, attached.pod, lock::WAIT)? {
        return Ok(false);
    }
    let (shared, pins) = hook::ensure(bpf_dir)?;
    register(&pins, ifindex, identity, attached)?;
    let index = hook::signed(ifindex)?;
    let refused = |what| move || hook::refused(what, ifindex);
    match attached.mode {
        // One that is there is replaced by itself.
        Mode::Clsact => {
            clsact::attach(&pins.programs, index)?;
        }
        Mode::Tcx => {
            // A link that was detached can't be attached again.
            for (direction, _) in &pins.programs {
                let pin = pin::link(bpf_dir, attached.pod, *direction);
                let failed = || format!("can't remove the pinned link {}", pin.display());
                sys::tcx_detach(&pin).context(Kind::Telemetry, failed)?;
            }
            hook::attach_tcx(bpf_dir, &pins, index, attached.pod)
                .context(Kind::Telemetry, refused("links"))?;
        }
    }
    // To look at it again takes the lock anew, behind a reload that waits for it.
    drop(shared);
    compare::verify(bpf_dir, ifindex, attached, lock::WAIT).map(|()| true)
}

/// Makes sure that both maps know the pod, under the id that its record has.
fn register(pins: &Pins, ifindex: u32, identity: &Identity, attached: &Attached) -> Result<()> {
    let pod = attached.pod;
    match hook::registered(pins, pod)? {
        Some(entry) if entry.container_id != field(&identity.container_id) => {
            let msg =
                format!("the id {pod:08x} of the pod is another's by now; start the pod anew");
            return Err(Error::new(Kind::Telemetry, msg));
        }
        Some(_) => {}
        None => {
            let entry = hook::entry(ifindex, identity, attached.mode);
            pins.attachments
                .update(bytes_of(&pod), bytes_of(&entry), MapFlags::NO_EXIST)
                .context(Kind::Telemetry, || "the map attachments takes no further pod".into())?;
        }
    }
    if traffic::owner(&pins.pods, ifindex)? == Some(pod) {
        Ok(())
    } else {
        traffic::enter(pins, ifindex, pod)
    }
}

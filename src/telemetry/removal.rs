//! Takes everything that counts off this node: for who uninstalls.
//!
//! Only names that are Weir's are touched: the directory may be one that others pin in, too.

use std::{fs, io::ErrorKind, path::Path};

use super::{
    Mode, clsact, load, lock,
    pin::{self, layouts},
    reader,
    registry::living,
    sys, whole,
    wire::Direction,
};
use crate::error::{Context, Kind, Result};

/// What was removed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Pods that were counted.
    pub hooks: usize,
    /// Whether there was anything pinned.
    pub pins: bool,
}

/// Takes the counting filters and links of every layout off, then removes the pins. What limits a
/// pod's bandwidth is part of its network and stays on its interface, with the programs it needs.
///
/// # Errors
/// [`Kind::Telemetry`] naming the interface or the pin; [`Kind::TryAgain`]: programs are being loaded.
pub fn remove(bpf_dir: &Path) -> Result<Removed> {
    libbpf_rs::set_print(None);
    let mut removed = Removed::default();
    if !bpf_dir.is_dir() {
        return Ok(removed);
    }
    pin::probe(bpf_dir)?;
    let Some(_loading) = lock::loading(bpf_dir)? else { return Ok(removed) };
    for dir in layouts(bpf_dir)? {
        let _alone = lock::alone(&dir)?;
        // It leads to the hooks, and may have been removed, or a removal that was killed may have begun with it.
        whole::repin(&dir, &["attachments"])?;
        for (_, raw) in living(&dir)? {
            let Ok(ifindex) = i32::try_from(raw.ifindex) else { continue };
            removed.hooks += 1;
            // The links of the others go with their pins.
            if reader::mode(&raw) == Mode::Clsact {
                for direction in [Direction::DIRECTION_TX, Direction::DIRECTION_RX] {
                    clsact::detach(ifindex, direction)?;
                }
            }
        }
        load::remove(bpf_dir, &dir)?;
        removed.pins = true;
    }
    for pod in pin::linked(bpf_dir)? {
        for direction in [Direction::DIRECTION_TX, Direction::DIRECTION_RX] {
            let link = pin::link(bpf_dir, pod, direction);
            sys::tcx_detach(&link)
                .context(Kind::Telemetry, || format!("can't remove {}", link.display()))?;
        }
        removed.pins = true;
    }
    load::clear_under_lock(bpf_dir)?;
    for dir in [pin::links(bpf_dir), bpf_dir.to_owned()] {
        match fs::remove_dir(&dir) {
            Ok(()) => removed.pins = true,
            // What somebody else has there is theirs.
            Err(err)
                if matches!(err.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {}
            Err(err) => {
                let failed = || format!("can't remove {}", dir.display());
                return Err(err).context(Kind::Telemetry, failed);
            }
        }
    }
    Ok(removed)
}

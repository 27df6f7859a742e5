//! The state dir: where it is laid out how, and what tells this boot from another.
//!
//! ```text
//! <state dir>/                     0700
//!   attachments/<id>@<ifname>      one journal record per attachment (record.rs)
//!   leases/<network>/lock          taken for the allocation only; holds the round-robin cursors
//!   leases/<network>/<address>     symbolic link to the record of the attachment that owns it
//! ```
//!
//! A lease is a link because a link is made whole or not at all, with its owner in it: there is no
//! half-written lease to leak when a call is killed. Nothing ever follows it.

use std::{
    fs,
    io::{ErrorKind, Read},
    path::Path,
};

use crate::error::{Context, Kind, Result};

mod dir;

pub use dir::{Dir, Lock, Share};

/// The directory of the records.
pub const ATTACHMENTS: &str = "attachments";
/// The directory of the leases' directories, one per network.
pub const LEASES: &str = "leases";
/// The file in a network's directory that is no lease.
pub const LOCK: &str = "lock";

/// Opens a directory below the state dir; `None` if there is no such directory (yet).
///
/// # Errors
/// [`Kind::Io`]: it is not a directory, is a symbolic link, or may not be opened.
pub fn open(state_dir: &Path, below: &[&str]) -> Result<Option<Dir>> {
    let mut dir = Dir::open(state_dir)?;
    for name in below {
        dir = match dir {
            Some(dir) => dir.open_sub(name)?,
            None => return Ok(None),
        };
    }
    Ok(dir)
}

/// Opens a directory below the state dir and makes what is missing, mode 0700.
///
/// # Errors
/// [`Kind::Io`], as [`open`], or it can't be made.
pub fn create(state_dir: &Path, below: &[&str]) -> Result<Dir> {
    // After the first call of a boot everything is there.
    if let Some(dir) = open(state_dir, below)? {
        return Ok(dir);
    }
    below.iter().try_fold(Dir::create(state_dir)?, |dir, name| dir.create_sub(name))
}

/// Makes sure that records can be written, by writing a file: rights alone don't tell a full or
/// read-only file system.
///
/// # Errors
/// [`Kind::Io`].
pub fn probe(state_dir: &Path) -> Result<()> {
    create(state_dir, &[])?.probe()
}

/// Removes an empty layout: what holds a record, a lease of somebody or anything foreign stays. Says
/// whether the state dir is gone.
///
/// # Errors
/// [`Kind::Io`].
pub fn remove(state_dir: &Path) -> Result<bool> {
    if let Some(leases) = open(state_dir, &[LEASES])? {
        for network in leases.directories()? {
            let dir = state_dir.join(LEASES).join(&network);
            let Some(held) = leases.open_sub(&network)? else { continue };
            if held.names()?.iter().all(|name| name == LOCK) {
                held.remove(LOCK)?;
                remove_empty(&dir)?;
            }
        }
    }
    for name in [ATTACHMENTS, LEASES] {
        remove_empty(&state_dir.join(name))?;
    }
    remove_empty(state_dir)
}

fn remove_empty(dir: &Path) -> Result<bool> {
    match fs::remove_dir(dir) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(true),
        Err(err) if err.kind() == ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(err) => Err(err).context(Kind::Io, || format!("can't remove {}", dir.display())),
    }
}

/// The kernel's name for this boot. A record with another one describes objects that no longer exist.
///
/// # Errors
/// [`Kind::Io`]: `/proc` is not mounted.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    // One reading gives it whole.
    let mut bytes = [0; 64];
    let read = fs::File::open(path).and_then(|mut file| file.read(&mut bytes));
    let length = read.context(Kind::Io, || format!("can't read {path}"))?;
    Ok(String::from_utf8_lossy(&bytes[..length]).trim().to_owned())
}

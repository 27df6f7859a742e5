//! The place of the one agent that may serve these maps: it sweeps them, and the ring of live records has one
//! reader.
//!
//! It is a lock on the directory of the links. Somebody may remove that with all the rest while an agent runs, and
//! make it anew: then the lock is of a directory that nobody finds any more, and is taken again.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{lock, pin};
use crate::error::{Context, Error, Kind, Result};

/// As long as an agent that ends may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Names the process that locked a path, if it can be known.
pub type Holder = fn(&Path) -> Option<String>;

/// The place, held until it is dropped.
#[derive(Debug)]
pub struct Place {
    bpf_dir: PathBuf,
    holder: Holder,
    /// `None`: there is no bpffs, and so nothing to hold yet.
    held: Option<fs::File>,
}

impl Place {
    /// Takes the place.
    ///
    /// # Errors
    /// [`Kind::Unavailable`]: another agent has held it for a second.
    pub fn take(bpf_dir: &Path, holder: Holder) -> Result<Self> {
        let mut place = Self { bpf_dir: bpf_dir.to_owned(), holder, held: None };
        let dir = pin::links(bpf_dir);
        let deadline = Instant::now() + PATIENCE;
        while pin::prepare(bpf_dir).is_ok() {
            make(&dir)?;
            if place.try_take(&dir)? {
                break;
            }
            if Instant::now() > deadline {
                return Err(place.taken());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(place)
    }

    /// Takes the place again where its directory is another by now.
    ///
    /// # Errors
    /// [`Kind::Unavailable`]: another agent has taken it before.
    pub fn keep(&mut self) -> Result<()> {
        let dir = pin::links(&self.bpf_dir);
        let failed = || format!("can't look at {}", dir.display());
        if let Some(held) = &self.held
            && lock::is_behind(held, &dir).context(Kind::Telemetry, failed)?
        {
            return Ok(());
        }
        // Where nobody is counted there is nothing to serve, and who uninstalled wants nothing to be made.
        if pin::layouts(&self.bpf_dir)?.is_empty() && !dir.exists() {
            return Ok(());
        }
        make(&dir)?;
        if self.try_take(&dir)? { Ok(()) } else { Err(self.taken()) }
    }

    /// Locks the directory as it is now, if nobody else has.
    fn try_take(&mut self, dir: &Path) -> Result<bool> {
        let failed = || format!("can't lock {}", dir.display());
        let opened = match fs::File::open(dir) {
            // Who uninstalls removes it, and the next one is another place.
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened.context(Kind::Telemetry, failed)?,
        };
        match opened.try_lock() {
            Err(fs::TryLockError::WouldBlock) => return Ok(false),
            Err(fs::TryLockError::Error(err)) => return Err(err).context(Kind::Telemetry, failed),
            Ok(()) => {}
        }
        let is_there = lock::is_behind(&opened, dir).context(Kind::Telemetry, failed)?;
        if is_there {
            self.held = Some(opened);
        }
        Ok(is_there)
    }

    fn taken(&self) -> Error {
        let shown = self.bpf_dir.display();
        let holder = (self.holder)(&pin::links(&self.bpf_dir));
        let holder = holder.map(|holder| format!(", process {holder},")).unwrap_or_default();
        let msg = format!(
            "another agent{holder} serves the pods of {shown}; one is enough for all readers: stop that one first, or \
             give this one another --bpf-dir"
        );
        Error::new(Kind::Unavailable, msg)
    }
}

fn make(dir: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        // Who uninstalls may remove the one above, too.
        Err(err)
            if !matches!(err.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) =>
        {
            Err(err).context(Kind::Telemetry, || format!("can't make {}", dir.display()))
        }
        _ => Ok(()),
    }
}

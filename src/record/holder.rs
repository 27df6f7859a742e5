//! Who holds a record, for an error to name them.
//!
//! `/proc/locks` names who took a lock, which may have ended and left it to a process that it started. So what
//! counts is who has the file open, by `/proc/<pid>/fd`, and `fdinfo` beside it tells those who hold its lock from
//! those who read it.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
};

use super::journal;
use crate::{attachment::Attachment, state::ATTACHMENTS};

/// The most that are named.
const MAX: usize = 4;

/// A process that holds a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pid: u32,
    /// As `/proc/<pid>/comm` has it.
    name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.pid, self.name)
    }
}

/// The processes that hold the attachment's record, as far as they can be seen; this one is left out. Looks at
/// all files that processes have open: some ten milliseconds, which only an error is worth.
pub fn holders(state_dir: &Path, attachment: &Attachment) -> Vec<Holder> {
    let file = journal::directory(state_dir).join(attachment.file_name());
    let Ok(record) = fs::metadata(file) else { return Vec::new() };
    let record = Sought { dev: record.dev(), ino: record.ino() };
    let processes = entries("/proc".as_ref()).filter_map(|entry| {
        let pid = entry.file_name()?.to_str()?.parse().ok()?;
        (pid != process::id() && record.is_held_by(&entry)).then(|| {
            let comm = fs::read_to_string(entry.join("comm")).unwrap_or_default();
            // It is the process's to choose.
            let name = comm.trim_end().chars().filter(|c| !c.is_control()).collect();
            Holder { pid, name }
        })
    });
    processes.take(MAX).collect()
}

/// A record's file.
struct Sought {
    dev: u64,
    ino: u64,
}

impl Sought {
    fn is_held_by(&self, process: &Path) -> bool {
        entries(&process.join("fd")).any(|fd| self.is(&fd) && is_locked(process, &fd))
    }

    /// The directory first: to ask a file of who knows which file system for more may take for ever. The name
    /// tells nothing: who made the file without one is shown a number.
    fn is(&self, fd: &Path) -> bool {
        let is_near = |path: PathBuf| path.parent().is_some_and(|dir| dir.ends_with(ATTACHMENTS));
        fs::read_link(fd).is_ok_and(is_near)
            && fs::metadata(fd).is_ok_and(|file| (file.dev(), file.ino()) == (self.dev, self.ino))
    }
}

fn is_locked(process: &Path, fd: &Path) -> bool {
    let info = fd.file_name().map(|number| process.join("fdinfo").join(number));
    let info = info.and_then(|info| fs::read_to_string(info).ok()).unwrap_or_default();
    info.lines().any(|line| line.starts_with("lock:"))
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

//! Who holds a record, or another lock, for an error to name them.
//!
//! `/proc/locks` names who took a lock, which may have ended and left it to a process that it started. So what
//! counts is who has the file open, by `/proc/<pid>/fd`, and `fdinfo` beside it tells those who hold its lock from
//! those who read it. No file of theirs is asked for anything: one of a file system that hangs would never answer.

use std::{
    ffi::{OsStr, OsString},
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
};

use nix::sys::stat::{major, minor};

use super::journal;
use crate::attachment::Attachment;

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

/// The processes that hold the attachment's record: see [`holders_of`].
pub fn holders(state_dir: &Path, attachment: &Attachment) -> Vec<Holder> {
    holders_of(&journal::directory(state_dir).join(attachment.file_name()))
}

/// The processes that hold the lock of a file or directory, as far as they can be seen; this one is left out.
/// Looks at all files that processes have open: some ten milliseconds, which only an error is worth.
pub fn holders_of(file: &Path) -> Vec<Holder> {
    let Ok(found) = fs::metadata(file) else { return Vec::new() };
    let directory = file.parent().and_then(Path::file_name).unwrap_or_default();
    let sought = Sought::new(found.dev(), found.ino(), directory);
    let processes = entries("/proc".as_ref()).filter_map(|entry| {
        let pid = entry.file_name()?.to_str()?.parse().ok()?;
        (pid != process::id() && sought.is_held_by(&entry)).then(|| {
            let comm = fs::read_to_string(entry.join("comm")).unwrap_or_default();
            // It is the process's to choose.
            let name = comm.trim_end().chars().filter(|c| !c.is_control()).collect();
            Holder { pid, name }
        })
    });
    processes.take(MAX).collect()
}

/// A locked file.
struct Sought {
    /// As the kernel names it to those who ask for a lock's: `00:1b:4711`, major and minor number of its device
    /// in hexadecimal, and its inode.
    file: String,
    /// The last name of the directory that it is in.
    directory: OsString,
}

impl Sought {
    fn new(dev: u64, ino: u64, directory: &OsStr) -> Self {
        let file = format!("{:02x}:{:02x}:{ino}", major(dev), minor(dev));
        Self { file, directory: directory.to_owned() }
    }

    fn is_held_by(&self, process: &Path) -> bool {
        // The directory spares most files the second look. The name tells nothing: who made the file without one
        // is shown a number.
        let is_near = |fd: &PathBuf| {
            let path = fs::read_link(fd);
            path.is_ok_and(|path| path.parent().is_some_and(|dir| dir.ends_with(&self.directory)))
        };
        entries(&process.join("fd")).filter(is_near).any(|fd| {
            let info = fd.file_name().map(|number| process.join("fdinfo").join(number));
            let info = info.and_then(|info| fs::read_to_string(info).ok()).unwrap_or_default();
            self.is_locked(&info)
        })
    }

    /// Whether that is the `fdinfo` of who holds its lock: proc_pid_fdinfo(5), `lock:`.
    fn is_locked(&self, info: &str) -> bool {
        let locks = info.lines().filter_map(|line| line.strip_prefix("lock:"));
        locks.flat_map(str::split_whitespace).any(|word| word == self.file)
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_known_by_device_and_inode() {
        let of = |file: &str| {
            format!("pos:\t0\nino:\t4711\nlock:\t1: FLOCK  ADVISORY  WRITE 359 {file} 0 EOF\n")
        };
        let sought = |dev| Sought::new(dev, 4711, OsStr::new("attachments"));
        assert!(sought(0xfe00).is_locked(&of("fe:00:4711")));
        assert!(sought(0x1b).is_locked(&of("00:1b:4711")));
        for other in ["00:1b:4711", "fe:00:471", "fe:00:47110"] {
            assert!(!sought(0xfe00).is_locked(&of(other)), "{other}");
        }
        assert!(!sought(0xfe00).is_locked("pos:\t0\nino:\t4711\n"));
    }
}

//! A network namespace given by path: checked, identified, and entered for as long as a closure runs.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sched::{CloneFlags, setns},
    sys::statfs::{FsType, fstatfs},
};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};

/// The calling thread's own namespace.
const OWN: &str = "/proc/thread-self/ns/net";
/// `NSFS_MAGIC` of linux/magic.h: the file system that namespace files live on.
const NSFS_MAGIC: FsType = nix::sys::statfs::NSFS_MAGIC;

/// What tells one network namespace from another while it lives: a path may come to name another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// `st_dev` of the namespace file.
    pub dev: u64,
    /// `st_ino` of the namespace file.
    pub ino: u64,
}

impl NetnsId {
    fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self { dev: meta.dev(), ino: meta.ino() })
    }
}

/// An open network namespace that is not the host's own; for the thread that opened it.
#[derive(Debug)]
pub struct Netns {
    file: File,
    /// The namespace that the thread is in.
    own: File,
    path: PathBuf,
    id: NetnsId,
}

impl Netns {
    /// Opens `path` and makes sure that it is a network namespace other than the caller's own.
    ///
    /// # Errors
    /// [`Kind::Netns`]: missing, no namespace file, a namespace of another kind, or the host's own,
    /// whose interfaces must never be taken for a pod's.
    pub fn open(path: &Path) -> Result<Self> {
        let invalid =
            |why: &str| Error::new(Kind::Netns, format!("network namespace {path:?} {why}"));
        let file = OpenOptions::new()
            .read(true)
            // Without O_NONBLOCK a FIFO of that name would hold the call up for ever.
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)
            .map_err(|err| match err.kind() {
                ErrorKind::NotFound => invalid(
                    "does not exist: its pod has ended, or `ip netns add` has to make it first",
                ),
                _ => invalid("can't be opened").details(err),
            })?;
        let fs = fstatfs(&file).map_err(|err| invalid("can't be examined").details(err))?;
        if fs.filesystem_type() != NSFS_MAGIC {
            return Err(invalid(
                "is not a namespace file, such as /proc/PID/ns/net, or /run/netns/NAME of `ip netns add`",
            ));
        }
        let id = NetnsId::of(&file).map_err(|err| invalid("can't be examined").details(err))?;
        let own = File::open(OWN).and_then(|own| Ok((NetnsId::of(&own)?, own)));
        let (own_id, own) =
            own.context(Kind::Netns, || format!("can't open the host's own namespace {OWN}"))?;
        if id == own_id {
            return Err(invalid("is the host's own"));
        }
        let netns = Self { file, own, path: path.to_owned(), id };
        // Only who enters a namespace learns its kind: by setns(2), EINVAL says that it is another.
        netns.run(|| ())?;
        Ok(netns)
    }

    /// Which namespace this is, whatever the path comes to name later.
    pub fn identity(&self) -> NetnsId {
        self.id
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor number, for `IFLA_NET_NS_FD`.
    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `inside` on this thread in the namespace, and returns to the host's before returning.
    ///
    /// Entering and leaving costs some microseconds, a thread of its own several times that. Keep
    /// `inside` short and without panics: a socket opened in it stays bound to the namespace and
    /// serves from outside.
    ///
    /// # Errors
    /// [`Kind::Netns`] when the namespace can't be entered. Should the way back be barred, the
    /// process aborts: it must not go on and take the pod's interfaces for the host's.
    pub fn run<T>(&self, inside: impl FnOnce() -> T) -> Result<T> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| self.barred(errno))?;
        let way_back = WayBack(&self.own);
        let result = inside();
        drop(way_back);
        Ok(result)
    }

    fn barred(&self, errno: Errno) -> Error {
        let why = if errno == Errno::EINVAL { "is of another kind" } else { "can't be entered" };
        Error::new(Kind::Netns, format!("network namespace {:?} {why}", self.path)).details(errno)
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

/// Returns to the namespace it holds, also when the closure inside unwinds.
struct WayBack<'a>(&'a File);

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        let back = || setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET);
        // The kernel allocates on the way, which may fail once.
        if let Err(errno) = back().or_else(|_| back()) {
            eprintln!("weir: can't return to the host's network namespace: {errno}");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &str) -> String {
        let err = Netns::open(Path::new(path)).unwrap_err();
        assert_eq!(err.kind(), Kind::Netns);
        err.to_string()
    }

    #[test]
    fn what_is_no_foreign_namespace_is_refused() {
        assert!(refusal("/no/such/netns").contains("does not exist"));
        assert!(refusal("/etc/passwd").contains("is not a namespace file"));
        assert!(refusal("/tmp").contains("is not a namespace file"));
        assert!(refusal("").contains("does not exist"));
        assert!(refusal("/proc/self/ns/net").contains("is the host's own"));
    }

    #[test]
    fn a_fifo_does_not_block() {
        let path = std::env::temp_dir().join(format!("weir-fifo-{}", std::process::id()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let refused = Netns::open(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(refused.unwrap_err().kind(), Kind::Netns);
    }
}

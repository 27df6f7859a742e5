//! A directory held open: every access below it goes by one checked name and never follows a link.
//!
//! Nothing is synced: the state dir is meant for a tmpfs, and on a disk a lost write is found by the
//! boot id. What must be whole is made under a temporary name and renamed.

use std::{
    fs::{DirBuilder, File, TryLockError},
    io::{ErrorKind, Read, Write},
    os::{fd::AsRawFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::{
    dir,
    errno::Errno,
    fcntl::{
        AT_FDCWD, AtFlags, FcntlArg, FdFlag, OFlag, RenameFlags, fcntl, openat, readlinkat,
        renameat2,
    },
    sys::stat::{Mode, SFlag, fstatat, mkdirat},
    unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat},
};

use crate::error::{Context, Error, Kind, Result};

/// How long the first wait for a lock is; each one is twice as long, up to [`LOCK_WAIT_MAX`].
const LOCK_WAIT_MIN: Duration = Duration::from_micros(100);
const LOCK_WAIT_MAX: Duration = Duration::from_millis(5);

/// An open directory and the path to name it by in errors.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
    fd: File,
}

/// A file locked for this process alone, unless it is [bequeathed](Lock::bequeath); closing it, when
/// dropped, unlocks it, and so does the end of the process, however it comes.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Lets the processes that we start from now on hold the lock too: then it ends with the last of them.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn bequeath(&self) -> Result<()> {
        // A flock belongs to the open file, of which a child that inherits it has the same one.
        let left = fcntl(&self.0, FcntlArg::F_SETFD(FdFlag::empty()));
        left.map(drop).context(Kind::Io, || "can't leave a lock to a child process".into())
    }
}

/// With whom a lock is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// With all who take it so.
    Many,
    /// With nobody.
    Alone,
}

impl Dir {
    /// Opens a directory; `None` if it doesn't exist.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        Self::open_at(AT_FDCWD, path, path.to_owned())
    }

    /// Opens a directory after making it, mode 0700, and what leads to it.
    pub fn create(path: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|err| failed("make", path, err))?;
        Self::open(path)?.ok_or_else(|| failed("open", path, "it vanished"))
    }

    /// Opens a directory in this one; `None` if it doesn't exist.
    pub fn open_sub(&self, name: &str) -> Result<Option<Self>> {
        Self::open_at(&self.fd, Path::new(name), self.path.join(name))
    }

    /// Opens a directory in this one after making it, mode 0700.
    pub fn create_sub(&self, name: &str) -> Result<Self> {
        match mkdirat(&self.fd, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(self.failed("make", name, errno)),
        }
        self.open_sub(name)?.ok_or_else(|| self.failed("open", name, "it vanished"))
    }

    fn open_at(at: impl std::os::fd::AsFd, name: &Path, path: PathBuf) -> Result<Option<Self>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(at, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { path, fd: fd.into() })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(failed("open the directory", &path, errno)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a file of at most `limit` bytes; `None` if it doesn't exist.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.read_open(name, limit)?.map(|(bytes, _)| bytes))
    }

    /// As [`read`](Self::read), and the file itself, open.
    pub fn read_open(&self, name: &str, limit: u64) -> Result<Option<(Vec<u8>, File)>> {
        // Without O_NONBLOCK a FIFO in the file's place would hang the call.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(self.failed("open", name, errno)),
        };
        let mut bytes = Vec::with_capacity(1024);
        let read = (&file).take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|err| self.failed("read", name, err))?;
        if bytes.len() as u64 > limit {
            return Err(self.failed("read", name, format!("it is longer than {limit} bytes")));
        }
        Ok(Some((bytes, file)))
    }

    /// Makes a file with all its content at once, locked; `None`, and no change, if the name is taken.
    ///
    /// Until the whole is there the file has no name, so that a call that is killed leaves none.
    pub fn create_file(&self, name: &str, bytes: &[u8]) -> Result<Option<Lock>> {
        let (file, made) = if let Some(file) = self.unnamed(name, bytes)? {
            self.lock_new(name, &file)?;
            // As open(2) has it under O_TMPFILE; by the descriptor alone it would take a capability.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let flags = AtFlags::AT_SYMLINK_FOLLOW;
            let made = linkat(AT_FDCWD, path.as_str(), &self.fd, name, flags);
            (file, made)
        } else {
            let (temp, file) = self.write_temp(name, bytes)?;
            let flags = RenameFlags::RENAME_NOREPLACE;
            let made = renameat2(&self.fd, temp.as_str(), &self.fd, name, flags);
            if made.is_err() {
                self.remove(&temp)?;
            }
            (file, made)
        };
        match made {
            Ok(()) => Ok(Some(Lock(file))),
            Err(Errno::EEXIST) => Ok(None),
            Err(errno) => Err(self.failed("make", name, errno)),
        }
    }

    /// A file of that content without a name, which ends when it is closed; `None` where the file
    /// system has none such (overlayfs before Linux 6.6, NFS).
    fn unnamed(&self, name: &str, bytes: &[u8]) -> Result<Option<File>> {
        let flags = OFlag::O_WRONLY | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        let mut file = match openat(&self.fd, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(fd) => File::from(fd),
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL) => return Ok(None),
            Err(errno) => return Err(self.failed("make", name, errno)),
        };
        file.write_all(bytes).map_err(|err| self.failed("write", name, err))?;
        Ok(Some(file))
    }

    /// Makes sure that files can be written, by writing one that goes by itself.
    pub fn probe(&self) -> Result<()> {
        const NAME: &str = "probe";
        if self.unnamed(NAME, b"weir")?.is_none() {
            let (temp, _) = self.write_temp(NAME, b"weir")?;
            self.remove(&temp)?;
        }
        Ok(())
    }

    /// Gives a file new content, locked; a reader sees the old or the new, never a part.
    pub fn replace_file(&self, name: &str, bytes: &[u8]) -> Result<Lock> {
        let (temp, file) = self.write_temp(name, bytes)?;
        let renamed = renameat2(&self.fd, temp.as_str(), &self.fd, name, RenameFlags::empty());
        renamed.map_err(|errno| {
            let _ = self.remove(&temp);
            self.failed("write", name, errno)
        })?;
        Ok(Lock(file))
    }

    /// Removes a file and what a killed write of it left; `false` if there was no such file.
    pub fn remove_file(&self, name: &str) -> Result<bool> {
        self.remove(&temp_name(name))?;
        self.remove(name)
    }

    /// Writes a file of a temporary name, locked.
    fn write_temp(&self, name: &str, bytes: &[u8]) -> Result<(String, File)> {
        let temp = temp_name(name);
        let flags = OFlag::O_WRONLY
            | OFlag::O_CREAT
            | OFlag::O_TRUNC
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let written = openat(&self.fd, temp.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map(File::from)
            .map_err(|errno| self.failed("write", name, errno))
            .and_then(|mut file| {
                file.write_all(bytes).map_err(|err| self.failed("write", name, err))?;
                self.lock_new(name, &file)?;
                Ok(file)
            });
        match written {
            Ok(file) => Ok((temp, file)),
            Err(err) => {
                // A half-written temporary (ENOSPC) is of no use to anyone.
                let _ = self.remove(&temp);
                Err(err)
            }
        }
    }

    /// Locks a file that nobody else knows yet.
    fn lock_new(&self, name: &str, file: &File) -> Result<()> {
        file.try_lock().map_err(|err| self.failed("lock", name, err))
    }

    /// Removes exactly this name, also that of an empty directory; `false` if it was not there.
    pub fn remove(&self, name: &str) -> Result<bool> {
        let mut removed = unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir);
        if removed == Err(Errno::EISDIR) {
            removed = unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir);
        }
        match removed {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(Errno::ENOTEMPTY) => {
                let path = self.path.join(name);
                let path = path.display();
                let msg = format!(
                    "can't remove {path}, a directory with what is not Weir's in it: rm -r {path}"
                );
                Err(Error::new(Kind::Io, msg))
            }
            Err(errno) => Err(self.failed("remove", name, errno)),
        }
    }

    /// Whether the name is taken, by whatever it is.
    pub fn has(&self, name: &str) -> Result<bool> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(self.failed("look at", name, errno)),
        }
    }

    /// Whether the name is that of a regular file of at most `limit` bytes.
    pub fn is_file(&self, name: &str, limit: u64) -> Result<bool> {
        let found = fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| self.failed("look at", name, errno))?;
        let is_regular = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
        Ok(is_regular && u64::try_from(found.st_size).is_ok_and(|size| size <= limit))
    }

    /// Makes a symbolic link; `false`, and no change, if the name is taken.
    pub fn link(&self, name: &str, target: &str) -> Result<bool> {
        match symlinkat(target, &self.fd, name) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(self.failed("make", name, errno)),
        }
    }

    /// What a symbolic link says; `None` if the name is free. Whatever else has the name says `""`.
    pub fn read_link(&self, name: &str) -> Result<Option<String>> {
        match readlinkat(&self.fd, name) {
            Ok(target) => Ok(Some(target.into_string().unwrap_or_default())),
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::EINVAL) => Ok(Some(String::new())),
            Err(errno) => Err(self.failed("read", name, errno)),
        }
    }

    /// The names in it, temporary ones and those that are not UTF-8 left out; in no order.
    pub fn names(&self) -> Result<Vec<String>> {
        let all = self.all_names()?;
        Ok(all.into_iter().filter(|name| !name.starts_with('.')).collect())
    }

    /// Those of them that are directories: what else lies there is not ours.
    pub fn directories(&self) -> Result<Vec<String>> {
        let mut directories = Vec::new();
        for name in self.names()? {
            match fstatat(&self.fd, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
                    directories.extend((kind == SFlag::S_IFDIR).then_some(name));
                }
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(self.failed("look at", &name, errno)),
            }
        }
        Ok(directories)
    }

    /// The names whose temporary files were last written that long ago, or longer.
    pub fn temporary(&self, old: Duration) -> Result<Vec<String>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut names = Vec::new();
        for temp in self.all_names()? {
            let Some(name) = temp.strip_prefix('.') else { continue };
            let written = match fstatat(&self.fd, temp.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => Duration::from_secs(stat.st_mtime.try_into().unwrap_or_default()),
                Err(_) => continue,
            };
            if now.saturating_sub(written) >= old {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn all_names(&self) -> Result<Vec<String>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let listed = dir::Dir::openat(&self.fd, ".", flags, Mode::empty()).and_then(|mut dir| {
            let mut names = Vec::new();
            for entry in dir.iter() {
                names.extend(entry?.file_name().to_str().map(str::to_owned));
            }
            Ok(names)
        });
        listed.map_err(|errno| failed("list", &self.path, errno))
    }

    /// Takes the lock of a file, which is made if missing, waiting no longer than `bound`.
    ///
    /// # Errors
    /// [`Kind::TryAgain`] when somebody else holds it all the time; [`Kind::Io`].
    pub fn lock(&self, name: &str, bound: Duration) -> Result<Lock> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map(File::from)
            .map_err(|errno| self.failed("open", name, errno))?;
        acquire(&file, Share::Alone, bound, || self.path.join(name))?;
        Ok(Lock(file))
    }

    /// Takes the lock of the directory itself until this is dropped.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn hold(&self, share: Share, bound: Duration) -> Result<()> {
        acquire(&self.fd, share, bound, || self.path.clone())
    }

    fn failed(&self, what: &str, name: &str, why: impl std::fmt::Display) -> Error {
        failed(what, &self.path.join(name), why)
    }
}

/// Takes a lock, waiting no longer than `bound`.
fn acquire(file: &File, share: Share, bound: Duration, path: impl Fn() -> PathBuf) -> Result<()> {
    let end = Instant::now() + bound;
    let mut wait = LOCK_WAIT_MIN;
    loop {
        // A blocking flock() could only be bounded by a signal.
        let taken = match share {
            Share::Many => file.try_lock_shared(),
            Share::Alone => file.try_lock(),
        };
        match taken {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(err)) if err.kind() == ErrorKind::Interrupted => {}
            Err(TryLockError::Error(err)) => return Err(failed("lock", &path(), err)),
        }
        if Instant::now() >= end {
            let time = if bound.is_zero() { String::new() } else { format!(" for {bound:?}") };
            let msg = format!("{} is locked by another call{time}", path().display());
            return Err(Error::new(Kind::TryAgain, msg));
        }
        thread::sleep(wait);
        wait = (wait * 2).min(LOCK_WAIT_MAX);
    }
}

impl Lock {
    /// The locked file.
    pub fn file(&self) -> &File {
        &self.0
    }
}

/// One fixed name per file, so that removing the file can remove this too. Calls for one attachment
/// don't overlap (CNI spec 1.1.0, "Lifecycle & Ordering").
fn temp_name(name: &str) -> String {
    format!(".{name}")
}

fn failed(what: &str, path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Io, format!("can't {what} {}", path.display())).details(why)
}

//! Puts a file in its place so that whoever looks there finds the old or the new, whole, whatever
//! happens meanwhile.
//!
//! Runtimes watch their configuration directory and take `.conf`, `.conflist` and `.json`; a plugin's
//! directory is searched by exact name. So the temporary name begins with a dot and ends otherwise.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::error::{Context, Error, Kind, Result};

/// How long to wait for another installation.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was done about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Done {
    /// It is new.
    Written,
    /// It took the place of another.
    Replaced,
    /// It was there already, byte for byte.
    Unchanged,
    /// Another one is there and was left.
    Kept,
}

/// A directory in which files are put, locked against other installations as long as this lives.
#[derive(Debug)]
pub struct Place<'a> {
    path: &'a Path,
    dir: File,
}

impl<'a> Place<'a> {
    /// Opens the directory, which is made if it is missing, mode 0755.
    ///
    /// # Errors
    /// [`Kind::Io`]; [`Kind::TryAgain`]: another installation holds it for ten seconds.
    pub fn open(path: &'a Path) -> Result<Self> {
        let failed = |what: &str| format!("can't {what} {}", path.display());
        let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
        made.context(Kind::Io, || failed("make"))?;
        let dir = File::open(path).context(Kind::Io, || failed("open"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match dir.try_lock() {
                Ok(()) => return Ok(Self { path, dir }),
                Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => {}
                Err(err) => {
                    let msg = format!("{} is locked by another installation", path.display());
                    return Err(Error::new(Kind::TryAgain, msg).details(err));
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Gives the file `name` this content and mode.
    ///
    /// # Errors
    /// [`Kind::Io`]; what was there is as it was.
    pub fn put(&self, name: &str, bytes: &[u8], mode: u32) -> Result<Done> {
        let target = self.path.join(name);
        let failed = || format!("can't write {}", target.display());
        let done = match fs::symlink_metadata(&target) {
            Ok(found) if found.is_dir() => {
                let msg = format!("{} is a directory; remove it", target.display());
                return Err(Error::new(Kind::Io, msg));
            }
            Ok(found) => {
                let same = found.is_file()
                    && found.permissions().mode() & 0o7777 == mode
                    && fs::read(&target).is_ok_and(|there| there == bytes);
                if same { Done::Unchanged } else { Done::Replaced }
            }
            Err(err) if err.kind() == ErrorKind::NotFound => Done::Written,
            Err(err) => return Err(err).context(Kind::Io, failed),
        };
        if done != Done::Unchanged {
            let temporary = self.path.join(temporary(name));
            self.write(&temporary, &target, bytes, mode).map_err(|err| {
                let _ = fs::remove_file(&temporary);
                Error::new(Kind::Io, failed()).details(err)
            })?;
        }
        Ok(done)
    }

    /// The rename is what makes it visible; what is renamed is on the disk by then, and so is the
    /// rename when this is done.
    fn write(
        &self,
        temporary: &Path,
        target: &Path,
        bytes: &[u8],
        mode: u32,
    ) -> std::io::Result<()> {
        // One that was killed left it, for whoever writes holds the lock.
        match fs::remove_file(temporary) {
            Err(err) if err.kind() != ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
        file.write_all(bytes)?;
        // Whatever the umask is.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        drop(file);
        fs::rename(temporary, target)?;
        self.dir.sync_all()
    }

    /// Removes the file `name`, and what a killed write of it left; says whether it was there.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn remove(&self, name: &str) -> Result<bool> {
        let failed = |path: &Path| format!("can't remove {}", path.display());
        let mut removed = false;
        for (name, counts) in [(temporary(name), false), (name.to_owned(), true)] {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Ok(()) => removed |= counts,
                Err(err) if err.kind() == ErrorKind::NotFound => {}
                Err(err) => return Err(err).context(Kind::Io, || failed(&path)),
            }
        }
        self.dir.sync_all().context(Kind::Io, || failed(self.path))?;
        Ok(removed)
    }
}

/// Nothing that watches a directory takes it: see the module.
fn temporary(name: &str) -> String {
    format!(".{name}.new")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("weir-place-{}-{name}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            fs::create_dir(&dir).unwrap();
            Self(dir)
        }

        fn names(&self) -> Vec<String> {
            let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
            let names = fs::read_dir(&self.0).unwrap().map(name);
            let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_written_replaced_or_left_and_its_mode_put_right() {
        let scratch = Scratch::new("put");
        let place = Place::open(&scratch.0).unwrap();
        let mode = || fs::metadata(scratch.0.join("f")).unwrap().permissions().mode() & 0o7777;
        assert_eq!(place.put("f", b"one", 0o755).unwrap(), Done::Written);
        assert_eq!((place.put("f", b"one", 0o755).unwrap(), mode()), (Done::Unchanged, 0o755));
        assert_eq!(place.put("f", b"two", 0o755).unwrap(), Done::Replaced);
        assert_eq!((place.put("f", b"two", 0o644).unwrap(), mode()), (Done::Replaced, 0o644));
        assert_eq!(fs::read(scratch.0.join("f")).unwrap(), b"two");
        assert_eq!(scratch.names(), ["f"]);
        assert!(place.remove("f").unwrap() && !place.remove("f").unwrap());
    }

    #[test]
    fn links_are_replaced_and_never_written_through() {
        let scratch = Scratch::new("links");
        let place = Place::open(&scratch.0).unwrap();
        fs::write(scratch.0.join("precious"), "precious").unwrap();
        symlink("precious", scratch.0.join("f")).unwrap();
        // Where somebody knows the temporary name.
        symlink("precious", scratch.0.join(".f.new")).unwrap();
        assert_eq!(place.put("f", b"new", 0o644).unwrap(), Done::Replaced);
        assert_eq!(fs::read(scratch.0.join("precious")).unwrap(), b"precious");
        assert!(!fs::symlink_metadata(scratch.0.join("f")).unwrap().is_symlink());
        assert_eq!(scratch.names(), ["f", "precious"]);
    }

    #[test]
    fn what_can_not_be_replaced_is_named_and_nothing_is_left_half_done() {
        let scratch = Scratch::new("bad");
        let place = Place::open(&scratch.0).unwrap();
        fs::create_dir(scratch.0.join("f")).unwrap();
        assert!(place.put("f", b"new", 0o644).unwrap_err().msg().contains("is a directory"));
        assert_eq!(scratch.names(), ["f"]);
    }
}

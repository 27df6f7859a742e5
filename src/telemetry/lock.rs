//! The locks of the pins: who loads, who hooks pods, who swaps programs.
//!
//! All are flocks on directories, which end with their process. Whoever waits for one may find that the directory
//! was removed meanwhile, or another is in its place: a lock that keeps nobody out.

use std::{
    collections::BTreeMap,
    fs::{self, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::error::{Context, Error, Kind, Result};

/// How long an ADD waits for another that is loading: a verifier under emulation needs seconds.
pub const WAIT: Duration = Duration::from_secs(10);

/// For who reads totals: longer than it takes to carry those of all pods of a node over.
pub const A_MOMENT: Duration = Duration::from_millis(500);

/// For who would rather not know than wait.
pub const AT_ONCE: Duration = Duration::ZERO;

/// How long a process waits in all for the same lock: one that looks at many pods would wait for each of them
/// behind a process that was stopped with it in its hands. That one got it, or could have, ends the account: an
/// agent sees many reloads.
const IN_ALL: Duration = Duration::from_secs(20);

/// What was waited for in vain since a lock was got last, by its path.
static WAITED: Mutex<BTreeMap<PathBuf, Duration>> = Mutex::new(BTreeMap::new());

/// Locked by who waits to swap programs. Without it pods that are hooked one over the other, without
/// an end, would never let him: a flock is given to whoever may share it, however long others wait.
const GATE: &str = "waiting";

/// How often a directory is opened again that was replaced while its lock was waited for.
const TRIES: u32 = 16;

/// The lock of those who load: the directory, locked for as long as it is open. `None`: there is no such
/// directory.
///
/// # Errors
/// [`Kind::TryAgain`]: another process has it for ten seconds.
pub fn loading(bpf_dir: &Path) -> Result<Option<fs::File>> {
    wait_for(bpf_dir, fs::File::try_lock, WAIT)
}

/// The lock of a layout's pins: shared by those who hook pods to them, alone for who swaps them.
/// `None`: there is no such directory. Whoever holds one already must not ask for another. Waits no longer
/// than `patience`.
///
/// # Errors
/// As [`loading`].
pub fn share(dir: &Path, patience: Duration) -> Result<Option<fs::File>> {
    dir.parent().map_or(Ok(()), |bpf_dir| give_way(bpf_dir, patience))?;
    share_behind_the_gate(dir, patience)
}

/// As [`share`], for who gave way already.
pub fn share_behind_the_gate(dir: &Path, patience: Duration) -> Result<Option<fs::File>> {
    wait_for(dir, fs::File::try_lock_shared, patience)
}

/// Waits while somebody waits to swap programs.
///
/// # Errors
/// As [`loading`].
pub fn give_way(bpf_dir: &Path, patience: Duration) -> Result<()> {
    let gate = bpf_dir.join(GATE);
    match fs::File::open(&gate) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        // One that was killed there left it open.
        opened => wait(opened, &gate, fs::File::try_lock_shared, patience).map(|_| ()),
    }
}

/// See [`share`]. Call holding the lock of those who load.
///
/// # Errors
/// As [`loading`].
pub fn alone(dir: &Path) -> Result<fs::File> {
    let _gate = dir.parent().map(Gate::close).transpose()?;
    let absent = || Error::new(Kind::Telemetry, format!("{} is not there any more", dir.display()));
    wait_for(dir, fs::File::try_lock, WAIT)?.ok_or_else(absent)
}

/// Removes a gate that somebody left who was killed. Call holding the lock of those who load.
///
/// # Errors
/// [`Kind::Telemetry`].
pub fn clear_gate(bpf_dir: &Path) -> Result<()> {
    let gate = bpf_dir.join(GATE);
    match fs::remove_dir(&gate) {
        Err(err) if err.kind() != ErrorKind::NotFound => {
            Err(err).context(Kind::Telemetry, || format!("can't remove {}", gate.display()))
        }
        _ => Ok(()),
    }
}

/// Opened again when dropped.
struct Gate(PathBuf);

impl Gate {
    fn close(bpf_dir: &Path) -> Result<(Self, fs::File)> {
        let path = bpf_dir.join(GATE);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(err) if err.kind() != ErrorKind::AlreadyExists => {
                return Err(err)
                    .context(Kind::Telemetry, || format!("can't make {}", path.display()));
            }
            _ => {}
        }
        let gate = Self(path);
        let locked = wait(fs::File::open(&gate.0), &gate.0, fs::File::try_lock, WAIT)?;
        Ok((gate, locked))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // One that stays is open without its lock, and the next who closes it takes it.
        let _ = fs::remove_dir(&self.0);
    }
}

type Lock = fn(&fs::File) -> std::result::Result<(), TryLockError>;

/// Locks what is behind a path at that time; `None` if nothing is.
fn wait_for(path: &Path, lock: Lock, patience: Duration) -> Result<Option<fs::File>> {
    for _ in 0..TRIES {
        let locked = match fs::File::open(path) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
            opened => wait(opened, path, lock, patience)?,
        };
        let is_there = is_behind(&locked, path);
        if is_there.context(Kind::Telemetry, || format!("can't look at {}", path.display()))? {
            return Ok(Some(locked));
        }
    }
    let msg = format!("{} was replaced {TRIES} times while its lock was taken", path.display());
    Err(Error::new(Kind::TryAgain, msg))
}

/// Whether a path still leads to this file.
///
/// # Errors
/// Those of stat(2), but that there is nothing.
pub fn is_behind(file: &fs::File, path: &Path) -> io::Result<bool> {
    let found = match fs::metadata(path) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(false),
        found => found?,
    };
    let of = file.metadata()?;
    Ok((of.dev(), of.ino()) == (found.dev(), found.ino()))
}

fn wait(
    opened: io::Result<fs::File>,
    path: &Path,
    lock: Lock,
    patience: Duration,
) -> Result<fs::File> {
    let file = opened.context(Kind::Telemetry, || format!("can't open {}", path.display()))?;
    let waited = WAITED.lock().ok().and_then(|waited| waited.get(path).copied());
    let left = IN_ALL.saturating_sub(waited.unwrap_or_default());
    let (begun, patience) = (Instant::now(), patience.min(left));
    let locked = loop {
        match lock(&file) {
            Ok(()) => break Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < patience => {}
            Err(err) => {
                let shown = path.display();
                let msg = format!(
                    "{shown} is locked by a process that loads or swaps programs, or hooks a pod; \
                     `fuser -v {shown}` names it"
                );
                break Err(Error::new(Kind::TryAgain, msg).details(err));
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if let Ok(mut in_all) = WAITED.lock() {
        match &locked {
            Ok(_) if waited.is_some() => drop(in_all.remove(path)),
            Ok(_) => {}
            Err(_) => *in_all.entry(path.to_owned()).or_default() += begun.elapsed(),
        }
    }
    locked
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            OnceLock,
            atomic::{AtomicBool, AtomicU32, Ordering},
        },
        thread,
    };

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("weir-lock-{}-{name}", std::process::id()))
    }

    /// While they wait for the lock its holder removes the directory, and another comes in its place, or none.
    #[test]
    fn a_lock_is_of_what_is_there_when_it_is_got() {
        let (bpf_dir, aside) = (scratch("replaced"), scratch("aside"));
        let dir = bpf_dir.join("0123456789abcdef");
        for successor in [true, false] {
            for alone_too in [true, false] {
                fs::create_dir_all(&dir).unwrap();
                let held = fs::File::open(&dir).unwrap();
                held.lock().unwrap();
                let got = thread::scope(|scope| {
                    let waits = scope.spawn(|| match alone_too {
                        true => wait_for(&dir, fs::File::try_lock, WAIT),
                        false => share(&dir, WAIT),
                    });
                    // Who waits has opened what is about to go, as this test has.
                    let opened = || {
                        let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
                        fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == dir)).count()
                    };
                    assert!((0..1000).any(|_| opened() == 2 || {
                        thread::sleep(Duration::from_millis(10));
                        false
                    }));
                    fs::rename(&dir, &aside).unwrap();
                    if successor {
                        fs::create_dir(&dir).unwrap();
                    }
                    drop(held);
                    waits.join().unwrap().unwrap()
                });
                assert_eq!(got.is_some(), successor);
                if let Some(got) = got {
                    assert!(is_behind(&got, &dir).unwrap());
                    assert!(fs::File::open(&dir).unwrap().try_lock().is_err());
                    fs::remove_dir(&dir).unwrap();
                }
                fs::remove_dir(&aside).unwrap();
            }
        }
        fs::remove_dir(&bpf_dir).unwrap();
    }

    #[test]
    fn what_was_waited_in_vain_is_forgotten_when_the_lock_is_free_again() {
        let dir = scratch("patience");
        fs::create_dir(&dir).unwrap();
        let held = fs::File::open(&dir).unwrap();
        held.lock().unwrap();
        let waits = || {
            let begun = Instant::now();
            assert_eq!(share(&dir, A_MOMENT).unwrap_err().kind(), Kind::TryAgain);
            begun.elapsed() >= A_MOMENT
        };
        assert!(waits());
        // As after forty of them.
        WAITED.lock().unwrap().insert(dir.clone(), IN_ALL);
        assert!(!waits());
        held.unlock().unwrap();
        assert!(share(&dir, A_MOMENT).unwrap().is_some());
        held.lock().unwrap();
        assert!(waits());
        fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn one_that_is_always_replaced_is_given_up() {
        static PLACE: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
        let (dir, aside) = PLACE.get_or_init(|| (scratch("always"), scratch("always-aside")));
        fs::create_dir(dir).unwrap();
        let replaces: Lock = |_| {
            let (dir, aside) = PLACE.get().unwrap();
            let _ = fs::remove_dir(aside);
            fs::rename(dir, aside).unwrap();
            fs::create_dir(dir).unwrap();
            Ok(())
        };
        assert_eq!(wait_for(dir, replaces, WAIT).unwrap_err().kind(), Kind::TryAgain);
        [dir, aside].into_iter().for_each(|dir| fs::remove_dir(dir).unwrap());
    }

    /// Two who hook pods, each of whom lets go only when the other has taken the lock after him, or has
    /// waited for it in vain for a while: it is never free unless somebody gives way.
    #[test]
    fn who_swaps_comes_between_those_who_never_let_the_lock_go() {
        let bpf_dir = std::env::temp_dir().join(format!("weir-gate-{}", std::process::id()));
        let dir = bpf_dir.join("0123456789abcdef");
        fs::create_dir_all(&dir).unwrap();
        let (over, taken) = (AtomicBool::new(false), AtomicU32::new(0));
        let hooks = || {
            while !over.load(Ordering::Relaxed) {
                let shared = share(&dir, WAIT).unwrap();
                let turn = taken.fetch_add(1, Ordering::SeqCst) + 1;
                let begun = Instant::now();
                while taken.load(Ordering::SeqCst) == turn
                    && begun.elapsed() < Duration::from_millis(200)
                {
                    thread::sleep(Duration::from_millis(1));
                }
                drop(shared);
            }
        };
        thread::scope(|scope| {
            scope.spawn(hooks);
            scope.spawn(hooks);
            thread::sleep(Duration::from_millis(20));
            let swapped = (0..3).map(|_| alone(&dir).map(drop)).collect::<Result<Vec<()>>>();
            over.store(true, Ordering::Relaxed);
            swapped.unwrap();
        });
        assert!(!bpf_dir.join(GATE).exists());
        // One who was killed while he waited.
        fs::create_dir(bpf_dir.join(GATE)).unwrap();
        assert!(share(&dir, WAIT).unwrap().is_some());
        assert!(alone(&dir).is_ok());
        fs::remove_dir_all(&bpf_dir).unwrap();
    }
}

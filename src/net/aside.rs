//! A process of our own for one system call that keeps its caller, while this one goes on and may end.
//!
//! A thread would not do: a process ends with its last thread, and who started it waits for that.
//!
//! A lock on a file ends with the last process that has it open. The kernel may keep ours for long, so that it
//! has none of the caller's open: whoever comes next would wait for it, and in vain.
#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    unistd::{ForkResult, close, fork, pipe2, setsid},
};

/// The process that was started.
#[derive(Debug)]
pub struct Aside {
    end: File,
}

impl Aside {
    /// Starts `act`. Of what this process has open it may use the sockets it has made, and must not print.
    ///
    /// The process is in a session of its own and has nothing open but those: nobody who waits for the
    /// end of stdout, or for a lock, or for a namespace to go, waits for it, and no terminal's signal meets it.
    ///
    /// # Errors
    /// The kernel's: too many processes, no memory.
    pub fn start(act: impl FnOnce() -> Result<(), Errno>) -> nix::Result<Self> {
        let (end, say) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: the child is this thread alone, with memory of its own. Should another thread exist
        // (it has handed over what it had to say, and is about to end), then the child needs no lock of
        // its: it calls glibc's allocator, which fork keeps usable, and the kernel, and then ends.
        match unsafe { fork() }? {
            ForkResult::Parent { .. } => Ok(Self { end: end.into() }),
            ForkResult::Child => {
                close_all_but_sockets(say.as_raw_fd());
                let _ = setsid();
                let errno = act().err().map_or(0, |errno| errno as i32);
                let _ = File::from(say).write_all(&errno.to_ne_bytes());
                // SAFETY: ends the process at once; what the parent had begun is the parent's to end.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// What `act` said; `None` where the process was killed before it could. Waits for its end.
    ///
    /// # Errors
    /// The kernel's.
    pub fn outcome(&mut self) -> io::Result<Option<Result<(), Errno>>> {
        let mut said = Vec::new();
        self.end.read_to_end(&mut said)?;
        Ok(said.try_into().ok().map(|bytes| match i32::from_ne_bytes(bytes) {
            0 => Ok(()),
            errno => Err(Errno::from_raw(errno)),
        }))
    }
}

/// Closes what this process has open, but for sockets and `kept`. Sockets stay, since who closes netfilter's
/// last waits: that is to be neither `act` nor who waits for it. The standard three go, whatever they are: a
/// runtime may read its plugins' output from a socket, to its end.
fn close_all_but_sockets(kept: RawFd) {
    const OPEN: &str = "/proc/self/fd";
    let is_socket = |fd: RawFd| {
        let target = fs::read_link(Path::new(OPEN).join(fd.to_string()));
        target.is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
    };
    let all = fs::read_dir(OPEN).into_iter().flatten().flatten();
    let all: Vec<RawFd> =
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in all {
        let standard = fd <= libc::STDERR_FILENO;
        if fd != kept && (standard || !is_socket(fd)) {
            let _ = close(fd);
        }
    }
}

impl AsFd for Aside {
    /// Readable from when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

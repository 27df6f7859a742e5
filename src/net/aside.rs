//! A process of our own for one system call that keeps its caller, while this one goes on and may end.
//!
//! A thread would not do: a process ends with its last thread, and who started it waits for that.
//!
//! A lock on a file ends with the last process that has it open. The kernel may keep ours for long, so that it
//! has none of the caller's open: whoever comes next would wait for it, and in vain.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    unistd::{ForkResult, fork, pipe2, setsid},
};

/// The process that was started.
#[derive(Debug)]
pub struct Aside {
    end: File,
}

impl Aside {
    /// Starts `act`. Of what this process has open it may use what is `kept`, and must not print.
    ///
    /// The process is in a session of its own and has nothing else open: nobody who waits for the
    /// end of stdout, or for a lock, or for a namespace to go, waits for it, and no terminal's signal meets it.
    ///
    /// # Errors
    /// The kernel's: too many processes, no memory.
    pub fn start(
        mut kept: Vec<RawFd>,
        act: impl FnOnce() -> Result<(), Errno>,
    ) -> nix::Result<Self> {
        let (end, say) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: the child is this thread alone, with memory of its own. Should another thread exist
        // (it has handed over what it had to say, and is about to end), then the child needs no lock of
        // its: it calls glibc's allocator, which fork keeps usable, and the kernel, and then ends.
        match unsafe { fork() }? {
            ForkResult::Parent { .. } => Ok(Self { end: end.into() }),
            ForkResult::Child => {
                kept.push(say.as_raw_fd());
                close_all_but(&mut kept);
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

/// Closes what this process has open, but for these.
fn close_all_but(kept: &mut [RawFd]) {
    kept.sort_unstable();
    let mut from = 0;
    for fd in kept.iter().filter_map(|&fd| libc::c_uint::try_from(fd).ok()) {
        if let Some(before) = fd.checked_sub(1).filter(|&before| from <= before) {
            close_range(from, before);
        }
        from = fd + 1;
    }
    close_range(from, libc::c_uint::MAX);
}

/// `close_range(2)`, of Linux 5.9. Where it is forbidden, all stays open.
fn close_range(from: libc::c_uint, to: libc::c_uint) {
    // SAFETY: it takes three numbers. What it closes is used no more: this process goes on to `act`, whose
    // files are kept, and to its end.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
}

impl AsFd for Aside {
    /// Readable from when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

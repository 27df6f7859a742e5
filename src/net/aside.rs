//! A process of our own for one system call that keeps its caller, while this one goes on and may end.
//!
//! A thread would not do: a process ends with its last thread, and who started it waits for that.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
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
    /// Starts `act`. It may use what this process has open, and must not print.
    ///
    /// The process is in a session of its own and holds neither stdin nor stdout nor stderr: nobody who
    /// waits for their end waits for it, and no terminal's signal meets it.
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
                drop(end);
                let _ = setsid();
                for stdio in 0..=2 {
                    let _ = close(stdio);
                }
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

impl AsFd for Aside {
    /// Readable from when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

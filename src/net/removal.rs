//! The deletion of a link, waited for until the link is gone, and not until the kernel is done.
//!
//! Some 0.5 ms after it was asked to, the kernel announces the removal: then the link is out of every
//! table, its routes and addresses are flushed, its name is free (`unregister_netdevice_many` of Linux
//! 6.18). What keeps the caller for 20 ms more is the wait for all who still look at the link under RCU:
//! so another process of ours asks, and waits. Should that be killed before it has asked, this one asks
//! again; killed later, it finishes nevertheless, since the kernel does.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::{Duration, Instant},
};

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    aside::Aside,
    link::{self, Link},
    netlink::{Netlink, Refusal},
};

/// linux/rtnetlink.h: the group that is told of links, and the announcement of a removal.
const RTNLGRP_LINK: u32 = 1;
const RTM_DELLINK: u16 = 17;
/// Where `struct ifinfomsg` has the index.
const IFI_INDEX: std::ops::Range<usize> = 4..8;
/// The kernel's one lock for network configuration may be held by many before us.
const PATIENCE: Duration = Duration::from_secs(10);

/// Deletes a link; returns as soon as its removal is announced. `along` stays open until the kernel is done: to
/// close a socket of netfilter waits for that, and is best not done by who is waited for.
///
/// # Errors
/// The kernel's refusal.
pub fn announced(
    socket: &mut Netlink,
    link: &Link,
    along: Option<BorrowedFd<'_>>,
) -> Result<(), Refusal> {
    let delete = |socket: &mut Netlink| socket.exchange(vec![link::deletion(link)]).map(drop);
    // Whatever is missing for it, there is the other way.
    let Some(listener) = listener() else { return delete(socket) };
    let kept = [Some(socket.as_fd().as_raw_fd()), along.map(|along| along.as_raw_fd())];
    let kept = kept.into_iter().flatten().collect();
    let Ok(aside) = Aside::start(kept, || delete(socket).map_err(|refusal| refusal.errno)) else {
        return delete(socket);
    };
    match wait(listener, aside, link.index, PATIENCE) {
        Some(Ok(())) => Ok(()),
        Some(Err(errno)) => {
            Err(Refusal { what: format!("delete interface {}", link.name), errno, text: None })
        }
        None => delete(socket),
    }
}

fn listener() -> Option<Netlink> {
    let mut listener = Netlink::open(NETLINK_ROUTE).ok()?;
    listener.join(RTNLGRP_LINK).ok()?;
    Some(listener)
}

/// Waits for the announcement or for the answer, whichever comes first; `None` if neither will.
fn wait(
    listener: Netlink,
    mut aside: Aside,
    index: u32,
    patience: Duration,
) -> Option<Result<(), Errno>> {
    let removal = |kind: u16, body: &[u8]| {
        // The family is not 0 where a bridge tells of its port.
        let ours = body.first() == Some(&0) && body.get(IFI_INDEX) == Some(&index.to_ne_bytes());
        kind == RTM_DELLINK && ours
    };
    let mut listener = Some(listener);
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Some(Err(Errno::ETIMEDOUT));
        }
        let readable = |ready: &PollFd<'_>| ready.any().unwrap_or(false);
        let mut ready = vec![PollFd::new(std::os::fd::AsFd::as_fd(&aside), PollFlags::POLLIN)];
        ready.extend(
            listener
                .as_ref()
                .map(|listener| PollFd::new(std::os::fd::AsFd::as_fd(listener), PollFlags::POLLIN)),
        );
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut ready, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Some(Err(errno)),
        }
        let (answered, told) = (readable(&ready[0]), ready.get(1).is_some_and(readable));
        drop(ready);
        if answered {
            return aside.outcome().ok().flatten();
        }
        if told {
            match listener.as_mut().map(|listener| listener.announced(removal)) {
                Some(Ok(true)) => return Some(Ok(())),
                Some(Ok(false)) => {}
                // More was announced than we could hear: the answer will come all the same.
                Some(Err(_)) | None => listener = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process, thread};

    use super::*;

    /// What becomes of waiting for a link that is never announced.
    fn waited(
        patience: Duration,
        act: impl FnOnce() -> Result<(), Errno>,
    ) -> Option<Result<(), Errno>> {
        wait(listener().unwrap(), Aside::start(Vec::new(), act).unwrap(), u32::MAX, patience)
    }

    #[test]
    fn a_kernel_that_says_nothing_is_waited_for_in_bounds() {
        let began = Instant::now();
        let over = env::temp_dir().join(format!("weir-silent-{}", process::id()));
        let silent = || {
            while !over.exists() && began.elapsed() < Duration::from_secs(20) {
                thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        };
        let outcome = waited(Duration::from_millis(200), silent);
        fs::write(&over, "").unwrap();
        assert_eq!(outcome, Some(Err(Errno::ETIMEDOUT)));
        let took = began.elapsed();
        assert!((200..10_000).contains(&took.as_millis()), "{took:?}");
        thread::sleep(Duration::from_millis(50));
        fs::remove_file(&over).unwrap();
    }

    #[test]
    fn an_answer_without_an_announcement_is_the_answer() {
        assert_eq!(waited(PATIENCE, || Ok(())), Some(Ok(())));
        assert_eq!(waited(PATIENCE, || Err(Errno::EPERM)), Some(Err(Errno::EPERM)));
        // Killed before it could say: the caller asks again.
        let killed = || nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        assert_eq!(waited(PATIENCE, killed), None);
    }
}

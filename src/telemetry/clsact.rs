//! Filters of our own on a clsact qdisc: two that count and, for a pod with a limit, two that limit.
//!
//! Priority and handle are ours alone, so that a filter can be replaced atomically and found again,
//! and others' filters on the same hook are never touched. The qdisc is not removed: it costs
//! nothing, others may use it, and it ends with the link.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use libbpf_rs::{ErrorKind, Program, TC_EGRESS, TC_INGRESS, TcAttachPoint, TcHook};
use nix::{errno::Errno, net::if_::if_indextoname};

use super::{block, sys, wire::Direction};

/// Which of our filters, by its place among all on the hook: smaller numbers run first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Drops what is too much before it is counted.
    LimitFirst = 49_151,
    /// Counts; behind anything of others that decides about packets.
    Count = 49_152,
    /// Drops what is too much when it has been counted.
    LimitLast = 49_153,
}

/// "weir" in ASCII.
pub const HANDLE: u32 = 0x7765_6972;

/// From the host's side a packet of the pod is ingress.
fn attach_point(direction: Direction) -> TcAttachPoint {
    if direction == Direction::DIRECTION_TX { TC_INGRESS } else { TC_EGRESS }
}

fn hook(program: BorrowedFd<'_>, ifindex: i32, direction: Direction, filter: Filter) -> TcHook {
    let mut hook = TcHook::new(program);
    hook.ifindex(ifindex)
        .attach_point(attach_point(direction))
        .priority(filter as u32)
        .handle(HANDLE)
        .replace(true);
    hook
}

/// The same where libbpf sends no program, but wants a descriptor all the same.
fn bare_hook(ifindex: i32, direction: Direction, filter: Filter) -> TcHook {
    hook(io::stdin().as_fd(), ifindex, direction, filter)
}

/// Adds the qdisc, if it is not there, and a counting filter in each direction.
///
/// # Errors
/// The kernel's; [`ErrorKind::Unsupported`] where an `ingress` qdisc sits in the place: both filters
/// would land in its one block, the second in place of the first. Whatever was added is taken off.
pub fn attach(programs: &[(Direction, OwnedFd)], ifindex: i32) -> libbpf_rs::Result<()> {
    let new = sys::clsact_create(ifindex)?;
    for (direction, program) in programs {
        hook(program.as_fd(), ifindex, *direction, Filter::Count).attach()?;
    }
    if new || programs.iter().all(|(side, program)| holds(program.as_fd(), ifindex, *side)) {
        return Ok(());
    }
    for (direction, _) in programs {
        detach(ifindex, *direction)?;
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "an ingress qdisc holds clsact's place").into())
}

/// Adds the qdisc, if it is not there, and one filter.
///
/// # Errors
/// The kernel's.
pub fn add(
    program: BorrowedFd<'_>,
    ifindex: i32,
    direction: Direction,
    filter: Filter,
) -> libbpf_rs::Result<()> {
    sys::clsact_create(ifindex)?;
    hook(program, ifindex, direction, filter).attach().map(drop)
}

/// Whether our counting filter of one direction runs this very program.
pub fn holds(program: BorrowedFd<'_>, ifindex: i32, direction: Direction) -> bool {
    let own = Program::id_from_fd(program).ok();
    own.is_some() && query(ifindex, direction, Filter::Count).is_ok_and(|found| found == own)
}

/// Removes our counting filter of one direction; one that is gone, or whose qdisc or device is, is no error.
pub fn detach(ifindex: i32, direction: Direction) -> libbpf_rs::Result<()> {
    match bare_hook(ifindex, direction, Filter::Count).detach() {
        Err(err) if !is_absence(&err, ifindex) => Err(err),
        _ => Ok(()),
    }
}

/// The kernel says ENOENT without the filter, EINVAL without the qdisc and ENODEV, for which the library has no
/// name, without the device; anything else is no answer.
fn is_absence(err: &libbpf_rs::Error, ifindex: i32) -> bool {
    let without_device = || {
        let index = u32::try_from(ifindex).unwrap_or_default();
        match if_indextoname(index) {
            // So the library says it (nix 0.31), which takes libc's null pointer for success.
            Ok(name) => name.is_empty(),
            Err(errno) => errno == Errno::ENXIO,
        }
    };
    match err.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidInput => true,
        ErrorKind::Other => without_device(),
        _ => false,
    }
}

/// The id of the program behind our filter of one direction; `None` without one.
pub fn query(ifindex: i32, direction: Direction, filter: Filter) -> libbpf_rs::Result<Option<u32>> {
    match bare_hook(ifindex, direction, filter).query() {
        Ok(id) => Ok(Some(id)),
        Err(err) if is_absence(&err, ifindex) => Ok(None),
        Err(err) if err.kind() == ErrorKind::Unsupported => {
            block::query(ifindex, direction, filter).map_err(libbpf_rs::Error::from)
        }
        Err(err) => Err(err),
    }
}

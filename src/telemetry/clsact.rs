//! Filters of our own on a clsact qdisc: two that count and, for a pod with a limit, two that limit.
//!
//! Priority and handle are always the same, so that a filter can be replaced atomically and found again. Others'
//! filters on the same hook are never touched, also not one that has that very place: see [`super::occupant`]. The
//! qdisc is not removed: it costs nothing, others may use it, and it ends with the link.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use libbpf_rs::{ErrorKind, TC_EGRESS, TC_INGRESS, TcAttachPoint, TcHook};
use nix::{errno::Errno, net::if_::if_indextoname};

use super::{
    compare::name_of,
    hook::refused,
    occupant::{Occupant, side},
    sys,
    wire::Direction,
};
use crate::error::{Context, Error, Kind, Result};

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
/// [`Kind::Telemetry`] with the kernel's word, or naming the filter of others that is in the way; likewise where an
/// `ingress` qdisc sits in the place: both filters would land in its one block, the second in place of the first. Then
/// whatever was added is taken off.
pub fn attach(programs: &[(Direction, OwnedFd)], ifindex: i32) -> Result<()> {
    let shown = ifindex.unsigned_abs();
    let new =
        sys::clsact_create(ifindex).context(Kind::Telemetry, || refused("clsact qdisc", shown))?;
    let put = programs.iter().try_for_each(|(direction, program)| {
        put(program.as_fd(), ifindex, *direction, Filter::Count)
    });
    let is_apart = new || {
        let [from_pod, to_pod] = [Direction::DIRECTION_TX, Direction::DIRECTION_RX];
        // One that belongs to the other direction.
        !Occupant::find(ifindex, to_pod, Filter::Count)
            .context(Kind::Telemetry, || refused("question for filters", shown))?
            .is_some_and(|found| found.is_ours(from_pod, Filter::Count))
    };
    if is_apart {
        return put;
    }
    for (direction, _) in programs {
        detach(ifindex, *direction)?;
    }
    let msg = format!("{}: an ingress qdisc holds clsact's place", refused("filters", shown));
    Err(Error::new(Kind::Telemetry, msg))
}

/// Adds the qdisc, if it is not there, and one filter.
///
/// # Errors
/// As [`attach`].
pub fn add(
    program: BorrowedFd<'_>,
    ifindex: i32,
    direction: Direction,
    filter: Filter,
) -> Result<()> {
    let shown = ifindex.unsigned_abs();
    sys::clsact_create(ifindex).context(Kind::Telemetry, || refused("clsact qdisc", shown))?;
    put(program, ifindex, direction, filter)
}

/// Puts a program into a filter of ours, in one step where there is one already.
fn put(program: BorrowedFd<'_>, ifindex: i32, direction: Direction, filter: Filter) -> Result<()> {
    let shown = ifindex.unsigned_abs();
    let failed = || refused("filters", shown);
    // The kernel decides whether the place is free.
    let put = match hook(program, ifindex, direction, filter).replace(false).attach() {
        Err(err) if err.kind() == ErrorKind::AlreadyExists => {
            let found =
                Occupant::find(ifindex, direction, filter).context(Kind::Telemetry, failed)?;
            if let Some(other) = found.filter(|found| !found.is_ours(direction, filter)) {
                let in_the_way = other.is_in_the_way(ifindex, direction, filter);
                return Err(Error::new(Kind::Telemetry, in_the_way));
            }
            hook(program, ifindex, direction, filter).attach()
        }
        put => put,
    };
    // The kernel has no other word for a priority that is another kind's, or another protocol's.
    put.map(drop).map_err(|err| match err.kind() {
        ErrorKind::InvalidInput => {
            let (side, priority) = (side(direction), filter as u32);
            let on = name_of(shown).unwrap_or_else(|| shown.to_string());
            let msg = format!(
                "{}; where a filter of others has priority {priority}, with which tc begins where it is given none, give \
                 it another: tc filter show dev {on} {side}",
                failed()
            );
            Error::new(Kind::Telemetry, msg).details(err)
        }
        _ => Error::new(Kind::Telemetry, failed()).details(err),
    })
}

/// Removes our counting filter of one direction; one that is gone, or whose qdisc or device is, is no error. One of
/// others in its place stays.
///
/// # Errors
/// [`Kind::Telemetry`] with the kernel's word.
pub fn detach(ifindex: i32, direction: Direction) -> Result<()> {
    let failed = || refused("removal of the filter", ifindex.unsigned_abs());
    let found =
        Occupant::find(ifindex, direction, Filter::Count).context(Kind::Telemetry, failed)?;
    if !found.is_some_and(|found| found.is_ours(direction, Filter::Count)) {
        return Ok(());
    }
    match bare_hook(ifindex, direction, Filter::Count).detach() {
        Err(err) if !is_absence(&err, ifindex) => Err(err).context(Kind::Telemetry, failed),
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

/// The id of the program behind our filter of one direction; `None` without one, also where others have its place.
///
/// # Errors
/// The kernel's.
pub fn query(ifindex: i32, direction: Direction, filter: Filter) -> io::Result<Option<u32>> {
    let found = Occupant::find(ifindex, direction, filter)?;
    Ok(found.filter(|found| found.is_ours(direction, filter)).and_then(|found| found.id))
}

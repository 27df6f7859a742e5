//! Two filters of our own on a clsact qdisc.
//!
//! Priority and handle are ours alone, so that a filter can be replaced atomically and found again,
//! and others' filters on the same hook are never touched. The qdisc is not removed: it costs
//! nothing, others may use it, and it ends with the link.

use std::os::fd::BorrowedFd;

use libbpf_rs::{ErrorKind, TC_EGRESS, TC_INGRESS, TcAttachPoint, TcHook};

use super::wire::Direction;

/// Behind anything that decides about packets: we only count.
const PRIORITY: u32 = 49_152;
/// "weir" in ASCII.
const HANDLE: u32 = 0x7765_6972;

/// From the host's side a packet of the pod is ingress.
fn attach_point(direction: Direction) -> TcAttachPoint {
    if direction == Direction::DIRECTION_TX { TC_INGRESS } else { TC_EGRESS }
}

fn hook(program: BorrowedFd<'_>, ifindex: i32, direction: Direction) -> TcHook {
    let mut hook = TcHook::new(program);
    hook.ifindex(ifindex)
        .attach_point(attach_point(direction))
        .priority(PRIORITY)
        .handle(HANDLE)
        .replace(true);
    hook
}

/// Adds the qdisc, if it is not there, and the filter of one direction.
pub fn attach(
    program: BorrowedFd<'_>,
    ifindex: i32,
    direction: Direction,
) -> libbpf_rs::Result<()> {
    let mut hook = hook(program, ifindex, direction);
    hook.create()?;
    hook.attach().map(drop)
}

/// Removes our filter of one direction; one that is gone is no error.
pub fn detach(
    program: BorrowedFd<'_>,
    ifindex: i32,
    direction: Direction,
) -> libbpf_rs::Result<()> {
    match hook(program, ifindex, direction).detach() {
        Err(err) if err.kind() != ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

/// The id of the program behind our filter of one direction; `None` without one.
///
/// The kernel says ENOENT without the filter, EINVAL without the qdisc and ENODEV without the
/// device; anything else is no answer.
pub fn query(
    program: BorrowedFd<'_>,
    ifindex: i32,
    direction: Direction,
) -> libbpf_rs::Result<Option<u32>> {
    match hook(program, ifindex, direction).query() {
        Ok(id) => Ok(Some(id)),
        Err(err) if matches!(err.kind(), ErrorKind::PermissionDenied | ErrorKind::OutOfMemory) => {
            Err(err)
        }
        Err(_) => Ok(None),
    }
}

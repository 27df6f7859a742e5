//! The token buckets of pods with a bandwidth limit, in the tc hook of the host side.
//!
//! The queues that delay a pod's packets are the network's (`net::qdisc`). Here is what a queue can't do:
//! to the pod, to drop *before* the counting what the queue would have to drop behind it; from the pod, to
//! hold a pod that has taken its own queue away.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, Program};

use super::{
    clsact::{self, Filter},
    compare::interface,
    load, lock, pin, registry,
    wire::{Direction, LimitKey, RawLimit, bytes_of},
};
use crate::{
    error::{Context, Error, Kind, Result},
    spec::capability::{Bandwidth, Limit},
};

/// How far above the pod's own queue the bucket behind it is: it must never drop what that let pass.
const GUARD_PERCENT: u64 = 110;
/// And how many bytes more at once: the queue's last packet may be of many segments.
const GUARD_BYTES: u32 = 1 << 16;
const NANOSECONDS: u64 = 1_000_000_000;

/// One direction: program, place on the hook, and what the bucket takes.
struct Side {
    direction: Direction,
    program: &'static str,
    filter: Filter,
    limit: Limit,
}

fn sides(bandwidth: &Bandwidth) -> impl Iterator<Item = Side> {
    let to = bandwidth.ingress.map(|limit| Side {
        direction: Direction::DIRECTION_RX,
        program: "weir_limit_to",
        filter: Filter::LimitFirst,
        limit,
    });
    let from = bandwidth.egress.map(|limit| Side {
        direction: Direction::DIRECTION_TX,
        program: "weir_limit_from",
        filter: Filter::LimitLast,
        limit: Limit {
            rate: limit.rate / 100 * GUARD_PERCENT,
            burst: limit.burst.saturating_add(GUARD_BYTES),
        },
    });
    to.into_iter().chain(from)
}

/// Limits what passes the host-side interface `ifindex` (of the caller's network namespace). Loads the
/// programs if no earlier call did.
///
/// # Errors
/// [`Kind::Telemetry`], [`Kind::TryAgain`] where a reload stands still; what was done by then is taken away by
/// [`forget`] and the link's end.
pub fn attach(bpf_dir: &Path, ifindex: u32, bandwidth: &Bandwidth) -> Result<()> {
    libbpf_rs::set_print(None);
    // So that a reload sees this limit whole or not at all.
    let (_shared, limits, sides) = match hold(bpf_dir, bandwidth)? {
        Some(held) => held,
        None => {
            load::ensure(bpf_dir)?;
            hold(bpf_dir, bandwidth)?.ok_or_else(|| unpinned(bpf_dir))?
        }
    };
    let index = signed(ifindex)?;
    for (side, program) in sides {
        let ahead_bits = u128::from(side.limit.ahead()) * 8 * u128::from(NANOSECONDS);
        let value = RawLimit {
            rate: side.limit.rate,
            ahead_ns: u64::try_from(ahead_bits / u128::from(side.limit.rate)).unwrap_or(u64::MAX),
            next_ns: 0,
        };
        limits
            .update(bytes_of(&key(ifindex, side.direction)), bytes_of(&value), MapFlags::ANY)
            .context(Kind::Telemetry, || "the map limits takes no further pod".into())?;
        clsact::add(program.as_fd(), index, side.direction, side.filter)?;
    }
    Ok(())
}

/// The pins that these limits need, and the lock by which no reload swaps them meanwhile; `None` where one is missing.
#[allow(clippy::type_complexity, reason = "three things that are had together, once")]
fn hold(
    bpf_dir: &Path,
    bandwidth: &Bandwidth,
) -> Result<Option<(fs::File, MapHandle, Vec<(Side, OwnedFd)>)>> {
    let Some(shared) = lock::share(&pin::dir(bpf_dir), lock::WAIT)? else { return Ok(None) };
    let Some(limits) = limits(bpf_dir)? else { return Ok(None) };
    let mut hooks = Vec::new();
    for side in sides(bandwidth) {
        let Some(program) = pin::program(bpf_dir, side.program)? else { return Ok(None) };
        hooks.push((side, program));
    }
    Ok(Some((shared, limits, hooks)))
}

/// Puts back what something else took away of what [`attach`] left; says whether anything was missing.
///
/// # Errors
/// [`Kind::Telemetry`].
pub fn mend(bpf_dir: &Path, ifindex: u32, bandwidth: &Bandwidth) -> Result<bool> {
    match verify(bpf_dir, ifindex, bandwidth) {
        Ok(()) => Ok(false),
        Err(err) if err.kind() == Kind::Difference => {
            attach(bpf_dir, ifindex, bandwidth).map(|()| true)
        }
        Err(err) => Err(err),
    }
}

/// Forgets the limits of an interface that is gone, and its filters with it, in the maps of every layout: a
/// reload would carry them over.
///
/// # Errors
/// [`Kind::Telemetry`]; that there is nothing to forget is no error.
pub fn forget(bpf_dir: &Path, ifindex: u32) -> Result<()> {
    libbpf_rs::set_print(None);
    for dir in pin::layouts(bpf_dir)? {
        let limits = match MapHandle::from_pinned_path(dir.join("limits")) {
            Err(err) if err.kind() == ErrorKind::NotFound => continue,
            opened => opened.context(Kind::Telemetry, || {
                format!("can't open the pinned map {}", dir.join("limits").display())
            })?,
        };
        for direction in [Direction::DIRECTION_RX, Direction::DIRECTION_TX] {
            match limits.delete(bytes_of(&key(ifindex, direction))) {
                Err(err) if err.kind() != ErrorKind::NotFound => {
                    return Err(err).context(Kind::Telemetry, || {
                        format!("can't take interface {ifindex} out of the map limits")
                    });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Compares the kernel with what [`attach`] left. Waits half a second for a reload that swaps programs.
///
/// # Errors
/// [`Kind::Difference`] naming what is missing, [`Kind::Telemetry`] when the kernel can't be asked,
/// [`Kind::TryAgain`]: a reload stands still.
pub fn verify(bpf_dir: &Path, ifindex: u32, bandwidth: &Bandwidth) -> Result<()> {
    libbpf_rs::set_print(None);
    let missing = |what: &str| {
        let on = interface(ifindex);
        let msg =
            format!("the {what} of the limit on {on} is missing; weir reconcile puts it back");
        Err(Error::new(Kind::Difference, msg))
    };
    let index = signed(ifindex)?;
    // A reload pins first and swaps then: between the two every filter would look like a stranger's.
    let _shared = lock::share(&pin::dir(bpf_dir), lock::A_MOMENT)?;
    if registry::limits_elsewhere(bpf_dir, ifindex)? {
        // Which programs hold it is the other version's to know, until a reload moves it.
        return Ok(());
    }
    let Some(limits) = limits(bpf_dir)? else { return missing("map") };
    for side in sides(bandwidth) {
        let Some(program) = pin::program(bpf_dir, side.program)? else { return missing("program") };
        let own = Program::id_from_fd(program.as_fd())
            .context(Kind::Telemetry, || format!("can't ask for the program {}", side.program))?;
        let found = clsact::query(index, side.direction, side.filter)
            .context(Kind::Telemetry, || format!("can't ask for the filter on {ifindex}"))?;
        let is_before = |id: u32| pin::before(&pin::dir(bpf_dir), id).exists();
        if !found.is_some_and(|id| id == own || is_before(id)) {
            return missing("filter");
        }
        let entry = limits
            .lookup(bytes_of(&key(ifindex, side.direction)), MapFlags::ANY)
            .context(Kind::Telemetry, || "can't read the map limits".into())?;
        if entry.is_none() {
            return missing("entry in the map limits");
        }
    }
    Ok(())
}

fn key(ifindex: u32, direction: Direction) -> LimitKey {
    LimitKey { ifindex, direction: direction.0 }
}

fn limits(bpf_dir: &Path) -> Result<Option<MapHandle>> {
    pin::map(bpf_dir, "limits")
}

fn unpinned(bpf_dir: &Path) -> Error {
    let msg = format!("no programs are pinned in {}", pin::dir(bpf_dir).display());
    Error::new(Kind::Telemetry, msg)
}

fn signed(ifindex: u32) -> Result<i32> {
    i32::try_from(ifindex).context(Kind::Telemetry, || format!("{ifindex} is no interface index"))
}

//! Hooks one pod to the pinned programs: registers it in the maps, then attaches.
//!
//! The maps know the pod before the first packet can pass, so no packet goes uncounted.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle};

use super::{
    Attached, Choice, Identity, Mode, clsact, load, lock, pin, reader,
    registry::{self, Registry},
    sys, traffic,
    wire::{AttachMode, Direction, RawAttachment, bytes_of, field, from_bytes},
};
use crate::error::{Context, Error, Kind, Result};

/// Both directions with the program for each, as pinned.
pub(super) const PROGRAMS: [(Direction, &str); 2] =
    [(Direction::DIRECTION_TX, "weir_from_pod"), (Direction::DIRECTION_RX, "weir_to_pod")];

/// The pins that an attachment needs.
pub(super) struct Pins {
    pub programs: [(Direction, OwnedFd); 2],
    pub pods: MapHandle,
    pub attachments: MapHandle,
}

impl Pins {
    fn open(bpf_dir: &Path) -> Result<Option<Self>> {
        let [(tx, from), (rx, to)] = PROGRAMS;
        let (Some(from), Some(to)) = (pin::program(bpf_dir, from)?, pin::program(bpf_dir, to)?)
        else {
            return Ok(None);
        };
        let (Some(pods), Some(attachments)) =
            (pin::map(bpf_dir, "pods")?, pin::map(bpf_dir, "attachments")?)
        else {
            return Ok(None);
        };
        Ok(Some(Self { programs: [(tx, from), (rx, to)], pods, attachments }))
    }
}

fn unpinned(bpf_dir: &Path) -> Error {
    let dir = pin::dir(bpf_dir);
    Error::new(Kind::Telemetry, format!("no programs are pinned in {}", dir.display()))
}

/// The pins, and the lock by which no reload swaps them meanwhile.
pub(super) fn hold(bpf_dir: &Path, patience: Duration) -> Result<Option<(fs::File, Pins)>> {
    let Some(shared) = lock::share(&pin::dir(bpf_dir), patience)? else { return Ok(None) };
    Ok(Pins::open(bpf_dir)?.map(|pins| (shared, pins)))
}

/// As [`hold`], after loading what is not there.
pub(super) fn ensure(bpf_dir: &Path) -> Result<(fs::File, Pins)> {
    if let Some(held) = hold(bpf_dir, lock::WAIT)? {
        return Ok(held);
    }
    load::ensure(bpf_dir)?;
    hold(bpf_dir, lock::WAIT)?.ok_or_else(|| unpinned(bpf_dir))
}

/// See [`super::intend`].
pub fn intend(choice: Choice) -> Attached {
    let mode = if choice == Choice::Tcx { Mode::Tcx } else { Mode::Clsact };
    Attached { pod: proposal(0), mode }
}

/// See [`super::attach`].
pub fn attach(
    bpf_dir: &Path,
    choice: Choice,
    ifindex: u32,
    identity: &Identity,
    mut intent: Attached,
    mut journal: impl FnMut(Attached) -> Result<()>,
) -> Result<Attached> {
    libbpf_rs::set_print(None);
    // So that a reload sees this pod whole or not at all.
    let (_shared, pins) = ensure(bpf_dir)?;
    let target = Target { bpf_dir, pins: &pins, ifindex, index: signed(ifindex)? };
    let mode = mode(choice, target.index);
    if mode != intent.mode {
        intent.mode = mode;
        journal(intent)?;
    }
    match target.attach(intent, identity, &mut journal) {
        // A clsact qdisc has no place beside an ingress one; tcx has.
        Err(err) if choice == Choice::Auto && mode == Mode::Clsact => {
            intent.mode = Mode::Tcx;
            journal(intent)?;
            let done = target.attach(intent, identity, &mut journal);
            done.map_err(|also| err.details(format_args!("by tcx: {also}")))
        }
        done => done,
    }
}

/// The interface of an attach.
struct Target<'a> {
    bpf_dir: &'a Path,
    pins: &'a Pins,
    ifindex: u32,
    index: i32,
}

impl Target<'_> {
    /// Registers the pod, then hooks it; on failure neither is left.
    fn attach(
        &self,
        intent: Attached,
        identity: &Identity,
        journal: &mut impl FnMut(Attached) -> Result<()>,
    ) -> Result<Attached> {
        let attached = self.register(intent, identity, journal)?;
        let Attached { pod, mode } = attached;
        let hooked = match mode {
            Mode::Clsact => clsact::attach(&self.pins.programs, self.index),
            Mode::Tcx => attach_tcx(self.bpf_dir, self.pins, self.index, pod)
                .context(Kind::Telemetry, || refused("links", self.ifindex)),
        };
        hooked.map(|()| attached).map_err(|err| {
            let undone = [
                unhook(self.bpf_dir, Some(self.ifindex), &attached),
                forget(self.pins, self.ifindex, pod),
            ];
            let failed = undone.into_iter().filter_map(Result::err);
            failed.fold(err, |err, also| err.details(also))
        })
    }

    /// Enters the pod into both maps under a fresh id: the intended one, unless that is taken.
    fn register(
        &self,
        intent: Attached,
        identity: &Identity,
        journal: &mut impl FnMut(Attached) -> Result<()>,
    ) -> Result<Attached> {
        let (pins, ifindex) = (self.pins, self.ifindex);
        let value = entry(ifindex, identity, intent.mode);
        let attached = claim_id(self.bpf_dir, pins, &value, intent, journal)?;
        if let Err(err) = traffic::enter(pins, ifindex, attached.pod) {
            forget(pins, ifindex, attached.pod)?;
            return Err(err);
        }
        Ok(attached)
    }
}

/// Hooks both programs by links of the pod's.
///
/// A link whose pin was removed, or whose process was killed before it had one, is taken off by a worker of
/// the kernel's some time later. Until then the same program is refused, on an interface that stays: so was
/// an ADD behind another plugin, straight after a DEL on a busy machine.
pub(super) fn attach_tcx(bpf_dir: &Path, pins: &Pins, index: i32, pod: u32) -> io::Result<()> {
    const PAUSE: Duration = Duration::from_millis(5);
    let until = Instant::now() + Duration::from_secs(2);
    pins.programs.iter().try_for_each(|(direction, program)| {
        let pin = pin::link(bpf_dir, pod, *direction);
        loop {
            let attached = sys::tcx_attach(program.as_fd(), index, *direction, &pin);
            let refused =
                attached.as_ref().is_err_and(|err| err.kind() == io::ErrorKind::AlreadyExists);
            if !refused || pin.exists() || Instant::now() >= until {
                return attached;
            }
            thread::sleep(PAUSE);
        }
    })
}

/// A pod's entry in the map `attachments`.
pub(super) fn entry(ifindex: u32, identity: &Identity, mode: Mode) -> RawAttachment {
    RawAttachment {
        created_ns: nanoseconds(now()),
        ifindex,
        mode: match mode {
            Mode::Clsact => AttachMode::ATTACH_CLSACT.0,
            Mode::Tcx => AttachMode::ATTACH_TCX.0,
        },
        pod_namespace: field(&identity.namespace),
        pod_name: field(&identity.pod),
        pod_uid: field(&identity.uid),
        container_id: field(&identity.container_id),
        ifname: field(&identity.ifname),
        ..RawAttachment::default()
    }
}

/// See [`super::detach`].
pub fn detach(
    bpf_dir: &Path,
    container_id: &str,
    attached: &Attached,
    stays: Option<u32>,
) -> Result<()> {
    libbpf_rs::set_print(None);
    let known = registry::all(bpf_dir, lock::WAIT);
    let entries: Vec<_> = known.iter().flatten().map(|known| known.entry(attached.pod)).collect();
    // A call that was killed may have journaled an id that was another pod's already.
    let ours = |entry: &RawAttachment| entry.container_id == field(container_id);
    if entries.iter().flatten().flatten().any(|entry| !ours(entry)) {
        return Ok(());
    }
    end_known(bpf_dir, attached, stays, known)
}

/// See [`super::traces`].
pub fn end(bpf_dir: &Path, attached: &Attached, stays: Option<u32>) -> Result<()> {
    libbpf_rs::set_print(None);
    end_known(bpf_dir, attached, stays, registry::all(bpf_dir, lock::WAIT))
}

fn end_known(
    bpf_dir: &Path,
    attached: &Attached,
    stays: Option<u32>,
    known: Result<Vec<Registry>>,
) -> Result<()> {
    // A filter on an interface that has been given to another pod since is that pod's.
    let pins = Pins::open(bpf_dir);
    let passed_on = match (&pins, stays) {
        (Ok(Some(pins)), Some(ifindex)) => {
            traffic::owner(&pins.pods, ifindex)?.is_some_and(|owner| owner != attached.pod)
        }
        _ => false,
    };
    // Also where the maps can't be read.
    unhook(bpf_dir, stays.filter(|_| !passed_on), attached)?;
    pins?;
    known?.iter().try_for_each(|known| known.mark_ended(attached.pod))
}

/// The entry of an id in the map `attachments`.
pub(super) fn registered(pins: &Pins, pod: u32) -> Result<Option<RawAttachment>> {
    let found = pins.attachments.lookup(bytes_of(&pod), MapFlags::ANY);
    let found = found.context(Kind::Telemetry, || "can't read the map attachments".into())?;
    Ok(found.and_then(|bytes| from_bytes(&bytes)))
}

/// See [`super::find`].
pub fn find(bpf_dir: &Path, container_id: &str, ifname: &str) -> Result<Vec<(u32, Attached)>> {
    libbpf_rs::set_print(None);
    // Compared as the map has them, where a long id is cut.
    let (container_id, ifname) = (field(container_id), field(ifname));
    let mut theirs = Vec::new();
    for known in registry::all(bpf_dir, lock::WAIT)? {
        let living = known.living()?.into_iter();
        let living = living
            .filter(|(_, raw)| raw.container_id == container_id && raw.ifname == ifname)
            .map(|(pod, raw)| (raw.ifindex, Attached { pod, mode: reader::mode(&raw) }));
        theirs.extend(living);
    }
    Ok(theirs)
}

/// A clsact filter behind a tcx program that ends the chain sees nothing, so `auto` joins tcx there.
fn mode(choice: Choice, ifindex: i32) -> Mode {
    match choice {
        Choice::Clsact => Mode::Clsact,
        Choice::Tcx => Mode::Tcx,
        Choice::Auto if PROGRAMS.iter().any(|&(side, _)| sys::tcx_in_use(ifindex, side)) => {
            Mode::Tcx
        }
        Choice::Auto => Mode::Clsact,
    }
}

/// Takes an id nobody has: the kernel's NOEXIST decides, chance only proposes.
fn claim_id(
    bpf_dir: &Path,
    pins: &Pins,
    value: &RawAttachment,
    mut claim: Attached,
    journal: &mut impl FnMut(Attached) -> Result<()>,
) -> Result<Attached> {
    let mut swept = false;
    for attempt in 1..16 {
        let (key, value) = (bytes_of(&claim.pod), bytes_of(value));
        match pins.attachments.update(key, value, MapFlags::NO_EXIST) {
            Ok(()) => return Ok(claim),
            Err(err) if err.kind() == ErrorKind::AlreadyExists => {
                claim.pod = proposal(attempt);
                journal(claim)?;
            }
            // Full: pods that ended make room at once, whether an agent read them or not.
            Err(_) if !swept => {
                swept = true;
                reader::Maps::open(bpf_dir)?.forget_ended()?;
            }
            Err(err) => {
                let msg = "the map attachments takes no further pod";
                return Err(Error::new(Kind::Telemetry, msg).details(err));
            }
        }
    }
    Err(Error::new(Kind::Telemetry, "found no free attachment id in 15 tries"))
}

/// An id to try; never 0: that key means "no pod". Mixed (by splitmix64's finisher) from the time and
/// the process, since the kernel's random bytes are something that can fail.
fn proposal(attempt: u32) -> u32 {
    let process = u64::from(std::process::id()) << 32 | u64::from(attempt);
    let mut bits = nanoseconds(now()) ^ process.rotate_left(20);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    u32::try_from((bits ^ (bits >> 31)) >> 32).unwrap_or(1).max(1)
}

/// Takes both hooks off, the second also where the first can't be; filters where the link stays.
/// See [`super::unhook`]; `stays`: the interface, if it is there.
pub(super) fn unhook(bpf_dir: &Path, stays: Option<u32>, attached: &Attached) -> Result<()> {
    let off = |direction| match (attached.mode, stays) {
        (Mode::Clsact, None) => Ok(()),
        (Mode::Clsact, Some(ifindex)) => clsact::detach(signed(ifindex)?, direction),
        (Mode::Tcx, _) => {
            let pin = pin::link(bpf_dir, attached.pod, direction);
            let failed = || format!("can't remove the pinned link {}", pin.display());
            sys::tcx_detach(&pin).context(Kind::Telemetry, failed)
        }
    };
    let [(tx, _), (rx, _)] = PROGRAMS;
    let (first, second) = (off(tx), off(rx));
    first.and(second)
}

/// Takes back a registration under which nothing was counted.
fn forget(pins: &Pins, ifindex: u32, pod: u32) -> Result<()> {
    let absent_is_done = |done: libbpf_rs::Result<()>| match done {
        Err(err) if err.kind() != ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    };
    absent_is_done(pins.pods.delete(bytes_of(&ifindex)))
        .and(absent_is_done(pins.attachments.delete(bytes_of(&pod))))
        .context(Kind::Telemetry, || format!("can't take interface {ifindex} out of the maps"))
}

pub(super) fn refused(what: &str, ifindex: u32) -> String {
    format!("the kernel refused the {what} on interface {ifindex}")
}

pub(super) fn signed(ifindex: u32) -> Result<i32> {
    i32::try_from(ifindex).context(Kind::Telemetry, || format!("{ifindex} is no interface index"))
}

pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

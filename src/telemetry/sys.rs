//! The bpf(2) calls that libbpf-rs has no wrapper for on pins, tcx links (Linux 6.6) and
//! `BPF_PROG_TEST_RUN`, which it offers only for programs that the same process loaded; and the one
//! whose failure it takes for the end, the reading of a whole map.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::Path,
    time::Duration,
};

use libbpf_rs::{ErrorKind, Link, MapCore, MapHandle, MapType, libbpf_sys};
use nix::errno::Errno;

use super::wire::{Direction, SkBuff, from_bytes};

fn attach_type(direction: Direction) -> libbpf_sys::bpf_attach_type {
    if direction == Direction::DIRECTION_TX {
        libbpf_sys::BPF_TCX_INGRESS
    } else {
        libbpf_sys::BPF_TCX_EGRESS
    }
}

/// Links `program` by tcx to one direction of `ifindex`, behind what is there, and pins the link.
pub fn tcx_attach(
    program: BorrowedFd<'_>,
    ifindex: i32,
    direction: Direction,
    pin: &Path,
) -> io::Result<()> {
    // SAFETY: the program is an open descriptor; no options are passed.
    let fd = unsafe {
        libbpf_sys::bpf_link_create(
            program.as_raw_fd(),
            ifindex,
            attach_type(direction),
            std::ptr::null(),
        )
    };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: the kernel just gave this descriptor to us alone. Unpinned, the link ends with it.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Some(dir) = pin.parent() {
        fs::DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
    }
    self::pin(link.as_fd(), pin)
}

/// Pins a program, map or link that is open.
pub fn pin(object: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
    let path = CString::new(at.as_os_str().as_bytes())?;
    // SAFETY: an open descriptor and a NUL-terminated path that outlives the call.
    let err = unsafe { libbpf_sys::bpf_obj_pin(object.as_raw_fd(), path.as_ptr()) };
    if err < 0 { Err(io::Error::from_raw_os_error(-err)) } else { Ok(()) }
}

/// The ids of the maps that a program uses.
pub fn maps_of(program: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // More than a program may use (linux/bpf_verifier.h, MAX_USED_MAPS).
    let mut ids = vec![0_u32; 64];
    let mut info = libbpf_sys::bpf_prog_info {
        nr_map_ids: 64,
        map_ids: ids.as_mut_ptr() as u64,
        ..Default::default()
    };
    let size = u32::try_from(size_of::<libbpf_sys::bpf_prog_info>());
    let mut size = size.map_err(io::Error::other)?;
    // SAFETY: `info` is initialised and `size` its own; it asks for no array but the ids, which has the room that
    // it says.
    let err = unsafe {
        libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut size)
    };
    if err < 0 {
        return Err(io::Error::from_raw_os_error(-err));
    }
    ids.truncate(info.nr_map_ids as usize);
    Ok(ids)
}

/// Removes a link's pin, and with it the link; one that is gone is no error.
pub fn tcx_detach(pin: &Path) -> io::Result<()> {
    match fs::remove_file(pin) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

/// Opens a pinned link; `None` if there is no such pin.
pub fn open_link(pin: &Path) -> libbpf_rs::Result<Option<Link>> {
    match Link::open(pin) {
        Ok(link) => Ok(Some(link)),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Puts `program` into a link in one step (Linux 5.7; for tcx 6.6).
///
/// # Errors
/// The kernel's; `ENOLINK` where the link's device is gone.
pub fn link_update(link: &Link, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: two open descriptors; no options are passed.
    let err = unsafe {
        libbpf_sys::bpf_link_update(link.as_fd().as_raw_fd(), program.as_raw_fd(), std::ptr::null())
    };
    if err < 0 { Err(io::Error::from_raw_os_error(-err)) } else { Ok(()) }
}

/// Waits until no run of a program that was taken off before this call is under way: a run is an RCU
/// reader, and this command of membarrier(2) waits for all of them (Linux 4.3).
pub fn wait_for_runs() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes three integers and touches no memory of ours.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether somebody's tcx program already sits on one direction of `ifindex`.
pub fn tcx_in_use(ifindex: i32, direction: Direction) -> bool {
    let mut opts = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    // SAFETY: the options are initialised, name their own size, and ask for no arrays.
    let err =
        unsafe { libbpf_sys::bpf_prog_query_opts(ifindex, attach_type(direction), &raw mut opts) };
    // SAFETY: the union of counts is plain integers, zeroed above.
    err == 0 && unsafe { opts.__bindgen_anon_1.prog_cnt } > 0
}

/// Adds a clsact qdisc to `ifindex`. Returns whether it is new: else there was one, or an `ingress`
/// qdisc, which takes the same place and has no egress side.
pub fn clsact_create(ifindex: i32) -> io::Result<bool> {
    let mut hook = libbpf_sys::bpf_tc_hook {
        sz: size_of::<libbpf_sys::bpf_tc_hook>() as libbpf_sys::size_t,
        ifindex,
        attach_point: libbpf_sys::BPF_TC_INGRESS | libbpf_sys::BPF_TC_EGRESS,
        ..Default::default()
    };
    // SAFETY: the hook is initialised and names its own size.
    match unsafe { libbpf_sys::bpf_tc_hook_create(&raw mut hook) } {
        0 => Ok(true),
        err => match io::Error::from_raw_os_error(-err) {
            there if there.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            other => Err(other),
        },
    }
}

/// More than any map of ours holds.
const MAX_ENTRIES: u32 = 1 << 20;

/// Every key, of this size, and every value, of the map's own, of a hash map, each one after the other.
///
/// The kernel fills such a batch in a millisecond.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::InvalidData`] for a foreign map in the place of ours.
pub fn read_all(map: &MapHandle, key_size: usize) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let capacity = map.max_entries();
    let value_size = map.value_size() as usize;
    // Of a per-CPU map the kernel would write a value for each CPU.
    let plain = matches!(map.map_type(), MapType::Hash | MapType::LruHash);
    if !plain || map.key_size() as usize != key_size || capacity > MAX_ENTRIES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not of this layout"));
    }
    let mut keys = vec![0_u8; capacity as usize * key_size];
    let mut values = vec![0_u8; capacity as usize * value_size];
    let count = read_batch(map, key_size, &mut keys, &mut values)?;
    keys.truncate(count * key_size);
    values.truncate(count * value_size);
    Ok((keys, values))
}

/// Every value of a per-CPU array of 64-bit numbers, of the first element on, added up over all CPUs.
///
/// # Errors
/// As [`read_all`].
pub fn read_sums(map: &MapHandle) -> io::Result<Vec<u64>> {
    let capacity = map.max_entries();
    let (key_size, value_size) = (size_of::<u32>(), size_of::<u64>());
    let ours = map.map_type() == MapType::PercpuArray
        && map.key_size() as usize == key_size
        && map.value_size() as usize == value_size;
    if !ours || capacity > MAX_ENTRIES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not of this layout"));
    }
    // The kernel writes a value for each CPU that there may ever be, each in a multiple of eight bytes.
    let value_size = value_size * libbpf_rs::num_possible_cpus().map_err(io::Error::other)?;
    let mut keys = vec![0_u8; capacity as usize * key_size];
    let mut values = vec![0_u8; capacity as usize * value_size];
    let count = read_batch(map, key_size, &mut keys, &mut values)?;
    let values = values.chunks_exact(value_size).take(count);
    let sum = |of_element: &[u8]| {
        of_element.chunks_exact(size_of::<u64>()).filter_map(from_bytes::<u64>).sum()
    };
    Ok(values.map(sum).collect())
}

/// Reads a map in one batch of all it may hold into buffers that have room for that; the number of elements.
fn read_batch(
    map: &MapHandle,
    key_size: usize,
    keys: &mut [u8],
    values: &mut [u8],
) -> io::Result<usize> {
    let opts = libbpf_sys::bpf_map_batch_opts {
        sz: size_of::<libbpf_sys::bpf_map_batch_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    loop {
        let mut count = map.max_entries();
        // Where to go on: a bucket's number, or as long as a key.
        let mut next = vec![0_u8; key_size.max(size_of::<u32>())];
        // SAFETY: both buffers hold `count` elements of the sizes that the kernel has for this map, by what
        // both callers check and allocate; `next` holds any token; there is no batch before, and `opts`
        // names its size.
        let err = unsafe {
            libbpf_sys::bpf_map_lookup_batch(
                map.as_fd().as_raw_fd(),
                std::ptr::null_mut(),
                next.as_mut_ptr().cast(),
                keys.as_mut_ptr().cast(),
                values.as_mut_ptr().cast(),
                &raw mut count,
                &raw const opts,
            )
        };
        let errno = Errno::from_raw(-err);
        // ENOENT says that there is no next batch.
        if err == 0 || errno == Errno::ENOENT {
            return Ok(count as usize);
        }
        if errno != Errno::EINTR {
            return Err(errno.into());
        }
    }
}

/// What a test run sees besides the frame.
#[derive(Debug, Clone, Copy, Default)]
pub struct Skb {
    /// The interface (of the caller's network namespace) that the frame passes; 0 is loopback.
    pub ifindex: u32,
    /// GSO segments; 0 and 1 are a plain frame.
    pub gso_segs: u32,
}

/// Runs a tc `program` on an Ethernet `frame` `repeat` times; the mean time of one run.
///
/// The kernel runs it with softirqs off, as on the packet path, and takes frames of 14 bytes up to
/// about 3.7 kB.
///
/// # Errors
/// The kernel's: no permission, a frame too short or long, an unknown interface.
pub fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    skb: Skb,
    repeat: u32,
) -> io::Result<Duration> {
    run(program, frame, skb, repeat, &mut []).map(|ran| ran.mean)
}

/// What became of a frame that a tc program was run on once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// What the program returned: an action of tc's, -1 for none.
    pub verdict: i32,
    /// The frame behind the program.
    pub frame: Vec<u8>,
}

/// Runs a tc `program` on an Ethernet `frame` once, as [`test_run`] does.
///
/// # Errors
/// As [`test_run`]; `ENOSPC` for a program that made the frame longer than a page.
pub fn test_pass(program: BorrowedFd<'_>, frame: &[u8], skb: Skb) -> io::Result<Passed> {
    let mut out = vec![0; 4096];
    let ran = run(program, frame, skb, 1, &mut out)?;
    out.truncate(ran.len);
    Ok(Passed { verdict: ran.verdict, frame: out })
}

struct Ran {
    mean: Duration,
    verdict: i32,
    /// Of the frame behind the program, whose bytes are in the buffer that was given for it.
    len: usize,
}

fn run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    skb: Skb,
    repeat: u32,
    out: &mut [u8],
) -> io::Result<Ran> {
    let mut context = SkBuff { ifindex: skb.ifindex, gso_segs: skb.gso_segs, ..Default::default() };
    let len = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
    let mut opts = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: frame.as_ptr().cast(),
        data_size_in: len(frame.len())?,
        ctx_in: (&raw mut context).cast(),
        // Up to the first padding, which the kernel wants to be zero and Rust leaves as it is.
        ctx_size_in: len(std::mem::offset_of!(SkBuff, tstamp_type))?,
        repeat: i32::try_from(repeat).map_err(io::Error::other)?,
        ..Default::default()
    };
    if !out.is_empty() {
        opts.data_out = out.as_mut_ptr().cast();
        opts.data_size_out = len(out.len())?;
    }
    // SAFETY: every pointer is to a live buffer whose length stands beside it; only `out` and `opts`
    // itself are written to, and both are borrowed here alone.
    let err = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut opts) };
    if err < 0 {
        return Err(io::Error::from_raw_os_error(-err));
    }
    Ok(Ran {
        mean: Duration::from_nanos(u64::from(opts.duration)),
        verdict: opts.retval.cast_signed(),
        len: opts.data_size_out as usize,
    })
}

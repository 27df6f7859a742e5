//! Live records: what the programs tell of each exchange while somebody listens.
//!
//! They go through a ring that may lose some when it is full, which the kernel side counts
//! (`STAT_FULL_RECORDS`). Nothing that is exported as a total depends on them.

use std::{io, path::Path, time::Duration};

use libbpf_rs::{MapCore, MapFlags, MapHandle, RingBuffer, RingBufferBuilder};
use nix::time::{ClockId, clock_gettime};

use super::{
    pin,
    wire::{RawAttachment, Record, Stat, bytes_of, from_bytes, text},
};
use crate::error::{Context, Kind, Result};

/// Elements that are taken from the ring at a time: an exchange is one, with one or more for its head.
pub const AT_ONCE: usize = 4_096;

/// The ring of this node's pods. One process at a time may read it: each record is had once.
pub struct Records<'sink> {
    ring: RingBuffer<'sink>,
    listeners: MapHandle,
    stats: MapHandle,
    attachments: MapHandle,
}

impl std::fmt::Debug for Records<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl<'sink> Records<'sink> {
    /// Opens the pinned ring; `sink` gets each record, and the bytes of the stream that came with
    /// it.
    ///
    /// # Errors
    /// [`Kind::Telemetry`]: no pod was ever attached, or no permission.
    pub fn open(bpf_dir: &Path, mut sink: impl FnMut(&Record, &[u8]) + 'sink) -> Result<Self> {
        let map = |name| pin::map(bpf_dir, name)?.ok_or_else(|| pin::absent(bpf_dir));
        let (records, listeners) = (map("records")?, map("listeners")?);
        let (stats, attachments) = (map("stats")?, map("attachments")?);
        let failed = || "can't map the ring of live records".into();
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&records, move |bytes: &[u8]| {
                if let Some((record, data)) = decode(bytes) {
                    sink(&record, data);
                }
                0
            })
            .context(Kind::Telemetry, failed)?;
        let ring = builder.build().context(Kind::Telemetry, failed)?;
        Ok(Self { ring, listeners, stats, attachments })
    }

    /// Asks for records from now on, for `time`. The wish ends by itself, so that nobody goes on
    /// paying for a listener who was killed.
    ///
    /// # Errors
    /// [`Kind::Telemetry`]: the map can't be written.
    pub fn listen(&self, time: Duration) -> Result<()> {
        let until = monotonic()?.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.until(until)
    }

    /// Asks for no more records.
    ///
    /// # Errors
    /// [`Kind::Telemetry`]: the map can't be written.
    pub fn cease(&self) -> Result<()> {
        self.until(0)
    }

    fn until(&self, monotonic_ns: u64) -> Result<()> {
        self.listeners
            .update(bytes_of(&0u32), bytes_of(&monotonic_ns), MapFlags::ANY)
            .context(Kind::Telemetry, || "can't write the map listeners".into())
    }

    /// How many records the ring had no room for, since the programs were loaded.
    ///
    /// # Errors
    /// [`Kind::Telemetry`]: the map can't be read.
    pub fn lost(&self) -> Result<u64> {
        let values = self
            .stats
            .lookup_percpu(bytes_of(&Stat::STAT_FULL_RECORDS.0), MapFlags::ANY)
            .context(Kind::Telemetry, || "can't read the map stats".into())?;
        Ok(values.iter().flatten().filter_map(|bytes| from_bytes::<u64>(bytes)).sum())
    }

    /// Namespace and name of the pod with this attachment id, if there is any.
    ///
    /// # Errors
    /// [`Kind::Telemetry`]: the map can't be read.
    pub fn pod(&self, id: u32) -> Result<Option<(String, String)>> {
        let found = self
            .attachments
            .lookup(bytes_of(&id), MapFlags::ANY)
            .context(Kind::Telemetry, || "can't read the map attachments".into())?;
        let raw = found.and_then(|bytes| from_bytes::<RawAttachment>(&bytes));
        Ok(raw.map(|raw| (text(&raw.pod_namespace), text(&raw.pod_name))))
    }

    /// Hands what is in the ring to the sink, [`AT_ONCE`] elements at most: while more come than it can take
    /// there is no end of them. Returns how many there were. Never waits: the programs wake nobody, since
    /// that costs ten times the record.
    ///
    /// # Errors
    /// [`Kind::Telemetry`].
    pub fn consume(&self) -> Result<usize> {
        let count = self.ring.consume_raw_n(AT_ONCE);
        usize::try_from(count)
            .map_err(|_| io::Error::from_raw_os_error(-count))
            .context(Kind::Telemetry, || "can't read the live records".into())
    }
}

/// An element of the ring: the record, and the bytes that came with it.
pub(crate) fn decode(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let record = from_bytes::<Record>(bytes)?;
    let data = bytes.get(size_of::<Record>()..).unwrap_or_default();
    Some((record, data.get(..record.len.into()).unwrap_or_default()))
}

/// The clock of [`Record::at_ns`], now.
///
/// # Errors
/// [`Kind::Telemetry`]: the kernel has no such clock.
pub fn monotonic() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .context(Kind::Telemetry, || "can't read the monotonic clock".into())?;
    let nanoseconds = Duration::from(now).as_nanos();
    Ok(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

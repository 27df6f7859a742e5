//! Who reads the records, on a processor of its own.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use libbpf_rs::{MapHandle, PerfBufferBuilder, RingBuffer, RingBufferBuilder};
use nix::time::{ClockId, clock_gettime};

use crate::{Result, writer};

/// A way to hand records over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The ring, whose reader the kernel wakes whenever it had read all.
    Default,
    /// The ring, whose reader looks once a millisecond.
    Batched,
    /// The ring, whose reader is woken at most once in 100 us.
    Adaptive,
    /// The ring, whose reader never sleeps.
    Spinning,
    /// The perf buffer, whose reader is woken by each record.
    Perf,
}

/// How long the batched reader sleeps.
const SLEEP: Duration = Duration::from_millis(1);
/// How long a reader waits to be woken, before it looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(50);
/// Pages of the perf buffer, of 4 KiB: as large for its one busy processor as the ring is.
const PAGES: usize = 256;

impl Way {
    pub const ALL: [Self; 5] =
        [Self::Perf, Self::Default, Self::Batched, Self::Adaptive, Self::Spinning];

    pub fn label(self) -> &'static str {
        match self {
            Self::Default => "ring, default wake-ups",
            Self::Batched => "ring, batched: read once in 1 ms",
            Self::Adaptive => "ring, a wake-up in 100 us at most",
            Self::Spinning => "ring, latency: the reader spins",
            Self::Perf => "perf buffer",
        }
    }

    /// The program that writes so.
    pub fn program(self) -> &'static str {
        match self {
            Self::Default => "ring_default",
            Self::Batched | Self::Spinning => "ring_batched",
            Self::Adaptive => "ring_adaptive",
            Self::Perf => "perf",
        }
    }

    /// The map that it writes to.
    pub fn map(self) -> &'static str {
        if self == Self::Perf { "events" } else { "ring" }
    }
}

/// What was read.
pub struct Read {
    /// From the program to the callback, in nanoseconds, of each record.
    pub latencies: Vec<u32>,
    /// What the reader used of its processor.
    pub cpu: Duration,
}

/// A reader at work.
pub struct Reading {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Result<Read>>,
}

impl Reading {
    /// Lets it read what is there, and ends it.
    pub fn finish(self) -> Result<Read> {
        self.end.store(true, Relaxed);
        self.thread.join().map_err(|_| "the reader died")?
    }
}

/// Starts a reader; returns when it reads.
pub fn start(way: Way, map: MapHandle, most: usize) -> Result<Reading> {
    let end = Arc::new(AtomicBool::new(false));
    let (ready, reads) = mpsc::channel();
    let thread = {
        let end = Arc::clone(&end);
        thread::spawn(move || read(way, &map, most, &end, &ready))
    };
    let reading = Reading { end, thread };
    // A reader that fails before it is ready says why when it is joined.
    match reads.recv() {
        Ok(()) => Ok(reading),
        Err(_) => Err(reading.finish().err().unwrap_or_else(|| "the reader ended".into())),
    }
}

fn read(
    way: Way,
    map: &MapHandle,
    most: usize,
    end: &AtomicBool,
    ready: &mpsc::Sender<()>,
) -> Result<Read> {
    writer::stay_on(writer::CPU + 1)?;
    let latencies = Rc::new(RefCell::new(Vec::with_capacity(most)));
    let taker = Rc::clone(&latencies);
    let take = move |record: &[u8]| {
        let Some(time) = record.first_chunk() else { return };
        let late = monotonic().saturating_sub(u64::from_ne_bytes(*time));
        taker.borrow_mut().push(u32::try_from(late).unwrap_or(u32::MAX));
    };
    let begun = cpu()?;
    if way == Way::Perf {
        let buffer = PerfBufferBuilder::new(map).pages(PAGES);
        let buffer = buffer.sample_cb(|_, record: &[u8]| take(record)).build()?;
        ready.send(())?;
        while !end.load(Relaxed) {
            buffer.poll(PATIENCE)?;
        }
        buffer.consume()?;
    } else {
        let mut builder = RingBufferBuilder::new();
        builder.add(map, |record| {
            take(record);
            0
        })?;
        let ring = builder.build()?;
        // What an earlier cell left.
        ring.consume()?;
        latencies.borrow_mut().clear();
        ready.send(())?;
        while !end.load(Relaxed) {
            look(way, &ring)?;
        }
        ring.consume()?;
    }
    let cpu = cpu()?.saturating_sub(begun);
    let latencies = latencies.take();
    Ok(Read { latencies, cpu })
}

fn look(way: Way, ring: &RingBuffer<'_>) -> Result<()> {
    match way {
        Way::Default | Way::Adaptive | Way::Perf => ring.poll(PATIENCE)?,
        Way::Batched => {
            thread::sleep(SLEEP);
            ring.consume()?;
        }
        Way::Spinning => {
            // The end is asked for now and then: that, too, takes time.
            let until = Instant::now() + SLEEP;
            while Instant::now() < until {
                ring.consume()?;
            }
        }
    }
    Ok(())
}

/// The clock of `bpf_ktime_get_ns`, in nanoseconds.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or_default()
}

/// What the calling thread used.
fn cpu() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

//! Who makes the records: a program, run once for each at its time.

use std::{
    hint,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use libbpf_rs::Program;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use weir::telemetry::sys::{Skb, test_run};

use crate::Result;

/// Its processor; the reader's is the next one.
pub const CPU: usize = 0;
/// The least that the kernel takes for a frame.
const FRAME: [u8; 64] = [0; 64];

/// What was written.
pub struct Written {
    /// How many.
    pub records: u64,
    /// In what time.
    pub took: Duration,
    /// What one run of the program took, on average.
    pub each: Duration,
}

impl Written {
    /// How many a second they were: fewer than asked for, where a record takes too long.
    pub fn a_second(&self) -> f64 {
        self.records as f64 / self.took.as_secs_f64()
    }
}

/// Keeps the calling thread on one processor.
pub fn stay_on(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)
        .map_err(|err| format!("two processors are needed: {err}").into())
}

/// Writes so many a second for that time, at even distances.
pub fn write(program: &Program<'_>, rate: u32, time: Duration) -> Result<Written> {
    stay_on(CPU)?;
    let (mut records, mut running) = (0, Duration::ZERO);
    let begun = Instant::now();
    let distance = Duration::from_secs(1) / rate;
    let mut due = begun;
    while begun.elapsed() < time {
        while Instant::now() < due {
            hint::spin_loop();
        }
        running += test_run(program.as_fd(), &FRAME, Skb::default(), 1)?;
        records += 1;
        // Who is late doesn't hurry: the distance is what matters to the reader.
        due = (due + distance).max(Instant::now().checked_sub(distance).unwrap_or(due));
    }
    let each = running / u32::try_from(records)?;
    Ok(Written { records, took: begun.elapsed(), each })
}

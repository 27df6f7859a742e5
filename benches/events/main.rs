//! Records from the kernel to user space: the ring buffer, woken in four ways, beside the perf buffer.
//!
//! ```text
//! cargo bench --bench events [-- SECONDS]     (root; 2 seconds a cell and turn unless said)
//! ```
//!
//! One processor runs a program once a record, evenly spaced, the other one reads. Both are kept busy
//! by nothing else that the bench knows of. The cells of one rate follow each other, in turns, so that their
//! ratios compare; absolute figures of different machines don't.

#[path = "../program.rs"]
mod program;
mod reader;
#[path = "../report/report.rs"]
#[allow(dead_code, reason = "it is of all benches")]
mod report;
mod writer;

use std::{process::ExitCode, time::Duration};

use libbpf_rs::{MapCore, MapHandle, Object};

use reader::{Read, Way};
use report::{Row, Rows, row::median};
use writer::Written;

/// Whatever goes wrong ends the bench.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const RATES: [u32; 3] = [10_000, 100_000, 500_000];
const SECONDS: u64 = 2;
const TURNS: usize = 3;

fn main() -> ExitCode {
    report::bench("events", run)
}

fn run(rows: &mut Rows) -> Result<()> {
    let time = Duration::from_secs(report::number("SECONDS", SECONDS)?);
    let object = program::load("events/events.bpf.c")?;
    for rate in RATES {
        let mut cells = Way::ALL.map(Cell::new);
        for turn in 1..=TURNS {
            for cell in &mut cells {
                let label = cell.way.label();
                eprintln!("events: {rate} records a second by {label}, turn {turn} of {TURNS}");
                let (written, read) = measure(&object, cell.way, rate, time)?;
                cell.add(&written, &read);
            }
        }
        for row in told(rate, &cells)? {
            rows.add(row)?;
        }
    }
    Ok(())
}

/// One way at one rate.
fn measure(object: &Object, way: Way, rate: u32, time: Duration) -> Result<(Written, Read)> {
    let program = object.progs().find(|program| program.name() == way.program());
    let program = program.ok_or_else(|| format!("no program {}", way.program()))?;
    let map = object.maps().find(|map| map.name() == way.map());
    let map = MapHandle::try_from(&map.ok_or_else(|| format!("no map {}", way.map()))?)?;
    let most = usize::try_from(u64::from(rate) * (time.as_secs() + 1))?;
    let reading = reader::start(way, map, most)?;
    let written = writer::write(&program, rate, time)?;
    Ok((written, reading.finish()?))
}

/// What the turns of one way at one rate showed.
struct Cell {
    way: Way,
    /// The reader's share of a processor, in percent, by turn.
    shares: Vec<f64>,
    /// What a record took the program, in nanoseconds, by turn.
    producer: Vec<f64>,
    /// Records a second, by turn.
    rates: Vec<f64>,
    /// Microseconds, of each record.
    latencies: Vec<f64>,
    written: u64,
    lost: u64,
}

impl Cell {
    fn new(way: Way) -> Self {
        let (shares, producer, rates, latencies) = Default::default();
        Self { way, shares, producer, rates, latencies, written: 0, lost: 0 }
    }

    fn add(&mut self, written: &Written, read: &Read) {
        self.shares.push(read.cpu.as_secs_f64() / written.took.as_secs_f64() * 1e2);
        self.producer.push(written.each.as_nanos() as f64);
        self.rates.push(written.a_second());
        self.latencies.extend(read.latencies.iter().map(|nanos| f64::from(*nanos) / 1e3));
        self.written += written.records;
        self.lost += written.records.saturating_sub(read.latencies.len() as u64);
    }
}

/// The rows of one rate, each beside the perf buffer's.
fn told(rate: u32, cells: &[Cell]) -> Result<Vec<Row>> {
    let perf = cells.iter().find(|cell| cell.way == Way::Perf).ok_or("no perf buffer")?;
    let mut rows = Vec::new();
    type Of = fn(&Cell) -> &[f64];
    let shares: Of = |cell| &cell.shares;
    let producer: Of = |cell| &cell.producer;
    let latencies: Of = |cell| &cell.latencies;
    for (what, unit, of) in [
        ("the reader's processor", "%", shares),
        ("a record's writing", "ns", producer),
        ("latency", "us", latencies),
    ] {
        let base = median(of(perf)).ok_or("the perf buffer handed nothing over")?;
        for cell in cells {
            let name = format!("{rate}/s, {what}: {}", cell.way.label());
            let mut row = Row::of(name, unit, of(cell))?;
            if cell.way != Way::Perf {
                row = row.ratio(perf.way.label(), base);
            }
            if unit == "%" && cell.way == Way::Batched && rate == 100_000 {
                row = row.at_most(1.0 / 8.0);
            }
            rows.push(row);
        }
    }
    for cell in cells {
        let row = Row::of(format!("{rate}/s, written: {}", cell.way.label()), "1/s", &cell.rates)?;
        rows.push(row.ratio("what was asked for", f64::from(rate)));
    }
    for cell in cells {
        let name = format!("{rate}/s, lost: {}", cell.way.label());
        let row = Row::one(name, "records", cell.lost as f64);
        let row = row.ratio("what was written", cell.written as f64);
        // The perf buffer may lose what it can't hold; it is what the ring is held against.
        rows.push(if cell.way == Way::Batched { row.exactly(0.0) } else { row });
    }
    Ok(rows)
}

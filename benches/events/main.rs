//! Records from the kernel to user space: the ring buffer, woken in four ways, beside the perf buffer.
//!
//! ```text
//! cargo bench --bench events [-- SECONDS]     (root; 2 seconds a cell unless said)
//! ```
//!
//! One processor runs a program once a record, evenly spaced, the other one reads. Both are kept busy
//! by nothing else that the bench knows of. The cells of one rate follow each other, so that their ratios
//! compare; absolute figures of different machines don't.

mod reader;
mod writer;

use std::{env, fmt::Write as _, fs, io::Write, path::PathBuf, process::ExitCode, time::Duration};

use libbpf_rs::{MapCore, MapHandle, Object, ObjectBuilder};

use reader::{Read, Way};
use writer::Written;

/// Whatever goes wrong ends the bench.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const RATES: [u32; 3] = [10_000, 100_000, 500_000];
const SECONDS: u64 = 2;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("events bench: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    // Cargo itself adds "--bench".
    let seconds = match env::args().skip(1).find(|arg| arg != "--bench") {
        Some(seconds) => seconds.parse().map_err(|err| format!("SECONDS {seconds:?}: {err}"))?,
        None => SECONDS,
    };
    let object = load()?;
    let mut table = Table::new();
    for rate in RATES {
        for way in Way::ALL {
            eprintln!("events: {rate} records a second by {}", way.label());
            let (written, read) = cell(&object, way, rate, Duration::from_secs(seconds))?;
            table.add(way, rate, &written, read)?;
        }
    }
    std::io::stdout().write_all(table.finish()?.as_bytes())?;
    Ok(())
}

/// Compiles the program as build.rs does Weir's, and loads it.
fn load() -> Result<Object> {
    let dir = env::temp_dir().join(format!("weir-events-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let built = compile(dir.join("events.bpf.o"));
    let loaded = built.and_then(|file| Ok(ObjectBuilder::default().open_file(file)?.load()?));
    fs::remove_dir_all(&dir)?;
    loaded
}

fn compile(to: PathBuf) -> Result<PathBuf> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/events/events.bpf.c");
    let multiarch = format!("/usr/include/{}-linux-gnu", env::consts::ARCH);
    let output = std::process::Command::new(env!("WEIR_CLANG"))
        .args(["-g", "-O2", "-target", "bpf", "-mcpu=v3", "-I", env!("WEIR_LIBBPF_INCLUDE")])
        .args(["-I", &multiarch, "-c", source, "-o"])
        .arg(&to)
        .output()
        .map_err(|err| format!("{}: {err}", env!("WEIR_CLANG")))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(to)
}

/// One way at one rate.
fn cell(object: &Object, way: Way, rate: u32, time: Duration) -> Result<(Written, Read)> {
    let program = object.progs().find(|program| program.name() == way.program());
    let program = program.ok_or_else(|| format!("no program {}", way.program()))?;
    let map = object.maps().find(|map| map.name() == way.map());
    let map = MapHandle::try_from(&map.ok_or_else(|| format!("no map {}", way.map()))?)?;
    let most = usize::try_from(u64::from(rate) * (time.as_secs() + 1))?;
    let reading = reader::start(way, map, most)?;
    let written = writer::write(&program, rate, time)?;
    Ok((written, reading.finish()?))
}

/// What is printed.
struct Table {
    text: String,
    /// The reader's share of a processor, of each cell.
    shares: Vec<(Way, u32, f64)>,
}

impl Table {
    fn new() -> Self {
        let mut text = String::from("records of 64 bytes from one processor to another\n\n");
        let heads = ["reader", "producer", "p50", "p99"];
        text += &format!("{:>8} {:<36}", "a second", "");
        for head in heads {
            text += &format!("{head:>11}");
        }
        text += &format!("{:>10}\n", "lost");
        Self { text, shares: Vec::new() }
    }

    fn add(&mut self, way: Way, rate: u32, written: &Written, mut read: Read) -> Result<()> {
        read.latencies.sort_unstable();
        let micros = |percent: usize| {
            let rank = (read.latencies.len() * percent).div_ceil(100).max(1);
            let nanos = read.latencies.get(rank - 1).copied().unwrap_or_default();
            format!("{:.1} us", f64::from(nanos) / 1e3)
        };
        let share = read.cpu.as_secs_f64() / written.took.as_secs_f64();
        self.shares.push((way, rate, share));
        writeln!(
            self.text,
            "{:>8.0} {:<36}{:>11}{:>11}{:>11}{:>11}{:>10}",
            written.a_second(),
            way.label(),
            format!("{:.1} %", share * 1e2),
            format!("{} ns", written.each.as_nanos()),
            micros(50),
            micros(99),
            written.records.saturating_sub(read.latencies.len() as u64),
        )?;
        Ok(())
    }

    /// With what is aimed at.
    fn finish(mut self) -> Result<String> {
        let share = |way: Way| {
            let found = self.shares.iter().find(|(of, rate, _)| *of == way && *rate == 100_000);
            found.map(|(_, _, share)| *share).ok_or("a cell is missing")
        };
        let ratio = share(Way::Batched)? / share(Way::Perf)?;
        let met = if ratio <= 1.0 / 8.0 { "met" } else { "missed" };
        writeln!(
            self.text,
            "\nreader of the ring, batched, at 100,000 a second: {ratio:.3} x that of the perf buffer; \
             at most 0.125: {met}"
        )?;
        Ok(self.text)
    }
}

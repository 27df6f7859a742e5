//! What each pod, series and connection more costs the agent and the kernel: time, CPU and memory.

use std::{
    mem::offset_of,
    time::{Duration, Instant},
};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use nix::time::{ClockId, clock_gettime};
use weir::telemetry::{pin, reader::Maps, wire::Conn};

use crate::{
    Result,
    fill::Pod,
    node::{Agent, Node},
    process,
    report::{
        Row, Rows,
        row::{median, millis},
    },
    resident, scrape, scrapes, series, start, traffic,
};

/// Has a pod count.
type Fill = fn(&Pod, &Node) -> Result<()>;
/// So many pods, and what they have counted; some as many as a node counts, but for a few.
const SIZES: [(usize, Fill); 5] = [
    (10, traffic::usual),
    (100, traffic::usual),
    (250, traffic::usual),
    (1_000, traffic::usual),
    (250, traffic::varied),
];
/// Which of these tell what a pod more costs: beyond them budgets fold.
const LEAST: usize = 0;
const MOST: usize = 2;
/// And which has connections, too.
const CONNECTED: usize = 3;
/// So many of the connections that a node follows.
const CONNECTIONS: [u32; 3] = [0, 8_192, 32_768];
/// Scrapes, and sweeps.
const ROUNDS: usize = 7;

/// `TCP_ESTABLISHED` of bpf/conn.h: the sweep ends others within two minutes.
const ESTABLISHED: u32 = 2;

/// What the agent was at one size.
struct Size {
    pods: usize,
    series: usize,
    /// Milliseconds of each scrape.
    scrapes: Vec<f64>,
    /// Milliseconds of CPU, of one.
    cpu: f64,
    bytes: usize,
    /// Mebibytes.
    memory: f64,
}

/// Measures and tells.
pub fn tell(rows: &mut Rows) -> Result<()> {
    let mut sizes = Vec::new();
    for (count, fill) in SIZES {
        eprintln!("agent: growth, {count} pods");
        let node = Node::new(&format!("growth{}", sizes.len()));
        let pods = Pod::many(&node, count);
        for pod in &pods {
            fill(pod, &node)?;
        }
        let state = node.path("state");
        let state = state.to_str().ok_or("a directory that is no text")?;
        let agent = start(&node, &["--listen", "127.0.0.1:9920", "--state-dir", state]);
        let size = size(count, &agent)?;
        for row in size.rows()? {
            rows.add(row)?;
        }
        sizes.push(size);
        if sizes.len() == CONNECTED + 1 {
            let pod = pods.first().ok_or("there is no pod")?;
            for row in connections(&node, pod)?.into_iter().chain(maps()?) {
                rows.add(row)?;
            }
        }
    }
    for row in more(&sizes[LEAST], &sizes[MOST])? {
        rows.add(row)?;
    }
    Ok(())
}

impl Size {
    fn rows(&self) -> Result<[Row; 4]> {
        let name = |what: &str| format!("{what}: {} pods, {} series", self.pods, self.series);
        Ok([
            Row::of(name("scrape"), "ms", &self.scrapes)?,
            Row::one(name("CPU of a scrape"), "ms", self.cpu),
            Row::one(name("its size"), "kB", self.bytes as f64 / 1e3),
            Row::one(name("RSS"), "MiB", self.memory),
        ])
    }
}

fn size(pods: usize, agent: &Agent) -> Result<Size> {
    let series = series(&scrape("/metrics", "text/plain")?);
    let before = process::time(agent.pid())?;
    let (took, bytes) = scrapes("/metrics", "text/plain", ROUNDS)?;
    let cpu = millis(process::time(agent.pid())?.saturating_sub(before)) / ROUNDS as f64;
    Ok(Size { pods, series, scrapes: took, cpu, bytes, memory: resident(agent)? })
}

/// What one more costs, between two sizes.
fn more(few: &Size, many: &Size) -> Result<Vec<Row>> {
    let scrape = |size: &Size| median(&size.scrapes).ok_or("there was no scrape");
    let waited = (scrape(many)? - scrape(few)?) * 1e3;
    let used = (many.cpu - few.cpu) * 1e3;
    let memory = (many.memory - few.memory) * 1024.0;
    let mut rows = Vec::new();
    for (what, number) in [("pod", many.pods - few.pods), ("series", many.series - few.series)] {
        let each = |of: f64| of / number as f64;
        let name = |of: &str| format!("a {what} more, {} to {} pods: {of}", few.pods, many.pods);
        rows.push(Row::one(name("scrape"), "us", each(waited)));
        rows.push(Row::one(name("CPU of a scrape"), "us", each(used)));
        rows.push(Row::one(name("RSS"), "KiB", each(memory)));
    }
    Ok(rows)
}

/// What the sweep, which the agent runs each second, takes with so many connections, and a connection.
fn connections(node: &Node, pod: &Pod) -> Result<Vec<Row>> {
    let dir = node.bpf_dir();
    let map = MapHandle::from_pinned_path(pin::dir(&dir).join("conns"))?;
    let maps = Maps::open(&dir)?;
    let mut rows: Vec<Row> = Vec::new();
    let mut there = 0;
    for count in CONNECTIONS {
        for number in there..count {
            add_connection(&map, pod.id, number)?;
        }
        there = count;
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            maps.sweep(Duration::from_secs(60))?;
            took.push(millis(begun.elapsed()));
        }
        let followed = map.keys().count();
        rows.push(Row::of(format!("sweep, once a second: {followed} connections"), "ms", &took)?);
    }
    if let (Some(none), Some(all)) = (rows.first(), rows.last()) {
        let each = (all.median - none.median) * 1e6 / f64::from(there);
        rows.push(Row::one("a connection more: sweep", "ns", each));
    }
    Ok(rows)
}

/// One that is established and not idle, under a key of its own.
fn add_connection(map: &MapHandle, pod: u32, number: u32) -> Result<()> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    let now = u64::try_from(now.as_nanos())?;
    let mut key = vec![0; map.key_size() as usize];
    key[..4].copy_from_slice(&number.to_ne_bytes());
    let mut value = vec![0; map.value_size() as usize];
    value[offset_of!(Conn, pod)..][..4].copy_from_slice(&pod.to_ne_bytes());
    value[offset_of!(Conn, seen_ns)..][..8].copy_from_slice(&now.to_ne_bytes());
    value[offset_of!(Conn, state)..][..4].copy_from_slice(&ESTABLISHED.to_ne_bytes());
    Ok(map.update(&key, &value, MapFlags::ANY)?)
}

/// The maps as the agent tells of them: they have their size from the start.
fn maps() -> Result<Vec<Row>> {
    let page = String::from_utf8(scrape("/metrics", "text/plain")?)?;
    let number = |family: &str, map: &str| -> Option<f64> {
        let start = format!("{family}{{map=\"{map}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&*start))?.parse().ok()
    };
    let start = "weir_map_bytes{map=\"";
    let names = page.lines().filter_map(|line| line.strip_prefix(start)?.split('"').next());
    let mut rows = Vec::new();
    let mut sum = 0.0;
    for name in names {
        let bytes = number("weir_map_bytes", name).ok_or("no bytes")?;
        sum += bytes;
        let Some(capacity) = number("weir_map_capacity", name) else {
            rows.push(Row::one(format!("map {name}: all"), "kB", bytes / 1e3));
            continue;
        };
        let what = format!("map {name}, {capacity} elements");
        rows.push(Row::one(format!("{what}: all"), "kB", bytes / 1e3));
        rows.push(Row::one(format!("{what}: each"), "bytes", bytes / capacity));
    }
    rows.push(Row::one("all maps", "kB", sum / 1e3));
    Ok(rows)
}

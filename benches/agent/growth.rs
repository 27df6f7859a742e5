//! What each pod, series and connection more costs the agent and the kernel: time, CPU and memory.

use std::{
    fmt::Write as _,
    fs,
    mem::offset_of,
    time::{Duration, Instant},
};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use nix::time::{ClockId, clock_gettime};
use weir::telemetry::{pin, reader::Maps, wire::Conn};

use crate::{
    APART, Result, fill,
    fill::Pod,
    node::{Agent, Node},
    resident, scrape, start,
};

/// So many pods; the last as many as a node counts, but for a few.
const PODS: [usize; 4] = [10, 100, 250, 1_000];
/// So many of the connections that a node follows.
const CONNECTIONS: [u32; 3] = [0, 8_192, 32_768];
/// Scrapes, and sweeps, of which the median is told.
const ROUNDS: usize = 7;

/// `TCP_ESTABLISHED` of bpf/conn.h: the sweep ends others within two minutes.
const ESTABLISHED: u32 = 2;

/// Measures all and prints it.
pub fn report() -> Result<String> {
    let mut report = String::from(
        "\n| pods | samples | scrape ms | CPU ms a scrape | kB | RSS MiB |\n|---|---|---|---|---|---|\n",
    );
    let mut rest = String::new();
    for count in PODS {
        let node = Node::new(&format!("growth{count}"));
        let pods = Pod::many(&node, count);
        pods.iter().for_each(fill);
        let state = node.path("state");
        let state = state.to_str().ok_or("a directory that is no text")?;
        let agent = start(&node, &["--listen", "127.0.0.1:9920", "--state-dir", state]);
        report.push_str(&row(count, &agent)?);
        if Some(&count) == PODS.last() {
            let pod = pods.first().ok_or("there is no pod")?;
            rest = connections(&node, pod)? + &maps()?;
        }
    }
    Ok(report + &rest)
}

fn row(pods: usize, agent: &Agent) -> Result<String> {
    let (mut took, mut page) = (Vec::new(), Vec::new());
    let before = ticks(agent)?;
    for _ in 0..ROUNDS {
        std::thread::sleep(APART);
        let begun = Instant::now();
        page = scrape("/metrics", "text/plain")?;
        took.push(begun.elapsed());
    }
    // A tick is 10 ms (`sysconf(_SC_CLK_TCK)` is 100 on Linux).
    let cpu = (ticks(agent)? - before) as f64 * 10.0 / ROUNDS as f64;
    let text = String::from_utf8(page)?;
    let samples = text.lines().filter(|line| line.starts_with("weir_")).count();
    let (scrape, kilobytes) = (ms(median(took)), text.len() / 1_000);
    let memory = resident(agent)? as f64 / 1024.0;
    Ok(format!("| {pods} | {samples} | {scrape:.1} | {cpu:.1} | {kilobytes} | {memory:.1} |\n"))
}

/// Ticks of CPU that the agent has had.
fn ticks(agent: &Agent) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid()))?;
    let rest = stat.rsplit_once(')').ok_or("no name in /proc")?.1;
    let fields = rest.split_whitespace().skip(11).take(2);
    Ok(fields.map(str::parse::<u64>).sum::<Result<u64, _>>()?)
}

/// What the sweep, which the agent runs each second, takes with so many connections.
fn connections(node: &Node, pod: &Pod) -> Result<String> {
    let mut text = String::from("\n| connections | sweep ms |\n|---|---|\n");
    let dir = node.bpf_dir();
    let map = MapHandle::from_pinned_path(pin::dir(&dir).join("conns"))?;
    let maps = Maps::open(&dir)?;
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
            took.push(begun.elapsed());
        }
        writeln!(text, "| {} | {:.2} |", map.keys().count(), ms(median(took)))?;
    }
    Ok(text)
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

/// The maps as the agent tells of them.
fn maps() -> Result<String> {
    let page = String::from_utf8(scrape("/metrics", "text/plain")?)?;
    let number = |family: &str, map: &str| -> Option<u64> {
        let start = format!("{family}{{map=\"{map}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&*start))?.parse().ok()
    };
    let start = "weir_map_capacity{map=\"";
    let names = page.lines().filter_map(|line| line.strip_prefix(start)?.split('"').next());
    let mut text = String::from("\n| map | elements | kB | bytes each |\n|---|---|---|---|\n");
    let mut sum = 0;
    for name in names {
        let capacity = number("weir_map_capacity", name).ok_or("no capacity")?;
        let bytes = number("weir_map_bytes", name).ok_or("no bytes")?;
        sum += bytes;
        writeln!(text, "| {name} | {capacity} | {} | {} |", bytes / 1_000, bytes / capacity)?;
    }
    writeln!(text, "| all | | {} | |", sum / 1_000)?;
    Ok(text)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

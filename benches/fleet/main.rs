//! A fleet on one machine: Debian's Prometheus scrapes the page of a node with 30 pods from so many simulated nodes,
//! once as itself and once as an agent that sends on.
//!
//! ```text
//! cargo bench --bench fleet [-- SECONDS]     (root; 25 s of each size unless said)
//! ```
//!
//! The page is a real agent's, as Prometheus asks for it, and is served again for each node with names and
//! counts of its own; counters grow from scrape to scrape. All is in namespaces of this process, and what Prometheus
//! stores is in a tmpfs. The figures of Prometheus are its own: memory is the most of
//! `process_resident_memory_bytes`, asked each second. In so short a time a head has one chunk of each series,
//! just begun; more seconds show what is added.

#[path = "../../tests/exporter/fill.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs)]
mod fill;
#[path = "../../tests/exporter/http.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs, missing_debug_implementations)]
mod http;
#[path = "../../tests/exporter/node.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs, missing_debug_implementations)]
mod node;
mod nodes;
mod prometheus;
#[path = "../report/report.rs"]
#[allow(dead_code, reason = "it is of all benches")]
mod report;
#[path = "../agent/traffic.rs"]
#[allow(dead_code, reason = "it is of another bench")]
mod traffic;

use std::{
    process::ExitCode,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use fill::Pod;
use node::Node;
use nodes::Sink;
use prometheus::{INTERVAL, Mode, Prometheus};
use report::{Row, Rows, row::millis};

/// Whatever goes wrong ends the bench.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const SECONDS: u64 = 25;
const PODS: usize = 30;
/// Nodes of a fleet, by who scrapes it.
const SIZES: [(Mode, &[u16]); 2] = [(Mode::Whole, &[25, 100, 200]), (Mode::Agent, &[25, 200])];
/// The most nodes of which all samples are asked for at once: it takes longer by the sample, the more there are.
const FEDERATED: u16 = 25;

fn main() -> ExitCode {
    report::bench("fleet", run)
}

fn run(rows: &mut Rows) -> Result<()> {
    let time = Duration::from_secs(report::number("SECONDS", SECONDS)?);
    let node = Node::new("bench-fleet");
    let (page, content_type) = page(&node)?;
    let samples = page.lines().filter(|line| line.starts_with("weir_")).count();
    rows.add(Row::one(format!("the page of {PODS} pods: samples"), "samples", samples as f64))?;
    let created = page.lines().filter(|line| is_created(line)).count();
    rows.add(Row::one("of these creation times", "samples", created as f64))?;
    rows.add(Row::one("the page: its size", "kB", page.len() as f64 / 1e3))?;
    nodes::serve(&page, &content_type)?;
    let sink = Sink::start()?;
    for (mode, sizes) in SIZES {
        let mut known: Vec<(f64, f64)> = Vec::new();
        for &size in sizes {
            eprintln!("fleet: {mode:?}, {size} nodes");
            let prometheus = Prometheus::of(&node, mode, size, samples)?;
            known.push(tell(&prometheus, mode, size, samples, time, &sink, rows)?);
        }
        if let (Some(few), Some(many)) = (known.first(), known.last()) {
            let each = (many.1 - few.1) / (many.0 - few.0);
            rows.add(Row::one(format!("{}: a series more: RSS", name(mode)), "bytes", each))?;
        }
    }
    Ok(())
}

/// Of OpenMetrics alone: text has none, and Prometheus makes no samples of those in protocol buffers.
fn is_created(line: &str) -> bool {
    line.split(['{', ' ']).next().is_some_and(|name| name.ends_with("_created"))
}

/// What Prometheus is given when it asks a node, and under which type.
fn page(node: &Node) -> Result<(String, String)> {
    for pod in Pod::many(node, PODS) {
        traffic::usual(&pod, node)?;
    }
    let agent = node.agent();
    let page = http::get_openmetrics();
    drop(agent);
    let content_type = page.header("content-type").ok_or("a page without a type")?.to_owned();
    let pods = page.body.lines().filter(|line| line.starts_with("weir_attach_status{")).count();
    if pods != PODS {
        return Err(format!("{pods} pods on the page").into());
    }
    Ok((page.body, content_type))
}

fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::Whole => "Prometheus",
        Mode::Agent => "Prometheus as agent",
    }
}

/// Measures one size; the series and the most memory.
fn tell(
    prometheus: &Prometheus,
    mode: Mode,
    nodes: u16,
    samples: usize,
    time: Duration,
    sink: &Sink,
    rows: &mut Rows,
) -> Result<(f64, f64)> {
    let received = || (sink.requests.load(Relaxed) as f64, sink.bytes.load(Relaxed) as f64);
    let before = received();
    let (first, last, memory) = prometheus.watched(time)?;
    let after = received();
    let named = |what: &str| format!("{}, {nodes} nodes: {what}", name(mode));
    let taken = last.samples - first.samples;
    let seconds = (last.at - first.at).as_secs_f64();
    let rate = taken / seconds;
    // Those of the page, and five of Prometheus' own for each node.
    let due = f64::from(nodes) * (samples + 5) as f64 / INTERVAL.as_secs_f64();
    rows.add(Row::one(named("series"), "series", last.series))?;
    rows.add(Row::one(named("RSS, most"), "MiB", memory / f64::from(1 << 20)))?;
    rows.add(Row::one(named("RSS a series"), "bytes", memory / last.series))?;
    rows.add(Row::one(named("samples"), "1/s", rate).ratio("due", due))?;
    rows.add(Row::one(named("CPU a sample"), "us", (last.used - first.used) * 1e6 / taken))?;
    match mode {
        Mode::Whole => ask(prometheus, nodes, samples, &named, rows)?,
        Mode::Agent => {
            let sent = last.sent - first.sent;
            let (requests, bytes) = (after.0 - before.0, after.1 - before.1);
            rows.add(Row::one(named("sent"), "1/s", sent / seconds).ratio("samples", rate))?;
            rows.add(Row::one(named("sent, on the wire"), "MB/s", bytes / seconds / 1e6))?;
            rows.add(Row::one(named("a sample on the wire"), "bytes", bytes / sent))?;
            rows.add(Row::one(named("samples a request"), "samples", sent / requests))?;
        }
    }
    Ok((last.series, memory))
}

/// How long a Prometheus that keeps its samples takes for a scrape, a sum and a federation.
fn ask(
    prometheus: &Prometheus,
    nodes: u16,
    samples: usize,
    named: &dyn Fn(&str) -> String,
    rows: &mut Rows,
) -> Result<()> {
    let scraped = prometheus.query("scrape_samples_scraped")?;
    let whole = scraped.iter().filter(|count| **count == samples as f64).count();
    if whole != usize::from(nodes) {
        return Err(format!("{whole} of {nodes} pages were taken whole").into());
    }
    let took = prometheus.query("scrape_duration_seconds * 1000")?;
    rows.add(Row::of(named("a scrape"), "ms", &took)?)?;
    let begun = Instant::now();
    prometheus.query("sum by (namespace, role) (rate(weir_http_requests_total[1m]))")?;
    rows.add(Row::one(named("rate of requests by namespace"), "ms", millis(begun.elapsed())))?;
    if nodes > FEDERATED {
        return Ok(());
    }
    let begun = Instant::now();
    let bytes = prometheus.federated()?;
    rows.add(Row::one(named("/federate of all"), "ms", millis(begun.elapsed())))?;
    rows.add(Row::one(named("likewise: its size"), "MB", bytes as f64 / 1e6))?;
    Ok(())
}

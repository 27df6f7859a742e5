//! The agent at 250 pods and 20,000 series, and with fewer and more of them: how long a scrape takes, and the
//! memory that it needs.
//!
//! ```text
//! cargo bench --bench agent [-- ROUNDS]     (root; 10 scrapes of each form unless said)
//! cargo bench --bench agent -- growth       (what each pod and connection more costs, alone)
//! cargo bench --bench agent -- records      (live records at 50,000 requests a second and more, alone)
//! ```
//!
//! The pods are attached for real, in namespaces of this process, and their totals put into the real
//! maps. Scrapes are more than a second apart, so that each reads the maps; time is from connecting to
//! the last byte, by a client on the same machine. Memory is `VmRSS` of `/proc/PID/status`, in the three
//! states that an agent is in: it has just started, it is scraped, and it has as much to do as it may.

#[path = "../../tests/exporter/fill.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs)]
mod fill;
#[path = "../../tests/exporter/node.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs, missing_debug_implementations)]
mod node;

#[path = "../../tests/exporter/http.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs, missing_debug_implementations)]
mod http;
#[path = "../../tests/exporter/traffic.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs, missing_debug_implementations)]
mod served;

mod growth;
#[path = "../process.rs"]
mod process;
mod records;
#[path = "../report/report.rs"]
#[allow(dead_code, reason = "it is of all benches")]
mod report;
mod traffic;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use fill::Pod;
use node::{Agent, Node};
use report::{Row, Rows, row::millis};
use served::Served;

/// Whatever goes wrong ends the bench.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const ROUNDS: usize = 10;
const PODS: usize = 250;
/// What a scrape of 20,000 series may take as text, and in any other form, in milliseconds.
const MOST: f64 = 20.0;
const MOST_OF_ANY: f64 = 30.0;
/// What a restart may take to the first right page, in milliseconds.
const RESTART: f64 = 200.0;
/// The memory that the agent may have with nothing asked, and with all that may be, in MiB.
const IDLE: f64 = 25.0;
const LOADED: f64 = 40.0;

/// Beyond the second for which a page is kept.
const APART: Duration = Duration::from_millis(1_100);

/// What is asked for, by its name in the table.
const FORMS: [(&str, &str, &str); 6] = [
    ("text", "/metrics", "text/plain"),
    ("text, gzip", "/metrics", "text/plain\r\nAccept-Encoding: gzip"),
    ("OpenMetrics", "/metrics", "application/openmetrics-text"),
    (
        "protocol buffers, native histograms",
        "/metrics",
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
    ),
    ("OpenMetrics, OpenTelemetry's names", "/metrics?flavor=otel", "application/openmetrics-text"),
    ("pods as JSON", "/api/pods", "*/*"),
];

fn main() -> ExitCode {
    report::bench("agent", run)
}

fn run(rows: &mut Rows) -> Result<()> {
    if report::arguments().any(|argument| argument == "growth") {
        return growth::tell(rows);
    }
    if report::arguments().any(|argument| argument == "records") {
        let node = Node::new("bench");
        let pod = Served::new(&node, "served");
        return records::tell(&pod, &start(&node, &["--listen", "127.0.0.1:9920"]), rows);
    }
    let rounds = report::number("ROUNDS", ROUNDS)?.max(1);
    let node = Node::new("bench");
    let pods = Pod::many(&node, PODS);
    for pod in &pods {
        traffic::usual(pod, &node)?;
    }
    // A receiver that is away: what would be sent waits.
    let state = node.path("state");
    let state = state.to_str().ok_or("a directory that is no text")?;
    let arguments = [
        "--listen",
        "127.0.0.1:9920",
        "--state-dir",
        state,
        "--otlp-endpoint",
        "http://127.0.0.1:9",
    ];
    let (plain, busy) = (&arguments[..4], &arguments[..]);

    eprintln!("agent: restarts");
    let restarts = restarts(&node, plain, rounds)?;
    let restart = Row::of(format!("first page after a restart: {PODS} pods"), "ms", &restarts)?;
    rows.add(restart.at_most(RESTART))?;
    let agent = start(&node, plain);
    thread::sleep(APART * 2);
    let idle = resident(&agent)?;
    rows.add(Row::one(format!("processor, nothing asked: {PODS} pods"), "ms/s", used(&agent)?))?;
    let label = format!("{PODS} pods, {} series", series(&scrape("/metrics", "text/plain")?));
    for (at, (name, path, accept)) in FORMS.into_iter().enumerate() {
        eprintln!("agent: scrapes, {name}");
        let (took, bytes) = scrapes(path, accept, rounds)?;
        let row = Row::of(format!("scrape, {name}: {label}"), "ms", &took)?;
        rows.add(row.at_most(if at == 0 { MOST } else { MOST_OF_ANY }))?;
        rows.add(Row::one(format!("its size, {name}: {label}"), "kB", bytes as f64 / 1e3))?;
    }
    let scraped = resident(&agent)?;
    drop(agent);

    eprintln!("agent: all that may be asked");
    let agent = start(&node, busy);
    let pod = Served::new(&node, "served");
    let loaded = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let asked = records::exchange(&pod, Some(records::SLOW_BEAT), LOAD + APART * 2);
            asked.map_err(|err| err.to_string())
        });
        let loaded = under_load(&agent);
        asking.join().map_err(|_| "a client panicked")??;
        loaded
    })?;
    for (what, memory, most) in [
        ("just started", idle, IDLE),
        ("scraped in every form", scraped, LOADED),
        (
            "10,000 traced requests/s, every form each second, 16 listeners that don't read, a receiver that is away: most",
            loaded,
            LOADED,
        ),
    ] {
        rows.add(Row::one(format!("RSS, {what}: {PODS} pods"), "MiB", memory).at_most(most))?;
    }
    drop(agent);
    let agent = start(&node, plain);
    records::tell(&pod, &agent, rows)?;
    drop(agent);
    growth::tell(rows)
}

fn start(node: &Node, arguments: &[&str]) -> Agent {
    let mut agent = node.start_agent(arguments);
    agent.wait_for("listening on http://127.0.0.1:9920/metrics");
    agent
}

/// Milliseconds from the start of an agent, its predecessor killed, to its first page with all pods.
fn restarts(node: &Node, arguments: &[&str], rounds: usize) -> Result<Vec<f64>> {
    let mut took = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let begun = Instant::now();
        let agent = start(node, arguments);
        let page = String::from_utf8(scrape("/metrics", "text/plain")?)?;
        took.push(millis(begun.elapsed()));
        let pods = page.lines().filter(|line| line.starts_with("weir_attach_status{")).count();
        if pods != PODS {
            return Err(format!("{pods} pods on the first page").into());
        }
        drop(agent);
    }
    Ok(took)
}

/// Milliseconds of so many scrapes of one form, and the bytes of the last.
fn scrapes(path: &str, accept: &str, rounds: usize) -> Result<(Vec<f64>, usize)> {
    let mut took = Vec::with_capacity(rounds);
    let mut bytes = 0;
    for _ in 0..rounds {
        thread::sleep(APART);
        let begun = Instant::now();
        bytes = scrape(path, accept)?.len();
        took.push(millis(begun.elapsed()));
    }
    Ok((took, bytes))
}

/// Samples of a page in text.
fn series(page: &[u8]) -> usize {
    page.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"weir_")).count()
}

fn scrape(path: &str, accept: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(Agent::address())?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:9920\r\nAccept: {accept}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(format!("{path}: {}", String::from_utf8_lossy(&answer)).into());
    }
    Ok(answer)
}

/// For which all that may be asked is asked.
const LOAD: Duration = Duration::from_secs(10);

/// The most memory in that time.
fn under_load(agent: &Agent) -> Result<f64> {
    let listen = |_| -> Result<TcpStream> {
        let mut stream = TcpStream::connect(Agent::address())?;
        stream.write_all(b"GET /api/flows HTTP/1.0\r\n\r\n")?;
        Ok(stream)
    };
    let listeners: Vec<_> = (0..16).map(listen).collect::<Result<_>>()?;
    let mut most = 0.0_f64;
    let begun = Instant::now();
    while begun.elapsed() < LOAD {
        let asked = FORMS.map(|(_, path, accept)| {
            thread::spawn(move || scrape(path, accept).map(drop).map_err(|err| err.to_string()))
        });
        for asking in asked {
            asking.join().map_err(|_| "a scrape panicked")??;
            most = most.max(resident(agent)?);
        }
        thread::sleep(APART);
    }
    drop(listeners);
    Ok(most)
}

/// Milliseconds of a processor in a second in which nobody asks, as most are.
fn used(agent: &Agent) -> Result<f64> {
    let (begun, before) = (Instant::now(), process::time(agent.pid())?);
    thread::sleep(APART * 5);
    let used = process::time(agent.pid())?.saturating_sub(before);
    Ok(millis(used) / begun.elapsed().as_secs_f64())
}

/// Mebibytes.
fn resident(agent: &Agent) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(number.ok_or("no VmRSS in /proc")?.trim().parse::<f64>()? / 1024.0)
}

//! The agent at 250 pods and 20,000 series: how long a scrape takes, and the memory that it needs.
//!
//! ```text
//! cargo bench --bench agent [-- ROUNDS]     (root; 10 scrapes of each form unless said)
//! cargo bench --bench agent -- growth       (what each pod and connection more costs, alone)
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

mod growth;

use std::{
    env, fs,
    io::{self, Read, Write},
    net::TcpStream,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use fill::Pod;
use node::{Agent, Node};
use weir::telemetry::wire::{CounterKind, HistogramKind};

/// Whatever goes wrong ends the bench.
type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const ROUNDS: usize = 10;
const PODS: usize = 250;

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
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("agent bench: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    if env::args().any(|arg| arg == "growth") {
        return Ok(io::stdout().write_all(growth::report()?.as_bytes())?);
    }
    // Cargo itself adds "--bench".
    let rounds = match env::args().skip(1).find(|arg| arg != "--bench") {
        Some(rounds) => rounds.parse().map_err(|err| format!("ROUNDS {rounds:?}: {err}"))?,
        None => ROUNDS,
    };
    let node = Node::new("bench");
    let pods = Pod::many(&node, PODS);
    pods.iter().for_each(fill);
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

    let restarted = restarts(&node, plain, rounds)?;
    let agent = start(&node, plain);
    thread::sleep(APART * 2);
    let idle = resident(&agent)?;
    let mut report = String::from("| scrape | median ms | worst ms | kB |\n|---|---|---|---|\n");
    report.push_str(&restarted);
    for (name, path, accept) in FORMS {
        report.push_str(&scrapes(name, path, accept, rounds)?);
    }
    let series = String::from_utf8(scrape("/metrics", "text/plain")?)?;
    let series = series.lines().filter(|line| line.starts_with("weir_")).count();
    let scraped = resident(&agent)?;
    drop(agent);

    let agent = start(&node, busy);
    let loaded = under_load(&agent)?;
    let mib = |kib: u64| format!("{}.{}", kib / 1024, kib % 1024 * 10 / 1024);
    let table = format!(
        "{PODS} pods, {series} series; medians and worst of {rounds}\n\n{report}\n\
         | memory, RSS | MiB |\n|---|---|\n| just started | {} |\n| scraped in every form | {} |\n\
         | every form each second, 16 listeners, a receiver that is away: most | {} |\n",
        mib(idle),
        mib(scraped),
        mib(loaded)
    );
    io::stdout().write_all(table.as_bytes())?;
    io::stdout().write_all(growth::report()?.as_bytes())?;
    Ok(())
}

fn start(node: &Node, arguments: &[&str]) -> Agent {
    let mut agent = node.start_agent(arguments);
    agent.wait_for("listening on http://127.0.0.1:9920/metrics");
    agent
}

/// What a pod has that serves some HTTP and asks some DNS.
fn fill(pod: &Pod) {
    for status in [200, 404, 500] {
        pod.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, status, 1_000);
    }
    pod.count(CounterKind::COUNTER_DNS_QUERIES, 0, 0, 1, 100);
    pod.count(CounterKind::COUNTER_DNS_RESPONSES, 0, 0, 1, 100);
    let spread: Vec<_> = (0..40).map(|at| (1_000_000 << (at % 12), at)).collect();
    pod.observe(HistogramKind::HISTOGRAM_HTTP_REQUEST, 1, &spread);
}

/// A line of the table: from the start of an agent, its predecessor killed, to its first page with all pods.
fn restarts(node: &Node, arguments: &[&str], rounds: usize) -> Result<String> {
    let mut took = Vec::with_capacity(rounds);
    let mut bytes = 0;
    for _ in 0..rounds.max(1) {
        let begun = Instant::now();
        let agent = start(node, arguments);
        let page = String::from_utf8(scrape("/metrics", "text/plain")?)?;
        took.push(begun.elapsed());
        bytes = page.len();
        let pods = page.lines().filter(|line| line.starts_with("weir_attach_status{")).count();
        if pods != PODS {
            return Err(format!("{pods} pods on the first page").into());
        }
        drop(agent);
    }
    Ok(line("the first after a restart", took, bytes))
}

/// A line of the table: `rounds` scrapes of one form.
fn scrapes(name: &str, path: &str, accept: &str, rounds: usize) -> Result<String> {
    let mut took = Vec::with_capacity(rounds);
    let mut bytes = 0;
    for _ in 0..rounds.max(1) {
        thread::sleep(APART);
        let begun = Instant::now();
        bytes = scrape(path, accept)?.len();
        took.push(begun.elapsed());
    }
    Ok(line(name, took, bytes))
}

fn line(name: &str, mut took: Vec<Duration>, bytes: usize) -> String {
    took.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    format!("| {name} | {:.1} | {:.1} | {} |\n", ms(median), ms(worst), bytes / 1_000)
}

fn scrape(path: &str, accept: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(Agent::address())?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nAccept: {accept}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(format!("{path}: {}", String::from_utf8_lossy(&answer)).into());
    }
    Ok(answer)
}

/// The most memory within ten seconds in which all that may be asked is asked.
fn under_load(agent: &Agent) -> Result<u64> {
    let listen = |_| -> Result<TcpStream> {
        let mut stream = TcpStream::connect(Agent::address())?;
        stream.write_all(b"GET /api/flows HTTP/1.0\r\n\r\n")?;
        Ok(stream)
    };
    let listeners: Vec<_> = (0..16).map(listen).collect::<Result<_>>()?;
    let mut most = 0;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
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

/// Kibibytes.
fn resident(agent: &Agent) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(number.ok_or("no VmRSS in /proc")?.trim().parse()?)
}

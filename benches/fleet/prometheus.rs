//! A Prometheus that scrapes the fleet, whole or as an agent, and what it says of itself.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    Result,
    node::{Node, Service},
    nodes::{Sink, targets},
};

/// How often each node is scraped.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// For all nodes to be scraped once, and for any answer.
const PATIENCE: Duration = Duration::from_secs(60);
const ADDRESS: &str = "127.0.0.1:9090";
/// The memory at which a measurement ends, in bytes.
const MOST: f64 = 6.0 * (1_u64 << 30) as f64;

/// The two that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Which keeps and can be asked.
    Whole,
    /// Which only sends on.
    Agent,
}

impl Mode {
    /// The samples that it has taken.
    fn appended(self) -> &'static str {
        match self {
            Self::Whole => "prometheus_tsdb_head_samples_appended_total",
            Self::Agent => "prometheus_agent_samples_appended_total",
        }
    }

    fn series(self) -> &'static str {
        match self {
            Self::Whole => "prometheus_tsdb_head_series",
            Self::Agent => "prometheus_agent_active_series",
        }
    }
}

/// It runs until it is dropped.
pub struct Prometheus {
    _service: Service,
    mode: Mode,
}

/// What it says of itself at one time.
#[derive(Debug, Clone, Copy)]
pub struct State {
    pub at: Instant,
    pub series: f64,
    /// Bytes, resident.
    pub memory: f64,
    /// Seconds of a processor.
    pub used: f64,
    pub samples: f64,
    /// Those sent to the receiver; none of one that keeps them.
    pub sent: f64,
}

impl Prometheus {
    /// Starts one that scrapes so many nodes, and returns once it has `samples` of each.
    pub fn of(node: &Node, mode: Mode, nodes: u16, samples: usize) -> Result<Self> {
        let dir = node.path(&format!("{mode:?}-{nodes}"));
        let config = dir.with_extension("yaml");
        let mut settings = json!({
            "global": {
                "scrape_interval": format!("{}s", INTERVAL.as_secs()),
                "external_labels": {"cluster": "bench"},
            },
            "scrape_configs": [{
                "job_name": "weir",
                "honor_labels": true,
                "static_configs": [{"targets": targets(nodes)}],
            }],
        });
        if mode == Mode::Agent {
            settings["remote_write"] = json!([{"url": Sink::url()}]);
        }
        // JSON is YAML.
        fs::write(&config, settings.to_string())?;
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--web.listen-address={ADDRESS}"));
        let dir = dir.display();
        match mode {
            Mode::Whole => command.arg(format!("--storage.tsdb.path={dir}")),
            Mode::Agent => {
                command.arg("--enable-feature=agent").arg(format!("--storage.agent.path={dir}"))
            }
        };
        let mut service = Service::start(command);
        service.wait_for("Server is ready to receive web requests");
        let prometheus = Self { _service: service, mode };
        let all = (usize::from(nodes) * samples) as f64;
        let begun = Instant::now();
        loop {
            let state = prometheus.state()?;
            if state.series >= all {
                return Ok(prometheus);
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("of {all} series it has {} only", state.series).into());
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// Asked each second for so long: the first and the last, and the most memory.
    pub fn watched(&self, time: Duration) -> Result<(State, State, f64)> {
        let first = self.state()?;
        let mut most = first.memory;
        loop {
            thread::sleep(Duration::from_secs(1));
            let state = self.state()?;
            most = most.max(state.memory);
            if most > MOST {
                return Err(format!("it has {most} bytes of memory").into());
            }
            if first.at.elapsed() >= time {
                return Ok((first, state, most));
            }
        }
    }

    pub fn state(&self) -> Result<State> {
        let page = get("/metrics")?;
        let sum = |name: &str| sum(&page, name).ok_or_else(|| format!("it tells no {name}"));
        Ok(State {
            at: Instant::now(),
            series: sum(self.mode.series())?,
            memory: sum("process_resident_memory_bytes")?,
            used: sum("process_cpu_seconds_total")?,
            // Which it does not tell before the first.
            samples: total(&page, self.mode.appended()),
            sent: match self.mode {
                Mode::Whole => 0.0,
                Mode::Agent => total(&page, "prometheus_remote_storage_samples_total"),
            },
        })
    }

    /// The values of an instant query's series.
    pub fn query(&self, expression: &str) -> Result<Vec<f64>> {
        let answer = get(&format!("/api/v1/query?query={}", encoded(expression)))?;
        let json: Value = serde_json::from_str(&answer)?;
        let series = json["data"]["result"].as_array().ok_or(answer)?;
        let value = |one: &Value| one["value"][1].as_str().and_then(|value| value.parse().ok());
        Ok(series.iter().map(value).collect::<Option<_>>().ok_or("a series without a value")?)
    }

    /// The bytes of all samples, as another Prometheus would ask for them.
    pub fn federated(&self) -> Result<usize> {
        Ok(get(&format!("/federate?match%5B%5D={}", encoded("{job=\"weir\"}")))?.len())
    }
}

/// Over all series of a name.
fn sum(page: &str, name: &str) -> Option<f64> {
    let of = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse().ok())?
    };
    page.lines().filter_map(of).fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

fn total(page: &str, name: &str) -> f64 {
    sum(page, name).unwrap_or(0.0)
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fn get(path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // HTTP/1.0 knows no chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {ADDRESS}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("an answer without a head")?;
    if !head.starts_with("HTTP/1.0 200 ") {
        return Err(format!("{path}: {answer}").into());
    }
    Ok(body.to_owned())
}

//! The agent of a node, and what it says of a pod.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use crate::node::{Daemon, wait_for};

const AGENT: &str = "127.0.0.1:9920";

/// A running `weir agent`.
pub struct Agent {
    _daemon: Daemon,
}

impl Agent {
    /// Starts it and waits until it is ready.
    pub fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        let daemon = Daemon::start(command.arg("agent"), "/run/agent.log");
        let agent = Self { _daemon: daemon };
        let ready =
            || get(AGENT.parse().unwrap(), "/readyz").filter(|answer| answer.contains("200"));
        assert!(wait_for(ready).is_some(), "{:?}", std::fs::read_to_string("/run/agent.log"));
        agent
    }

    /// The value of the series of a family with these labels, among others; the sum if there are
    /// several.
    pub fn value(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        let text = get(AGENT.parse().unwrap(), "/metrics").unwrap();
        let wanted: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        text.lines()
            .filter(|line| line.starts_with(&format!("{family}{{")))
            .filter(|line| wanted.iter().all(|label| line.contains(label.as_str())))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    /// Waits until a sum is what it must be.
    pub fn await_value(&self, family: &str, labels: &[(&str, &str)], wanted: f64) {
        let reached = wait_for(|| (self.value(family, labels) >= wanted).then_some(()));
        let value = self.value(family, labels);
        assert!(reached.is_some() && value <= wanted, "{family} {labels:?}: {value}, not {wanted}");
    }
}

/// GET over HTTP/1.0, status line and headers included; `None` if nobody answers.
pub fn get(server: SocketAddr, path: &str) -> Option<String> {
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&server, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

/// The page that the image serves, fetched from a pod or a port of the node.
pub fn fetch(ip: IpAddr, port: u16) {
    let answer = wait_for(|| get(SocketAddr::new(ip, port), "/")).unwrap();
    assert!(answer.contains(" 200 ") && answer.ends_with("hello\n"), "{answer}");
}

//! `weir demo` as a person runs it: everything counted exactly, nothing left behind. Needs root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// The demo's own promise, once it is built.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn every_exchange_is_counted_as_what_it_was() {
    let before = host();
    let (status, out, log) = finish(demo(&["-o", "json"]));
    assert!(status.success(), "{log}\n{out}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["exact"], true, "{out}");
    assert_eq!(report["counted"], report["served"], "{out}");
    assert!(report["served"].as_u64().unwrap() >= 300, "{out}");
    let requests: Vec<&Value> = series(&report, "weir_http_requests_total").collect();
    for (label, wanted) in [
        ("method", &["GET", "HEAD", "POST", "PUT", "DELETE", "_OTHER"][..]),
        ("status", &["200", "201", "204", "301", "404", "500"]),
        ("protocol", &["1.0", "1.1"]),
        ("role", &["client", "server"]),
    ] {
        let found: BTreeSet<&str> =
            requests.iter().map(|one| one["labels"][label].as_str().unwrap()).collect();
        assert!(wanted.iter().all(|value| found.contains(value)), "{label}: {found:?}");
    }
    let families = ["4", "6"].map(|family| {
        let bytes = series(&report, "weir_network_bytes_total");
        bytes.filter(|one| one["labels"]["family"] == family).map(|b| b["value"].as_u64()).max()
    });
    assert!(families.iter().all(|bytes| *bytes > Some(Some(100_000))), "{families:?}");
    assert_eq!(host(), before);
}

#[test]
fn the_text_ends_with_the_totals() {
    let (status, out, log) = finish(demo(&[]));
    assert!(status.success(), "{log}\n{out}");
    let reply: Value =
        serde_json::Deserializer::from_str(&out).into_iter().next().unwrap().unwrap();
    assert_eq!(reply["ips"].as_array().unwrap().len(), 2, "{out}");
    let last = out.lines().last().unwrap();
    let (counted, all) = last.strip_prefix("counted ").unwrap().split_once(" of ").unwrap();
    assert!(counted == all && counted.parse::<u64>().unwrap() >= 300, "{last}");
}

#[test]
fn whatever_ends_it_nothing_is_left() {
    let before = host();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        for moment in ["a node", "ADD web", "HTTP exchanges", "DEL web"] {
            let mut child = demo(&[]);
            let mut log = BufReader::new(child.stderr.take().unwrap());
            let mut line = String::new();
            while !line.contains(moment) {
                line.clear();
                assert!(log.read_line(&mut line).unwrap() > 0, "ended before {moment}");
            }
            let net = namespace(child.id()).unwrap();
            kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
            assert!(!wait(&mut child).success(), "{signal} after {moment}");
            wait_until(|| !anyone_in(&net), &format!("{net} outlives {signal} after {moment}"));
            assert_eq!(host(), before, "{signal} after {moment}");
        }
    }
}

#[test]
fn without_root_it_says_what_it_needs() {
    // Where the tree is, another user may not look.
    let dir = std::env::temp_dir().join(format!("weir-demo-test-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let weir = dir.join("weir");
    fs::copy(env!("CARGO_BIN_EXE_weir"), &weir).unwrap();
    let output = Command::new(&weir).arg("demo").uid(65534).gid(65534).output();
    fs::remove_dir_all(&dir).unwrap();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("needs root") && log.lines().count() == 1, "{log}");
}

fn demo(args: &[&str]) -> Child {
    // A shell has its background jobs ignore SIGINT, and what they start inherits that.
    let mut command = Command::new("env");
    command
        .args(["--default-signal=INT", env!("CARGO_BIN_EXE_weir"), "demo"])
        .args(args)
        .stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Status, stdout and stderr. The report is larger than a pipe may hold, so it is read meanwhile.
fn finish(mut child: Child) -> (ExitStatus, String, String) {
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut out, mut log) = (String::new(), String::new());
    thread::scope(|scope| {
        scope.spawn(|| stdout.read_to_string(&mut out).unwrap());
        scope.spawn(|| stderr.read_to_string(&mut log).unwrap());
    });
    (wait(&mut child), out, log)
}

fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("still running after {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn wait_until(done: impl Fn() -> bool, otherwise: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < deadline, "{otherwise}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn series<'a>(report: &'a Value, name: &'a str) -> impl Iterator<Item = &'a Value> {
    let all = report["series"].as_array().unwrap().iter();
    all.filter(move |one| one["name"] == name)
}

/// What a demo that escaped its namespaces would have changed: links, mounts, state.
fn host() -> (BTreeSet<String>, Vec<String>, bool) {
    let links = fs::read_dir("/sys/class/net").unwrap();
    let links = links.map(|link| link.unwrap().file_name().into_string().unwrap()).collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounted_on = |line: &&str| {
        line.split(' ').nth(4).is_some_and(|at| ["/run", "/sys/fs/bpf"].contains(&at))
    };
    let mounts = mounts.lines().filter(mounted_on).map(str::to_owned).collect();
    (links, mounts, fs::exists("/run/weir").unwrap())
}

fn namespace(pid: u32) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    link.into_os_string().into_string().ok()
}

/// Whether any process is in the network namespace of that name.
fn anyone_in(net: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.any(|pid| namespace(pid).as_deref() == Some(net))
}

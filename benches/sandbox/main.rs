//! A pod as the kubelet has it made and ended: `RunPodSandbox`, `StopPodSandbox` and `RemovePodSandbox` by a
//! containerd with runc, with Weir, the reference plugins, and a plugin that does nothing.
//!
//! ```text
//! cargo bench --bench sandbox [-- ROUNDS]     (root; 40 rounds unless said)
//! ```
//!
//! containerd has a handler for each contender. Each round makes and ends one pod of each, in an order that
//! rotates, and what is compared is the difference within a round: what else the machine does strikes all of
//! them. The plugin that does nothing is this bench's own executable, linked as Weir is; containerd also calls
//! the reference `loopback` for each of them.

#[path = "../../tests/runtimes/cgroup.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs)]
mod cgroup;
#[path = "../../tests/runtimes/cri.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs, missing_debug_implementations)]
mod cri;
#[path = "../../tests/runtimes/daemon.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs)]
mod daemon;
#[path = "../../tests/runtimes/image.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
mod image;
#[path = "../../tests/runtimes/node.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs, missing_debug_implementations)]
mod node;
#[path = "../report/report.rs"]
#[allow(dead_code, reason = "it is of all benches")]
mod report;

use std::{
    env, fs,
    io::Write as _,
    os::unix::fs::symlink,
    panic::resume_unwind,
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use cri::{Cri, Pod};
use node::Node;
use report::{
    Row, Rows,
    row::{median, millis},
};
use serde_json::{Value, json};

/// Whatever goes wrong ends the bench.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const ROUNDS: usize = 40;
/// The plugin that does nothing, by the name of its executable.
const NOTHING: &str = "nothing";
/// What is aimed at: how much longer a pod may take with Weir.
const MOST: f64 = 5.0;

/// The contenders, each by its handler's name, the first of them what the others are compared with.
const CONTENDERS: [(&str, &str); 4] = [
    ("nothing", "a plugin that does nothing"),
    ("bare", "weir, IPv4"),
    ("whole", "weir, IPv4 + IPv6, masquerade, counted"),
    ("ptp", "ptp, IPv4, masquerade"),
];
const CALLS: [&str; 3] = ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"];

/// Of one contender, by call, in the rounds' order.
type Taken = [Vec<Duration>; CALLS.len()];

fn main() -> ExitCode {
    let name = env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == NOTHING) {
        return nothing();
    }
    report::bench("sandbox", |rows| {
        // The node ends whatever process has its first thread in it.
        let measured = thread::scope(|scope| scope.spawn(|| run(rows)).join());
        measured.unwrap_or_else(|panicked| resume_unwind(panicked))
    })
}

/// What an ADD answers that has done nothing.
const ANSWER: &str = r#"{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/"}], "ips": [{"address": "10.87.0.2/24", "interface": 0}]}"#;

fn nothing() -> ExitCode {
    if env::var_os("CNI_COMMAND").is_none_or(|verb| verb != "ADD") {
        return ExitCode::SUCCESS;
    }
    let said = std::io::stdout().write_all(ANSWER.as_bytes());
    said.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

fn run(rows: &mut Rows) -> Result<()> {
    let rounds = report::number("ROUNDS", ROUNDS)?;
    let node = Node::enter("bench");
    for plugin in ["ptp", "host-local"] {
        symlink(format!("/usr/lib/cni/{plugin}"), format!("/run/cni/bin/{plugin}"))?;
    }
    symlink(env::current_exe()?, format!("/run/cni/bin/{NOTHING}"))?;
    let dirs = CONTENDERS.map(|(handler, _)| format!("/run/cni/{handler}"));
    for ((handler, _), dir) in CONTENDERS.iter().zip(&dirs) {
        fs::create_dir(dir)?;
        let list = json!({"cniVersion": "1.0.0", "name": handler, "plugins": [plugin(handler)]});
        fs::write(Path::new(dir).join("10.conflist"), list.to_string())?;
    }
    let mut handlers = Vec::new();
    for ((handler, _), dir) in CONTENDERS.iter().zip(&dirs) {
        handlers.push((*handler, dir.as_str()));
    }
    let _containerd = daemon::start(&handlers);
    let cri = Cri { socket: Path::new(daemon::SOCKET) };
    let mut taken: [Taken; CONTENDERS.len()] = Default::default();
    // The first of each loads what stays.
    for (handler, _) in CONTENDERS {
        live(&cri, &node, handler)?;
    }
    for round in 0..rounds {
        eprintln!("sandbox: round {} of {rounds}", round + 1);
        for turn in 0..CONTENDERS.len() {
            let which = (round + turn) % CONTENDERS.len();
            let times = live(&cri, &node, CONTENDERS[which].0)?;
            taken[which].iter_mut().zip(times).for_each(|(all, time)| all.push(time));
        }
    }
    told(&taken, rows)
}

/// What a contender's list has in it.
fn plugin(handler: &str) -> Value {
    let ranges =
        |all: &[&str]| -> Value { all.iter().map(|subnet| json!([{"subnet": subnet}])).collect() };
    let default = json!([{"dst": "0.0.0.0/0"}]);
    match handler {
        "bare" => json!({
            "type": "weir", "telemetry": {"enabled": false},
            "ipam": {"ranges": ranges(&["10.86.0.0/24"]), "routes": default},
        }),
        "whole" => json!({
            "type": "weir", "ipMasq": true, "telemetry": {"required": true},
            "ipam": {
                "ranges": ranges(&["10.88.0.0/24", "fd00:88::/64"]),
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        }),
        "ptp" => json!({
            "type": "ptp", "ipMasq": true,
            "ipam": {
                "type": "host-local", "ranges": ranges(&["10.85.0.0/24"]), "routes": default,
                "dataDir": "/run/host-local",
            },
        }),
        _ => json!({"type": NOTHING}),
    }
}

/// One pod, from its beginning to its end.
fn live(cri: &Cri<'_>, node: &Node, handler: &str) -> Result<[Duration; CALLS.len()]> {
    let pod = Pod { handler, ..daemon::pod(handler, &[], &node.cgroup) };
    let begun = Instant::now();
    let sandbox = cri.run(&pod)?;
    let ran = begun.elapsed();
    let begun = Instant::now();
    cri.stop(&sandbox)?;
    let stopped = begun.elapsed();
    let begun = Instant::now();
    cri.remove(&sandbox)?;
    Ok([ran, stopped, begun.elapsed()])
}

/// A row of each call of each contender, beside the plugin that does nothing.
fn told(taken: &[Taken; CONTENDERS.len()], rows: &mut Rows) -> Result<()> {
    for (call, name) in CALLS.iter().enumerate() {
        for ((handler, label), times) in CONTENDERS.iter().zip(taken) {
            let all: Vec<f64> = times[call].iter().copied().map(millis).collect();
            let mut row = Row::of(format!("{name}: {label}"), "ms", &all)?;
            if *handler != NOTHING {
                row = row.more(CONTENDERS[0].1, more(&times[call], &taken[0][call])?);
            }
            if call == 0 && ["bare", "whole"].contains(handler) {
                row = row.at_most(MOST);
            }
            rows.add(row)?;
        }
    }
    Ok(())
}

/// The median of what a round's pod took longer than the one of the plugin that does nothing, in milliseconds.
fn more(own: &[Duration], nothing: &[Duration]) -> Result<f64> {
    let differences = own.iter().zip(nothing).map(|(own, nothing)| millis(*own) - millis(*nothing));
    Ok(median(&differences.collect::<Vec<_>>()).ok_or("no round was measured")?)
}

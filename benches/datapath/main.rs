//! The packet path: what one run of a program costs, and whether requests counted are requests
//! served, by `wrk` against nginx; what is left of the rate of `iperf3`; and how long a reload takes under 250 pods.
//!
//! ```text
//! cargo bench --bench datapath [-- SECONDS]     (root; 5 seconds of wrk and iperf3 a turn unless said)
//! cargo bench --bench datapath -- 0             (the costs of runs alone)
//! ```
//!
//! Everything happens in namespaces of this process. Costs come from `BPF_PROG_TEST_RUN` with a warm
//! cache; throughput is compared between a counted and an uncounted pair of pods, in turns.

mod floor;
#[path = "../../tests/bpf/frame.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs)]
mod frame;
mod millicores;
#[path = "../plugin/node.rs"]
mod node;
mod reload;
mod requests;
mod runs;
mod streams;

use std::{env, io::Write, process::ExitCode, time::Duration};

/// Whatever goes wrong ends the bench.
type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const SECONDS: u64 = 5;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("datapath bench: {err}");
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
    node::enter()?;
    let mut report = runs::report()?;
    report.push_str(&floor::report()?);
    if seconds > 0 {
        report.push_str(&reload::report()?);
        report.push_str(&requests::report(Duration::from_secs(seconds))?);
    }
    std::io::stdout().write_all(report.as_bytes())?;
    Ok(())
}

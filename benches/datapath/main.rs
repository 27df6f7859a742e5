//! The packet path: what one run of a program costs, and whether requests counted are requests
//! served, by `wrk` against nginx; what is left of the rate of `iperf3`; and how long a reload takes under 250 pods.
//!
//! ```text
//! cargo bench --bench datapath [-- SECONDS]     (root; 5 seconds of wrk and iperf3 a turn unless said)
//! cargo bench --bench datapath -- 0             (the costs of runs alone)
//! ```
//!
//! Everything happens in namespaces of this process. Costs come from `BPF_PROG_TEST_RUN` with a warm
//! cache; throughput is compared between pairs of pods, in turns: one counted, one at which a program of the
//! floor's counts bytes and packets and follows connections, and one with no program.

mod floor;
#[path = "../../tests/bpf/frame.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs)]
mod frame;
mod millicores;
#[path = "../plugin/node.rs"]
mod node;
mod pair;
#[path = "../process.rs"]
mod process;
#[path = "../program.rs"]
mod program;
mod reload;
#[path = "../report/report.rs"]
#[allow(dead_code, reason = "it is of all benches")]
mod report;
mod requests;
mod runs;
mod streams;

use std::{process::ExitCode, time::Duration};

use floor::Floor;
use pair::Pairs;
use report::Rows;

/// Whatever goes wrong ends the bench.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const SECONDS: u64 = 5;

fn main() -> ExitCode {
    report::bench("datapath", run)
}

fn run(rows: &mut Rows) -> Result<()> {
    let time = Duration::from_secs(report::number("SECONDS", SECONDS)?);
    node::enter().map_err(|err| err.to_string())?;
    let floor = Floor::measure(rows)?;
    runs::tell(&floor, rows)?;
    if !time.is_zero() {
        reload::tell(rows)?;
        let pairs = Pairs::start(&floor)?;
        let mut gaps = requests::Gaps::default();
        requests::tell(&pairs, time, rows)?;
        gaps.after("wrk")?;
        streams::tell(&pairs, time, rows)?;
        gaps.after("iperf3")?;
        pairs.check(&floor)?;
        millicores::tell(&pairs.counted, time, rows)?;
        gaps.after("requests at a steady rate")?;
        requests::tell_reloaded(&pairs.counted, time, rows)?;
        gaps.after("swaps of the programs")?;
        gaps.tell(rows)?;
    }
    Ok(())
}

//! How long the programs of 250 pods take to swap, by both hooks, and how long the loading before it.

use std::{fmt::Write, path::Path, process::Command, time::Duration};

use weir::telemetry::{
    self, Choice, Identity,
    reload::{self, Reloaded},
};

use crate::Result;

const PODS: usize = 250;
const ROUNDS: usize = 9;

/// Measures and prints.
pub fn report() -> Result<String> {
    for number in 0..PODS {
        let (host, pod) = (format!("swap{number}"), format!("pod{number}"));
        let words = ["link", "add", &host, "type", "veth", "peer", "name", &pod];
        if !Command::new("ip").args(words).status()?.success() {
            return Err(format!("can't make the link {host}").into());
        }
    }
    let mut report = format!("\nreload with {PODS} pods     median    worst    loading\n");
    for (choice, name) in [(Choice::Clsact, "clsact"), (Choice::Tcx, "tcx")] {
        let dir = format!("/sys/fs/bpf/weir-reload-{name}");
        let rounds = measure(Path::new(&dir), choice)?;
        let mut swaps: Vec<Duration> = rounds.iter().map(|done| done.swap).collect();
        let mut loads: Vec<Duration> = rounds.iter().map(|done| done.load).collect();
        swaps.sort();
        loads.sort();
        let (median, worst, load) = (swaps[ROUNDS / 2], swaps[ROUNDS - 1], loads[ROUNDS / 2]);
        writeln!(report, "{name:22} {median:>8.2?} {worst:>8.2?} {load:>8.0?}")?;
    }
    Ok(report)
}

/// The indices of the host's sides.
fn links() -> Result<Vec<u32>> {
    let shown = Command::new("ip").args(["-j", "link", "show", "type", "veth"]).output()?;
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout)?;
    let links = shown.as_array().into_iter().flatten();
    let host =
        links.filter(|link| link["ifname"].as_str().is_some_and(|it| it.starts_with("swap")));
    Ok(host.filter_map(|link| link["ifindex"].as_u64()?.try_into().ok()).collect())
}

fn measure(bpf_dir: &Path, choice: Choice) -> Result<Vec<Reloaded>> {
    for (number, ifindex) in links()?.into_iter().enumerate() {
        let container_id = format!("pod{number}");
        let identity = Identity { container_id, ifname: "eth0".into(), ..Default::default() };
        let intent = telemetry::intend(choice);
        telemetry::attach(bpf_dir, choice, ifindex, &identity, intent, |_| Ok(()))?;
    }
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let done = reload::reload(bpf_dir)?.unwrap_or_default();
        if done.pods != PODS {
            return Err(format!("{} pods were swapped, not {PODS}", done.pods).into());
        }
        rounds.push(done);
    }
    Ok(rounds)
}

//! How long the programs of 250 pods take to swap, by both hooks, and how long the loading before it.

use std::{path::Path, process::Command};

use weir::telemetry::{
    self, Choice, Identity,
    reload::{self, Reloaded},
};

use crate::{
    Result,
    report::{Row, Rows, row::millis},
};

/// What the swap of all may take, in milliseconds.
const MOST: f64 = 5.0;
const PODS: usize = 250;
const ROUNDS: usize = 9;

/// Measures and tells.
pub fn tell(rows: &mut Rows) -> Result<()> {
    for number in 0..PODS {
        let (host, pod) = (format!("swap{number}"), format!("pod{number}"));
        let words = ["link", "add", &host, "type", "veth", "peer", "name", &pod];
        if !Command::new("ip").args(words).status()?.success() {
            return Err(format!("can't make the link {host}").into());
        }
    }
    for (choice, name) in [(Choice::Clsact, "clsact"), (Choice::Tcx, "tcx")] {
        eprintln!("datapath: reload of {PODS} pods by {name}");
        let dir = format!("/sys/fs/bpf/weir-reload-{name}");
        let rounds = measure(Path::new(&dir), choice)?;
        let swaps: Vec<f64> = rounds.iter().map(|done| millis(done.swap)).collect();
        let loads: Vec<f64> = rounds.iter().map(|done| millis(done.load)).collect();
        let swap = Row::of(format!("reload, swap of {PODS} pods: {name}"), "ms", &swaps)?;
        rows.add(swap.at_most(MOST))?;
        rows.add(Row::of(format!("reload, loading before it: {name}"), "ms", &loads)?)?;
    }
    Ok(())
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

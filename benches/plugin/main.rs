//! ADD, CHECK and DEL as whole processes, beside the reference plugins, in one alternating run.
//!
//! ```text
//! cargo bench --bench plugin [-- ROUNDS]     (root; 100 rounds unless said)
//! ```
//!
//! Everything happens in a mount and a network namespace of this process. All pods' namespaces are
//! made before the first call and removed after the last, so that neither is measured. Each round
//! calls every contender once per verb, in an order that rotates: ADD of all, CHECK of all, DEL of
//! all, for a processor that slept through a DEL's wait is slow to begin with; and none before the one before
//! has ended with all that it left behind. What else the machine
//! does strikes all alike: absolute times of different runs don't compare, the ratios of one do.

mod contender;
mod crowd;
mod floor;
mod node;
#[path = "../report/report.rs"]
#[allow(dead_code, reason = "it is of all benches")]
mod report;
mod table;

use std::{collections::BTreeMap, process::ExitCode};

use contender::{Contender, Contenders, VERBS};
use report::Rows;
use table::{FIRST, Samples, UNKNOWN};

/// Whatever goes wrong ends the bench.
type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const ROUNDS: usize = 100;

fn main() -> ExitCode {
    if let Some(done) = floor::play() {
        return done;
    }
    report::bench("plugin", run)
}

fn run(rows: &mut Rows) -> Result<()> {
    let rounds = report::number("ROUNDS", ROUNDS)?;
    node::enter()?;
    contender::adopt()?;
    let contenders = Contenders::new()?;
    let listed = contenders.listed();
    let mut samples = BTreeMap::new();
    for contender in listed {
        first_add(contender, &mut samples)?;
    }
    let pods = node::pods("pod", rounds * listed.len())?;
    for (round, pods) in pods.chunks(listed.len()).enumerate() {
        eprintln!("plugin: round {} of {rounds}", round + 1);
        measure(round, &listed, pods, &mut samples)?;
        lowest(&contenders, &pods[0], &mut samples)?;
    }
    trivial(&contenders, &pods[0], rounds, &mut samples)?;
    crowd::measure(&contenders, &mut samples)?;
    for (contender, blocks) in contenders.among() {
        crowd::among(contender, rounds, blocks, &mut samples)?;
    }
    table::tell(&contenders, &samples, rows)
}

/// The ADD that finds nothing there: Weir loads and pins its programs in it.
fn first_add(contender: &Contender, samples: &mut Samples) -> Result<()> {
    let pods = node::pods("first", 1)?;
    let (taken, reply) = contender.alone("ADD", "first", &pods[0], None)?;
    table::note(samples, contender, FIRST, taken);
    contender.alone("DEL", "first", &pods[0], Some(&reply))?;
    Ok(())
}

/// One call of each verb for each contender, each with a pod of its own.
fn measure(
    round: usize,
    contenders: &[&Contender],
    pods: &[node::Pod],
    samples: &mut Samples,
) -> Result<()> {
    let id = |which: usize| format!("round{round}-{which}");
    let mut replies = vec![None; contenders.len()];
    for verb in VERBS {
        for turn in 0..contenders.len() {
            let which = (round + turn) % contenders.len();
            let (contender, pod) = (&contenders[which], &pods[which]);
            let (taken, said) =
                contender.alone(verb, &id(which), pod, replies[which].as_deref())?;
            table::note(samples, contender, verb, taken);
            if verb == "ADD" {
                replies[which] = Some(said);
            }
        }
    }
    Ok(())
}

/// The floors, in a pod that is empty again by now.
fn lowest(contenders: &Contenders, pod: &node::Pod, samples: &mut Samples) -> Result<()> {
    let Contenders { netlink, exec, .. } = contenders;
    for (contender, verb) in [(netlink, "ADD"), (netlink, "DEL"), (exec, "VERSION")] {
        let (taken, _) = contender.alone(verb, "floor", pod, None)?;
        table::note(samples, contender, verb, taken);
    }
    Ok(())
}

/// The cheapest calls there are: VERSION, and a DEL of what never was.
fn trivial(
    contenders: &Contenders,
    pod: &node::Pod,
    rounds: usize,
    samples: &mut Samples,
) -> Result<()> {
    let Contenders { ptp, bridge, bare, all, .. } = contenders;
    for _ in 0..rounds {
        for contender in [ptp, bridge, bare, all] {
            let (taken, _) = contender.alone("VERSION", "never-was", pod, None)?;
            table::note(samples, contender, "VERSION", taken);
        }
        let (taken, _) = all.alone("DEL", "never-was", pod, None)?;
        table::note(samples, all, UNKNOWN, taken);
    }
    Ok(())
}

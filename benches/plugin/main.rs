//! ADD, CHECK and DEL as whole processes, beside the reference plugins, in one alternating run.
//!
//! ```text
//! cargo bench --bench plugin [-- ROUNDS]     (root; 100 rounds unless said)
//! ```
//!
//! Everything happens in a mount and a network namespace of this process. All pods' namespaces are
//! made before the first call and removed after the last, so that neither is measured. Each round
//! calls every contender once per verb, in an order that rotates: ADD of all, CHECK of all, DEL of
//! all, for a processor that slept through a DEL's wait is slow to begin with. What else the machine
//! does strikes all alike: absolute times of different runs don't compare, the ratios of one do.

mod contender;
mod crowd;
mod floor;
mod node;
mod table;

use std::{collections::BTreeMap, env, io::Write, process::ExitCode};

use contender::{Contender, Contenders, Taken, VERBS};
use table::Samples;

/// Whatever goes wrong ends the bench.
type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const ROUNDS: usize = 100;

fn main() -> ExitCode {
    if let Some(done) = floor::play() {
        return done;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("plugin bench: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    // Cargo itself adds "--bench".
    let rounds = match env::args().skip(1).find(|arg| arg != "--bench") {
        Some(rounds) => rounds.parse().map_err(|err| format!("ROUNDS {rounds:?}: {err}"))?,
        None => ROUNDS,
    };
    node::enter()?;
    let contenders = Contenders::new()?;
    let listed = contenders.listed();
    let first: Vec<Taken> = listed.iter().map(|it| first_add(it)).collect::<Result<_>>()?;

    let mut samples = BTreeMap::new();
    let pods = node::pods("pod", rounds * listed.len())?;
    for (round, pods) in pods.chunks(listed.len()).enumerate() {
        measure(round, &listed, pods, &mut samples)?;
        lowest(&contenders, &pods[0], &mut samples)?;
    }
    trivial(&contenders, &pods[0], rounds, &mut samples)?;
    crowd::measure(&contenders, &mut samples)?;
    crowd::among(&contenders.bare, rounds, &mut samples)?;

    let report = table::report(&contenders, &samples, &first, rounds)?;
    std::io::stdout().write_all(report.as_bytes())?;
    Ok(())
}

/// The ADD that finds nothing there: Weir loads and pins its programs in it.
fn first_add(contender: &Contender) -> Result<Taken> {
    let pods = node::pods("first", 1)?;
    let (taken, reply) = contender.call("ADD", "first", &pods[0], None)?;
    contender.call("DEL", "first", &pods[0], Some(&reply))?;
    Ok(taken)
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
            let (taken, said) = contender.call(verb, &id(which), pod, replies[which].as_deref())?;
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
        let (taken, _) = contender.call(verb, "floor", pod, None)?;
        table::note(samples, contender, verb, taken);
    }
    Ok(())
}

/// The cheapest calls there are: ptp's VERSION, and a DEL of what never was.
fn trivial(
    contenders: &Contenders,
    pod: &node::Pod,
    rounds: usize,
    samples: &mut Samples,
) -> Result<()> {
    for _ in 0..rounds {
        for (contender, verb) in [(&contenders.ptp, "VERSION"), (&contenders.all, "DEL")] {
            let (taken, _) = contender.call(verb, "never-was", pod, None)?;
            let row = if verb == "DEL" { "DEL of an unknown id" } else { verb };
            table::note(samples, contender, row, taken);
        }
    }
    Ok(())
}

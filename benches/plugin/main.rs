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
mod node;
mod table;

use std::{env, io::Write, process::ExitCode, time::Duration};

use contender::{Contender, VERBS};
use table::Samples;

/// Whatever goes wrong ends the bench.
type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// The most that an ADD may cost beside the first contender's.
const ADD_TARGET: f64 = 0.35;
const ROUNDS: usize = 100;

fn main() -> ExitCode {
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
    let contenders = contender::all()?;
    let mut samples: Vec<_> = contenders.iter().map(|_| Samples::default()).collect();
    let first: Vec<Duration> = contenders.iter().map(first_add).collect::<Result<_>>()?;

    let netns = node::pods("pod", rounds * contenders.len())?;
    for (round, pods) in netns.chunks(contenders.len()).enumerate() {
        measure(round, &contenders, pods, &mut samples)?;
    }
    let report = table::report(&contenders, &samples, &first, ADD_TARGET, rounds)?;
    std::io::stdout().write_all(report.as_bytes())?;
    Ok(())
}

/// The ADD that finds nothing there: Weir loads and pins its programs in it.
fn first_add(contender: &Contender) -> Result<Duration> {
    let pods = node::pods("first", 1)?;
    let (took, reply) = contender.call("ADD", "first", &pods[0], None)?;
    contender.call("DEL", "first", &pods[0], Some(&reply))?;
    Ok(took)
}

/// One call of each verb for each contender, each with a pod of its own.
fn measure(
    round: usize,
    contenders: &[Contender],
    pods: &[node::Pod],
    samples: &mut [Samples],
) -> Result<()> {
    let id = |which: usize| format!("round{round}-{which}");
    let mut replies = vec![None; contenders.len()];
    for verb in VERBS {
        for turn in 0..contenders.len() {
            let which = (round + turn) % contenders.len();
            let (contender, pod) = (&contenders[which], &pods[which]);
            let (took, said) = contender.call(verb, &id(which), pod, replies[which].as_deref())?;
            samples[which].add(verb, took);
            if verb == "ADD" {
                replies[which] = Some(said);
            }
        }
    }
    Ok(())
}

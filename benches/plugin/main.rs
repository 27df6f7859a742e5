//! ADD, CHECK and DEL as whole processes, beside the reference plugins, in one alternating run.
//!
//! ```text
//! cargo bench --bench plugin [-- ROUNDS]     (root; 100 rounds unless said)
//! ```
//!
//! Everything happens in a mount and a network namespace of this process. All pods' namespaces are
//! made before the first call and removed after the last, so that neither is measured. Each round
//! calls every contender once per verb, in an order that rotates, so that what else the machine does
//! strikes all alike: absolute times of different runs don't compare, the ratios of one do.

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
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let which = (round + turn) % contenders.len();
            let id = format!("round{round}");
            let pod = &netns[round * contenders.len() + which];
            measure(&contenders[which], &id, pod, &mut samples[which])?;
        }
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

fn measure(contender: &Contender, id: &str, pod: &node::Pod, samples: &mut Samples) -> Result<()> {
    let mut reply = None;
    for verb in VERBS {
        let (took, said) = contender.call(verb, id, pod, reply.as_deref())?;
        samples.add(verb, took);
        if verb == "ADD" {
            reply = Some(said);
        }
    }
    Ok(())
}

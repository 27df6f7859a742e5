//! ADDs among many: many at once, and many that were there before.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use crate::{
    Result,
    contender::{self, Contender, Contenders, Taken, VERBS},
    node::{self, Pod},
    table::{self, Samples},
};

/// So many pods, so often.
const CROWD: usize = 96;
const TIMES: usize = 5;
/// A crowd of calls, by the names that its time has.
pub struct Crowd {
    workers: usize,
    pub add: &'static str,
    pub del: &'static str,
}
pub const CROWDS: [Crowd; 2] = [
    Crowd { workers: 8, add: "96 ADDs, 8 at once", del: "96 DELs, 8 at once" },
    Crowd { workers: 32, add: "96 ADDs, 32 at once", del: "96 DELs, 32 at once" },
];
/// So many other attachments, in rising order, and the names of calls among them, by verb.
pub const AMONG: [(usize, [&str; VERBS.len()]); 3] = [
    (0, ["ADD among none", "CHECK among none", "DEL among none"]),
    (250, ["ADD among 250", "CHECK among 250", "DEL among 250"]),
    (1000, ["ADD among 1000", "CHECK among 1000", "DEL among 1000"]),
];
/// Interfaces of one namespace: a thousand namespaces would measure the kernel's patience.
const INTERFACES: usize = 50;

/// The whole time that a crowd of ADDs takes, and one of DELs, of one contender after the other.
pub fn measure(contenders: &Contenders, samples: &mut Samples) -> Result<()> {
    let pods = node::pods("crowd", CROWD)?;
    for Crowd { workers, add, del } in CROWDS {
        for time in 1..=TIMES {
            eprintln!("plugin: {add}, turn {time} of {TIMES}");
            for contender in contenders.crowding() {
                for (verb, call) in [("ADD", add), ("DEL", del)] {
                    let taken = at_once(contender, verb, &pods, workers)?;
                    table::note(samples, contender, call, taken);
                }
            }
        }
    }
    Ok(())
}

fn at_once(contender: &Contender, verb: &str, pods: &[Pod], workers: usize) -> Result<Taken> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), String> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(pod) = pods.get(at) else { return Ok(()) };
            let called = contender.call(verb, &format!("crowd{at}"), pod, None);
            called.map_err(|err| err.to_string())?;
        }
    };
    let used = contender::children()?;
    let started = Instant::now();
    let done: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let wall = started.elapsed();
    contender::settle()?;
    let cpu = contender::children()?.saturating_sub(used);
    for worker in done {
        worker.map_err(|_| "a worker died")??;
    }
    Ok(Taken { wall, cpu })
}

/// Calls before there are other attachments, among some and among many; turn about in so many blocks, so
/// that what else the machine does strikes all alike.
pub fn among(
    contender: &Contender,
    rounds: usize,
    blocks: usize,
    samples: &mut Samples,
) -> Result<()> {
    let most = AMONG.iter().map(|(records, _)| *records).max().unwrap_or_default();
    let spaces = node::pods("many", most.div_ceil(INTERFACES))?;
    let pods = node::pods("among", rounds)?;
    let others: Vec<_> = (0..most)
        .map(|at| {
            (format!("many{at}"), &spaces[at / INTERFACES], format!("net{}", at % INTERFACES))
        })
        .collect();
    for block in pods.chunks(rounds.div_ceil(blocks).max(1)) {
        let mut there = 0;
        for (records, calls) in AMONG {
            eprintln!("plugin: {} among {records}", contender.label);
            for (id, pod, ifname) in &others[there..records] {
                contender.call_for("ADD", id, pod, ifname, None)?;
            }
            there = records;
            live(contender, block, calls, samples)?;
        }
        for (id, pod, ifname) in &others[..there] {
            contender.call_for("DEL", id, pod, ifname, None)?;
        }
    }
    Ok(())
}

/// Each pod's ADD, CHECK and DEL.
fn live(
    contender: &Contender,
    pods: &[Pod],
    calls: [&'static str; VERBS.len()],
    samples: &mut Samples,
) -> Result<()> {
    for pod in pods {
        let mut reply = None;
        for (verb, call) in VERBS.into_iter().zip(calls) {
            let (taken, said) = contender.alone(verb, "among", pod, reply.as_deref())?;
            table::note(samples, contender, call, taken);
            if verb == "ADD" {
                reply = Some(said);
            }
        }
    }
    Ok(())
}

//! ADDs among many: many at once, and many that were there before.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Result,
    contender::{Contender, Contenders},
    node::{self, Pod},
    table::{self, Samples},
};

/// So many pods, so many calls at a time, so often.
const CROWD: usize = 96;
const AT_ONCE: usize = 32;
const TIMES: usize = 5;
/// Interfaces of one namespace: a thousand namespaces would measure the kernel's patience.
const INTERFACES: usize = 50;

/// The whole time that a crowd of ADDs takes, of one contender after the other.
pub fn measure(contenders: &Contenders, samples: &mut Samples) -> Result<()> {
    let pods = node::pods("crowd", CROWD)?;
    for _ in 0..TIMES {
        for contender in [&contenders.ptp, &contenders.bare, &contenders.all] {
            table::note(samples, contender, "96 ADDs", at_once(contender, "ADD", &pods)?);
            at_once(contender, "DEL", &pods)?;
        }
    }
    Ok(())
}

fn at_once(contender: &Contender, verb: &str, pods: &[Pod]) -> Result<Duration> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), String> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(pod) = pods.get(at) else { return Ok(()) };
            let called = contender.call(verb, &format!("crowd{at}"), pod, None);
            called.map_err(|err| err.to_string())?;
        }
    };
    let started = Instant::now();
    let done: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let took = started.elapsed();
    for worker in done {
        worker.map_err(|_| "a worker died")??;
    }
    Ok(took)
}

/// ADDs before there are `records` other attachments, and among them.
pub fn among(
    contender: &Contender,
    records: usize,
    rounds: usize,
    samples: &mut Samples,
) -> Result<()> {
    let spaces = node::pods("many", records.div_ceil(INTERFACES))?;
    let pods = node::pods("among", rounds)?;
    let others: Vec<_> = (0..records)
        .map(|at| {
            (format!("many{at}"), &spaces[at / INTERFACES], format!("net{}", at % INTERFACES))
        })
        .collect();
    // Turn about in four blocks, so that what else the machine does strikes both alike.
    for block in pods.chunks(rounds.div_ceil(4).max(1)) {
        adds(contender, block, "ADD among none", samples)?;
        for (id, pod, ifname) in &others {
            contender.call_for("ADD", id, pod, ifname, None)?;
        }
        adds(contender, block, "ADD among 1000", samples)?;
        for (id, pod, ifname) in &others {
            contender.call_for("DEL", id, pod, ifname, None)?;
        }
    }
    Ok(())
}

fn adds(
    contender: &Contender,
    pods: &[Pod],
    row: &'static str,
    samples: &mut Samples,
) -> Result<()> {
    for pod in pods {
        let (took, _) = contender.call("ADD", "among", pod, None)?;
        table::note(samples, contender, row, took);
        contender.call("DEL", "among", pod, None)?;
    }
    Ok(())
}

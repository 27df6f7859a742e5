//! ADDs among many: many at once, and many that were there before.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use crate::{
    Result,
    contender::{self, Contender, Contenders, Taken},
    node::{self, Pod},
    table::{self, Samples},
};

/// So many pods, so many calls at a time, so often.
const CROWD: usize = 96;
pub const AT_ONCE: [(usize, &str); 2] = [(8, "96 ADDs, 8 at once"), (32, "96 ADDs, 32 at once")];
const TIMES: usize = 5;
/// So many other attachments, in rising order.
pub const AMONG: [(usize, &str); 3] =
    [(0, "ADD among none"), (250, "ADD among 250"), (1000, "ADD among 1000")];
/// Interfaces of one namespace: a thousand namespaces would measure the kernel's patience.
const INTERFACES: usize = 50;

/// The whole time that a crowd of ADDs takes, of one contender after the other.
pub fn measure(contenders: &Contenders, samples: &mut Samples) -> Result<()> {
    let pods = node::pods("crowd", CROWD)?;
    for (workers, row) in AT_ONCE {
        for _ in 0..TIMES {
            for contender in contenders.crowding() {
                let taken = at_once(contender, "ADD", &pods, workers)?;
                table::note(samples, contender, row, taken);
                at_once(contender, "DEL", &pods, workers)?;
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
    let cpu = contender::children()?.saturating_sub(used);
    for worker in done {
        worker.map_err(|_| "a worker died")??;
    }
    Ok(Taken { wall, cpu })
}

/// ADDs before there are other attachments, among some and among many.
pub fn among(contender: &Contender, rounds: usize, samples: &mut Samples) -> Result<()> {
    let most = AMONG.iter().map(|(records, _)| *records).max().unwrap_or_default();
    let spaces = node::pods("many", most.div_ceil(INTERFACES))?;
    let pods = node::pods("among", rounds)?;
    let others: Vec<_> = (0..most)
        .map(|at| {
            (format!("many{at}"), &spaces[at / INTERFACES], format!("net{}", at % INTERFACES))
        })
        .collect();
    // Turn about in four blocks, so that what else the machine does strikes all alike.
    for block in pods.chunks(rounds.div_ceil(4).max(1)) {
        let mut there = 0;
        for (records, row) in AMONG {
            for (id, pod, ifname) in &others[there..records] {
                contender.call_for("ADD", id, pod, ifname, None)?;
            }
            there = records;
            adds(contender, block, row, samples)?;
        }
        for (id, pod, ifname) in &others[..there] {
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
        let (taken, _) = contender.call("ADD", "among", pod, None)?;
        table::note(samples, contender, row, taken);
        contender.call("DEL", "among", pod, None)?;
    }
    Ok(())
}

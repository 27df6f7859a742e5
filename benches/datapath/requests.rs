//! `wrk` in one pod against nginx in another: requests counted beside requests served, and the
//! throughput beside pairs of pods that nobody counts.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use weir::telemetry::{
    reader::Maps,
    reload::reload,
    wire::{CounterKind, Role, Stat},
};

use crate::{
    Result,
    pair::{BPF_DIR, Pair, Pairs},
    report::{Row, Rows, row::median},
};

const TURNS: usize = 5;
/// Requests that are served while programs are swapped, and turns of wrk that this may take.
const RELOADED: u64 = 1_000_000;
const MOST_TURNS: usize = 100;
const RELOAD_PAUSE: Duration = Duration::from_millis(200);

/// How wrk uses connections, and the least rate that is aimed at, as a ratio to no program.
const MODES: [(&str, &[&str], Option<f64>); 2] = [
    ("keep-alive", &[], Some(0.98)),
    ("a connection per request", &["-H", "Connection: close"], None),
];

/// HTTP requests counted in a role, and those of them without a status.
fn counted(role: Role) -> Result<(u64, u64)> {
    let snapshot = Maps::open(Path::new(BPF_DIR))?.snapshot()?;
    let (mut all, mut without) = (0, 0);
    for (key, n) in snapshot.counters {
        let http = u32::from(key.kind) == CounterKind::COUNTER_HTTP_REQUESTS.0;
        if http && u32::from(key.role) == role.0 {
            all += n;
            without += if key.c == 0 { n } else { 0 };
        }
    }
    Ok((all, without))
}

/// What was served and what was counted, since the beginning or between two looks.
#[derive(Clone, Copy)]
struct Sums {
    served: u64,
    server: u64,
    client: u64,
    unanswered: u64,
}

impl Sums {
    fn of(pair: &Pair) -> Result<Self> {
        let ((server, unanswered), (client, _)) =
            (counted(Role::ROLE_SERVER)?, counted(Role::ROLE_CLIENT)?);
        Ok(Self { served: pair.served()?, server, client, unanswered })
    }

    fn since(pair: &Pair, before: Self) -> Result<Self> {
        let now = Self::of(pair)?;
        Ok(Self {
            served: now.served - before.served,
            server: now.server - before.server,
            client: now.client - before.client,
            unanswered: now.unanswered - before.unanswered,
        })
    }
}

/// What was counted, beside what was served: one row each, exact or wrong.
fn exact(mode: &str, sums: Sums, rows: &mut Rows) -> Result<()> {
    let Sums { served, server, client, unanswered } = sums;
    let name = |what: &str| format!("wrk, {mode}: {what}");
    rows.add(Row::one(name("served by nginx"), "requests", served as f64))?;
    for (what, counted) in [("counted at the server", server), ("counted at the client", client)] {
        let row = Row::one(name(what), "requests", counted as f64);
        rows.add(row.ratio("served by nginx", served as f64).exactly(1.0))?;
    }
    let row = Row::one(name("counted without a response"), "requests", unanswered as f64);
    Ok(rows.add(row)?)
}

/// Measures and tells.
pub fn tell(pairs: &Pairs, time: Duration, rows: &mut Rows) -> Result<()> {
    for (mode, more, least) in MODES {
        let before = Sums::of(&pairs.counted)?;
        let mut rates = pairs.all().map(|_| Vec::new());
        for turn in 1..=TURNS {
            eprintln!("datapath: wrk, {mode}, turn {turn} of {TURNS}");
            for (pair, rates) in pairs.all().into_iter().zip(&mut rates) {
                rates.push(pair.wrk(time, more)?);
            }
        }
        let bare = pairs.bare.name;
        let than = rates.last().and_then(|rates| median(rates)).ok_or("no turn of wrk")?;
        for (pair, rates) in pairs.all().into_iter().zip(&rates) {
            let mut row =
                Row::of(format!("wrk, 32 connections, {mode}: {}", pair.name), "1/s", rates)?;
            if pair.name != bare {
                row = row.ratio(bare, than);
            }
            if let (Some(least), true) = (least, pair.name == pairs.counted.name) {
                row = row.at_least(least);
            }
            rows.add(row)?;
        }
        exact(mode, Sums::since(&pairs.counted, before)?, rows)?;
    }
    Ok(())
}

/// What of all that was sent to and from the counted pods could not be followed, and until when it was.
#[derive(Debug, Default)]
pub struct Gaps(Vec<u64>);

impl Gaps {
    /// Says what came since the last time.
    pub fn after(&mut self, what: &str) -> Result<()> {
        let stats = Maps::open(Path::new(BPF_DIR))?.snapshot()?.stats;
        let last = usize::try_from(Stat::STAT_GAP_FRAGMENT.0)?;
        let now: Vec<u64> = stats.into_iter().take(last + 1).collect();
        for (cause, gaps) in now.iter().enumerate() {
            let new = gaps - self.0.get(cause).unwrap_or(&0);
            if new > 0 {
                eprintln!("datapath: {what}: {new} gaps of cause {cause} (enum stat)");
            }
        }
        self.0 = now;
        Ok(())
    }

    /// The row of all.
    pub fn tell(self, rows: &mut Rows) -> Result<()> {
        let gaps: u64 = self.0.iter().sum();
        rows.add(Row::one("gaps, of all that was sent", "gaps", gaps as f64).exactly(0.0))?;
        Ok(())
    }
}

/// The programs are swapped again and again, until enough requests were served meanwhile.
pub fn tell_reloaded(pair: &Pair, time: Duration, rows: &mut Rows) -> Result<()> {
    eprintln!("datapath: wrk while the programs are swapped");
    let before = Sums::of(pair)?;
    let over = AtomicBool::new(false);
    let (reloads, served) = thread::scope(|scope| {
        let reloader = scope.spawn(|| -> Result<u32, String> {
            let mut reloads = 0;
            while !over.load(Ordering::Relaxed) {
                reload(Path::new(BPF_DIR)).map_err(|err| err.to_string())?;
                reloads += 1;
                thread::sleep(RELOAD_PAUSE);
            }
            Ok(reloads)
        });
        let served = (0..MOST_TURNS)
            .map(|_| pair.wrk(time, &[]).and_then(|_| Sums::since(pair, before)))
            .find(|sums| sums.as_ref().map_or(true, |sums| sums.served >= RELOADED));
        over.store(true, Ordering::Relaxed);
        let reloads = reloader.join().map_err(|_| "the reloading thread panicked")??;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((reloads, served.transpose()?))
    })?;
    let served = match served {
        Some(_) => Sums::since(pair, before)?,
        None => return Err(format!("fewer than {RELOADED} requests in {MOST_TURNS} turns").into()),
    };
    rows.add(Row::one("swaps of the programs under keep-alive", "swaps", f64::from(reloads)))?;
    exact("keep-alive under these swaps", served, rows)
}

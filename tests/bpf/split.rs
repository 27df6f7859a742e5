//! Split/merge invariance: the same bytes, however they are cut, joined, repeated or overlapped,
//! give the same counts. Every exchange here is run at every offset, in both roles of the pod.

use std::{collections::BTreeMap, time::Duration};

use weir::telemetry::wire::{HistogramKind, Role, Stat};

use crate::{
    dns_tcp_cases,
    exchange::Exchange,
    frame::{ACK, FIN, v4, v6},
    http1_cases, http2_cases, kafka_cases,
    kernel::{Counts, Kernel},
    mysql_cases, postgresql_cases, redis_cases,
    stream::{Side, Stream},
    tls_cases,
};

pub fn exchanges() -> Vec<Exchange> {
    let mut all = http1_cases::exchanges();
    all.extend(http2_cases::exchanges());
    all.extend(tls_cases::exchanges());
    all.extend(dns_tcp_cases::exchanges());
    all.extend(redis_cases::exchanges());
    all.extend(postgresql_cases::exchanges());
    all.extend(mysql_cases::exchanges());
    all.extend(kafka_cases::exchanges());
    all
}

/// Runs exchanges on ever new connections and compares what each added.
struct Runner {
    kernel: Kernel,
    runs: u32,
    /// What all runs before added up to.
    counted: Counts,
    observed: BTreeMap<u32, u64>,
}

impl Runner {
    fn new() -> Self {
        let (kernel, counted) = (Kernel::new(), Counts::default());
        Self { kernel, runs: 0, counted, observed: BTreeMap::new() }
    }

    /// `play` sends the bytes of both sides; all else is done here.
    fn run(&mut self, exchange: &Exchange, how: &str, play: impl FnOnce(&mut Stream<'_>)) {
        let role = if self.runs.is_multiple_of(2) { Role::ROLE_SERVER } else { Role::ROLE_CLIENT };
        let port = u16::try_from(1024 + self.runs % 60_000).unwrap();
        self.runs += 1;
        let (near, far) =
            if role == Role::ROLE_SERVER { (exchange.port, port) } else { (port, exchange.port) };
        let (pod, peer) =
            if self.runs % 4 < 2 { (v4(2, near), v4(9, far)) } else { (v6(2, near), v6(9, far)) };
        let (client, server) = if role == Role::ROLE_SERVER { (peer, pod) } else { (pod, peer) };
        let mut stream = Stream::open(&self.kernel, role, client, server);
        play(&mut stream);
        stream.fin(Side::Client);
        stream.fin(Side::Server);
        let mut added = self.added();
        if added != exchange.expected(role) {
            // What an HTTP/2 connection left open waits for the sweep.
            self.kernel.maps.sweep(Duration::from_secs(60)).unwrap();
            added = self.added();
        }
        assert_eq!(added, exchange.expected(role), "{} {how}, pod is {role:?}", exchange.name);
        added.0.into_iter().for_each(|(key, n)| *self.counted.0.entry(key).or_default() += n);
        for &(kind, n) in &exchange.observed {
            *self.observed.entry(kind.0).or_default() += n;
        }
    }

    /// What was counted since the last run, TCP's own aside.
    fn added(&self) -> Counts {
        self.kernel.counts().since(&self.counted).above_tcp()
    }

    /// Every exchange is in the histogram as well, and no gap was met.
    fn finish(self) {
        for (&kind, &n) in &self.observed {
            assert_eq!(self.kernel.observations(HistogramKind(kind)), n, "histograms {kind}");
        }
        let stats = self.kernel.snapshot().stats;
        assert!(
            stats[..=Stat::STAT_GAP_FRAGMENT.0 as usize].iter().all(|&n| n == 0),
            "gaps: {stats:?}"
        );
        println!("{} connections", self.runs);
    }
}

#[test]
fn whole() {
    let mut runner = Runner::new();
    for exchange in exchanges() {
        for _ in 0..4 {
            runner.run(&exchange, "whole", |stream| {
                exchange.turns.iter().for_each(|(side, bytes)| stream.send(*side, bytes));
            });
        }
    }
    runner.finish();
}

#[test]
fn cut_in_two_at_every_offset() {
    let mut runner = Runner::new();
    for exchange in exchanges() {
        for (turn, (_, bytes)) in exchange.turns.iter().enumerate() {
            for cut in 1..bytes.len() {
                runner.run(&exchange, &format!("with turn {turn} cut at {cut}"), |stream| {
                    for (at, (side, bytes)) in exchange.turns.iter().enumerate() {
                        let (first, second) = bytes.split_at(if at == turn { cut } else { 0 });
                        stream.send(*side, first);
                        stream.send(*side, second);
                    }
                });
            }
        }
    }
    runner.finish();
}

#[test]
fn a_byte_a_segment() {
    let mut runner = Runner::new();
    for exchange in exchanges() {
        runner.run(&exchange, "bytewise", |stream| {
            for (side, bytes) in &exchange.turns {
                bytes.chunks(1).for_each(|byte| stream.send(*side, byte));
            }
        });
    }
    runner.finish();
}

/// xorshift64*: the seed alone decides a run, so that a failure can be had again.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(bits).unwrap() % limit
    }
}

/// `bytes` in pieces of random size, some again and some overlapping what was before.
fn pieces(len: usize, random: &mut Random) -> Vec<(usize, usize)> {
    let mut pieces = Vec::new();
    let mut sent = 0;
    while sent < len {
        let most = if random.below(3) == 0 { 8 } else { 1400 };
        let end = (sent + 1 + random.below(most)).min(len);
        pieces.push((sent, end));
        sent = end;
        if random.below(3) == 0 {
            // Again, from anywhere, and maybe with bytes that are new.
            let from = random.below(sent);
            let to = (from + 1 + random.below(1400)).min(len);
            pieces.push((from, to));
            sent = sent.max(to);
        }
    }
    pieces
}

fn send_pieces(stream: &mut Stream<'_>, side: Side, bytes: &[u8], pieces: &[(usize, usize)]) {
    let start = stream.next(side);
    for &(from, to) in pieces {
        let seq = start.wrapping_add(u32::try_from(from).unwrap());
        stream.segment(side, seq, ACK, &bytes[from..to]);
    }
    stream.advance(side, bytes.len());
}

/// A seed of its own for every run, told in each failure.
pub fn seed() -> u64 {
    let seed = std::process::id().into();
    println!("seed {seed}");
    seed
}

#[test]
fn cut_joined_repeated_and_overlapped_at_random() {
    let seed = seed();
    let mut random = Random(seed);
    let mut runner = Runner::new();
    for round in 0..60 {
        for exchange in exchanges() {
            runner.run(&exchange, &format!("seed {seed} round {round}"), |stream| {
                for (side, bytes) in &exchange.turns {
                    let pieces = pieces(bytes.len(), &mut random);
                    send_pieces(stream, *side, bytes, &pieces);
                }
            });
        }
    }
    runner.finish();
}

#[test]
fn out_of_order_at_random() {
    let seed = seed();
    let mut random = Random(seed);
    let mut runner = Runner::new();
    let mut disordered = |len: usize| {
        let mut pieces = pieces(len, &mut random);
        for _ in 0..pieces.len() / 2 {
            // Within the share of one direction, so that nothing has to be given up.
            let at = random.below(pieces.len());
            let other = (at + 1 + random.below(3)).min(pieces.len() - 1);
            pieces.swap(at, other);
        }
        pieces
    };
    for round in 0..60 {
        for exchange in exchanges() {
            let pieces: Vec<_> =
                exchange.turns.iter().map(|(_, bytes)| disordered(bytes.len())).collect();
            runner.run(&exchange, &format!("seed {seed} round {round}: {pieces:?}"), |stream| {
                for ((side, bytes), pieces) in exchange.turns.iter().zip(&pieces) {
                    send_pieces(stream, *side, bytes, pieces);
                }
            });
        }
    }
    runner.finish();
}

#[test]
fn a_fin_that_overtakes_the_last_bytes_waits_for_them() {
    let mut runner = Runner::new();
    // Who ended first is told in the error of what was left open.
    for exchange in exchanges().iter().filter(|exchange| exchange.name != http2_cases::LEFT_OPEN) {
        runner.run(exchange, "with the FIN first", |stream| {
            let ((side, bytes), before) = exchange.turns.split_last().unwrap();
            assert_eq!(*side, Side::Server);
            before.iter().for_each(|(side, bytes)| stream.send(*side, bytes));
            let (first, last) = bytes.split_at(bytes.len() - 1);
            let end = stream.next(Side::Server).wrapping_add(u32::try_from(bytes.len()).unwrap());
            stream.send(Side::Server, first);
            stream.segment(Side::Server, end, ACK | FIN, &[]);
            stream.send(Side::Server, last);
        });
    }
    runner.finish();
}

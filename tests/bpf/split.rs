//! Split/merge invariance: the same bytes, however they are cut, joined, repeated or overlapped,
//! give the same counts. Every exchange here is run at every offset, in both roles of the pod.

use std::{collections::BTreeMap, time::Duration};

use weir::telemetry::wire::{Family, HistogramKind, Role, Stat};

use crate::{
    dns_tcp_cases,
    exchange::Exchange,
    frame::{ACK, FIN, v4, v6},
    http1_cases, http2_cases, kafka_cases,
    kernel::{Counts, Kernel, Tally},
    mysql_cases, postgresql_cases, recorded, redis_cases,
    stream::{SEGMENT, Side, Stream},
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
    all.extend(recorded::exchanges());
    all
}

/// The pod's role, and of which family its addresses are.
type Place = (Role, Family);

const PLACES: [Place; 4] = [
    (Role::ROLE_SERVER, Family::FAMILY_IPV4),
    (Role::ROLE_CLIENT, Family::FAMILY_IPV6),
    (Role::ROLE_SERVER, Family::FAMILY_IPV6),
    (Role::ROLE_CLIENT, Family::FAMILY_IPV4),
];

/// Both roles and both families; for every second number the other way round.
fn both_roles(number: usize) -> &'static [Place] {
    if number.is_multiple_of(2) { &PLACES[..2] } else { &PLACES[2..] }
}

/// One of the four after the other.
fn in_turn(number: usize) -> &'static [Place] {
    std::slice::from_ref(&PLACES[number % 4])
}

/// Runs exchanges on ever new connections and compares what each added.
struct Runner {
    kernel: Kernel,
    runs: u32,
    /// What all runs before added up to.
    counted: Tally,
    observed: BTreeMap<u32, u64>,
}

impl Runner {
    fn new() -> Self {
        let (kernel, counted) = (Kernel::new(), Tally::default());
        Self { kernel, runs: 0, counted, observed: BTreeMap::new() }
    }

    /// `play` sends the bytes of both sides, once at each place, none of them in the same role; all
    /// else is done here.
    fn run(
        &mut self,
        exchange: &Exchange,
        places: &[Place],
        how: &str,
        play: impl Fn(&mut Stream<'_>),
    ) {
        let mut expected = Counts::default();
        for &(role, family) in places {
            let mut stream = self.open(exchange, role, family);
            play(&mut stream);
            stream.fin(Side::Client);
            stream.fin(Side::Server);
            expected.0.extend(exchange.expected(role).0);
            for &(kind, n) in &exchange.observed {
                *self.observed.entry(kind.0).or_default() += n;
            }
        }
        let mut counted = self.kernel.tally();
        if counted.since(&self.counted).above_tcp() != expected {
            // What an HTTP/2 connection left open waits for the sweep.
            self.kernel.maps.sweep(Duration::from_secs(60)).unwrap();
            counted = self.kernel.tally();
        }
        let added = counted.since(&self.counted).above_tcp();
        assert_eq!(added, expected, "{} {how}, pod is {places:?}", exchange.name);
        self.counted = counted;
    }

    fn open(&mut self, exchange: &Exchange, role: Role, family: Family) -> Stream<'_> {
        let port = u16::try_from(1024 + self.runs % 60_000).unwrap();
        self.runs += 1;
        let (near, far) =
            if role == Role::ROLE_SERVER { (exchange.port, port) } else { (port, exchange.port) };
        let (pod, peer) = if family == Family::FAMILY_IPV4 {
            (v4(2, near), v4(9, far))
        } else {
            (v6(2, near), v6(9, far))
        };
        let (client, server) = if role == Role::ROLE_SERVER { (peer, pod) } else { (pod, peer) };
        Stream::open(&self.kernel, role, client, server)
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
        for number in 0..2 {
            runner.run(&exchange, both_roles(number), "whole", |stream| {
                exchange.turns.iter().for_each(|(side, bytes)| stream.send(*side, bytes));
            });
        }
    }
    runner.finish();
}

/// Every offset; of what is longer than a segment those near its ends, and some between.
fn offsets(len: usize) -> impl Iterator<Item = usize> {
    let near =
        move |cut: &usize| len <= SEGMENT || cut.min(&(len - cut)) < &50 || cut.is_multiple_of(997);
    (1..len).filter(near)
}

/// Runs every exchange with every turn cut in two at every offset; `both` sends the two.
fn cut_in_two(
    how: &str,
    exchanges: &[Exchange],
    places: fn(usize) -> &'static [Place],
    both: impl Fn(&mut Stream<'_>, Side, &[u8], &[u8]),
) {
    let mut runner = Runner::new();
    for exchange in exchanges {
        for (turn, (_, bytes)) in exchange.turns.iter().enumerate() {
            for cut in offsets(bytes.len()) {
                let how = format!("with turn {turn} {how} at {cut}");
                runner.run(exchange, places(cut), &how, |stream| {
                    for (at, (side, bytes)) in exchange.turns.iter().enumerate() {
                        if at == turn {
                            let (first, second) = bytes.split_at(cut);
                            both(stream, *side, first, second);
                        } else {
                            stream.send(*side, bytes);
                        }
                    }
                });
            }
        }
    }
    runner.finish();
}

#[test]
fn cut_in_two_at_every_offset() {
    cut_in_two("cut", &exchanges(), both_roles, |stream, side, first, second| {
        stream.send(side, first);
        stream.send(side, second);
    });
}

#[test]
fn cut_in_two_at_every_offset_with_the_second_first() {
    cut_in_two("swapped", &exchanges(), in_turn, |stream, side, first, second| {
        stream.send_ahead(side, first.len(), second);
        stream.send_ahead(side, 0, first);
        stream.advance(side, first.len() + second.len());
    });
}

#[test]
fn cut_in_two_at_every_offset_with_the_first_twice() {
    cut_in_two("cut and repeated", &exchanges(), in_turn, |stream, side, first, second| {
        stream.send_ahead(side, 0, first);
        stream.send(side, first);
        stream.send(side, second);
    });
}

#[test]
fn a_byte_a_segment() {
    let mut runner = Runner::new();
    for exchange in exchanges() {
        for number in 0..2 {
            runner.run(&exchange, both_roles(number), "bytewise", |stream| {
                for (side, bytes) in &exchange.turns {
                    bytes.chunks(1).for_each(|byte| stream.send(*side, byte));
                }
            });
        }
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
            let pieces: Vec<_> =
                exchange.turns.iter().map(|(_, bytes)| pieces(bytes.len(), &mut random)).collect();
            let how = format!("seed {seed} round {round}");
            runner.run(&exchange, both_roles(round), &how, |stream| {
                for ((side, bytes), pieces) in exchange.turns.iter().zip(&pieces) {
                    send_pieces(stream, *side, bytes, pieces);
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
            let how = format!("seed {seed} round {round}: {pieces:?}");
            runner.run(&exchange, both_roles(round), &how, |stream| {
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
    for exchange in exchanges().iter().filter(|exchange| !exchange.left_open) {
        for number in 0..2 {
            runner.run(exchange, both_roles(number), "with the FIN first", |stream| {
                let ((side, bytes), before) = exchange.turns.split_last().unwrap();
                before.iter().for_each(|(side, bytes)| stream.send(*side, bytes));
                let (first, last) = bytes.split_at(bytes.len() - 1);
                let end = stream.next(*side).wrapping_add(u32::try_from(bytes.len()).unwrap());
                stream.send(*side, first);
                stream.segment(*side, end, ACK | FIN, &[]);
                stream.send(*side, last);
            });
        }
    }
    runner.finish();
}

//! One direction of one connection on two CPUs at once: what a busy sender on a real machine does.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use weir::telemetry::wire::{CounterKind, Direction, HistogramKind, L7Protocol, Role, Stat};

use crate::{
    frame::{ACK, v4},
    http1_cases, http2_cases,
    kernel::Kernel,
    resync::{Run, talks},
    share,
    stream::{Side, Stream},
};

const SEGMENTS: usize = 2000;
const ROUNDS: u16 = 10;

/// No segment overtakes more than so many others; a place takes hundreds as short as these.
const AHEAD: usize = 64;

pub fn stay_on(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}

/// Sends segments of one stream from two CPUs, each the next that nobody has taken yet.
fn race(stream: &Stream<'_>, side: Side, segments: &[Vec<u8>]) {
    let starts: Vec<u32> = segments
        .iter()
        .scan(stream.next(side), |at, bytes| {
            let start = *at;
            *at = at.wrapping_add(u32::try_from(bytes.len()).unwrap());
            Some(start)
        })
        .collect();
    let ticket = AtomicUsize::new(0);
    // The segment that each of the two is at.
    let at = [AtomicUsize::new(0), AtomicUsize::new(0)];
    thread::scope(|scope| {
        for cpu in 0..2 {
            let (ticket, at, starts) = (&ticket, &at, &starts);
            scope.spawn(move || {
                stay_on(cpu);
                loop {
                    let i = ticket.fetch_add(1, Ordering::SeqCst);
                    at[cpu].store(i, Ordering::SeqCst);
                    let Some(bytes) = segments.get(i) else { break };
                    while i > at[1 - cpu].load(Ordering::SeqCst) + AHEAD {
                        std::hint::spin_loop();
                    }
                    stream.segment(side, starts[i], ACK, bytes);
                    // Sent again for nothing, long after its turn.
                    if let Some(again) = i.checked_sub(2 * AHEAD).filter(|again| again % 3 == 0) {
                        stream.segment(side, starts[again], ACK, &segments[again]);
                    }
                }
            });
        }
    });
}

#[test]
fn two_cpus_count_what_one_does() {
    assert!(thread::available_parallelism().unwrap().get() > 1, "this test needs two CPUs");
    let kernel = Kernel::new();
    let requests: Vec<_> = (0..SEGMENTS)
        .map(|i| format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes())
        .collect();
    let responses: Vec<_> = (0..SEGMENTS)
        .map(|i| format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{i:04}").into_bytes())
        .collect();
    for round in 0..ROUNDS {
        let (client, server) = (v4(9, 40000 + round), v4(2, 80));
        let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, client, server);
        race(&stream, Side::Client, &requests);
        stream.advance(Side::Client, requests.iter().map(Vec::len).sum());
        race(&stream, Side::Server, &responses);
        stream.advance(Side::Server, responses.iter().map(Vec::len).sum());
        stream.fin(Side::Client);
        stream.fin(Side::Server);
    }
    let all = u64::from(ROUNDS) * SEGMENTS as u64;
    let (counts, stats) = (kernel.counts(), kernel.snapshot().stats);
    assert_eq!(counts.of(CounterKind::COUNTER_HTTP_REQUESTS), all, "{counts:?} {stats:?}");
    assert_eq!(counts.of(CounterKind::COUNTER_HTTP_ERRORS), 0, "{counts:?} {stats:?}");
    assert_eq!(counts.of(CounterKind::COUNTER_HTTP_RESPONSE_BODY), 4 * all);
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_HTTP_REQUEST), all);
    kernel.assert_at_rest();
    share::assert_balanced(&kernel);
    assert!(
        stats[..=Stat::STAT_GAP_FRAGMENT.0 as usize].iter().all(|&n| n == 0),
        "gaps: {stats:?}"
    );
}

/// The host of a virtual machine may stop a CPU for milliseconds, also one that reads a direction
/// just now; meanwhile another sends on, and nothing of that may be lost.
#[test]
fn a_cpu_that_stands_still_while_it_reads_loses_nothing() {
    /// About the longest that a test run takes.
    const SEGMENT: usize = 2048;
    const EACH: usize = 2;
    const SEGMENTS: usize = 450;
    let kernel = Kernel::new();
    let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, v4(9, 40_000), v4(2, 80));
    let filler = "x".repeat(SEGMENT / EACH);
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {filler}\r\n\r\n").repeat(EACH);
    let response = format!("HTTP/1.1 204 No Content\r\nA: {filler}\r\n\r\n").repeat(EACH);
    for (side, bytes) in [(Side::Client, request), (Side::Server, response)] {
        let direction =
            if side == Side::Client { Direction::DIRECTION_RX } else { Direction::DIRECTION_TX };
        stream.send(side, bytes.as_bytes());
        kernel.own(direction, true);
        for _ in 0..SEGMENTS {
            stream.send(side, bytes.as_bytes());
        }
        kernel.own(direction, false);
        stream.send(side, bytes.as_bytes());
    }
    stream.fin(Side::Client);
    stream.fin(Side::Server);
    let (counts, stats) = (kernel.counts(), kernel.snapshot().stats);
    assert!(
        stats[..=Stat::STAT_GAP_FRAGMENT.0 as usize].iter().all(|&n| n == 0),
        "gaps: {stats:?}"
    );
    let all = (SEGMENTS + 2) * EACH;
    assert_eq!(counts.of(CounterKind::COUNTER_HTTP_REQUESTS), all as u64, "{counts:?}");
    assert_eq!(counts.of(CounterKind::COUNTER_HTTP_ERRORS), 0, "{counts:?}");
}

/// A CPU that reads for others goes on as long as they fill places, but not for ever: in the end it leaves
/// the direction to them.
#[test]
fn a_cpu_that_has_read_enough_for_others_leaves_the_direction_to_them() {
    /// Less than a direction has places, so that there is room for what comes meanwhile.
    const BACKLOG: usize = 24;
    const SEGMENTS: usize = 150;
    assert!(thread::available_parallelism().unwrap().get() > 1, "this test needs two CPUs");
    let kernel = Kernel::new();
    // Long to read, and no exchange of its own.
    let chunks = b"1\r\nx\r\n".repeat(500);
    for round in 0..20 {
        let (client, server) = (v4(9, 40_000 + round), v4(2, 80));
        let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, client, server);
        stream.send(Side::Client, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        let begun = Instant::now();
        stream.send(Side::Client, &chunks);
        let pause = begun.elapsed();
        let start = stream.next(Side::Client);
        let at = |n: usize| start.wrapping_add(u32::try_from(n * chunks.len()).unwrap());
        // From the last to the first: none goes on where another ends, so each takes a place of its own.
        for n in (1..=BACKLOG).rev() {
            stream.segment(Side::Client, at(n), ACK, &chunks);
        }
        let ready = Barrier::new(2);
        thread::scope(|scope| {
            let (stream, chunks, ready, at) = (&stream, &chunks, &ready, &at);
            scope.spawn(move || {
                stay_on(0);
                ready.wait();
                stream.segment(Side::Client, at(0), ACK, chunks);
            });
            scope.spawn(move || {
                stay_on(1);
                ready.wait();
                let mut next = Instant::now();
                for n in (BACKLOG + 1..SEGMENTS).step_by(2) {
                    for n in [n + 1, n] {
                        // As fast as the other reads.
                        next += pause;
                        while Instant::now() < next {
                            std::hint::spin_loop();
                        }
                        stream.segment(Side::Client, at(n), ACK, chunks);
                    }
                }
            });
        });
        kernel.assert_at_rest();
        stream.advance(Side::Client, (SEGMENTS + 1) * chunks.len());
        stream.send(Side::Client, b"0\r\n\r\n");
        stream.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
        stream.reset(Side::Server);
        assert_eq!(share::elements(&kernel, "conns"), 0);
        let (counts, stats) = (kernel.counts(), kernel.snapshot().stats);
        let gaps: u64 = stats[..=Stat::STAT_GAP_FRAGMENT.0 as usize].iter().sum();
        let answered = u64::from(round) + 1;
        let lost = counts.of(CounterKind::COUNTER_HTTP_ERRORS);
        assert_eq!(counts.of(CounterKind::COUNTER_HTTP_REQUESTS), answered, "{counts:?}");
        assert!(lost <= gaps, "lost in silence: {counts:?} {stats:?}");
    }
}

/// The same, and what it did not read yet is answered meanwhile: a packet is handed over, not held up.
#[test]
fn an_answer_waits_for_its_request_on_a_cpu_that_stands_still() {
    let kernel = Kernel::new();
    let (talks, mut port) = (talks(), 40_000);
    for talk in &talks {
        for role in [Role::ROLE_SERVER, Role::ROLE_CLIENT] {
            port += 1;
            let mut run = Run::new(&kernel, talk, role, port);
            let requests = if role == Role::ROLE_SERVER {
                Direction::DIRECTION_RX
            } else {
                Direction::DIRECTION_TX
            };
            kernel.own(requests, true);
            for _ in 0..10 {
                run.ask();
                run.answer();
            }
            kernel.own(requests, false);
            run.ask();
            assert_eq!(run.since(), [10, 10, 0], "{}, {role:?}", talk.name);
            run.answer();
            assert_eq!(run.since(), [11, 11, 0], "{}, {role:?}", talk.name);
            let counts = kernel.counts();
            for kind in [CounterKind::COUNTER_HTTP_UNMATCHED, CounterKind::COUNTER_HTTP_ERRORS] {
                assert_eq!(counts.of(kind), 0, "{}, {role:?}: {counts:?}", talk.name);
            }
            run.stream.reset(Side::Client);
        }
    }
}

/// A server's first words tell nothing of its protocol before the client's are read.
#[test]
fn the_first_answer_waits_for_the_rest_of_its_request_as_well() {
    let kernel = Kernel::new();
    let exchanges = [http1_cases::exchanges(), http2_cases::exchanges()].into_iter().flatten();
    let mut before = kernel.counts();
    for (exchange, port) in exchanges.zip(40_000..) {
        if exchange.turns.len() != 2 || exchange.left_open {
            continue;
        }
        let mut stream =
            Stream::open(&kernel, Role::ROLE_SERVER, v4(9, port), v4(2, exchange.port));
        let (first, rest) = exchange.turns[0].1.split_at(10);
        stream.send(Side::Client, first);
        kernel.own(Direction::DIRECTION_RX, true);
        stream.send(Side::Client, rest);
        stream.send(Side::Server, &exchange.turns[1].1);
        kernel.own(Direction::DIRECTION_RX, false);
        stream.fin(Side::Client);
        stream.fin(Side::Server);
        let after = kernel.counts();
        let added = after.clone().since(&before).above_tcp();
        assert_eq!(added, exchange.expected(Role::ROLE_SERVER), "{}", exchange.name);
        before = after;
    }
}

/// And the other way: whoever comes first reads for both, the server's last words too.
#[test]
fn an_answer_with_the_end_behind_it_reads_what_a_cpu_left_of_its_request() {
    let kernel = Kernel::new();
    let (talks, mut port) = (talks(), 40_000);
    for talk in &talks {
        port += 1;
        let mut run = Run::new(&kernel, talk, Role::ROLE_SERVER, port);
        kernel.own(Direction::DIRECTION_RX, true);
        run.ask();
        kernel.own(Direction::DIRECTION_RX, false);
        run.answer();
        run.stream.fin(Side::Server);
        run.stream.fin(Side::Client);
        assert_eq!(run.since(), [1, 1, 0], "{}", talk.name);
        assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_ERRORS), 0, "{}", talk.name);
    }
}

/// RFC 9113, 3.4: either side's first bytes may be before the other's, or at the same time.
#[test]
fn both_sides_of_http2_begin_at_once() {
    const CONNECTIONS: u16 = 4_000;
    assert!(thread::available_parallelism().unwrap().get() > 1, "this test needs two CPUs");
    let kernel = Kernel::new();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat();
    let streams: Vec<_> = (0..CONNECTIONS)
        .map(|n| Stream::open(&kernel, Role::ROLE_SERVER, v4(9, 20_000 + n), v4(2, 80)))
        .collect();
    // Which connection each of the two is at.
    let at = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let sides = [(Side::Client, &preface[..]), (Side::Server, &settings)];
    thread::scope(|scope| {
        for (cpu, (side, bytes)) in sides.into_iter().enumerate() {
            let (at, streams) = (&at, &streams);
            scope.spawn(move || {
                stay_on(cpu);
                for (n, stream) in streams.iter().enumerate() {
                    at[cpu].store(n, Ordering::SeqCst);
                    while at[1 - cpu].load(Ordering::SeqCst) < n {
                        std::hint::spin_loop();
                    }
                    // One reads a little longer before it knows: let each be late in turn.
                    for _ in 0..if cpu == n & 1 { n % 512 } else { 0 } {
                        std::hint::spin_loop();
                    }
                    stream.segment(side, stream.next(side), ACK, bytes);
                }
                at[cpu].store(usize::MAX, Ordering::SeqCst);
            });
        }
    });
    let (counts, stats) = (kernel.counts(), kernel.snapshot().stats);
    assert!(
        stats[..=Stat::STAT_GAP_FRAGMENT.0 as usize].iter().all(|&n| n == 0),
        "gaps: {stats:?}"
    );
    let http2 = |key: &(u8, u8, u8, u8, u16)| {
        (key.0.into(), key.2.into())
            == (CounterKind::COUNTER_L7_CONNECTIONS.0, L7Protocol::L7_HTTP2.0)
    };
    let found: u64 = counts.0.iter().filter(|(key, _)| http2(key)).map(|(_, n)| n).sum();
    assert_eq!(found, u64::from(CONNECTIONS), "{counts:?}");
    kernel.assert_at_rest();
    streams.iter().for_each(|stream| stream.reset(Side::Server));
    share::assert_balanced(&kernel);
    assert_eq!(share::elements(&kernel, "http2"), 0);
}

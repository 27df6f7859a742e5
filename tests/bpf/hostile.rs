//! Mutated captures, as bytes of connections and as frames: whatever a pod sends, the programs end,
//! nothing stays behind in the maps, and the next connection, or another pod's, is counted exactly.

use std::time::Duration;

use weir::telemetry::wire::{CounterKind, HttpMethod, HttpVersion, L7Protocol, Role, TcpResult};

use crate::{
    dns,
    exchange::Exchange,
    frame::{self, ACK, End, FIN, SYN, v4, v6},
    kernel::{Counts, Kernel},
    share,
    split::{self, Random},
    stream::{self, Side, Stream},
};

const ROUNDS: usize = 300;
/// Beyond what any exchange here is answered with.
const SEGMENT: usize = 1400;

/// A few changes at random: a byte turned, some cut out, some said twice, the end lost.
fn mutate(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        let to = (at + 1 + random.below(40)).min(bytes.len());
        match random.below(5) {
            0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.drain(at..to)),
            3 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn send(stream: &mut Stream<'_>, side: Side, bytes: &[u8], random: &mut Random) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(1 + random.below(SEGMENT)));
        stream.send(side, now);
        rest = later;
    }
}

/// The maps that live with connections, and how many elements each still has.
fn left(kernel: &Kernel) -> Vec<(&'static str, u64)> {
    let stay = ["pods", "attachments", "counters", "histograms", "held", "dns_pending"];
    let maps = kernel.snapshot().maps.into_iter();
    maps.filter(|map| map.entries > 0 && !stay.contains(&map.name))
        .map(|map| (map.name, map.entries))
        .collect()
}

/// What a plain request and its response add.
fn answered(kernel: &Kernel) -> u64 {
    let key = (
        u8::try_from(CounterKind::COUNTER_HTTP_REQUESTS.0).unwrap(),
        u8::try_from(Role::ROLE_CLIENT.0).unwrap(),
        u8::try_from(HttpMethod::HTTP_METHOD_QUERY.0).unwrap(),
        u8::try_from(HttpVersion::HTTP_VERSION_1_1.0).unwrap(),
        299,
    );
    kernel.counts().0.get(&key).copied().unwrap_or_default()
}

#[test]
fn mutated_exchanges_leave_nothing_behind_and_blind_nobody() {
    let seed = split::seed();
    let mut random = Random(seed);
    let kernel = Kernel::new();
    let exchanges: Vec<Exchange> = split::exchanges();
    let mut port = 1024;
    for round in 0..ROUNDS {
        for exchange in &exchanges {
            port += 1;
            // The server's side in one half of the rounds, so that both programs see both.
            let (pod, peer) = (v4(2, exchange.port), v4(9, port));
            let (role, client, server) = if round % 2 == 0 {
                (Role::ROLE_SERVER, peer, pod)
            } else {
                (Role::ROLE_CLIENT, v4(2, port), v4(9, exchange.port))
            };
            let mut stream = Stream::open(&kernel, role, client, server);
            for (side, bytes) in &exchange.turns {
                let bytes = mutate(bytes, &mut random);
                send(&mut stream, *side, &bytes, &mut random);
            }
            if random.below(2) == 0 {
                stream.reset(Side::Client);
            } else {
                stream.fin(Side::Client);
                stream.fin(Side::Server);
            }
        }
        let before = answered(&kernel);
        let mut stream = Stream::open(&kernel, Role::ROLE_CLIENT, v4(2, 1000), v4(9, 80));
        stream.send(Side::Client, b"QUERY / HTTP/1.1\r\n\r\n");
        stream.send(Side::Server, b"HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n");
        stream.reset(Side::Client);
        assert_eq!(answered(&kernel), before + 1, "seed {seed} round {round}");
    }
    // Twice: what a stream's end leaves of its connection goes in the walk behind it.
    for _ in 0..2 {
        kernel.maps.sweep(Duration::from_secs(60)).unwrap();
    }
    assert_eq!(left(&kernel), [], "seed {seed}");
    kernel.assert_at_rest();
    share::assert_balanced(&kernel);
}

/// A frame, and whether it leaves the pod.
type Passing = (bool, Vec<u8>);

/// A connection from its handshake to its end.
struct Conversation {
    client: End,
    server: End,
    client_is_pod: bool,
    next: [u32; 2],
    frames: Vec<Passing>,
}

impl Conversation {
    fn open(client: End, server: End, client_is_pod: bool) -> Self {
        let mut it = Self { client, server, client_is_pod, next: [7, 70], frames: Vec::new() };
        it.say(Side::Client, SYN, &[]);
        it.say(Side::Server, SYN | ACK, &[]);
        it.say(Side::Client, ACK, &[]);
        it
    }

    fn say(&mut self, side: Side, flags: u8, payload: &[u8]) {
        let (from, to, own, other) = match side {
            Side::Client => (self.client, self.server, self.next[0], self.next[1]),
            Side::Server => (self.server, self.client, self.next[1], self.next[0]),
        };
        let frame = frame::tcp_acknowledging(from, to, (own, other), flags, payload);
        self.frames.push(((side == Side::Client) == self.client_is_pod, frame));
        let takes = u32::try_from(payload.len()).unwrap() + u32::from(flags & (SYN | FIN) != 0);
        self.next[side as usize] += takes;
    }

    fn end(mut self) -> Vec<Passing> {
        self.say(Side::Client, FIN | ACK, &[]);
        self.say(Side::Server, FIN | ACK, &[]);
        self.frames
    }
}

/// A look-up by or of the pod.
fn look_up(asks: End, serves: End, id: u16, asks_is_pod: bool) -> [Passing; 2] {
    let message = |flags| dns::message(id, flags, &["example", "org"], 1);
    [
        (asks_is_pod, frame::udp(asks, serves, &message(0x0100))),
        (!asks_is_pod, frame::udp(serves, asks, &message(0x8180))),
    ]
}

/// Mostly its headers, from the protocol behind Ethernet's on, and else all of it.
fn spoil(frame: &[u8], random: &mut Random) -> Vec<u8> {
    let mut spoilt = frame.to_vec();
    if random.below(4) == 0 {
        let mut rest = mutate(&frame[12..], random);
        rest.resize(rest.len().max(2), 0);
        spoilt.splice(12.., rest);
    } else {
        for _ in 0..=random.below(3) {
            let at = 12 + random.below(60.min(frame.len() - 12));
            spoilt[at] = match random.below(2) {
                0 => u8::try_from(random.below(256)).unwrap(),
                _ => spoilt[at] ^ 1 << random.below(8),
            };
        }
    }
    // A test run takes no IP packet without its header.
    let least = match spoilt[12..14] {
        [0x08, 0x00] => 14 + 20,
        [0x86, 0xdd] => 14 + 40,
        _ => 14,
    };
    spoilt.resize(spoilt.len().clamp(least, stream::SEGMENT), 0);
    spoilt
}

/// All exchanges and as many look-ups, one frame in four spoilt, and each a little before or behind its turn:
/// most of what follows a hole is held, whatever comes between.
fn hostile_frames(exchanges: &[Exchange], round: u16, random: &mut Random) -> Vec<Passing> {
    let mut frames = Vec::new();
    for (exchange, n) in exchanges.iter().zip(0..) {
        let port = 1024 + (round * 100 + n) % 60_000;
        let client_is_pod = random.below(2) == 0;
        let at = |last: u8, port| match n % 2 {
            0 => v4(last, port),
            _ => v6(last.into(), port),
        };
        let (client, server) = if client_is_pod { (2, 9) } else { (9, 2) };
        let mut it = Conversation::open(at(client, port), at(server, exchange.port), client_is_pod);
        for (side, bytes) in &exchange.turns {
            for segment in bytes.chunks(1 + random.below(SEGMENT)) {
                it.say(*side, ACK, segment);
            }
        }
        frames.extend(it.end());
        frames.extend(look_up(at(client, port), at(server, 53), n, client_is_pod));
    }
    for (_, frame) in &mut frames {
        if random.below(4) == 0 {
            *frame = spoil(frame, random);
        }
    }
    for at in 0..frames.len() {
        let other = (at + random.below(6)).min(frames.len() - 1);
        frames.swap(at, other);
    }
    frames
}

/// What another pod does meanwhile: a request whose second half comes first, around a look-up.
fn control(port: u16) -> Vec<Passing> {
    let (client, server) = (v4(3, port), v4(9, 80));
    let mut it = Conversation::open(client, server, true);
    let before = it.frames.len();
    it.say(Side::Client, ACK, b"QUERY / HT");
    it.say(Side::Client, ACK, b"TP/1.1\r\n\r\n");
    it.frames.swap(before, before + 1);
    let [query, response] = look_up(v4(3, port), v4(9, 53), 7, true);
    it.frames.insert(before + 1, query);
    it.frames.push(response);
    it.say(Side::Server, ACK, b"HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n");
    it.end()
}

/// All of that so many times.
fn controlled(times: u64) -> Counts {
    let role = u8::try_from(Role::ROLE_CLIENT.0).unwrap();
    let mut counts = Counts::default();
    let mut add = |kind, a, b, c| counts.add(kind, role, a, b, c, times);
    add(CounterKind::COUNTER_TCP_CONNECTIONS, TcpResult::TCP_RESULT_ESTABLISHED.0, 0, 0);
    add(CounterKind::COUNTER_TCP_CLOSED, 0, 0, 0);
    add(CounterKind::COUNTER_L7_CONNECTIONS, L7Protocol::L7_HTTP1.0, 0, 0);
    let (query, http1) = (HttpMethod::HTTP_METHOD_QUERY.0, HttpVersion::HTTP_VERSION_1_1.0);
    add(CounterKind::COUNTER_HTTP_REQUESTS, query, http1, 299);
    add(CounterKind::COUNTER_DNS_QUERIES, 0, 0, 1);
    add(CounterKind::COUNTER_DNS_RESPONSES, 0, 0, 1);
    counts
}

#[test]
fn mutated_frames_leave_nothing_behind_and_blind_no_other_pod() {
    const ROUNDS: u16 = 100;
    let seed = split::seed();
    let mut random = Random(seed);
    let kernel = Kernel::new();
    let neighbour = kernel.neighbour();
    let exchanges = split::exchanges();
    for round in 0..ROUNDS {
        let hostile = hostile_frames(&exchanges, round, &mut random);
        let control = control(20_000 + round);
        // One of the other pod's behind each so many of these.
        let share = hostile.len() / control.len();
        let mut control = control.iter();
        for (at, (leaves, frame)) in hostile.iter().enumerate() {
            kernel.pass(0, *leaves, frame);
            if at % share == share - 1
                && let Some((leaves, frame)) = control.next()
            {
                kernel.pass(neighbour, *leaves, frame);
            }
        }
        assert_eq!(control.next(), None);
        let counted = kernel.counts_at(neighbour);
        assert_eq!(counted, controlled(u64::from(round) + 1), "seed {seed} round {round}");
    }
    kernel.assert_at_rest();
    kernel.age_connections_by(9_000);
    kernel.age_queries_by(60);
    for _ in 0..4 {
        kernel.maps.sweep(Duration::from_secs(60)).unwrap();
    }
    assert_eq!(left(&kernel), [], "seed {seed}");
    assert_eq!(share::elements(&kernel, "dns_pending"), 0, "seed {seed}");
    kernel.assert_at_rest();
    share::assert_balanced(&kernel);
}

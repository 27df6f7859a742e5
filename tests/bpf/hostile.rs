//! Mutated captures: whatever a pod sends, the programs end, nothing stays behind in the maps, and
//! the next connection is counted exactly.

use std::time::Duration;

use weir::telemetry::wire::{CounterKind, HttpMethod, HttpVersion, Role};

use crate::{
    exchange::Exchange,
    frame::v4,
    kernel::Kernel,
    share,
    split::{self, Random},
    stream::{Side, Stream},
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

//! More messages in one skb than are read of it: told of once, and the next connection is right.

use std::collections::BTreeMap;

use weir::telemetry::wire::{
    CounterKind, DbOperation as Op, DbOutcome, L7Protocol, Role, Stat, Transport,
};

use crate::{
    confusion::Listener,
    exchange::Exchange,
    frame::ACK,
    gaps::{ASKS, GET, ROLES, SAYS, V1_1, assert_lost, assert_right, whole},
    http2_cases,
    kernel::Counts,
    postgresql_cases, redis_cases,
    share::assert_balanced,
    stream::{
        Side::{self, Client, Server},
        Stream,
    },
};

/// As much as one place for early segments takes, and a test run: all of it is read at once.
const AT_ONCE: usize = 36_000;

/// Sends bytes so that they are read as if they were of one skb: behind a hole, which is filled then.
fn at_once(stream: &mut Stream<'_>, side: Side, bytes: &[u8]) {
    const PIECE: usize = 3_270;
    assert!(bytes.len() <= AT_ONCE, "{}", bytes.len());
    let (first, rest) = bytes.split_at(1);
    let start = stream.next(side);
    for (n, piece) in rest.chunks(PIECE).enumerate() {
        let from = u32::try_from(1 + n * PIECE).unwrap();
        stream.segment(side, start.wrapping_add(from), ACK, piece);
    }
    stream.segment(side, start, ACK, first);
    stream.advance(side, bytes.len());
}

/// The turns, of which one is read at once, and what may be counted of all.
struct Many {
    exchange: Exchange,
    at_once: usize,
}

fn many(exchange: Exchange, at_once: usize) -> Many {
    Many { exchange, at_once }
}

/// One message more in an skb than are read, and `few` of the same, which are.
fn messages() -> Vec<(Many, Many)> {
    let lines = |n: usize| [&b"\n".repeat(n), ASKS].concat();
    let http = |n| {
        let turns = [(Client, ASKS.to_vec()), (Server, SAYS.to_vec()), (Client, lines(n))];
        let exchange = Exchange::of(
            "empty lines",
            [&turns[..], &[(Server, SAYS.to_vec())]].concat(),
            L7Protocol::L7_HTTP1,
        );
        exchange.request(GET, V1_1, 204)
    };
    let fields = |n| {
        let block = http2_cases::frame(http2_cases::HEADERS, 5, 1, &vec![0x82; n]);
        http2_cases::http2(
            "a block of fields",
            http2_cases::client(&[block]),
            http2_cases::server(&[http2_cases::ok(1)]),
        )
    };
    let ping = redis_cases::command(&["PING"]).into_bytes();
    let redis = |n: usize| {
        let turns = [
            (Client, ping.clone()),
            (Server, b"+PONG\r\n".to_vec()),
            (Client, [&b"\n".repeat(n), &ping[..]].concat()),
            (Server, b"+PONG\r\n".to_vec()),
        ];
        let redis = L7Protocol::L7_REDIS;
        Exchange::of("redis: empty requests", turns, redis).asked(
            redis,
            Op::DB_PING,
            DbOutcome::DB_OK,
            1,
        )
    };
    let few = AT_ONCE - 5_000;
    let ok = DbOutcome::DB_OK;
    vec![
        (many(http(AT_ONCE - 100), 2), many(http(few).request(GET, V1_1, 204), 2)),
        (many(fields(AT_ONCE - 100), 0), many(fields(few).request(GET, http2_cases::V2, 200), 0)),
        (
            many(redis(AT_ONCE - 100), 2),
            many(redis(few).asked(L7Protocol::L7_REDIS, Op::DB_PING, ok, 1), 2),
        ),
        (many(names(131, 127), 0), many(names(110, 110), 0)),
    ]
}

/// Queries whose names have as many labels as there may be, of which so many are read.
fn names(n: usize, read: u64) -> Exchange {
    let name = [&b"\x01x".repeat(127)[..], &[0]].concat();
    let query = [&[1, 15][..], &[0, 7, 1, 0, 0, 1], &[0; 6], &name, &[0, 1, 0, 1]].concat();
    let mut exchange = Exchange::new("long names", query.repeat(n), "", L7Protocol::L7_DNS);
    exchange.port = 53;
    exchange.count(CounterKind::COUNTER_DNS_QUERIES, 0, Transport::TRANSPORT_TCP.0, 1, read)
}

fn play(listener: &mut Listener, many: &Many, role: Role) -> (Counts, BTreeMap<u32, u64>) {
    let before = (listener.kernel.counts(), listener.kernel.gaps());
    let mut stream = listener.open(role, many.exchange.port);
    for (n, (side, bytes)) in many.exchange.turns.iter().enumerate() {
        if n == many.at_once {
            at_once(&mut stream, *side, bytes);
        } else if !bytes.is_empty() {
            stream.send(*side, bytes);
        }
    }
    stream.fin(Client);
    stream.fin(Server);
    before
}

#[test]
fn more_messages_in_one_skb_than_are_read_are_told_of() {
    let mut listener = Listener::new();
    for (lost, read) in messages() {
        for role in ROLES {
            for (many, reasons) in [(&lost, &[(Stat::STAT_GAP_STEPS, 1)][..]), (&read, &[])] {
                let before = play(&mut listener, many, role);
                let (name, expected) = (many.exchange.name, many.exchange.expected(role));
                assert_lost(
                    &listener,
                    before,
                    &expected,
                    reasons,
                    &format!("{name}, {role:?}, {reasons:?}"),
                );
            }
        }
        let mut whole = whole(lost.exchange.port, &lost.exchange.expected(Role::ROLE_SERVER));
        whole.truncate(2);
        assert_right(&mut listener, &whole);
    }
}

/// What a client asked for before an error is thrown away all at once, behind the error: 33,000 requests,
/// more than are remembered one by one.
#[test]
fn more_requests_that_one_error_ends_than_are_read_are_told_of() {
    const REQUESTS: usize = 33_000;
    let mut listener = Listener::new();
    for role in ROLES {
        let met = listener.kernel.gaps();
        let mut stream = listener.open(role, 80);
        stream.send(Client, &postgresql_cases::startup());
        stream.send(Server, &postgresql_cases::welcome());
        let execute = b"E\0\0\0\x09\0\0\0\0\0";
        for _ in 0..REQUESTS / 300 {
            stream.send(Client, &execute.repeat(300));
        }
        stream.send(Client, b"S\0\0\0\x04");
        stream.send(Server, b"E\0\0\0\x0cSERROR\0\0Z\0\0\0\x05IZ\0\0\0\x05I");
        stream.reset(Client);
        let now = listener.kernel.gaps();
        let since = |reason: Stat| {
            let of = |all: &BTreeMap<u32, u64>| all.get(&reason.0).copied().unwrap_or_default();
            of(&now) - of(&met)
        };
        assert_eq!(since(Stat::STAT_GAP_STEPS), 1, "{role:?}");
        assert!(since(Stat::STAT_GAP_INFLIGHT) > 20_000, "{role:?}: {now:?}");
        // Each is counted, if only as one whose answer nobody could read; and the Sync, which found no
        // place, so that nobody can tell it from them.
        let requests = listener.kernel.counts().of(CounterKind::COUNTER_DB_REQUESTS);
        let rounds = if role == ROLES[0] { 1 } else { 2 };
        assert_eq!(requests, rounds * (REQUESTS as u64 + 1), "{role:?}");
    }
    let before = listener.kernel.counts();
    assert_balanced(&listener.kernel);
    assert_eq!(listener.kernel.counts(), before);
    assert_right(&mut listener, &postgresql_cases::exchanges());
}

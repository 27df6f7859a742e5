//! Detection by content: what each of many protocols is taken for, on any port, when its two sides
//! are mixed up, and what random bytes are taken for. Nothing may pass for what it is not.

use std::time::Duration;

use weir::telemetry::wire::{
    CounterKind, HttpError, HttpMethod, HttpVersion, L7Protocol, Role, TcpResult,
};

use crate::{
    captures, dns_tcp_cases,
    exchange::Exchange,
    frame::v4,
    http2_cases, kafka_cases,
    kernel::{Counts, Kernel},
    mysql_cases, postgresql_cases, redis_cases,
    split::{Random, seed},
    stream::{Side, Stream},
    tls_cases,
};

const UNKNOWN: L7Protocol = L7Protocol::L7_UNKNOWN;
const PORTS: [u16; 10] = [80, 443, 22, 1883, 3306, 5432, 5672, 6379, 9092, 11211];

/// A conversation of a protocol that is not Weir's: who says what, in order.
fn foreign(name: &'static str, turns: &[(Side, &[u8])]) -> Exchange {
    let turns: Vec<_> = turns.iter().map(|(side, bytes)| (*side, bytes.to_vec())).collect();
    Exchange::of(name, turns, UNKNOWN)
}

/// By their own programs, and by hand.
fn foreigners() -> Vec<Exchange> {
    let mut all = captures::exchanges();
    all.extend(by_hand());
    all
}

fn by_hand() -> Vec<Exchange> {
    use Side::{Client, Server};
    vec![
        foreign("SMTP", &[(Server, b"220 mail ESMTP\r\n"), (Client, b"EHLO a\r\n")]),
        foreign("POP3", &[(Server, b"+OK ready\r\n"), (Client, b"CAPA\r\n")]),
        foreign(
            "memcached",
            &[
                (Client, b"get k\r\nset k 0 0 1\r\nv\r\n"),
                (Server, b"VALUE k 0 1\r\nv\r\nEND\r\nSTORED\r\n"),
            ],
        ),
        foreign("memcached, a number", &[(Client, b"incr k 1\r\n"), (Server, b"5\r\n")]),
        foreign(
            "memcached, binary",
            &[
                (Client, b"\x80\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0k"),
                (Server, b"\x81\0\0\0\0\0\0\x01\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0"),
            ],
        ),
        foreign(
            "NATS",
            &[
                (Server, b"INFO {\"server_id\":\"a\"}\r\n"),
                (Client, b"CONNECT {}\r\nPING\r\n"),
                (Server, b"+OK\r\nPONG\r\n"),
            ],
        ),
        foreign(
            "MongoDB",
            &[
                (Client, b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0"),
                (Server, b"\x3a\0\0\0\x02\0\0\0\x01\0\0\0\xdd\x07\0\0\0\0\0\0"),
            ],
        ),
        foreign(
            "MongoDB, of 256 bytes",
            &[
                (Client, b"\0\x01\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0"),
                (Server, b"\0\x01\0\0\x02\0\0\0\x01\0\0\0\xdd\x07\0\0\0\0\0\0"),
            ],
        ),
        foreign(
            "ZooKeeper",
            &[
                (
                    Client,
                    b"\0\0\0\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x75\x30\0\0\0\0\0\0\0\0\0\0\0\x10",
                ),
                (Server, b"\0\0\0\x25\0\0\0\0\0\0\x75\x30\0\0\0\0\0\0\0\x01\0\0\0\x10"),
            ],
        ),
        foreign(
            "Cassandra",
            &[(Client, b"\x04\0\0\0\x05\0\0\0\0"), (Server, b"\x84\0\0\0\x06\0\0\0\x02\0\0")],
        ),
        foreign(
            "Thrift",
            &[
                (Client, b"\0\0\0\x11\x80\x01\0\x01\0\0\0\x04ping\0\0\0\0\0"),
                (Server, b"\0\0\0\x11\x80\x01\0\x02\0\0\0\x04ping\0\0\0\0\0"),
            ],
        ),
        foreign(
            "an answer to another request of Kafka's",
            &[
                (Client, b"\0\0\0\x14\0\x12\0\0\0\x01\0\x07\0\x04name\0\0\0\0\0\0"),
                (Server, b"\0\0\0\x0a\0\x02\0\x07\0\0\0\0\0\0"),
            ],
        ),
        foreign(
            "SMB",
            &[
                (Client, b"\0\0\0\x54\xfeSMB\x40\0\0\0\0\0\0\0\0\0"),
                (Server, b"\0\0\0\x54\xfeSMB\x40\0\0\0\0\0\0\0\0\0"),
            ],
        ),
        foreign(
            "Kerberos",
            &[
                (Client, b"\0\0\0\xb4\x6a\x81\xb1\x30\x81\xae\xa1\x03\x02\x01\x05"),
                (Server, b"\0\0\0\x90\x7e\x81\x8d\x30\x81\x8a\xa0\x03\x02\x01\x05"),
            ],
        ),
        foreign(
            "LDAP",
            &[(Client, b"\x30\x0c\x02\x01\x01\x60\x07"), (Server, b"\x30\x0c\x02\x01\x01")],
        ),
        foreign(
            "TDS",
            &[(Client, b"\x12\x01\0\x2f\0\0\x01\0"), (Server, b"\x04\x01\0\x30\0\0\x01\0")],
        ),
        foreign(
            "RTSP",
            &[
                (Client, b"OPTIONS rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\r\n"),
                (Server, b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"),
            ],
        ),
        foreign(
            "MySQL's X protocol",
            &[(Server, b"\x05\0\0\0\x0b\x08\x05\x1a\0"), (Client, b"\x01\0\0\0\x01")],
        ),
        foreign(
            "a database that refuses",
            &[(Server, b"\x17\0\0\0\xff\x10\x04Too many connections"), (Client, b"\x01\0\0\x01\0")],
        ),
    ]
}

fn natives() -> Vec<Exchange> {
    let http = Exchange::new(
        "HTTP",
        "GET / HTTP/1.1\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        L7Protocol::L7_HTTP1,
    )
    .request(HttpMethod::HTTP_METHOD_GET, HttpVersion::HTTP_VERSION_1_1, 204);
    let first = |mut cases: Vec<Exchange>| cases.swap_remove(0);
    vec![
        http,
        first(http2_cases::exchanges()),
        http2_cases::exchanges().swap_remove(1),
        first(tls_cases::exchanges()),
        first(redis_cases::exchanges()),
        first(postgresql_cases::exchanges()),
        first(mysql_cases::exchanges()),
        first(kafka_cases::exchanges()),
    ]
}

/// As much as one test run takes.
const SEGMENT: usize = 2048;

/// What the connections of some conversations were taken for, and the requests counted in them.
pub struct Listener {
    pub kernel: Kernel,
    port: u16,
}

impl Listener {
    pub fn new() -> Self {
        Self { kernel: Kernel::new(), port: 1024 }
    }

    pub fn hear(&mut self, server_port: u16, turns: &[(Side, Vec<u8>)]) -> Counts {
        self.hear_as(Role::ROLE_SERVER, server_port, turns)
    }

    /// What a conversation adds in which the pod has this role, up to its end.
    pub fn hear_as(&mut self, role: Role, port: u16, turns: &[(Side, Vec<u8>)]) -> Counts {
        let before = self.kernel.counts();
        let mut stream = self.open(role, port);
        for (side, bytes) in turns {
            bytes.chunks(SEGMENT).for_each(|bytes| stream.send(*side, bytes));
        }
        stream.fin(Side::Client);
        stream.fin(Side::Server);
        self.kernel.counts().since(&before)
    }

    /// A connection from or to this port of the server.
    pub fn open(&mut self, role: Role, server_port: u16) -> Stream<'_> {
        self.port += 1;
        let (client, server) = if role == Role::ROLE_SERVER { (9, 2) } else { (2, 9) };
        Stream::open(&self.kernel, role, v4(client, self.port), v4(server, server_port))
    }
}

/// What a connection adds that was opened and closed, and was nothing else.
fn opened_and_closed(role: Role) -> Counts {
    let role = u8::try_from(role.0).unwrap();
    let mut counts = Counts::default();
    let established = TcpResult::TCP_RESULT_ESTABLISHED.0;
    counts.add(CounterKind::COUNTER_TCP_CONNECTIONS, role, established, 0, 0, 1);
    counts.add(CounterKind::COUNTER_TCP_CLOSED, role, 0, 0, 0, 1);
    counts
}

/// And was taken for a protocol.
fn taken_for(protocol: L7Protocol, role: Role) -> Counts {
    let mut counts = opened_and_closed(role);
    let role = u8::try_from(role.0).unwrap();
    counts.add(CounterKind::COUNTER_L7_CONNECTIONS, role, protocol.0, 0, 0, 1);
    counts
}

/// All that an exchange adds, and nothing else.
fn all_of(exchange: &Exchange, role: Role) -> Counts {
    let mut counts = opened_and_closed(role);
    counts.0.extend(exchange.expected(role).0);
    counts
}

/// Whether the connection begins with a byte with which DNS over TCP may, from the client.
fn may_be_dns(exchange: &Exchange) -> bool {
    matches!(&exchange.turns[0], (Side::Client, bytes) if bytes[0] < 16)
}

/// Nothing was told of it but that it is unknown.
fn is_nothing(counts: &Counts, role: Role) -> bool {
    *counts == taken_for(UNKNOWN, role)
}

/// What the client of an exchange asked for, as if nobody had said anything to it: each request without a
/// status, and with this error.
fn unanswered(exchange: &Exchange, error: HttpError, role: Role) -> Counts {
    let mut counts = opened_and_closed(role);
    let server = u8::try_from(role.0).unwrap();
    for ((kind, _, a, b, c), n) in exchange.expected(role).0 {
        let (a, b) = (u32::from(a), u32::from(b));
        match CounterKind(kind.into()) {
            kind @ CounterKind::COUNTER_HTTP_REQUESTS => {
                counts.add(kind, server, a, b, 0, n);
                counts.add(CounterKind::COUNTER_HTTP_ERRORS, server, error.0, 0, 0, n);
            }
            // Which failed by its error already.
            kind @ CounterKind::COUNTER_GRPC_REQUESTS => counts.add(kind, server, 255, 0, 1, n),
            CounterKind::COUNTER_HTTP_RESPONSE_BODY => {}
            kind => counts.add(kind, server, a, b, c, n),
        }
    }
    counts
}

const SERVER: Role = Role::ROLE_SERVER;
const ROLES: [Role; 2] = [SERVER, Role::ROLE_CLIENT];

/// Every counter that there is: its own and no other's, by not one too many.
#[test]
fn a_protocol_is_what_it_is_on_any_port() {
    let mut listener = Listener::new();
    for exchange in natives().iter().chain(&foreigners()) {
        for (port, role) in PORTS.into_iter().flat_map(|port| ROLES.map(|role| (port, role))) {
            let counts = listener.hear_as(role, port, &exchange.turns);
            assert_eq!(counts, all_of(exchange, role), "{} on port {port}", exchange.name);
        }
        assert_eq!(listener.kernel.gaps(), [].into(), "{}", exchange.name);
    }
}

/// DNS has too little to know it by: it is DNS where it is asked for, and nothing else is.
#[test]
fn dns_is_what_it_is_on_its_port_and_nothing_else_is() {
    let mut listener = Listener::new();
    for role in ROLES {
        for exchange in dns_tcp_cases::exchanges() {
            let counts = listener.hear_as(role, 53, &exchange.turns);
            assert_eq!(counts, all_of(&exchange, role), "{}", exchange.name);
            for port in PORTS {
                let counts = listener.hear_as(role, port, &exchange.turns);
                let what = format!("{} on port {port}", exchange.name);
                assert_eq!(counts, taken_for(UNKNOWN, role), "{what}");
            }
        }
        for exchange in natives().iter().chain(&foreigners()) {
            let counts = listener.hear_as(role, 53, &exchange.turns);
            let what = format!("{} on port 53: {counts:?}", exchange.name);
            if may_be_dns(exchange) {
                assert!(is_nothing(&counts, role), "{what}");
            } else {
                assert_eq!(counts, all_of(exchange, role), "{what}");
            }
        }
        assert_eq!(listener.kernel.gaps(), [].into());
    }
}

/// Of a mixture nothing is counted but that it is unknown; but for a client's requests of HTTP, which are
/// what they are by themselves: they have no status, and an error.
#[test]
fn a_client_and_a_server_of_two_protocols_speak_none() {
    let mut listener = Listener::new();
    let all: Vec<_> = natives().into_iter().chain(foreigners()).collect();
    let said = |exchange: &Exchange, by: Side| -> Vec<(Side, Vec<u8>)> {
        exchange.turns.iter().filter(|(side, _)| *side == by).cloned().collect()
    };
    for client in &all {
        let http = client.is(L7Protocol::L7_HTTP1) || client.is(L7Protocol::L7_HTTP2);
        for server in all.iter().filter(|server| server.name != client.name) {
            if client.is(L7Protocol::L7_HTTP2) && server.is(L7Protocol::L7_HTTP2) {
                continue;
            }
            let [asked, answered] = [said(client, Side::Client), said(server, Side::Server)];
            // A line "get k" is a command of Redis as well, and "+OK" an answer of it.
            let asks = client.name.starts_with("redis") || client.name.starts_with("memcached");
            let answers = server.name.starts_with("redis") || server.name == "POP3";
            let told = asks && answers;
            let orders = [[answered.clone(), asked.clone()].concat(), [asked, answered].concat()];
            for turns in orders.into_iter().take(if told { 1 } else { 2 }) {
                let (before, met) = (listener.kernel.counts(), listener.kernel.gaps());
                listener.hear_as(SERVER, 80, &turns);
                if http {
                    // What HTTP/2 leaves open waits for it.
                    listener.kernel.maps.sweep(Duration::from_secs(60)).unwrap();
                }
                let counts = listener.kernel.counts().since(&before);
                let what = format!("{} and {}: {counts:?}", client.name, server.name);
                let lost = unanswered(client, HttpError::HTTP_ERROR_MALFORMED, SERVER);
                let left = unanswered(client, HttpError::HTTP_ERROR_CANCELLED, SERVER);
                // Where it asked for nothing both are the same.
                let told_of = listener.kernel.gaps() != met;
                if http && (counts == lost && told_of || counts == left && !told_of) {
                    continue;
                }
                assert!(is_nothing(&counts, SERVER) && !told_of, "{what}");
            }
        }
    }
}

#[test]
fn random_bytes_are_nothing() {
    let seed = seed();
    let mut random = Random(seed);
    let mut listener = Listener::new();
    for round in 0..3000 {
        let mut bytes = |first: &[u8]| {
            let mut bytes = first.to_vec();
            bytes.extend((0..40).map(|_| u8::try_from(random.below(256)).unwrap()));
            bytes
        };
        // As often as not with a beginning that several protocols have.
        let first: &[u8] = [&b""[..], b"\0", b"\0\0\0", b"*", b"\x16\x03\x01"][round % 5];
        let turns = [(Side::Client, bytes(first)), (Side::Server, bytes(first))];
        let role = ROLES[round % 2];
        let counts = listener.hear_as(role, PORTS[round % PORTS.len()], &turns);
        // A line that has not ended tells nothing yet.
        assert!(is_nothing(&counts, role), "seed {seed} round {round}: {counts:?}");
    }
    assert_eq!(listener.kernel.gaps(), [].into(), "seed {seed}");
}

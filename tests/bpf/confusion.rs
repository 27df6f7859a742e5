//! Detection by content: what each of many protocols is taken for, on any port, when its two sides
//! are mixed up, and what random bytes are taken for. Nothing may pass for what it is not.

use weir::telemetry::wire::{CounterKind, L7Protocol, Role};

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
    );
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

fn taken_for(counts: &Counts) -> Vec<u8> {
    let kind = u8::try_from(CounterKind::COUNTER_L7_CONNECTIONS.0).unwrap();
    counts.0.keys().filter(|key| key.0 == kind).map(|key| key.2).collect()
}

fn number(protocol: L7Protocol) -> u8 {
    u8::try_from(protocol.0).unwrap()
}

#[test]
fn a_protocol_is_what_it_is_on_any_port() {
    let mut listener = Listener::new();
    for port in PORTS {
        for exchange in natives().iter().chain(&foreigners()) {
            let counts = listener.hear(port, &exchange.turns);
            let expected = taken_for(&exchange.expected(Role::ROLE_SERVER));
            assert_eq!(taken_for(&counts), expected, "{} on port {port}", exchange.name);
            if expected == [number(UNKNOWN)] {
                assert_eq!(counts.of(CounterKind::COUNTER_DB_REQUESTS), 0, "{}", exchange.name);
                assert_eq!(counts.of(CounterKind::COUNTER_HTTP_REQUESTS), 0, "{}", exchange.name);
            }
        }
    }
}

/// DNS has too little to know it by: it is DNS where it is asked for, and nothing else is.
#[test]
fn dns_is_what_it_is_on_its_port_and_nothing_else_is() {
    let mut listener = Listener::new();
    for exchange in dns_tcp_cases::exchanges() {
        let expected = taken_for(&exchange.expected(Role::ROLE_SERVER));
        assert_eq!(taken_for(&listener.hear(53, &exchange.turns)), expected, "{}", exchange.name);
        for port in PORTS {
            let taken = taken_for(&listener.hear(port, &exchange.turns));
            let unknown = taken.iter().all(|&it| it == number(UNKNOWN));
            assert!(unknown, "{} on port {port} is {taken:?}", exchange.name);
        }
    }
    for exchange in natives().iter().chain(&foreigners()) {
        let counts = listener.hear(53, &exchange.turns);
        for kind in [CounterKind::COUNTER_DNS_QUERIES, CounterKind::COUNTER_DNS_RESPONSES] {
            assert_eq!(counts.of(kind), 0, "{} on port 53: {counts:?}", exchange.name);
        }
    }
}

#[test]
fn a_client_and_a_server_of_two_protocols_speak_none() {
    let mut listener = Listener::new();
    let all: Vec<_> = natives().into_iter().chain(foreigners()).collect();
    let said = |exchange: &Exchange, by: Side| -> Vec<(Side, Vec<u8>)> {
        exchange.turns.iter().filter(|(side, _)| *side == by).cloned().collect()
    };
    for client in &all {
        for server in all.iter().filter(|server| server.name != client.name) {
            let [asked, answered] = [said(client, Side::Client), said(server, Side::Server)];
            // A line "get k" is a command of Redis as well, and "+OK" an answer of it.
            let asks = client.name.starts_with("redis") || client.name.starts_with("memcached");
            let answers = server.name.starts_with("redis") || server.name == "POP3";
            let told = asks && answers;
            let orders = [[answered.clone(), asked.clone()].concat(), [asked, answered].concat()];
            for turns in orders.into_iter().take(if told { 1 } else { 2 }) {
                let counts = listener.hear(80, &turns);
                let what = format!("{} and {}: {counts:?}", client.name, server.name);
                let taken = taken_for(&counts);
                assert!(taken.iter().all(|&it| it < number(L7Protocol::L7_REDIS)), "{what}");
                assert_eq!(counts.of(CounterKind::COUNTER_DB_REQUESTS), 0, "{what}");
                assert_eq!(counts.of(CounterKind::COUNTER_TLS_HANDSHAKES), 0, "{what}");
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
        let counts = listener.hear(80, &turns);
        let taken = taken_for(&counts);
        assert!(
            taken.iter().all(|&it| it == number(UNKNOWN)),
            "seed {seed} round {round}: {counts:?}"
        );
    }
}

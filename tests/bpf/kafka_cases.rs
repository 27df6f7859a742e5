//! Kafka exchanges with what they amount to. No broker is in Debian: these bytes are by hand, after
//! the protocol's guide.

use weir::telemetry::wire::{CounterKind, DbOperation as Op, DbOutcome, L7Protocol};

use crate::{exchange::Exchange, stream::Side};

const KAFKA: L7Protocol = L7Protocol::L7_KAFKA;
const OK: DbOutcome = DbOutcome::DB_OK;
const ERROR: DbOutcome = DbOutcome::DB_ERROR;
const UNTOLD: DbOutcome = DbOutcome::DB_UNTOLD;

fn sized(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

/// A request with its head, of a client that has a name or none.
pub fn request(key: u16, version: u16, id: u32, client: Option<&str>, body: &[u8]) -> Vec<u8> {
    let len = client.map_or(-1, |name| i16::try_from(name.len()).unwrap());
    sized(
        &[
            &key.to_be_bytes()[..],
            &version.to_be_bytes(),
            &id.to_be_bytes(),
            &len.to_be_bytes(),
            client.unwrap_or_default().as_bytes(),
            body,
        ]
        .concat(),
    )
}

pub fn response(id: u32, body: &[u8]) -> Vec<u8> {
    sized(&[&id.to_be_bytes()[..], body].concat())
}

fn exchange(
    name: &'static str,
    turns: &[(Side, Vec<u8>)],
    counted: &[(Op, DbOutcome, u64)],
) -> Exchange {
    let exchange = Exchange::of(name, turns, KAFKA);
    counted.iter().fold(exchange, |all, &(op, outcome, n)| all.asked(KAFKA, op, outcome, n))
}

fn of_today() -> Exchange {
    let client = Some("rdkafka");
    let [all, none] = [b"\0\0\xff\xff\0\0\x75\x30\x02", b"\0\x03tx\0\0\0\0\x75"];
    exchange(
        "kafka: a client of today, and a Produce without an answer",
        &[
            (Side::Client, request(18, 3, 0x1_fffe, client, b"\0\x08librdkafka\x062.3.0\0")),
            (Side::Server, response(0x1_fffe, b"\0\0\x02\0\x12\0\0\0\x03\0\0\0\0\0\0")),
            (
                Side::Client,
                [
                    request(3, 12, 0x1_ffff, client, b"\0\0\x01\0\0"),
                    request(0, 9, 0x2_0000, client, all),
                    request(0, 9, 0x2_0001, client, none),
                    request(1, 12, 0x2_0002, client, &[0; 40]),
                    request(12, 4, 0x2_0003, client, b"\0\x02g\0\0\0\x01\x02m\0\0"),
                    request(26, 3, 0x2_0004, client, b"\0\x02t\0\0\0\0\0\0\0\0\0\0\x01\0"),
                    request(99, 0, 0x2_0005, client, b"\0"),
                ]
                .concat(),
            ),
            (
                Side::Server,
                [
                    response(0x1_ffff, &[0; 50]),
                    response(0x2_0000, b"\0\x02\x02t\x02\0\0\0\0\0\x57\0"),
                    response(0x2_0002, b"\0\0\0\0\0\0\x06\0\0\0\0\x01\0"),
                    response(0x2_0003, b"\0\0\0\0\0\0\x1b\0"),
                    response(0x2_0004, b"\x01\0\0\0\0\0\0\0\x1b"),
                    response(0x2_0005, b""),
                ]
                .concat(),
            ),
        ],
        &[
            (Op::DB_API_VERSIONS, OK, 1),
            (Op::DB_METADATA, UNTOLD, 1),
            (Op::DB_PRODUCE, UNTOLD, 1),
            (Op::DB_KAFKA_FETCH, UNTOLD, 1),
            (Op::DB_HEARTBEAT, ERROR, 1),
            (Op::DB_END_TXN, UNTOLD, 1),
            (Op::DB_OTHER, UNTOLD, 1),
        ],
    )
    // Nobody can tell how long that took.
    .count(
        CounterKind::COUNTER_DB_REQUESTS,
        KAFKA.0,
        Op::DB_PRODUCE.0,
        u16::try_from(UNTOLD.0).unwrap(),
        1,
    )
}

fn of_old() -> Exchange {
    exchange(
        "kafka: a client of old without a name",
        &[
            (
                Side::Client,
                [
                    request(3, 0, 1, None, b"\0\0\0\0"),
                    request(0, 0, 2, None, b"\0\x01\0\0\x75\x30\0\0\0\0"),
                    request(0, 7, 3, Some(""), b"\xff\xff\xff\xff\0\0\x75\x30\0\0\0\0"),
                    request(0, 8, 4, Some("c"), b"\0\x02tx\0\x01\0\0\x75\x30\0\0\0\0"),
                    request(10, 0, 5, None, b"\0\x01g"),
                    request(11, 2, 6, None, b"\0\x01g"),
                    request(17, 1, 7, None, b"\0\x05PLAIN"),
                    request(36, 2, 8, None, b"\0\x01"),
                    request(22, 1, 9, None, b"\xff\xff\0\0\0\0"),
                    request(16, 0, 10, None, b""),
                ]
                .concat(),
            ),
            (
                Side::Server,
                [
                    response(1, b"\0\0\0\0\0\0\0\0"),
                    response(2, b"\0\0\0\0"),
                    response(3, b"\0\0\0\0\0\0\0\0"),
                    response(4, b"\0\0\0\0\0\0\0\0"),
                    response(5, b"\0\x0f\0\0\0\0"),
                    response(6, b"\0\0\0\x01\0\0\0\0\0\x01"),
                    response(7, b"\0\x21\0\0\0\0"),
                    response(8, b"\0\0\0\0\0"),
                    response(9, b"\0\0\0\0\0\x35\0\0"),
                    response(10, b"\0"),
                ]
                .concat(),
            ),
        ],
        &[
            (Op::DB_METADATA, UNTOLD, 1),
            (Op::DB_PRODUCE, UNTOLD, 3),
            (Op::DB_FIND_COORDINATOR, ERROR, 1),
            (Op::DB_JOIN_GROUP, OK, 1),
            (Op::DB_SASL_HANDSHAKE, ERROR, 1),
            (Op::DB_SASL_AUTHENTICATE, OK, 1),
            (Op::DB_INIT_PRODUCER_ID, ERROR, 1),
            (Op::DB_LIST_GROUPS, UNTOLD, 1),
        ],
    )
}

pub fn exchanges() -> Vec<Exchange> {
    vec![of_today(), of_old()]
}

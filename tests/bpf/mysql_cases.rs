//! MySQL and MariaDB exchanges with what they amount to.

use weir::telemetry::wire::{CounterKind, DbOperation as Op, DbOutcome, L7Protocol, TlsVersion};

use crate::{exchange::Exchange, stream::Side, tls_cases};

const MYSQL: L7Protocol = L7Protocol::L7_MYSQL;
const OK: DbOutcome = DbOutcome::DB_OK;
const ERROR: DbOutcome = DbOutcome::DB_ERROR;

/// Capabilities: `CLIENT_MYSQL` and `CLIENT_PROTOCOL_41`, without which nothing is spoken today.
const PLAIN: u32 = 0x201;
const DEPRECATE_EOF: u32 = 1 << 24;
const OPTIONAL_METADATA: u32 = 1 << 25;
const QUERY_ATTRIBUTES: u32 = 1 << 27;
const SSL: u32 = 1 << 11;
/// MariaDB's: progress reports and cached metadata.
const MARIADB: u32 = 0x11;

const MORE_RESULTS: u8 = 8;
const CURSOR_EXISTS: u8 = 0x40;

fn packet(number: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&len[..3], &[number], body].concat()
}

/// The server's first words.
pub fn greeting(capabilities: u32, mariadb: u32) -> Vec<u8> {
    let capabilities = capabilities.to_le_bytes();
    packet(
        0,
        &[
            &b"\x0a10.11.6-MariaDB\0\x01\0\0\0saltsalt\0"[..],
            &capabilities[..2],
            &[8, 2, 0],
            &capabilities[2..],
            &[21, 0, 0, 0, 0, 0, 0],
            &mariadb.to_le_bytes(),
            b"saltsaltsalt\0mysql_native_password\0",
        ]
        .concat(),
    )
}

/// The client's.
pub fn response(capabilities: u32, mariadb: u32) -> Vec<u8> {
    packet(
        1,
        &[
            &capabilities.to_le_bytes()[..],
            &[0, 0, 0, 1, 8],
            &[0; 19],
            &mariadb.to_le_bytes(),
            b"root\0\0mysql_native_password\0",
        ]
        .concat(),
    )
}

pub fn command(code: u8, text: &str) -> Vec<u8> {
    packet(0, &[&[code], text.as_bytes()].concat())
}

pub fn query(text: &str) -> Vec<u8> {
    command(3, text)
}

pub fn ok(status: u8) -> Vec<u8> {
    packet(1, &[0, 0xfc, 1, 2, 0, status, 0, 0, 0])
}

fn err() -> Vec<u8> {
    packet(1, b"\xff\x28\x04#42000You have an error")
}

fn eof(status: u8) -> Vec<u8> {
    packet(5, &[0xfe, 0, 0, status, 0])
}

/// What takes an EOF's place: an OK with a text.
fn end(status: u8) -> Vec<u8> {
    packet(5, &[&[0xfe, 0, 0, status, 0, 0, 0], &b"info"[..]].concat())
}

fn definition() -> Vec<u8> {
    packet(2, b"\x03def\0\0\0\x01a\0\x0c\x3f\0\x01\0\0\0\x08\0\0\0\0\0")
}

fn rows() -> Vec<u8> {
    [packet(3, b"\x01\xff"), packet(4, b"\xfb"), packet(5, b"\0\0\x01")].concat()
}

/// A row that begins as an EOF does.
fn long_row() -> Vec<u8> {
    packet(6, &[&[0xfe, 9, 0, 0, 0, 0, 0, 0, 0], &b"long text"[..]].concat())
}

/// The login by a method that asks back.
fn login_with(capabilities: u32, mariadb: u32) -> [(Side, Vec<u8>); 3] {
    let asked = [packet(2, b"\xfemysql_clear_password\0"), packet(4, b"\x01\x04")].concat();
    [
        (Side::Server, greeting(capabilities | SSL, mariadb)),
        (Side::Client, [response(capabilities, mariadb), packet(3, b"secret\0")].concat()),
        (Side::Server, [asked, packet(5, &[0, 0, 0, 2, 0, 0, 0])].concat()),
    ]
}

/// That of today's clients.
pub fn login() -> Vec<(Side, Vec<u8>)> {
    login_with(PLAIN | DEPRECATE_EOF, 0).to_vec()
}

/// The login, and what follows it.
fn exchange(
    name: &'static str,
    (capabilities, mariadb): (u32, u32),
    requests: &[Vec<u8>],
    responses: &[Vec<u8>],
    counted: &[(Op, DbOutcome, u64)],
) -> Exchange {
    let mut turns = login_with(capabilities, mariadb).to_vec();
    turns.push((Side::Client, requests.concat()));
    turns.push((Side::Server, responses.concat()));
    let exchange = Exchange::of(name, turns, MYSQL);
    counted.iter().fold(exchange, |all, &(op, outcome, n)| all.asked(MYSQL, op, outcome, n))
}

fn of_today() -> Exchange {
    exchange(
        "mysql: without EOF, with query attributes",
        (PLAIN | DEPRECATE_EOF | QUERY_ATTRIBUTES, 0),
        &[
            query("\0\x01select @@version"),
            query("\x01\x01\0\x01\x08\0\0\x01SELECT 1"),
            query("\0\x01 insert into t values (1); select 2"),
            command(0x16, "select ?"),
            command(0x17, "\x01\0\0\0\0\x01\0\0\0"),
            command(0x19, "\x01\0\0\0"),
            command(0x0e, ""),
            query("\0\x01update nothing"),
            command(1, ""),
        ],
        &[
            [packet(1, b"\x01"), definition(), rows(), end(0)].concat(),
            [packet(1, b"\x02"), definition(), definition(), end(0)].concat(),
            [ok(MORE_RESULTS), packet(1, b"\x01"), definition(), rows(), end(0)].concat(),
            [packet(1, &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0]), definition(), definition()].concat(),
            [packet(1, b"\x01"), definition(), packet(3, b"\0\0\x05"), end(0)].concat(),
            ok(2),
            err(),
        ],
        &[
            (Op::DB_SELECT, OK, 1),
            (Op::DB_UNKNOWN, OK, 1),
            (Op::DB_INSERT, OK, 1),
            (Op::DB_PREPARE, OK, 1),
            (Op::DB_EXECUTE, OK, 1),
            (Op::DB_PING, OK, 1),
            (Op::DB_UPDATE, ERROR, 1),
        ],
    )
}

fn of_old() -> Exchange {
    exchange(
        "mysql: with EOF, a cursor, a file, several results, another user",
        (PLAIN, 0),
        &[
            query("/*! hint */ (SELECT 1)"),
            command(0x16, "select ?"),
            command(0x17, "\x01\0\0\0\x01\x01\0\0\0"),
            command(0x1c, "\x01\0\0\0\x05\0\0\0"),
            query("LOAD DATA LOCAL INFILE 'f' INTO TABLE t"),
            packet(2, b"1\n2\n"),
            packet(3, b""),
            query("CALL p()"),
            command(0x11, "root\0\0"),
            packet(3, b""),
            command(0x02, "shop"),
            command(0x04, "t\0"),
            command(0x09, ""),
            query("show"),
        ],
        &[
            [packet(1, b"\x01"), definition(), eof(0), rows(), long_row(), eof(0)].concat(),
            [packet(1, &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0]), definition(), eof(0)].concat(),
            [definition(), eof(0)].concat(),
            [packet(1, b"\x01"), definition(), eof(CURSOR_EXISTS)].concat(),
            [packet(1, b"\0\0\x07"), eof(0x80)].concat(),
            [packet(1, b"\xfbf"), ok(0)].concat(),
            [packet(1, b"\x01"), definition(), eof(0), eof(MORE_RESULTS), ok(0)].concat(),
            [packet(1, b"\xfemysql_native_password\0salt\0"), ok(0)].concat(),
            ok(0),
            [definition(), eof(0)].concat(),
            packet(1, b"Uptime: 5"),
            [packet(1, b"\x01"), definition(), eof(0), packet(4, b"\x01a"), err()].concat(),
        ],
        &[
            (Op::DB_SELECT, OK, 1),
            (Op::DB_PREPARE, OK, 1),
            (Op::DB_EXECUTE, OK, 1),
            (Op::DB_FETCH, OK, 1),
            (Op::DB_LOAD, OK, 1),
            (Op::DB_CALL, OK, 1),
            (Op::DB_USE, OK, 1),
            (Op::DB_OTHER, OK, 3),
            (Op::DB_SHOW, ERROR, 1),
        ],
    )
}

fn of_mariadb() -> Exchange {
    exchange(
        "mysql: MariaDB's progress reports and metadata left out",
        ((PLAIN & !1) | DEPRECATE_EOF, MARIADB),
        &[query("ALTER TABLE t FORCE"), command(0x17, "\x01\0\0\0"), command(0xfa, "\x01\0\0\0")],
        &[
            [packet(1, b"\xff\xff\xff\x01\x01\x02\0\0\0\x04copy"), ok(0)].concat(),
            [packet(1, b"\x01\0"), packet(2, b"\0\0\x01"), end(0)].concat(),
            [packet(1, b"\x01\x01"), definition(), packet(3, b"\0\0\x01"), end(0)].concat(),
        ],
        &[(Op::DB_ALTER, OK, 1), (Op::DB_EXECUTE, OK, 2)],
    )
}

fn optional() -> Exchange {
    exchange(
        "mysql: metadata on request",
        (PLAIN | DEPRECATE_EOF | OPTIONAL_METADATA, 0),
        &[query("select 1"), command(0x16, "select ?"), query("do 1"), command(0x12, "\x04\0\0\0")],
        &[
            [packet(1, b"\x01\0"), rows(), end(0)].concat(),
            packet(1, &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]),
            ok(0),
            packet(1, b"\0binlog"),
            packet(2, b"\0binlog"),
        ],
        &[
            (Op::DB_SELECT, OK, 1),
            (Op::DB_PREPARE, OK, 1),
            (Op::DB_DO, OK, 1),
            (Op::DB_OTHER, DbOutcome::DB_UNTOLD, 1),
        ],
    )
}

fn refused() -> Exchange {
    let turns = [
        (Side::Server, greeting(PLAIN, 0)),
        (Side::Client, response(PLAIN, 0)),
        (Side::Server, err()),
    ];
    Exchange::of("mysql: a login that is refused", turns, MYSQL)
}

fn encrypted() -> Exchange {
    let ask = [&(PLAIN | SSL).to_le_bytes()[..], &[0, 0, 0, 1, 8], &[0; 23]].concat();
    let [(_, client), (_, server)] = &tls_cases::exchanges()[1].turns[..] else { panic!() };
    let turns = [
        (Side::Server, greeting(PLAIN | SSL, 0)),
        (Side::Client, [packet(1, &ask), client.clone()].concat()),
        (Side::Server, server.clone()),
    ];
    Exchange::of("mysql: TLS on request", turns, L7Protocol::L7_TLS).count(
        CounterKind::COUNTER_TLS_HANDSHAKES,
        TlsVersion::TLS_VERSION_1_3.0,
        0,
        0,
        1,
    )
}

pub fn exchanges() -> Vec<Exchange> {
    vec![of_today(), of_old(), of_mariadb(), optional(), refused(), encrypted()]
}

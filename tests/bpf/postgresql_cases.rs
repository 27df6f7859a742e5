//! PostgreSQL exchanges with what they amount to.

use weir::telemetry::wire::{DbOperation as Op, DbOutcome, L7Protocol, TlsVersion};

use crate::{exchange::Exchange, stream::Side, tls_cases};

const PG: L7Protocol = L7Protocol::L7_POSTGRESQL;

/// A message with its type and length.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &len.to_be_bytes(), body].concat()
}

/// A client's first message.
pub fn startup() -> Vec<u8> {
    let body = b"\x00\x03\x00\x00user\0app\0database\0shop\0\0";
    let len = u32::try_from(body.len() + 4).unwrap();
    [&len.to_be_bytes()[..], body].concat()
}

pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];

/// The server's way to being ready.
pub fn welcome() -> Vec<u8> {
    [
        message(b'R', &[0, 0, 0, 0]),
        message(b'S', b"server_version\x0015\0"),
        message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]),
        ready(),
    ]
    .concat()
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

pub fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"].concat())
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"].concat())
}

fn bind() -> Vec<u8> {
    message(b'B', b"\0\0\0\0\0\0\0\0")
}

fn execute() -> Vec<u8> {
    message(b'E', b"\0\0\0\0\0")
}

fn sync() -> Vec<u8> {
    message(b'S', b"")
}

fn complete(tag: &str) -> Vec<u8> {
    message(b'C', &[tag.as_bytes(), b"\0"].concat())
}

fn rows(n: usize) -> Vec<u8> {
    let row = message(b'D', b"\0\x01\0\0\0\x04C\0\0\0");
    [message(b'T', b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0"), row.repeat(n)]
        .concat()
}

/// A statement that is parsed, bound and executed, and what a server says to any of a row.
pub fn prepared(text: &str) -> Vec<u8> {
    [parse("", text), bind(), execute(), sync()].concat()
}

pub fn selected() -> Vec<u8> {
    [rows(1), complete("SELECT 1"), ready()].concat()
}

/// A statement's end with this tag.
pub fn completed(tag: &str) -> Vec<u8> {
    [complete(tag), ready()].concat()
}

fn error(text: &str) -> Vec<u8> {
    message(b'E', &[b"SERROR\0C22012\0M", text.as_bytes(), b"\0\0"].concat())
}

/// What follows the handshake: the client's messages and the server's.
fn exchange(
    name: &'static str,
    requests: &[Vec<u8>],
    responses: &[Vec<u8>],
    counted: &[(Op, DbOutcome, u64)],
) -> Exchange {
    let requests = [startup(), requests.concat()].concat();
    let responses = [welcome(), responses.concat()].concat();
    let exchange = Exchange::new(name, requests, responses, PG);
    counted.iter().fold(exchange, |all, &(op, outcome, n)| all.asked(PG, op, outcome, n))
}

const OK: DbOutcome = DbOutcome::DB_OK;
const ERROR: DbOutcome = DbOutcome::DB_ERROR;

fn simple() -> Vec<Exchange> {
    vec![
        exchange(
            "postgresql: simple queries, several statements in one",
            &[
                query("/* a */ select 1"),
                query("begin; insert into t values (1); commit"),
                query(""),
                query("-- nothing\n (SELECT 1/0)"),
                message(b'X', b""),
            ],
            &[
                rows(3),
                complete("SELECT 3"),
                ready(),
                complete("BEGIN"),
                message(b'N', b"SNOTICE\0\0"),
                complete("INSERT 0 1"),
                complete("COMMIT"),
                ready(),
                message(b'I', b""),
                ready(),
                error("division by zero"),
                ready(),
            ],
            &[
                (Op::DB_SELECT, OK, 1),
                (Op::DB_BEGIN, OK, 1),
                (Op::DB_INSERT, OK, 1),
                (Op::DB_COMMIT, OK, 1),
                (Op::DB_EMPTY, OK, 1),
                (Op::DB_SELECT, ERROR, 1),
            ],
        ),
        exchange(
            "postgresql: an error in the middle of a text, a copy in and one out",
            &[
                query("update t set a = 1; drop table nothing; select 1"),
                query("COPY t FROM STDIN"),
                message(b'd', b"Q\0\0\0\x051\n"),
                message(b'c', b""),
                query("copy t to stdout"),
            ],
            &[
                complete("UPDATE 7"),
                error("table \"nothing\" does not exist"),
                ready(),
                message(b'G', b"\0\0\x01\0\0"),
                complete("COPY 1"),
                ready(),
                message(b'H', b"\0\0\x01\0\0"),
                message(b'd', b"Z\0\0\0\x05I"),
                message(b'c', b""),
                complete("COPY 1"),
                ready(),
            ],
            &[(Op::DB_UPDATE, OK, 1), (Op::DB_UNKNOWN, ERROR, 1), (Op::DB_COPY, OK, 2)],
        ),
        exchange(
            "postgresql: words of all lengths",
            &[
                query("START TRANSACTION"),
                query("savepoint a"),
                query("Deallocate all"),
                query("REINDEX TABLE t"),
            ],
            &[
                complete("START TRANSACTION"),
                ready(),
                complete("SAVEPOINT"),
                ready(),
                complete("DEALLOCATE ALL"),
                ready(),
                complete("REINDEX"),
                ready(),
            ],
            &[
                (Op::DB_BEGIN, OK, 1),
                (Op::DB_SAVEPOINT, OK, 1),
                (Op::DB_DEALLOCATE, OK, 1),
                (Op::DB_OTHER, OK, 1),
            ],
        ),
    ]
}

fn extended() -> Vec<Exchange> {
    let described = || [message(b'1', b""), message(b'2', b""), rows(0)].concat();
    vec![
        exchange(
            "postgresql: extended, in parts and pipelined",
            &[
                parse("s1", "select $1"),
                message(b'D', b"Ss1\0"),
                sync(),
                bind(),
                execute(),
                message(b'H', b""),
                execute(),
                sync(),
                parse("", "insert into t values ($1)"),
                bind(),
                execute(),
                bind(),
                execute(),
                sync(),
            ],
            &[
                message(b'1', b""),
                message(b't', b"\0\0"),
                message(b'n', b""),
                ready(),
                message(b'2', b""),
                rows(2),
                message(b's', b""),
                rows(1),
                complete("SELECT 1"),
                ready(),
                described(),
                complete("INSERT 0 1"),
                message(b'2', b""),
                complete("INSERT 0 1"),
                ready(),
            ],
            &[(Op::DB_UNKNOWN, OK, 1), (Op::DB_SELECT, OK, 1), (Op::DB_INSERT, OK, 2)],
        ),
        exchange(
            "postgresql: after an error all is discarded up to the Sync",
            &[
                parse("", "insert into t values ($1)"),
                bind(),
                execute(),
                parse("", "delete from t"),
                bind(),
                execute(),
                query("select 1"),
                sync(),
                parse("", "selekt"),
                sync(),
                query("show all"),
            ],
            &[
                described(),
                error("duplicate key"),
                ready(),
                error("syntax error"),
                ready(),
                rows(1),
                complete("SHOW"),
                ready(),
            ],
            &[
                (Op::DB_INSERT, ERROR, 1),
                (Op::DB_DELETE, ERROR, 1),
                (Op::DB_SELECT, ERROR, 1),
                (Op::DB_UNKNOWN, ERROR, 1),
                (Op::DB_SHOW, OK, 1),
            ],
        ),
        exchange(
            "postgresql: a commit that fails behind the statement, a copy with a Sync too early",
            &[
                parse("", "insert into t values ($1)"),
                bind(),
                execute(),
                sync(),
                parse("", "copy t from stdin"),
                bind(),
                execute(),
                sync(),
                message(b'd', b"1\n"),
                message(b'c', b""),
                sync(),
                query("call f()"),
            ],
            &[
                described(),
                complete("INSERT 0 1"),
                error("foreign key"),
                ready(),
                described(),
                message(b'G', b"\0\0\x01\0\0"),
                complete("COPY 1"),
                ready(),
                complete("CALL"),
                ready(),
            ],
            &[(Op::DB_INSERT, ERROR, 1), (Op::DB_COPY, OK, 1), (Op::DB_CALL, OK, 1)],
        ),
    ]
}

fn encrypted() -> Vec<Exchange> {
    let tls = &tls_cases::exchanges()[1];
    let hello = [(Side::Client, SSL_REQUEST.to_vec()), (Side::Server, b"S".to_vec())];
    let turns = [&hello[..], &tls.turns].concat();
    let refused = [
        (Side::Client, SSL_REQUEST.to_vec()),
        (Side::Server, b"N".to_vec()),
        (Side::Client, [startup(), query("select 1")].concat()),
        (Side::Server, [welcome(), complete("SELECT 1"), ready()].concat()),
    ];
    vec![
        Exchange::of("postgresql: TLS on request", turns, L7Protocol::L7_TLS).count(
            weir::telemetry::wire::CounterKind::COUNTER_TLS_HANDSHAKES,
            TlsVersion::TLS_VERSION_1_3.0,
            0,
            0,
            1,
        ),
        Exchange::of("postgresql: TLS refused", refused, PG).asked(PG, Op::DB_SELECT, OK, 1),
    ]
}

pub fn exchanges() -> Vec<Exchange> {
    [simple(), extended(), encrypted()].into_iter().flatten().collect()
}

//! What real programs said in protocols that are counted, with what they and their servers tell of it: the
//! captures' first lines, `captures/README.md`.

use weir::telemetry::wire::{
    CounterKind, DbOperation as Op, DbOutcome, HistogramKind, HttpMethod as Method, HttpVersion,
    L7Protocol, TlsVersion, Transport,
};

use crate::{captures::turns, exchange::Exchange};

const OK: DbOutcome = DbOutcome::DB_OK;
const ERROR: DbOutcome = DbOutcome::DB_ERROR;

pub fn exchanges() -> Vec<Exchange> {
    vec![
        nginx(),
        redis(),
        psql(),
        pgbench(),
        mariadb(),
        mariadb_prepared(),
        openssl(
            "recorded: openssl, 1.2",
            include_str!("captures/openssl-tls-1.2.txt"),
            TlsVersion::TLS_VERSION_1_2,
        ),
        openssl(
            "recorded: openssl, 1.3",
            include_str!("captures/openssl-tls-1.3.txt"),
            TlsVersion::TLS_VERSION_1_3,
        ),
        dnsmasq(),
    ]
}

/// In the order of nginx' access.log.
fn nginx() -> Exchange {
    let requests = [
        (Method::HTTP_METHOD_GET, 200),
        (Method::HTTP_METHOD_HEAD, 200),
        (Method::HTTP_METHOD_GET, 200),
        (Method::HTTP_METHOD_GET, 304),
        (Method::HTTP_METHOD_GET, 206),
        (Method::HTTP_METHOD_GET, 204),
        (Method::HTTP_METHOD_GET, 404),
        (Method::HTTP_METHOD_POST, 200),
        (Method::HTTP_METHOD_DELETE, 405),
        (Method::HTTP_METHOD_POST, 200),
        (Method::HTTP_METHOD_GET, 301),
        (Method::HTTP_METHOD_GET, 200),
    ];
    let turns = turns(include_str!("captures/nginx.txt"));
    let exchange = Exchange::of("recorded: curl and nginx", turns, L7Protocol::L7_HTTP1)
        // Of the third what the compressed chunks hold.
        .bodies(792 + 300, 300 + 524 + 10 + 153 + 6 + 157 + 6 + 169 + 300);
    let version = HttpVersion::HTTP_VERSION_1_1;
    requests
        .into_iter()
        .fold(exchange, |all, (method, status)| all.request(method, version, status))
}

fn database(
    name: &'static str,
    text: &str,
    system: L7Protocol,
    counted: &[(Op, DbOutcome, u64)],
) -> Exchange {
    let exchange = Exchange::of(name, turns(text), system);
    counted.iter().fold(exchange, |all, &(op, outcome, n)| all.asked(system, op, outcome, n))
}

fn redis() -> Exchange {
    database(
        "recorded: redis-cli and redis-server",
        include_str!("captures/redis.txt"),
        L7Protocol::L7_REDIS,
        &[
            (Op::DB_PING, OK, 1),
            (Op::DB_SET, OK, 2),
            (Op::DB_GET, OK, 2),
            (Op::DB_INCR, ERROR, 1),
            (Op::DB_LPUSH, OK, 1),
            (Op::DB_LRANGE, OK, 1),
            (Op::DB_HSET, OK, 1),
            (Op::DB_HGETALL, OK, 1),
            (Op::DB_OTHER, ERROR, 1),
            (Op::DB_DEL, OK, 1),
        ],
    )
}

fn psql() -> Exchange {
    database(
        "recorded: psql and postgres",
        include_str!("captures/psql.txt"),
        L7Protocol::L7_POSTGRESQL,
        &[
            (Op::DB_CREATE, OK, 1),
            (Op::DB_INSERT, OK, 1),
            (Op::DB_SELECT, OK, 1),
            (Op::DB_SELECT, ERROR, 1),
            (Op::DB_BEGIN, OK, 1),
            (Op::DB_UPDATE, OK, 1),
            (Op::DB_COMMIT, OK, 1),
            (Op::DB_COPY, OK, 2),
            (Op::DB_DELETE, OK, 1),
            (Op::DB_TRUNCATE, OK, 1),
        ],
    )
}

/// What was prepared by an earlier message is executed by a name alone: the server says what it was.
fn pgbench() -> Exchange {
    database(
        "recorded: pgbench and postgres",
        include_str!("captures/pgbench.txt"),
        L7Protocol::L7_POSTGRESQL,
        &[(Op::DB_SELECT, OK, 4), (Op::DB_INSERT, OK, 2)],
    )
}

fn mariadb() -> Exchange {
    database(
        "recorded: mariadb and mariadbd",
        include_str!("captures/mariadb.txt"),
        L7Protocol::L7_MYSQL,
        &[
            (Op::DB_CREATE, OK, 1),
            (Op::DB_INSERT, OK, 1),
            (Op::DB_SELECT, OK, 1),
            (Op::DB_SELECT, ERROR, 1),
            (Op::DB_BEGIN, OK, 1),
            (Op::DB_UPDATE, OK, 1),
            (Op::DB_COMMIT, OK, 1),
            (Op::DB_PREPARE, OK, 1),
            (Op::DB_SET, OK, 1),
            (Op::DB_EXECUTE, OK, 1),
            (Op::DB_DELETE, OK, 1),
            (Op::DB_SHOW, OK, 1),
            (Op::DB_DROP, OK, 1),
        ],
    )
}

fn mariadb_prepared() -> Exchange {
    database(
        "recorded: DBD::MariaDB and mariadbd",
        include_str!("captures/mariadb-prepared.txt"),
        L7Protocol::L7_MYSQL,
        &[
            (Op::DB_SET, OK, 4),
            (Op::DB_PREPARE, OK, 4),
            (Op::DB_EXECUTE, OK, 4),
            (Op::DB_EXECUTE, ERROR, 1),
            // It is reset, for which there is no name.
            (Op::DB_OTHER, OK, 1),
        ],
    )
}

fn openssl(name: &'static str, text: &str, chosen: TlsVersion) -> Exchange {
    let handshakes = CounterKind::COUNTER_TLS_HANDSHAKES;
    Exchange::of(name, turns(text), L7Protocol::L7_TLS).count(handshakes, chosen.0, 0, 0, 1)
}

fn dnsmasq() -> Exchange {
    let (noerror, nxdomain, refused) = (0, 3, 5);
    let looked_up = [
        (1, noerror),
        (28, noerror),
        (16, noerror),
        (15, noerror),
        (33, noerror),
        (1, nxdomain),
        (1, refused),
    ];
    let tcp = Transport::TRANSPORT_TCP.0;
    let turns = turns(include_str!("captures/dnsmasq.txt"));
    let mut exchange = Exchange::of("recorded: dig and dnsmasq", turns, L7Protocol::L7_DNS)
        .observe(HistogramKind::HISTOGRAM_DNS_LOOKUP, 7);
    exchange.port = 53;
    looked_up.into_iter().fold(exchange, |exchange, (qtype, rcode)| {
        exchange.count(CounterKind::COUNTER_DNS_QUERIES, 0, tcp, qtype, 1).count(
            CounterKind::COUNTER_DNS_RESPONSES,
            rcode,
            tcp,
            qtype,
            1,
        )
    })
}

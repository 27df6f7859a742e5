//! Redis exchanges with what they amount to.

use weir::telemetry::wire::{DbOperation as Op, DbOutcome, L7Protocol};

use crate::exchange::Exchange;

/// A request in the array form.
pub fn command(words: &[&str]) -> String {
    let head = format!("*{}\r\n", words.len());
    words.iter().fold(head, |text, word| text + &format!("${}\r\n{word}\r\n", word.len()))
}

/// What is answered with success and with an error.
fn exchange(
    name: &'static str,
    requests: impl Into<Vec<u8>>,
    responses: impl Into<Vec<u8>>,
    ok: &[Op],
    error: &[Op],
) -> Exchange {
    let exchange = Exchange::new(name, requests, responses, L7Protocol::L7_REDIS);
    let redis = L7Protocol::L7_REDIS;
    let exchange = ok.iter().fold(exchange, |all, &op| all.asked(redis, op, DbOutcome::DB_OK, 1));
    error.iter().fold(exchange, |all, &op| all.asked(redis, op, DbOutcome::DB_ERROR, 1))
}

pub fn exchanges() -> Vec<Exchange> {
    vec![
        exchange(
            "redis: strings, numbers, null, an error, an unknown command",
            command(&["SET", "k", "a\r\n*1\r\n$4\r\nPING"])
                + &command(&["get", "k"])
                + &command(&["Get", ""])
                + &command(&["INCR", "n"])
                + &command(&["LPUSH", "k", "v"])
                + &command(&["a-name-of-no-command"])
                + &command(&["XREADGROUP", "g"]),
            "+OK\r\n$19\r\n+not\r\n-a reply\r\n:\r\n\r\n$-1\r\n:1\r\n-WRONGTYPE Operation against a key holding the wrong kind of value\r\n$0\r\n\r\n*-1\r\n",
            &[Op::DB_SET, Op::DB_GET, Op::DB_GET, Op::DB_INCR, Op::DB_OTHER, Op::DB_XREADGROUP],
            &[Op::DB_LPUSH],
        ),
        exchange(
            "redis: arrays of arrays, a transaction",
            command(&["SCAN", "0"])
                + &command(&["MULTI"])
                + &command(&["HGETALL", "h"])
                + &command(&["EXEC"])
                + &command(&["LRANGE", "l", "0", "-1"]),
            "*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n*1\r\n*0\r\n+OK\r\n+QUEUED\r\n*2\r\n-ERR in it\r\n*-1\r\n*0\r\n",
            &[Op::DB_SCAN, Op::DB_MULTI, Op::DB_HGETALL, Op::DB_EXEC, Op::DB_LRANGE],
            &[],
        ),
        exchange(
            "redis: inline commands, empty requests",
            format!("\r\nPING\r\n\r\nget  k\n*0\r\n{}set k v\r\n", command(&["PING"])),
            "+PONG\r\n$-1\r\n+PONG\r\n-NOAUTH Authentication required.\r\n",
            &[Op::DB_PING, Op::DB_GET, Op::DB_PING],
            &[Op::DB_SET],
        ),
        exchange(
            "redis: RESP3's types, attributes and pushes",
            command(&["HELLO", "3"])
                + &command(&["GET", "a"])
                + &command(&["GET", "b"])
                + &command(&["EVAL", "x"]),
            ">0\r\n%2\r\n+a\r\n:3\r\n+b\r\n~2\r\n#t\r\n_\r\n>2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n|1\r\n+ttl\r\n,3.5\r\n=7\r\ntxt:abc\r\n(123456789012345678901234567890\r\n*1\r\n|1\r\n+k\r\n%1\r\n+a\r\n+b\r\n!4\r\noh\r\n\r\n",
            &[Op::DB_HELLO, Op::DB_GET, Op::DB_GET, Op::DB_EVAL],
            &[],
        ),
        exchange(
            "redis: after SUBSCRIBE the server speaks unasked",
            command(&["SUBSCRIBE", "c"]) + &command(&["PING"]),
            "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n",
            &[Op::DB_SUBSCRIBE],
            &[],
        )
        .asked(L7Protocol::L7_REDIS, Op::DB_PING, DbOutcome::DB_UNTOLD, 1),
        exchange(
            "redis: a SUBSCRIBE that was refused changes nothing",
            command(&["SUBSCRIBE", "c"]) + &command(&["GET", "k"]),
            "-NOPERM no\r\n$1\r\nv\r\n",
            &[Op::DB_GET],
            &[Op::DB_SUBSCRIBE],
        ),
        exchange(
            "redis: answers that were switched off",
            command(&["client", "reply", "off"])
                + &command(&["SET", "a", "b"])
                + &command(&["CLIENT", "REPLY", "ON"])
                + &command(&["client", "reply", "skip"])
                + &command(&["DEL", "a"])
                + &command(&["client", "list"]),
            "+OK\r\n$0\r\n\r\n",
            &[Op::DB_CLIENT, Op::DB_CLIENT],
            &[],
        ),
    ]
}

//! Redis: `redis-benchmark` against `redis-server`, by the server's own statistics of commands.

use std::{path::Path, process::Command};

use crate::pair::{BURSTS, Pair, Process, Requests, run, wait_until};

/// What the server is asked by its socket, beside the network.
fn aside(socket: &Path, words: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.arg("-s").arg(socket).args(words);
    run(command)
}

fn start(pair: &Pair) -> Process {
    let (socket, dir) = (pair.path("redis.sock"), pair.path(""));
    let server = pair.serve(&[
        "redis-server",
        "--port",
        "6379",
        "--bind",
        "0.0.0.0",
        "::",
        "--protected-mode",
        "no",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        dir.to_str().unwrap(),
        "--unixsocket",
        socket.to_str().unwrap(),
    ]);
    let ready = || Command::new("redis-cli").arg("-s").arg(&socket).arg("ping").output();
    wait_until("redis-server", || ready().is_ok_and(|pong| pong.stdout == b"PONG\n"));
    aside(&socket, &["config", "resetstat"]);
    server
}

/// What the server counted since it was ready: calls by command, and of these the ones that failed.
fn commands(pair: &Pair) -> Requests {
    let text = aside(&pair.path("redis.sock"), &["info", "commandstats"]);
    let mut found = Requests::new();
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("cmdstat_"));
    for line in lines.filter(|line| !line.starts_with("config|resetstat")) {
        let (name, numbers) = line.split_once(':').unwrap();
        let number = |key: &str| {
            let of = numbers.split(',').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
            of.unwrap().parse::<u64>().unwrap()
        };
        let name = name.split('|').next().unwrap().to_uppercase();
        let rejected = number("rejected_calls");
        let failed = number("failed_calls") + rejected;
        let ok = number("calls") + rejected - failed;
        for (outcome, n) in [("ok", ok), ("error", failed)].into_iter().filter(|(_, n)| *n > 0) {
            *found.entry((name.clone(), outcome.into())).or_default() += n;
        }
    }
    found
}

#[test]
fn every_command_is_counted_as_redis_counts_it() {
    let pair = Pair::new("redis");
    let _server = start(&pair);
    let tests = "ping_inline,ping_mbulk,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset";
    let short: &[&str] = &["-n", "3000", "-c", "10"];
    let modes = [
        [short, &["-P", "1", "-d", "3"]].concat(),
        [short, &["-P", "100", "-d", "2000", "-3"]].concat(),
    ];
    for ((address, more), segments) in pair.addresses.iter().zip(modes).zip(BURSTS) {
        pair.set_burst(segments);
        let words = ["timeout", "60", "redis-benchmark", "-q", "-h", address, "-t", tests];
        pair.ask(&[&words[..], &more].concat());
    }
    for line in [
        &["set", "text", "a"][..],
        &["incr", "text"],
        &["lpush", "text", "b"],
        &["get"],
        &["eval", "return redis.error_reply('no')", "0"],
        &["xadd", "s", "*", "k", "v"],
    ] {
        pair.ask(&[&["redis-cli", "-h", &pair.addresses[0]], line].concat());
    }
    let mut counted = commands(&pair);
    counted.retain(|(name, _), _| name != "INFO");
    let total = counted.values().sum();
    assert!(total > 90_000, "{counted:?}");
    for role in ["server", "client"] {
        assert_eq!(pair.requests(role, "redis", total), counted, "{role}, {:?}", pair.gaps());
        assert_eq!(pair.durations(role, "redis"), total, "{role}");
    }
    pair.assert_no_gap();
}

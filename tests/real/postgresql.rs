//! PostgreSQL: `pgbench` and `psql`, by the server's own statistics of statements.

use std::{fs, os::unix::fs::chown, process::Command};

use crate::pair::{BURSTS, Pair, Process, Requests, run, wait_until};

/// Where Debian puts the newest version's programs.
fn program(name: &str) -> String {
    let mut found: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .unwrap()
        .map(|version| version.unwrap().path().join("bin").join(name))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().unwrap().to_str().unwrap().to_owned()
}

/// The server refuses to run as root.
const AS_POSTGRES: [&str; 4] =
    ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];

/// What the server is asked by its socket, beside the network.
fn aside(pair: &Pair, statement: &str) -> std::io::Result<String> {
    let mut command = Command::new(program("psql"));
    command.args(["-XAtq", "-F", " ", "-U", "postgres", "-c", statement, "-h"]);
    let output = command.arg(pair.path("data")).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn start(pair: &Pair) -> Process {
    let data = pair.path("data");
    fs::create_dir(&data).unwrap();
    let postgres = nix::unistd::User::from_name("postgres").unwrap().unwrap();
    chown(&data, Some(postgres.uid.as_raw()), Some(postgres.gid.as_raw())).unwrap();
    let dir = data.to_str().unwrap();
    let mut command = Command::new(AS_POSTGRES[0]);
    command.args(&AS_POSTGRES[1..]).arg(program("initdb")).current_dir("/");
    run({
        command.args(["-D", dir, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]);
        command
    });
    let open = "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n";
    let hba = data.join("pg_hba.conf");
    fs::write(&hba, fs::read_to_string(&hba).unwrap() + open).unwrap();
    let settings = format!(
        "listen_addresses='*'\nunix_socket_directories='{dir}'\nfsync=off\nshared_buffers=16MB\n\
         shared_preload_libraries='pg_stat_statements'\npg_stat_statements.max=1000\n"
    );
    let conf = data.join("postgresql.conf");
    fs::write(&conf, fs::read_to_string(&conf).unwrap() + &settings).unwrap();
    let server = pair.serve(&[&AS_POSTGRES[..], &[&program("postgres"), "-D", dir]].concat());
    wait_until("postgres", || aside(pair, "select 7").is_ok_and(|text| text == "7\n"));
    aside(pair, "create extension pg_stat_statements").unwrap();
    aside(pair, "select pg_stat_statements_reset()").unwrap();
    server
}

/// What the server counted: statements that went well, by their first word.
fn statements(pair: &Pair) -> Requests {
    let text = aside(
        pair,
        "select upper(substring(query from '[a-zA-Z]+')), sum(calls) from pg_stat_statements \
         where query !~ 'pg_stat_statements' group by 1",
    );
    let mut found = Requests::new();
    for line in text.unwrap().lines() {
        let (word, calls) = line.split_once(' ').unwrap();
        let word = if word == "END" { "COMMIT" } else { word };
        *found.entry((word.to_owned(), "ok".to_owned())).or_default() +=
            calls.parse::<u64>().unwrap();
    }
    found
}

#[test]
fn every_statement_is_counted_as_postgresql_counts_it() {
    let pair = Pair::new("postgresql");
    let _server = start(&pair);
    let (pgbench, psql) = (program("pgbench"), program("psql"));
    let user = ["-U", "postgres", "postgres"];
    let bench = |address: &str, words: &[&str]| {
        pair.ask(&[&["timeout", "60", &pgbench, "-h", address][..], words, &user].concat());
    };
    bench(&pair.addresses[0], &["-i", "-q", "-s", "1"]);
    let ends = pair.addresses.iter().zip(BURSTS).cycle();
    for (mode, (address, segments)) in ["simple", "extended", "prepared"].iter().zip(ends) {
        pair.set_burst(segments);
        bench(address, &["-n", "-S", "-M", mode, "-c", "2", "-t", "500"]);
        // Of a prepared BEGIN pg_stat_statements of PostgreSQL 15 counts the first execution only.
        if *mode != "prepared" {
            bench(address, &["-M", mode, "-c", "4", "-t", "100"]);
        }
    }
    let script = pair.path("pipeline.sql");
    let pipeline = "\\startpipeline\nSELECT 1;\nINSERT INTO pgbench_history (tid) VALUES (1);\n\
                    SELECT 2;\n\\endpipeline\n";
    fs::write(&script, pipeline).unwrap();
    let script = script.to_str().unwrap();
    bench(&pair.addresses[0], &["-n", "-M", "extended", "-t", "50", "-f", script]);
    pair.set_burst(BURSTS[1]);
    bench(&pair.addresses[1], &["-n", "-M", "prepared", "-t", "50", "-f", script]);
    let say = |words: &[&str]| {
        pair.try_to_ask(&[&[&psql, "-Xq", "-h", &pair.addresses[0]][..], words, &user].concat())
    };
    say(&["-c", "BEGIN; CREATE TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED); COMMIT"]);
    say(&["-c", "\\copy pgbench_history to /dev/null"]);
    say(&["-c", "INSERT INTO t VALUES (1)", "-c", "", "-c", "UPDATE t SET a = 2"]);
    say(&["-c", "SELECT repeat('x', 200000) FROM generate_series(1, 20)"]);
    say(&["-c", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "-c", "FETCH c", "-c", "CLOSE c"]);

    let mut counted = statements(&pair);
    // Those know of neither what failed nor an empty text.
    counted.insert(("EMPTY".to_owned(), "ok".to_owned()), 1);
    say(&["-c", "SELECT 1/0", "-c", "SELECT no_such_thing", "-c", "INSERT INTO t VALUES (2), (2)"]);
    for (word, n) in [("SELECT", 2), ("INSERT", 1)] {
        counted.insert((word.to_owned(), "error".to_owned()), n);
    }
    let total = counted.values().sum();
    assert!(total > 8_000, "{counted:?}");
    for role in ["server", "client"] {
        let found = pair.requests(role, "postgresql", total);
        assert_eq!(found, counted, "{role}, {:?}", pair.gaps());
        assert_eq!(pair.durations(role, "postgresql"), total, "{role}");
    }
    pair.assert_no_gap();
}

//! MariaDB: its own clients, in text and by prepared statements, by the server's own status.

use std::{collections::BTreeMap, fs, process::Command};

use crate::pair::{BURSTS, Pair, Process, Requests, run, wait_until};

/// What the server is asked by its socket, beside the network.
fn aside(pair: &Pair, statement: &str) -> std::io::Result<String> {
    let mut command = Command::new("mariadb");
    command.args(["--no-defaults", "-uroot", "-BN", "-e", statement, "-S"]);
    let output = command.arg(pair.path("mariadb.sock")).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn start(pair: &Pair) -> Process {
    let [data, socket] = ["data", "mariadb.sock"].map(|name| pair.path(name));
    let data = format!("--datadir={}", data.display());
    let mut install = Command::new("mariadb-install-db");
    install.args(["--no-defaults", "--user=root", "--skip-test-db", "--skip-name-resolve", &data]);
    install.args(["--auth-root-authentication-method=normal", "--innodb-log-file-size=8M"]);
    run(install);
    let socket = format!("--socket={}", socket.display());
    let pid = format!("--pid-file={}", pair.path("mariadb.pid").display());
    let server = pair.serve(&[
        "mariadbd",
        "--no-defaults",
        "--user=root",
        "--bind-address=*",
        "--skip-name-resolve",
        "--local-infile=1",
        "--max-allowed-packet=64M",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-log-file-size=8M",
        &data,
        &socket,
        &pid,
    ]);
    wait_until("mariadbd", || aside(pair, "select 7").is_ok_and(|text| text == "7\n"));
    aside(pair, "create user weir@'%'; grant all on *.* to weir@'%'; create database shop")
        .unwrap();
    server
}

/// The server's counts of statements and commands, however they ended, by the operation they are.
fn status(pair: &Pair) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let text = aside(pair, "show global status like 'Com\\_%'").unwrap();
    for line in text.lines() {
        let (name, n) = line.split_once('\t').unwrap();
        let operation = match name.trim_start_matches("Com_") {
            "stmt_prepare" => "PREPARE",
            "stmt_execute" => "EXECUTE",
            "stmt_fetch" => "FETCH",
            "set_option" => "SET",
            "change_db" => "USE",
            "call_procedure" => "CALL",
            "insert_select" => "INSERT",
            // Closing a statement has no answer, and is none.
            "stmt_close" => continue,
            "stmt_reset" => "other",
            word => &word.split('_').next().unwrap().to_uppercase(),
        };
        *found.entry(operation.to_owned()).or_default() += n.parse::<u64>().unwrap();
    }
    found
}

/// What the server counted since `before`, the asking aside.
fn since(pair: &Pair, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut found = status(pair);
    for (operation, n) in &mut found {
        *n -= before[operation] + u64::from(operation == "SHOW");
    }
    found.retain(|_, n| *n > 0);
    found
}

/// That as Weir tells it, where so many of some operations failed.
fn outcomes(counted: BTreeMap<String, u64>, failed: &[(&str, u64)]) -> Requests {
    let mut found = Requests::new();
    for (operation, n) in counted {
        found.insert((operation, "ok".into()), n);
    }
    for &(operation, n) in failed {
        *found.get_mut(&(operation.into(), "ok".into())).unwrap() -= n;
        found.insert((operation.into(), "error".into()), n);
    }
    found.retain(|_, n| *n > 0);
    found
}

/// Statements through the binary protocol: parameters, several rows, none, an error, a long value.
const PREPARED: &str = r#"
use strict; use DBI;
my $db = DBI->connect("DBI:MariaDB:host=$ARGV[0];database=shop", "weir", "", {
    PrintError => 0, RaiseError => 0, mariadb_server_prepare => 1 }) or die;
$db->do("CREATE TABLE perl (a INT PRIMARY KEY, b LONGTEXT)");
my $in = $db->prepare("INSERT INTO perl VALUES (?, ?)") or die;
$in->execute($_, "x" x ($_ * 1000)) or die for 1..50;
$in->execute(1, "again") and die;
my $out = $db->prepare("SELECT a, b FROM perl WHERE a > ? ORDER BY a") or die;
for (1..20) { $out->execute($_) or die; my $rows = $out->fetchall_arrayref; die unless @$rows == 50 - $_; }
$db->prepare("SELECT nothing FROM nowhere") and die;
$db->ping or die;
$db->do("DROP TABLE perl") or die;
$db->disconnect;
"#;

fn assert_counted(pair: &Pair, counted: &Requests) {
    let total = counted.values().sum();
    for role in ["server", "client"] {
        let found = pair.requests(role, "mysql", total);
        assert_eq!(&found, counted, "{role}, {:?}", pair.gaps());
        assert_eq!(pair.durations(role, "mysql"), total, "{role}");
    }
    pair.assert_no_gap();
}

/// What is sent as text.
fn say(pair: &Pair) {
    for ((address, clients), segments) in pair.addresses.iter().zip(["2", "5"]).zip(BURSTS) {
        pair.set_burst(segments);
        let words = ["timeout", "60", "mariadb-slap", "--no-defaults", "-uweir", "-h", address];
        let load = ["-a", "--auto-generate-sql-load-type=mixed", "--number-of-queries=2000"];
        pair.ask(&[&words[..], &load, &["--concurrency", clients]].concat());
    }
    let file = pair.path("rows.txt");
    fs::write(&file, (0..50_000).fold(String::new(), |text, n| text + &format!("{n}\n"))).unwrap();
    let load = format!("LOAD DATA LOCAL INFILE '{}' INTO TABLE t", file.display());
    let client = |statements: &str, more: &[&str]| {
        let words = ["timeout", "60", "mariadb", "--no-defaults", "-uweir", "-Dshop", "-h"];
        let tail = [&pair.addresses[0], "-e", statements];
        pair.try_to_ask(&[&words[..], &tail, more].concat())
    };
    client(&format!("CREATE TABLE t (a INT); {load}; SELECT * FROM t"), &["--local-infile=1"]);
    pair.set_burst(BURSTS[0]);
    let long = "START TRANSACTION; UPDATE t SET a = a + 1; COMMIT; SELECT REPEAT('x', 17000000)";
    assert!(client(long, &["--max-allowed-packet=64M"]).len() > 17_000_000);
    client(
        "delimiter //\nCREATE PROCEDURE p() BEGIN SET @a = 1; SELECT @a; END//\nCALL p()//",
        &[],
    );
    client("ALTER TABLE t FORCE; TRUNCATE TABLE t; DROP TABLE t", &["--quick"]);
    client("SELECT nothing FROM nowhere", &[]);
    client("selekt 1", &[]);
}

#[test]
fn every_command_is_counted_as_mariadb_counts_it() {
    let pair = Pair::new("mariadb");
    let _server = start(&pair);
    let before = status(&pair);
    say(&pair);
    let mut counted = since(&pair, &before);
    // What the procedure did, and what was no statement.
    for inside in ["SET", "SELECT"] {
        *counted.get_mut(inside).unwrap() -= 1;
    }
    counted.insert("other".into(), 1);
    let mut counted = outcomes(counted, &[("SELECT", 1), ("other", 1)]);
    assert!(counted.values().sum::<u64>() > 4_000, "{counted:?}");
    assert_counted(&pair, &counted);

    let before = status(&pair);
    for segments in BURSTS {
        pair.set_burst(segments);
        pair.ask(&["timeout", "60", "perl", "-e", PREPARED, &pair.addresses[0]]);
    }
    let mut more = since(&pair, &before);
    // The server counts what is executed by its word as well.
    more.retain(|operation, _| {
        ["SET", "PREPARE", "EXECUTE", "other"].contains(&operation.as_str())
    });
    more.insert("PING".into(), 2);
    assert!(more["EXECUTE"] > 140, "{more:?}");
    for (key, n) in outcomes(more, &[("PREPARE", 2), ("EXECUTE", 2)]) {
        *counted.entry(key).or_default() += n;
    }
    assert_counted(&pair, &counted);
}

//! DNS: `dig`, `mdig` and glibc's resolver ask dnsmasq, by dnsmasq's query log.

use std::{fs, path::PathBuf};

use crate::{
    counts::{assert_counted, assert_none, tally},
    pair::{BURSTS, Pair, Process, wait_until},
};

/// The types that Weir knows by name.
const TYPES: [&str; 11] =
    ["A", "NS", "CNAME", "SOA", "PTR", "MX", "TXT", "AAAA", "SRV", "HTTPS", "ANY"];

/// dnsmasq in the server's pod, with a zone `test` and nobody to ask about others.
struct Dnsmasq {
    _process: Process,
    log: PathBuf,
}

/// A query of its log.
struct Query {
    qtype: String,
    transport: &'static str,
    rcode: &'static str,
}

impl Dnsmasq {
    fn start(pair: &Pair) -> Self {
        let log = pair.path("dnsmasq.log");
        let facility = format!("--log-facility={}", log.display());
        let large: Vec<String> =
            (0..60).map(|n| format!("--txt-record=large.test,{n}{}", "x".repeat(200))).collect();
        let mut words = vec![
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--user=root",
            "--no-resolv",
            "--no-hosts",
            "--log-queries",
            &facility,
            "--local=/test/",
            "--host-record=web.test,10.0.0.1,fd00::1",
            "--cname=alias.test,web.test",
            "--txt-record=text.test,words",
            "--mx-host=test,web.test",
            "--srv-host=_http._tcp.test,web.test,80",
        ];
        words.extend(large.iter().map(String::as_str));
        let process = pair.serve(&words);
        let dnsmasq = Self { _process: process, log };
        wait_until("dnsmasq", || dnsmasq.text().contains("cleared cache"));
        dnsmasq
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn queries(&self) -> Vec<Query> {
        let mut found = Vec::new();
        let mut server = None;
        for line in self.text().lines() {
            let (who, what) = line.split_once("dnsmasq[").unwrap().1.split_once("]: ").unwrap();
            // A connection has a process of its own.
            let transport = if who == *server.get_or_insert(who) { "udp" } else { "tcp" };
            if let Some(query) = what.strip_prefix("query[") {
                let qtype = query.split_once(']').unwrap().0;
                let known = TYPES.contains(&qtype);
                let qtype = if known { qtype } else { "other" }.to_owned();
                found.push(Query { qtype, transport, rcode: "NOERROR" });
            }
            for rcode in ["NXDOMAIN", "REFUSED"] {
                if what.contains(&format!(" is {rcode}")) {
                    found.last_mut().unwrap().rcode = rcode;
                }
            }
        }
        found
    }

    /// Both pods have counted its queries, and its responses; each has a duration.
    fn assert_counted(&self, pair: &Pair) {
        let by = |key: fn(Query) -> String| tally(self.queries().into_iter().map(key));
        assert_counted(pair, "weir_dns_queries_total", &["qtype", "transport"], || {
            by(|query| format!("{} {}", query.qtype, query.transport))
        });
        assert_counted(pair, "weir_dns_responses_total", &["qtype", "rcode"], || {
            by(|query| format!("{} {}", query.qtype, query.rcode))
        });
        let lookups = "weir_dns_lookup_duration_seconds_count";
        assert_counted(pair, lookups, &[], || by(|_| String::new()));
        for wrong in ["timeouts", "unmatched_responses", "malformed"] {
            assert_none(pair, &format!("weir_dns_{wrong}_total"));
        }
    }
}

/// Runs `dig`; returns the return codes that it was given, by transport.
fn dig(pair: &Pair, address: &str, words: &str) -> Vec<String> {
    let server = format!("@{address}");
    let mut all = vec!["timeout", "20", "dig", "+tries=1", "+timeout=10", &server];
    all.extend(words.split_whitespace());
    let said = pair.ask(&all);
    let (mut seen, mut rcode) = (Vec::new(), "");
    for line in said.lines() {
        if line.starts_with(";; Truncated, retrying in TCP mode") {
            seen.push("NOERROR udp".to_owned());
        } else if let Some((_, rest)) = line.split_once("->>HEADER<<- opcode: QUERY, status: ") {
            rcode = rest.split_once(',').unwrap().0;
        } else if line.starts_with(";; SERVER: ") {
            let transport = if line.ends_with("(TCP)") { "tcp" } else { "udp" };
            seen.push(format!("{rcode} {transport}"));
        }
    }
    assert!(!seen.is_empty(), "dig {words}: {said}");
    seen
}

#[test]
fn whatever_dig_asks_is_counted_as_dnsmasq_logs_it() {
    let pair = Pair::new("dig");
    let dnsmasq = Dnsmasq::start(&pair);
    let mut seen = Vec::new();
    let ask = [
        "web.test a web.test aaaa nope.test a alias.test a text.test txt test mx",
        "_http._tcp.test srv -x 10.0.0.1 web.test ns test soa web.test https web.test caa",
        "web.test type300 alias.test cname elsewhere.example a",
    ];
    for (address, segments) in pair.addresses.iter().zip(BURSTS) {
        pair.set_burst(segments);
        for words in ask {
            // Each question from a socket of its own; over connections; over one.
            for mode in ["", "+noedns", "+tcp", "+tcp +keepopen"] {
                seen.extend(dig(&pair, address, &format!("{mode} {words}")));
            }
        }
        for words in [
            "web.test any",
            "web.test any +notcp",
            // Truncated, and asked again over TCP, or not.
            "large.test txt",
            "large.test txt +noedns",
            "large.test txt +bufsize=512 +ignore",
            // So large a response is several segments.
            "large.test txt +tcp",
            "+tcp +keepopen large.test txt web.test a large.test txt nope.test aaaa",
        ] {
            seen.extend(dig(&pair, address, words));
        }
    }
    dnsmasq.assert_counted(&pair);
    let logged = dnsmasq.queries().into_iter();
    let logged = tally(logged.map(|query| format!("{} {}", query.rcode, query.transport)));
    assert_eq!(logged, tally(seen), "left is what dnsmasq logged, right what dig saw");
    assert!(logged["NOERROR tcp"] > 50 && logged["REFUSED udp"] > 2, "{logged:?}");
}

#[test]
fn hundreds_of_queries_at_once_are_counted_as_dnsmasq_logs_them() {
    let pair = Pair::new("mdig");
    let dnsmasq = Dnsmasq::start(&pair);
    // dnsmasq closes a connection after 100 queries, and its socket has room for some 200 datagrams.
    let batches = [("+notcp", 40), ("+notcp", 30), ("+tcp", 30), ("+tcp", 33)];
    for (number, (mode, length)) in batches.into_iter().enumerate() {
        let batch = pair.path(&format!("batch{number}"));
        let names = (0..length)
            .map(|n| format!("name{n}.test\nweb.test\n{}.test\n", "l".repeat(n % 60 + 1)));
        fs::write(&batch, names.collect::<String>()).unwrap();
        for (address, segments) in pair.addresses.iter().zip(BURSTS) {
            pair.set_burst(segments);
            let words = format!("timeout 20 mdig @{address} {mode} -t aaaa -f {}", batch.display());
            // It writes all questions before it reads an answer.
            pair.ask(&words.split(' ').collect::<Vec<_>>());
        }
    }
    dnsmasq.assert_counted(&pair);
    // On a busy machine it may have asked again.
    assert!(dnsmasq.queries().len() >= 2 * 3 * (40 + 30 + 30 + 33));
}

#[test]
fn what_programs_look_up_is_counted_as_dnsmasq_logs_it() {
    let pair = Pair::new("getent");
    let dnsmasq = Dnsmasq::start(&pair);
    for (address, options) in pair.addresses.iter().zip(["", "options use-vc single-request"]) {
        let resolver = pair.path("resolv.conf");
        fs::write(&resolver, format!("nameserver {address}\n{options}\n")).unwrap();
        // Their system's configuration is covered for them alone.
        let cover = format!("mount --bind {} /etc/resolv.conf", resolver.display());
        let script = format!(
            "{cover} && getent ahosts web.test && getent ahostsv4 alias.test; getent ahosts nope.test; \
             getent hosts 10.0.0.1"
        );
        let said = pair.ask(&["timeout", "20", "unshare", "-m", "sh", "-c", &script]);
        for answer in ["10.0.0.1", "fd00::1", "web.test"] {
            assert!(said.contains(answer), "{said}");
        }
    }
    dnsmasq.assert_counted(&pair);
    let by_transport = tally(dnsmasq.queries().into_iter().map(|query| query.transport));
    assert!(by_transport["udp"] >= 6 && by_transport["tcp"] >= 6, "{by_transport:?}");
}

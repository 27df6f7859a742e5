//! The agent's start, its end, and maps that come and go under it.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use std::{
    fs,
    time::{Duration, Instant},
};
use weir::telemetry::wire::{CounterKind, HistogramKind};

use super::{
    fill::Pod,
    http::get,
    node::{Node, eventually, hide, run},
};

/// In every series of the pod that most tests here have.
const WEB: &str = r#"pod="web""#;

#[test]
fn both_signals_end_it_cleanly() {
    let node = Node::new("signals");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (status, log) = node.agent().into_inner().stop(signal);
        assert_eq!(status, Some(0), "{log:#?}");
        assert!(log.contains(&"weir: agent: stopping".to_owned()), "{log:#?}");
    }
}

#[test]
fn asked_to_read_its_configuration_again_it_says_that_there_is_none_and_goes_on() {
    let node = Node::new("hangup");
    let mut agent = node.agent();
    let pid = Pid::from_raw(i32::try_from(agent.pid()).unwrap());
    kill(pid, Signal::SIGHUP).unwrap();
    agent.wait_for("SIGHUP changes nothing: the configuration is the command line");
    assert_eq!(get("/healthz").status, 200);
    assert_eq!(agent.into_inner().stop(Signal::SIGTERM).0, Some(0));
}

#[test]
fn without_an_address_it_listens_to_its_own_host_alone() {
    let node = Node::new("default");
    let mut agent = node.start_agent(&[]);
    agent.wait_for("listening on http://127.0.0.1:9920/metrics");
    assert_eq!(get("/healthz").status, 200);
    let sockets = run("ss", &["-Hltun"]);
    let locals: Vec<_> = sockets.lines().map(|line| line.split_whitespace().nth(4)).collect();
    assert_eq!(locals, [Some("127.0.0.1:9920")], "{sockets}");
}

#[test]
fn it_listens_on_every_address_it_was_given() {
    let node = Node::new("addresses");
    let mut agent = node.start_agent(&["--listen", "127.0.0.1:9920", "--listen", "[::1]:9921"]);
    agent.wait_for("listening on http://[::1]:9921/metrics");
    assert_eq!(get("/healthz").status, 200);
    let stream = super::http::connect("[::1]:9921".parse().unwrap());
    std::io::Write::write_all(&mut &stream, b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(super::http::read(stream).unwrap().status, 200);
    assert_eq!(agent.log.iter().filter(|line| line.contains("listening")).count(), 2);
}

#[test]
fn an_address_that_cannot_be_had_is_named() {
    let node = Node::new("taken");
    let _taken = std::net::TcpListener::bind("127.0.0.1:9920").unwrap();
    for (address, status) in
        [("127.0.0.1:9920", 1), ("192.0.2.1:9920", 1), ("nonsense", 2), ("127.0.0.1", 2)]
    {
        let (ended, log) = node.start_agent(&["--listen", address]).into_inner().end();
        assert_eq!(ended, Some(status), "{log:#?}");
        assert!(log.iter().any(|line| line.contains(address)), "{log:#?}");
    }
}

#[test]
fn a_second_one_for_the_same_maps_is_refused_and_the_first_goes_on() {
    let node = Node::new("second");
    let _web = Pod::new(&node, "web");
    let first = node.agent();
    // Also at an address of its own, which it doesn't take.
    for address in ["127.0.0.1:9920", "127.0.0.1:9921"] {
        let (ended, log) = node.start_agent(&["--listen", address]).into_inner().end();
        let [said] = &log[..] else { panic!("{log:#?}") };
        let first = format!("another agent, process {} (weir), serves", first.pid());
        let place = node.bpf_dir().display().to_string();
        assert!(said.contains(&first) && said.contains(&place), "{said}");
        assert!(ended == Some(1) && said.contains("stop that one first"), "{said}");
    }
    assert!(get("/metrics").body.contains(WEB));
    let (_, log) = first.into_inner().stop(Signal::SIGTERM);
    drop(node.start_agent(&["--listen", "127.0.0.1:9920"]).into_inner().stop(Signal::SIGTERM));
    assert!(!log.iter().any(|line| line.contains("another agent")), "{log:#?}");
}

#[test]
fn a_second_one_is_refused_also_where_the_pins_were_made_anew_under_the_first() {
    let node = Node::new("anew");
    let _web = Pod::new(&node, "web");
    let first = node.agent();
    eventually("ready", || get("/readyz").status == 200);
    fs::remove_dir_all(node.bpf_dir()).unwrap();
    let _db = Pod::new(&node, "db");
    eventually("the new maps", || get("/metrics").body.contains(r#"pod="db""#));
    std::thread::sleep(Duration::from_millis(1_500));
    let (ended, log) = node.start_agent(&["--listen", "127.0.0.1:9921"]).into_inner().end();
    let first_named = format!("another agent, process {} (weir), serves", first.pid());
    assert!(ended == Some(1) && log.iter().any(|line| line.contains(&first_named)), "{log:#?}");
    assert!(get("/metrics").body.contains(r#"pod="db""#));
    assert_eq!(first.into_inner().stop(Signal::SIGTERM).0, Some(0));
}

#[test]
fn who_takes_the_place_while_there_are_no_pins_has_it_and_the_first_ends() {
    let node = Node::new("displaced");
    let _web = Pod::new(&node, "web");
    let first = node.agent();
    eventually("ready", || get("/readyz").status == 200);
    fs::remove_dir_all(node.bpf_dir()).unwrap();
    let mut second = node.start_agent(&["--listen", "127.0.0.1:9921"]);
    second.wait_for("listening on");
    let (ended, log) = first.into_inner().end();
    let named = format!("another agent, process {} (weir), serves", second.pid());
    assert!(ended == Some(1) && log.last().unwrap().contains(&named), "{log:#?}");
    assert_eq!(second.into_inner().stop(Signal::SIGTERM).0, Some(0));
}

#[test]
fn without_maps_it_is_alive_but_not_ready_and_says_why_once() {
    let node = Node::new("absent");
    let agent = node.agent();
    assert_eq!(get("/healthz").status, 200);
    eventually("not ready for want of maps", || {
        let ready = get("/readyz");
        ready.status == 503 && ready.body.contains("no pod has been counted yet")
    });
    let page = get("/metrics");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("\nweir_maps_open 0\n") && page.body.contains("\nweir_pods 0\n"));
    std::thread::sleep(Duration::from_millis(2_500));
    let (_, log) = agent.into_inner().stop(Signal::SIGTERM);
    let complaints = log.iter().filter(|line| line.contains("no totals to show")).count();
    assert_eq!(complaints, 1, "{log:#?}");
}

#[test]
fn maps_that_appear_vanish_and_return_are_followed() {
    let node = Node::new("follow");
    let agent = node.agent();
    let _web = Pod::new(&node, "web");
    eventually("ready once there is a pod", || get("/readyz").status == 200);
    assert!(get("/metrics").body.contains(WEB));
    fs::remove_dir_all(node.bpf_dir()).unwrap();
    eventually("not ready without pins", || get("/readyz").status == 503);
    eventually("no totals without pins", || !get("/metrics").body.contains(WEB));
    let _db = Pod::new(&node, "db");
    eventually("the new maps", || {
        let page = get("/metrics").body;
        page.contains(r#"pod="db""#) && !page.contains(WEB)
    });
    assert_eq!(get("/readyz").status, 200);
    let (status, log) = agent.into_inner().stop(Signal::SIGTERM);
    assert_eq!(status, Some(0));
    let said = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((said("reading the maps"), said("no totals to show")), (2, 2), "{log:#?}");
}

#[test]
fn a_bpffs_that_is_covered_is_followed_too() {
    let node = Node::new("covered");
    let agent = node.agent();
    let _web = Pod::new(&node, "web");
    eventually("ready once there is a pod", || get("/readyz").status == 200);
    // The agent has the node's mounts: it sees an empty directory from now on.
    hide(&node.path("bpf"));
    eventually("not ready behind it", || get("/readyz").status == 503);
    assert_eq!(get("/metrics").status, 200);
    drop(agent);
}

#[test]
fn killed_and_started_again_it_shows_the_same_totals() {
    let node = Node::new("again");
    let web = Pod::new(&node, "web");
    web.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, 7);
    web.observe(HistogramKind::HISTOGRAM_HTTP_REQUEST, 1, &[(1_000_000, 7)]);
    let totals = || {
        let page = super::http::get_openmetrics().body;
        page.lines().filter(|line| line.contains(WEB)).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = node.agent();
    eventually("the first agent's totals", || !totals().is_empty());
    let before = totals();
    let (status, _) = first.into_inner().stop(Signal::SIGKILL);
    assert_eq!(status, None);
    web.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, 9);
    let _second = node.agent();
    eventually("the second agent's totals", || !totals().is_empty());
    let seven = before.iter().position(|line| line.ends_with("status=\"200\"} 7")).unwrap();
    let mut expected = before;
    expected[seven] = expected[seven].replace("} 7", "} 9");
    assert_eq!(totals(), expected);
}

#[test]
fn a_deleted_pod_stays_for_its_grace_time_and_then_leaves_page_and_maps() {
    let node = Node::new("grace");
    let (web, db) = (Pod::new(&node, "web"), Pod::new(&node, "db"));
    web.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, 7);
    db.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, 8);
    run("ip", &["link", "delete", "web"]);
    let deleted = Instant::now();
    web.delete();
    let _agent = node.agent();
    eventually("one living pod", || get("/metrics").body.contains("\nweir_pods 1\n"));
    let page = get("/metrics").body;
    let last = r#"pod="web",role="server",method="GET",protocol="1.1",status="200"} 7"#;
    assert!(page.contains(last), "{page}");
    // A minute is too long for a test: the DEL is put where it would have been almost a minute ago.
    web.delete_earlier(Duration::from_secs(55).saturating_sub(deleted.elapsed()));
    db.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, 9);
    let living = r#"pod="db",role="server",method="GET",protocol="1.1",status="200"} 9"#;
    eventually("a reading since then", || get("/metrics").body.contains(living));
    // The maps are swept each second.
    std::thread::sleep(Duration::from_millis(1_500));
    let page = get("/metrics").body;
    assert!(page.contains(last), "{page}");
    assert!(page.contains("weir_map_entries{map=\"counters\"} 2\n"), "{page}");
    web.delete_earlier(Duration::from_secs(6));
    eventually("the pod is gone", || !get("/metrics").body.contains(WEB));
    eventually("its counters, too", || {
        get("/metrics").body.contains("weir_map_entries{map=\"counters\"} 1\n")
    });
    assert!(get("/metrics").body.contains(r#"pod="db",role="server",method="GET""#));
}

#[test]
fn what_was_counted_of_a_pod_that_waits_for_its_reload_outlives_the_dead() {
    let node = Node::new("waits");
    let (web, db) = (Pod::new(&node, "web"), Pod::new(&node, "db"));
    web.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, 7);
    db.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, 8);
    let entry = web.withdraw();
    run("ip", &["link", "delete", "db"]);
    db.delete();
    db.delete_earlier(Duration::from_secs(61));
    let _agent = node.agent();
    eventually("the dead is gone, and its counters", || {
        let page = get("/metrics").body;
        page.contains("weir_map_entries{map=\"attachments\"} 0\n")
            && page.contains("weir_map_entries{map=\"counters\"} 1\n")
    });
    web.enter(&entry);
    let all = r#"pod="web",role="server",method="GET",protocol="1.1",status="200"} 7"#;
    eventually("all of the other", || get("/metrics").body.contains(all));
}

#[test]
fn in_a_storm_of_restarts_every_first_page_is_right_and_soon_there() {
    let node = Node::new("storm");
    let web = Pod::new(&node, "web");
    let times = (1..=8_u64).map(|round| {
        web.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, round);
        let started = Instant::now();
        let agent = node.agent();
        let page = get("/metrics").body;
        let took = started.elapsed();
        assert!(page.contains(&format!(r#"protocol="1.1",status="200"}} {round}"#)), "{page}");
        let (status, _) = agent.into_inner().stop(Signal::SIGKILL);
        assert_eq!(status, None);
        took
    });
    // What else the machine does strikes now and then, hardly eight times.
    let fastest = times.min().unwrap();
    assert!(fastest < Duration::from_millis(200), "{fastest:?}");
}

/// Whenever it is killed, on its way up and while it serves: no scrape shows less than the one before it, nor another
/// beginning.
#[test]
fn killed_at_any_time_no_count_goes_down_and_its_beginning_stays() {
    let node = Node::new("any-time");
    let web = Pod::new(&node, "web");
    let mut last = 0;
    let mut begun = None;
    for round in 1..=24_u64 {
        web.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, round);
        let agent = node.start_agent(&["--listen", "127.0.0.1:9920"]);
        std::thread::sleep(Duration::from_millis(2 * round));
        if round % 2 == 0 {
            agent.into_inner().stop(Signal::SIGKILL);
            continue;
        }
        drop(agent);
        let agent = node.agent();
        let page = super::http::get_openmetrics().body;
        let value = |name: &str| {
            let series =
                |line: &&str| line.starts_with(name) && line.contains(WEB) && line.contains("200");
            let line = page.lines().find(series).unwrap_or_else(|| panic!("{page}"));
            line.rsplit(' ').next().unwrap().to_owned()
        };
        let now: u64 = value("weir_http_requests_total{").parse().unwrap();
        assert!(now == round && now > last, "{last} {now}");
        let created = value("weir_http_requests_created{");
        assert_eq!(*begun.get_or_insert(created.clone()), created);
        last = now;
        assert_eq!(agent.into_inner().stop(Signal::SIGKILL).0, None);
    }
}

/// Who is being answered when it is told to stop gets the whole page.
#[test]
fn told_to_stop_it_ends_the_pages_under_way_and_takes_no_more() {
    let node = Node::new("drain");
    let pods = Pod::many(&node, 250);
    for pod in &pods {
        for kind in 1..HistogramKind::HISTOGRAM_KIND_MAX.0 {
            pod.observe(HistogramKind(kind), 0, &[(1_000_000, 1)]);
        }
    }
    let agent = node.agent();
    let request = b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
    // More than the buffers of a connection take: what is not read is not sent.
    let asked: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = super::http::connect(super::node::Agent::address());
            std::io::Write::write_all(&mut stream, request).unwrap();
            stream.peek(&mut [0; 1]).unwrap();
            stream
        })
        .collect();
    let stopping = std::thread::spawn(|| agent.into_inner().stop(Signal::SIGTERM));
    eventually("nobody is let in", || {
        std::net::TcpStream::connect(super::node::Agent::address()).is_err()
    });
    for stream in asked {
        let page = super::http::read(stream).unwrap();
        let length = page.head.lines().find_map(|line| {
            line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned)
        });
        assert_eq!(length.unwrap().parse::<usize>().unwrap(), page.body.len());
        assert!(
            page.body.len() > 3 << 20 && page.body.contains(r#"pod="p249""#),
            "{}",
            page.body.len()
        );
    }
    let (status, log) = stopping.join().unwrap();
    assert_eq!(status, Some(0), "{log:#?}");
}

#[test]
fn a_deletion_of_tomorrow_does_not_stay_until_then() {
    let node = Node::new("tomorrow");
    let (web, _db) = (Pod::new(&node, "web"), Pod::new(&node, "db"));
    web.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, 7);
    run("ip", &["link", "delete", "web"]);
    web.delete();
    // As if the clock had been set back by a day since.
    web.change(|entry| entry.deleted_ns += 86_400_000_000_000);
    let _agent = node.agent();
    eventually("the pod is gone", || {
        let page = get("/metrics").body;
        page.contains(r#"pod="db""#) && !page.contains(WEB)
    });
}

#[test]
fn a_hook_that_was_taken_off_is_noticed() {
    let node = Node::new("detached");
    let (_web, _db) = (Pod::new(&node, "web"), Pod::new(&node, "db"));
    let _agent = node.agent();
    let status = |pod: &str, status: u8| {
        let series = r#"weir_attach_status{namespace="shop","#;
        format!(r#"{series}pod="{pod}",hook="clsact"}} {status}"#)
    };
    eventually("both are counted", || {
        let page = get("/metrics").body;
        page.contains(&status("web", 1)) && page.contains(&status("db", 1))
    });
    run("tc", &["qdisc", "delete", "dev", "web", "clsact"]);
    eventually("one is not", || {
        let page = get("/metrics").body;
        page.contains(&status("web", 0)) && page.contains(&status("db", 1))
    });
    let listed = super::node::weir()
        .args(["pods", "-o", "json", "--bpf-dir"])
        .arg(node.bpf_dir())
        .arg("--state-dir")
        .arg(node.path("state"))
        .output()
        .unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let pods = listed.as_array().unwrap().iter();
    let states: Vec<_> = pods.map(|pod| (pod["pod"].as_str(), pod["telemetry"].as_str())).collect();
    assert_eq!(states, [(Some("db"), Some("unrecorded")), (Some("web"), Some("detached"))]);
}

#[test]
fn foreign_things_in_the_place_of_the_maps_are_named_and_survived() {
    let node = Node::new("foreign");
    let web = Pod::new(&node, "web");
    let mut agent = node.agent();
    eventually("ready", || get("/readyz").status == 200);
    // Another map under the name of ours: its keys and values are of other sizes.
    web.pin_over("stats", "counters");
    eventually("a map of another shape is refused", || {
        let (page, ready) = (get("/metrics"), get("/readyz"));
        page.status == 200 && !page.body.contains(WEB) && ready.status == 503
    });
    let ready = get("/readyz").body;
    assert!(ready.contains("can't read the map"), "{ready}");
    agent.wait_for("no totals to show");
    // Ordinary files.
    hide(&node.path("bpf"));
    let pins = node.bpf_dir().join(env!("WEIR_SCHEMA"));
    fs::create_dir_all(&pins).unwrap();
    for name in ["pods", "attachments", "counters", "histograms", "stats", "conns"] {
        fs::write(pins.join(name), "no map").unwrap();
    }
    eventually("files are refused", || get("/readyz").body.contains("pinned map"));
    assert_eq!(get("/metrics").status, 200);
    let (status, _) = agent.into_inner().stop(Signal::SIGTERM);
    assert_eq!(status, Some(0));
}

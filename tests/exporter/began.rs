//! When series began, as OpenMetrics tells it, where a map was lost whose totals begin at 0 again.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use weir::telemetry::{
    whole,
    wire::{CounterKind, HistogramKind},
};

use super::{
    fill::Pod,
    http::get_openmetrics,
    node::{Node, eventually},
};

/// When the pod's first series of a family began, in seconds since the Unix epoch.
fn began(family: &str) -> Option<f64> {
    let page = get_openmetrics().body;
    let created = format!("{family}_created{{namespace=\"shop\",pod=\"web\"");
    let line = page.lines().find(|line| line.starts_with(&created))?;
    Some(line.rsplit_once(' ')?.1.parse().unwrap())
}

const FAMILIES: [(&str, &str); 3] = [
    ("counters", "weir_http_requests"),
    ("histograms", "weir_http_request_duration_seconds"),
    ("pods", "weir_network_bytes"),
];

#[test]
fn series_of_a_map_that_was_lost_have_begun_when_it_was_made_anew_and_others_when_they_did() {
    for (lost, _) in FAMILIES {
        let node = Node::new(lost);
        let web = Pod::new(&node, "web");
        let count = || {
            web.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, 7);
            web.observe(HistogramKind::HISTOGRAM_HTTP_REQUEST, 1, &[(1_000_000, 7)]);
        };
        count();
        let _agent = node.agent();
        eventually("its series", || FAMILIES.iter().all(|(_, family)| began(family).is_some()));
        let before = FAMILIES.map(|(_, family)| began(family).unwrap());
        assert!(before.iter().all(|at| at.total_cmp(&before[0]).is_eq()), "{before:?}");
        for pin in whole::PROGRAMS.iter().chain(&[lost]) {
            fs::remove_file(node.bpf_dir().join(env!("WEIR_SCHEMA")).join(pin)).unwrap();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let anew = whole::refill(&node.bpf_dir()).unwrap().anew;
        assert_eq!(anew, [lost]);
        count();
        let of_lost = FAMILIES.iter().position(|(map, _)| *map == lost).unwrap();
        eventually("begun anew", || began(FAMILIES[of_lost].1).is_some_and(|at| at >= now));
        for (at, (_, family)) in FAMILIES.iter().enumerate().filter(|(at, _)| *at != of_lost) {
            assert!(began(family).unwrap().total_cmp(&before[at]).is_eq(), "{lost} {family}");
        }
    }
}

//! What benches tell: rows as text, and as lines of JSON that are read back.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test ends at the first surprise")]

#[path = "../benches/report/report.rs"]
#[allow(dead_code, missing_debug_implementations, reason = "nothing is measured here")]
mod report;

use report::{
    Row,
    lines::{Line, Run, read},
    row::percentile,
    text::table,
};

fn row() -> Row {
    let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
    Row::of("ADD: weir, IPv4", "ms", &samples).unwrap()
}

fn of(rows: Vec<Row>) -> Run {
    Run { rows, ..Run::new("plugin", "cargo bench --bench plugin -- 100") }
}

fn written(lines: &[Line]) -> String {
    lines.iter().map(|line| line.written().unwrap()).collect()
}

#[test]
fn percentiles_are_those_of_the_nearest_rank() {
    let spread = row().spread.unwrap();
    assert_eq!((row().median, spread.p10, spread.p90, spread.p99), (50.0, 10.0, 90.0, 99.0));
    assert_eq!(spread.runs, 100);
    assert_eq!(Row::of("once", "ms", &[7.0]).unwrap(), Row::one("once", "ms", 7.0));
    let few = [1.0, 2.0, 3.0];
    assert_eq!(
        [1, 34, 50, 67, 100].map(|at| percentile(&few, at).unwrap()),
        [1.0, 2.0, 2.0, 3.0, 3.0]
    );
    assert_eq!(percentile(&[], 50), None);
    assert_eq!(Row::of("nobody", "ms", &[]), Err("nobody: nothing was measured".to_owned()));
}

#[test]
fn all_rows_stand_in_columns_of_one_form() {
    let rows = vec![
        row().ratio("ptp, IPv4", 250.0).at_most(0.25).ratio("floor: exec", 25.0),
        Row::one("counted at the server", "requests", 1_399_777.0)
            .ratio("served by nginx", 1_399_778.0)
            .exactly(1.0),
        Row::one("lost", "records", 0.0).exactly(0.0),
        Row::one("pod", "ms", 0.0).more("nothing", -1.25).at_most(5.0),
        Row::one("rate", "1/s", 0.0421).ratio("none", 0.0),
    ];
    let text = table("2026; 2 x processors; Linux 6.18", &[of(rows)]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "2026; 2 x processors; Linux 6.18",
            "",
            "plugin    cargo bench --bench plugin -- 100",
            "",
            "What is compared was measured in the same run, by medians.",
            "",
            "bench   what                      median   p10   p90   p99  runs  unit      compared                              target",
            "",
            "plugin  ADD: weir, IPv4             50.0  10.0  90.0  99.0   100  ms        0.200 x ptp, IPv4                     at most 0.25: met",
            "plugin                                                                      2.00 x floor: exec",
            "plugin  counted at the server  1,399,777                          requests  0.9999992856010025 x served by nginx  exactly 1: MISSED",
            "plugin  lost                           0                          records                                         exactly 0: met",
            "plugin  pod                            0                          ms        -1.25 ms more than nothing            at most 5: met",
            "plugin  rate                       0.042                          1/s       no x none",
            "",
            "targets: 3 met, 1 missed",
        ]
    );
}

#[test]
fn targets_are_met_at_their_bounds_and_not_beyond() {
    let met = |row: Row| row.against.last().unwrap().met();
    let one = || Row::one("", "", 2.0);
    assert_eq!(met(one().at_most(2.0)), Some(true));
    assert_eq!(met(one().at_most(1.9)), Some(false));
    assert_eq!(met(one().at_least(2.0)), Some(true));
    assert_eq!(met(one().at_least(2.1)), Some(false));
    assert_eq!(met(one().exactly(2.0)), Some(true));
    assert_eq!(met(one().ratio("itself", 2.0).exactly(1.0)), Some(true));
    assert_eq!(met(one().ratio("nothing", 0.0).at_most(1.0)), Some(false));
    assert_eq!(met(one().ratio("something", 1.0)), None);
    // A second target is of the median, not of what has one.
    let twice = one().ratio("something", 1.0).at_most(2.0).at_most(1.0);
    assert_eq!(
        twice.against.iter().map(|against| against.met().unwrap()).collect::<Vec<_>>(),
        [true, false]
    );
}

#[test]
fn lines_are_read_back_as_they_were_written() {
    let rows = [
        row().ratio("ptp, IPv4", 0.0).at_least(0.5),
        Row::one("lost", "records", 3.0).exactly(0.0),
    ];
    let bench = || "plugin".to_owned();
    let mut lines = vec![Line::Begun {
        bench: bench(),
        command: "cargo bench --bench plugin -- 100".to_owned(),
    }];
    lines.extend(rows.iter().map(|row| Line::Row { bench: bench(), row: row.clone() }));
    lines.push(Line::Ended { bench: bench(), error: None });
    let text = written(&lines);
    assert_eq!(text.lines().count(), 4, "{text}");
    assert_eq!(read(&text, &[bench()]).unwrap(), [of(rows.to_vec())]);
    assert_eq!(read(&text, &[]).unwrap(), [of(rows.to_vec())]);
}

#[test]
fn who_fails_is_named_and_keeps_its_rows() {
    let begun =
        |bench: &str| Line::Begun { bench: bench.to_owned(), command: format!("run {bench}") };
    let row = |bench: &str| Line::Row { bench: bench.to_owned(), row: Row::one(bench, "ms", 1.0) };
    let ended = |bench: &str, error: Option<&str>| Line::Ended {
        bench: bench.to_owned(),
        error: error.map(str::to_owned),
    };
    let text = written(&[
        begun("datapath"),
        row("datapath"),
        ended("datapath", Some("wrk said no rate")),
        begun("events"),
        row("events"),
        begun("plugin"),
        row("plugin"),
        ended("plugin", Some("of an earlier run")),
        begun("plugin"),
        ended("plugin", None),
    ]);
    let benches = ["plugin", "datapath", "events", "agent"].map(str::to_owned);
    let runs = read(&text, &benches).unwrap();
    let told: Vec<_> = runs
        .iter()
        .map(|run| (run.bench.as_str(), run.rows.len(), run.failed.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            ("plugin", 0, None),
            ("datapath", 1, Some("wrk said no rate")),
            ("events", 1, Some("it did not end")),
            ("agent", 0, Some("it did not begin")),
        ]
    );
    let text = table("", &runs);
    for words in [
        "run datapath   FAILED: wrk said no rate",
        "cargo bench --bench agent   FAILED: it did not begin",
        "FAILED: events: it did not end",
    ] {
        assert!(text.lines().any(|line| line.ends_with(words)), "{words}: {text}");
    }
}

#[test]
fn what_is_no_line_of_a_bench_is_refused_by_its_number() {
    let begun = written(&[Line::Begun { bench: "events".to_owned(), command: String::new() }]);
    let cut = read(&format!("{begun}{{\"line\":\"row\",\"ben"), &[]).unwrap_err();
    assert!(cut.starts_with("line 2 is not of a bench: EOF"), "{cut}");
    let early = written(&[Line::Ended { bench: "events".to_owned(), error: None }]);
    assert_eq!(read(&early, &[]).unwrap_err(), "line 1 is of events, which did not begin");
}

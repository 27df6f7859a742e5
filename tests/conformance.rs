//! The conformance suite (conformance/) on weir, of which everything must hold, and on Debian's ptp and
//! bridge, of which docs/conformance.md says what they miss.
//!
//! `WEIR_WRITE_DOCS=1 cargo test --test conformance` writes that page anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use cni_conformance::{
    call::Plugin,
    case::{self, Case},
    report,
    suite::{self, Report, Verdict},
};
use serde_json::{Value, json};

/// Debian's containernetworking-plugins.
const REFERENCE: &str = "/usr/lib/cni";
const REFERENCES: [&str; 2] = ["ptp", "bridge"];
/// Runs at a time.
const JOBS: usize = 6;

const HEAD: &str = "\
# Conformance: what holds, and what two other plugins miss

<!-- Printed by tests/conformance.rs: WEIR_WRITE_DOCS=1 cargo test --test conformance -->

What the suite in [conformance/](../conformance/README.md) finds of Weir, and of Debian 12's `ptp` and `bridge` (containernetworking-plugins
1.1.1) with `host-local`, each with its configuration in `conformance/conf/`. CI compares this page with the run.

*Level*: **must** and **should** are the specification's (its lower-case \"must\" counts as should), **runtime** is what libcni or a runtime
rests on, **robust** is what operators were hurt by where it wasn't so. A dash: a version that the plugin doesn't speak, or something that its
configuration doesn't have.

";

fn conf(name: &str) -> Value {
    let file = manifest(&format!("conformance/conf/{name}.json"));
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn run(plugin: &Path, conf: &Value, jobs: usize, wanted: impl Fn(&Case) -> bool) -> Report {
    let plugin = Plugin::new(plugin, vec![REFERENCE.into()], conf).unwrap();
    suite::run(&plugin, &case::built_in().unwrap(), jobs, wanted).unwrap()
}

fn reference(name: &str, jobs: usize, wanted: impl Fn(&Case) -> bool) -> Report {
    run(&Path::new(REFERENCE).join(name), &conf(name), jobs, wanted)
}

fn weir(telemetry: Value, wanted: impl Fn(&Case) -> bool) -> Report {
    let mut conf = conf("weir");
    conf["telemetry"] = telemetry;
    let report = run(Path::new(env!("CARGO_BIN_EXE_weir")), &conf, JOBS, wanted);
    assert!(report.count(Verdict::Pass) > 0);
    assert_eq!(report.count(Verdict::Fail), 0, "{}", report::table(&report, false));
    assert_eq!(report.count(Verdict::Skip), 0, "{}", report::table(&report, true));
    report
}

#[test]
fn everything_holds_of_weir_and_the_page_says_what_others_miss() {
    // Loading the programs anew for each of hundreds of nodes would take most of the time.
    let weir = weir(json!({"enabled": false}), |_| true);
    let mut reports = vec![weir];
    reports.extend(REFERENCES.map(|name| reference(name, JOBS, |_| true)));
    let file = manifest("docs/conformance.md");
    let page = |reports: &[Report]| format!("{HEAD}{}", report::page(reports));
    if std::env::var_os("WEIR_WRITE_DOCS").is_some() {
        fs::write(&file, page(&reports)).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    // A busy machine can make a plugin late: what is otherwise than written is asked again, alone.
    let known: Vec<_> = written.lines().collect();
    let now = page(&reports);
    let changed = |case: &Case| {
        let id = format!(" {} |", case.id);
        now.lines().any(|line| line.ends_with(&id) && !known.contains(&line))
    };
    for (report, name) in reports[1..].iter_mut().zip(REFERENCES) {
        report.replace(reference(name, 1, changed));
    }
    let found: String = reports[1..].iter().map(|report| report::table(report, false)).collect();
    let now = page(&reports);
    let other = now.lines().zip(written.lines()).find(|(now, then)| now != then);
    assert!(
        now == written,
        "docs/conformance.md is not of this run: {other:#?}\n{found}\n\
         WEIR_WRITE_DOCS=1 cargo test --test conformance writes it"
    );
}

#[test]
fn what_ends_an_attachment_ends_its_counting_too() {
    let parts = ["del-", "gc-removes", "gc-dead", "add-failed", "add-many", "check-well", "churn"];
    weir(json!({"required": true}), |case| parts.iter().any(|part| case.id.starts_with(part)));
}

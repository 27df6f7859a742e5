//! What the agent exposes, as numbers that can stand beside a peer's own.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use crate::pair::Pair;

/// How many, by what they have in common: the values of some labels, a blank between them.
pub type Counts = BTreeMap<String, u64>;

/// The peer and the pods' counters agree by then, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(10);

/// Both pods' counts of a family, each in its role, are the peer's own; and nothing was lost sight of.
/// The peer is asked again until they agree, for it may still be about to write its account.
pub fn assert_counted(pair: &Pair, family: &str, labels: &[&str], own: impl Fn() -> Counts) {
    let end = Instant::now() + PATIENCE;
    for role in ["server", "client"] {
        loop {
            let (own, counted) = (own(), counts(&pair.metrics(), family, role, labels));
            if counted == own || Instant::now() > end {
                assert!(!own.is_empty(), "{family}: there is nothing to compare with");
                let gaps = pair.gaps();
                assert_eq!(counted, own, "{family}, {role}: left is counted, right own; {gaps:?}");
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
    pair.assert_no_gap();
}

/// In neither role anything was counted of a family, which there is.
pub fn assert_none(pair: &Pair, family: &str) {
    let page = pair.metrics();
    assert!(page.contains(&format!("# TYPE {family} ")), "there is no family {family}");
    for role in ["server", "client"] {
        assert_eq!(counts(&page, family, role, &[]), Counts::new(), "{family}");
    }
}

/// A family's counts of a role, without the zeros.
pub fn counts(page: &str, family: &str, role: &str, labels: &[&str]) -> Counts {
    let mut found = Counts::new();
    for line in page.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Some(of) = series.strip_prefix(family).filter(|rest| rest.starts_with('{')) else {
            continue;
        };
        if label(of, "role") != role || value == "0" {
            continue;
        }
        let values: Vec<&str> = labels.iter().map(|name| label(of, name)).collect();
        *found.entry(values.join(" ")).or_default() += value.parse::<u64>().unwrap();
    }
    found
}

pub fn total(counts: &Counts) -> u64 {
    counts.values().sum()
}

/// Counts lines.
pub fn tally(lines: impl IntoIterator<Item = impl Into<String>>) -> Counts {
    let mut found = Counts::new();
    for line in lines {
        *found.entry(line.into()).or_default() += 1;
    }
    found
}

fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    // Every label stands behind a brace or a comma, or `pod` would be found in `other_pod`.
    let at = ['{', ','].iter().find_map(|before| labels.find(&format!("{before}{name}=\"")));
    let at = at.unwrap_or_else(|| panic!("no label {name} in {labels}"));
    let value = &labels[at + name.len() + 3..];
    value.split_once('"').unwrap().0
}

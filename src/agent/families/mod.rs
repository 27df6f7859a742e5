//! The metric families: tables that say what each is called, means and is filled from.
//!
//! Names, types and labels are a contract with dashboards and alerts; `docs/metrics.md` is printed
//! from these. Nothing in here touches a map or a socket.

mod db;
mod dns;
mod http;
mod node;
mod tcp;

use super::{
    family::{Family, Kind, Label, Source, Start, Unit, Values, values},
    labels,
};
use crate::telemetry::wire::CounterKey;

const ROLE: Label = Label { name: "role", values: labels::ROLES };

/// A pod's counter without a unit that starts with its first event; the table changes what differs.
const POD: Family = Family {
    name: "",
    kind: Kind::Counter,
    unit: Unit::None,
    help: "",
    labels: &[ROLE],
    fold: None,
    start: Start::FirstEvent,
    source: Source::ActiveConnections,
};

/// A pod's counter whose series are few enough to start at 0 with the pod.
const POD_FROM_ZERO: Family = Family { start: Start::Zero, ..POD };

/// A gauge of the node.
const NODE: Family = Family { kind: Kind::Gauge, labels: &[], ..POD };

fn role(key: &CounterKey) -> Values {
    values([labels::role(key.role.into())])
}

/// All families, in the order of the page. The overflow counter is last: it counts the others.
pub fn all() -> impl Iterator<Item = &'static Family> {
    [http::FAMILIES, dns::FAMILIES, db::FAMILIES, tcp::FAMILIES, node::FAMILIES]
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::telemetry::wire::{CounterKind, HistogramKind};

    #[test]
    fn names_follow_the_conventions() {
        let mut seen = BTreeSet::new();
        for family in all() {
            assert!(seen.insert(family.name), "{} is there twice", family.name);
            assert!(family.name.starts_with("weir_"), "{}", family.name);
            let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(family.name.chars().all(valid), "{}", family.name);
            for reserved in ["_total", "_info", "_bucket", "_sum", "_count", "_created"] {
                assert!(!family.name.ends_with(reserved), "{}", family.name);
            }
            match family.unit {
                Unit::None => {}
                Unit::Seconds => assert!(family.name.ends_with("_seconds"), "{}", family.name),
                Unit::Bytes => assert!(family.name.ends_with("_bytes"), "{}", family.name),
            }
        }
    }

    #[test]
    fn help_needs_no_escaping_in_either_text_form() {
        for Family { name, help, .. } in all() {
            assert!(!help.is_empty() && !help.contains(['\\', '"', '\n']), "{name}: {help}");
            assert!(!help.ends_with('.'), "{name}: {help}");
        }
    }

    #[test]
    fn series_that_start_at_0_have_only_listed_labels() {
        for family in all().filter(|family| family.start == Start::Zero) {
            assert!(family.labels.iter().all(|label| !label.values.is_empty()), "{}", family.name);
        }
    }

    #[test]
    fn every_kind_of_counter_and_histogram_of_the_wire_is_shown() {
        let counters: BTreeSet<u32> = all()
            .filter_map(|family| match family.source {
                Source::Counters(kind, _) => Some(kind.0),
                Source::ActiveConnections => Some(CounterKind::COUNTER_TCP_CLOSED.0),
                _ => None,
            })
            .collect();
        assert_eq!(counters, (1..CounterKind::COUNTER_KIND_MAX.0).collect());
        let histograms: BTreeSet<u32> = all()
            .filter_map(|family| match family.source {
                Source::Histograms(kind, _) => Some(kind.0),
                _ => None,
            })
            .collect();
        assert_eq!(histograms, (1..HistogramKind::HISTOGRAM_KIND_MAX.0).collect());
    }

    #[test]
    fn the_overflow_counter_comes_after_what_it_counts() {
        let last = all().last().map(|family| family.name);
        assert_eq!(last, Some("weir_cardinality_overflow"));
    }
}

//! The metric families: tables that say what each is called, means and is filled from.
//!
//! Names, types and labels are a contract with dashboards and alerts; `docs/metrics.md` is printed
//! from these. Nothing in here touches a map or a socket.

mod db;
mod dns;
mod http;
mod hubble;
mod node;
mod otel;
mod tcp;

pub use otel::rpc_status;

use super::{
    family::{Family, Kind, Label, Source, Start, Unit, Values, values},
    labels,
};
use crate::telemetry::wire::{CounterKey, Role};

/// Which names a page has for what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flavor {
    /// Weir's own.
    #[default]
    Weir,
    /// OpenTelemetry's, and Weir's for what has none there.
    Otel,
    /// Those of Cilium's Hubble that can be filled, and no others.
    Hubble,
}

impl Flavor {
    /// What each is called in `?flavor=`.
    pub const NAMES: [(&str, Self); 3] =
        [("weir", Self::Weir), ("otel", Self::Otel), ("hubble", Self::Hubble)];

    /// Its families, in the order of the page.
    pub fn families(self) -> Box<dyn Iterator<Item = &'static Family>> {
        match self {
            Self::Weir => Box::new(all()),
            Self::Otel => Box::new(
                otel::FAMILIES
                    .iter()
                    .chain(all().filter(|family| !otel::RENAMED.contains(&family.name))),
            ),
            Self::Hubble => Box::new(hubble::FAMILIES.iter()),
        }
    }
}

const ROLE: Label = Label { name: "role", values: labels::ROLES };

/// A pod's counter without a unit that starts with its first event; the table changes what differs.
const POD: Family = Family {
    name: "",
    kind: Kind::Counter,
    unit: Unit::None,
    help: "",
    labels: &[ROLE],
    only: |_, _| true,
    fold: None,
    start: Start::FirstEvent,
    source: Source::ActiveConnections,
};

/// A pod's counter whose series are few enough to start at 0 with the pod.
const POD_FROM_ZERO: Family = Family { start: Start::Zero, ..POD };

/// A gauge of the node.
const NODE: Family = Family { kind: Kind::Gauge, labels: &[], ..POD };

fn server(role: u8, _: u8) -> bool {
    u32::from(role) == Role::ROLE_SERVER.0
}

fn client(role: u8, _: u8) -> bool {
    u32::from(role) == Role::ROLE_CLIENT.0
}

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
        assert!(all().all(|family| family.name.starts_with("weir_")));
        for (name, flavor) in Flavor::NAMES {
            names_are_valid(name, flavor);
        }
    }

    fn names_are_valid(flavor_name: &str, flavor: Flavor) {
        let mut seen = BTreeSet::new();
        for family in flavor.families() {
            assert!(seen.insert(family.name), "{} is in {flavor_name} twice", family.name);
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
        let all = Flavor::NAMES.into_iter().flat_map(|(_, flavor)| flavor.families());
        for Family { name, help, .. } in all {
            assert!(!help.is_empty() && !help.contains(['\\', '"', '\n']), "{name}: {help}");
            assert!(!help.ends_with('.'), "{name}: {help}");
        }
    }

    #[test]
    fn series_that_start_at_0_have_only_listed_labels() {
        let all = Flavor::NAMES.into_iter().flat_map(|(_, flavor)| flavor.families());
        for family in all.filter(|family| family.start == Start::Zero) {
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
    fn what_opentelemetry_renames_is_there_under_our_own_name() {
        for renamed in otel::RENAMED {
            assert!(all().any(|family| family.name == *renamed), "{renamed}");
        }
    }

    #[test]
    fn the_overflow_counter_comes_after_what_it_counts() {
        let last = all().last().map(|family| family.name);
        assert_eq!(last, Some("weir_cardinality_overflow"));
    }
}

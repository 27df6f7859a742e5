//! What an nftables interval set holds: half-open intervals between marked edges.
//!
//! The kernel keeps no intervals but edges: an element that starts one, an element that ends one. A
//! last start without an end reaches to the end of the address space.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// A half-open interval of addresses as numbers; no end means to the last address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// The first address.
    pub start: u128,
    /// The one after the last; none behind the highest address.
    pub end: Option<u128>,
}

impl Interval {
    fn covers(self, other: Self) -> bool {
        let reaches = match (self.end, other.end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(others)) => own >= others,
        };
        self.start <= other.start && reaches
    }
}

impl Interval {
    /// As the network that it is, in a family of addresses of so many bits; else by its first address.
    pub fn text(self, bits: u32) -> String {
        let ip: IpAddr = match u32::try_from(self.start) {
            Ok(start) if bits == 32 => Ipv4Addr::from_bits(start).into(),
            _ => Ipv6Addr::from_bits(self.start).into(),
        };
        let last = if bits == 32 { u128::from(u32::MAX) } else { u128::MAX };
        let span = self.end.map_or(last, |end| end.wrapping_sub(1)) ^ self.start;
        let host_bits = u128::BITS - span.leading_zeros();
        format!("{ip}/{}", bits.saturating_sub(host_bits))
    }
}

impl From<&IpNetwork> for Interval {
    fn from(network: &IpNetwork) -> Self {
        let bits = if network.is_ipv4() { 32 } else { 128 };
        let start = match network.network() {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let host_bits = bits - u32::from(network.prefix());
        let end = 1_u128.checked_shl(host_bits).and_then(|size| start.checked_add(size));
        Self { start, end: end.filter(|&end| bits == 128 || end < 1 << bits) }
    }
}

/// One element of an interval set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// The address as a number.
    pub at: u128,
    /// Whether it starts an interval; otherwise it ends one. An end sorts before a start.
    pub starts: bool,
}

/// The intervals of a set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Intervals(Vec<Interval>);

/// What must be taken from and put into a set, so that it covers more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Intervals that would overlap with new ones.
    pub remove: Vec<Interval>,
    /// New intervals.
    pub add: Vec<Interval>,
}

impl Intervals {
    /// Reads the elements of a set whose keys have `bits` bits.
    pub fn new(edges: impl Iterator<Item = Edge>, bits: u32) -> Self {
        let mut edges: Vec<_> = edges.filter(|edge| bits == 128 || edge.at < 1 << bits).collect();
        edges.sort_unstable();
        let ends: Vec<_> = edges.iter().filter(|edge| !edge.starts).map(|edge| edge.at).collect();
        let starts = edges.iter().filter(|edge| edge.starts).map(|edge| edge.at);
        Self(
            starts
                .map(|start| Interval { start, end: ends.iter().copied().find(|&end| end > start) })
                .collect(),
        )
    }

    /// Whether one of the intervals holds all of `wanted`.
    pub fn cover(&self, wanted: Interval) -> bool {
        self.0.iter().any(|interval| interval.covers(wanted))
    }

    /// What has to change so that exactly `wanted` is covered.
    pub fn narrowed_to(&self, wanted: impl Iterator<Item = Interval>) -> Change {
        let kept = Self(Self::default().widened_by(wanted).add);
        let without = |own: &Self, other: &Self| {
            own.0.iter().filter(|interval| !other.0.contains(interval)).copied().collect()
        };
        Change { remove: without(self, &kept), add: without(&kept, self) }
    }

    /// What has to change so that `wanted` is covered too. Intervals of subnets either contain one
    /// another or are apart.
    pub fn widened_by(&self, wanted: impl Iterator<Item = Interval>) -> Change {
        let mut change = Change::default();
        for wanted in wanted {
            if self.cover(wanted) || Self(change.add.clone()).cover(wanted) {
                continue;
            }
            change.add.retain(|added| !wanted.covers(*added));
            change.add.push(wanted);
            let inside = self.0.iter().filter(|interval| wanted.covers(**interval));
            for interval in inside {
                if !change.remove.contains(interval) {
                    change.remove.push(*interval);
                }
            }
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(network: &str) -> Interval {
        Interval::from(&network.parse().unwrap())
    }

    fn set(networks: &[&str]) -> Intervals {
        let edges = networks.iter().map(|network| interval(network)).flat_map(|interval| {
            let end = interval.end.map(|at| Edge { at, starts: false });
            [Edge { at: interval.start, starts: true }].into_iter().chain(end)
        });
        // nft puts an end before the first start; the order of a dump is arbitrary.
        let leading = Edge { at: 0, starts: false };
        let mut edges: Vec<_> = edges.chain([leading]).collect();
        edges.reverse();
        Intervals::new(edges.into_iter(), 32)
    }

    #[test]
    fn subnets_up_to_the_last_address_have_no_end() {
        assert_eq!(interval("255.255.255.0/24").end, None);
        assert_eq!(interval("0.0.0.0/0"), Interval { start: 0, end: None });
        assert_eq!(interval("::/0"), Interval { start: 0, end: None });
        assert_eq!(interval("10.0.0.0/8"), Interval { start: 10 << 24, end: Some(11 << 24) });
        assert_eq!(interval("ff00::/8").end, None);
    }

    #[test]
    fn adjacent_intervals_stay_apart() {
        let set = set(&["10.88.0.0/24", "10.88.1.0/24", "240.0.0.0/4"]);
        assert!(set.cover(interval("10.88.0.0/24")));
        assert!(set.cover(interval("10.88.1.128/25")));
        assert!(set.cover(interval("255.0.0.0/8")));
        assert!(!set.cover(interval("10.88.0.0/23")));
        assert!(!set.cover(interval("10.88.2.0/24")));
    }

    #[test]
    fn narrowing_keeps_what_is_wanted_and_no_more() {
        let set = set(&["10.0.0.0/12", "10.88.0.0/24", "192.168.0.0/16"]);
        let wanted = ["10.1.0.0/16", "10.1.1.0/24", "192.168.0.0/16"];
        let change = set.narrowed_to(wanted.iter().map(|network| interval(network)));
        assert_eq!(change.remove, [interval("10.0.0.0/12"), interval("10.88.0.0/24")]);
        assert_eq!(change.add, [interval("10.1.0.0/16")]);
        assert_eq!(set.narrowed_to(set.0.clone().into_iter()), Change::default());
    }

    #[test]
    fn an_interval_reads_as_its_network() {
        for network in ["10.88.0.0/24", "0.0.0.0/0", "255.255.255.255/32", "224.0.0.0/3"] {
            assert_eq!(interval(network).text(32), network);
        }
        for network in ["fd00:88::/64", "::/0", "ff00::/8", "::1/128"] {
            assert_eq!(interval(network).text(128), network);
        }
    }

    #[test]
    fn widening_replaces_what_is_inside() {
        let set = set(&["10.1.0.0/16", "10.2.0.0/16", "192.168.0.0/16"]);
        let wanted = ["10.1.1.0/24", "10.0.0.0/8", "10.3.0.0/16", "172.16.0.0/12"];
        let change = set.widened_by(wanted.iter().map(|network| interval(network)));
        assert_eq!(change.add, [interval("10.0.0.0/8"), interval("172.16.0.0/12")]);
        assert_eq!(change.remove, [interval("10.1.0.0/16"), interval("10.2.0.0/16")]);
    }
}

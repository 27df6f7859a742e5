//! Which addresses there are to give: pure arithmetic, with host-local's schema and semantics.
//!
//! A [`Range`] is a part of one subnet, a [`RangeSet`] gives one address per attachment from any of
//! its ranges. Network and broadcast addresses and the gateways are never given.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::{
    error::{Error, Kind, Result},
    spec::Address,
};

/// How many ranges a network may have in all: several times what anybody needs, few enough for each
/// to be compared with each other, and for a lock file to have a line for each.
const MAX_RANGES: usize = 64;

/// A part of a subnet, by its ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    subnet: IpNetwork,
    gateway: IpAddr,
    first: u128,
    last: u128,
}

/// Ranges of one family that an attachment gets one address from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

fn invalid<T>(msg: String) -> Result<T> {
    Err(Error::new(Kind::Config, msg))
}

/// An address as a number, the same order as the addresses have within their family.
fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

impl Range {
    /// Checks a range. Without its ends it is all of the subnet that can be given; without its
    /// gateway, that is the subnet's first address.
    ///
    /// # Errors
    /// [`Kind::Config`], without the key, saying which value is wrong.
    pub fn new(
        subnet: IpNetwork,
        start: Option<IpAddr>,
        end: Option<IpAddr>,
        gateway: Option<IpAddr>,
    ) -> Result<Self> {
        if subnet.ip() != subnet.network() {
            let network = subnet.network();
            return invalid(format!("subnet {subnet} has host bits set, its network is {network}"));
        }
        let (v4, bits) = (subnet.is_ipv4(), if subnet.is_ipv4() { 32 } else { 128 });
        if subnet.prefix() > bits - 2 {
            return invalid(format!("subnet {subnet} is too small to give addresses from"));
        }
        let network = number(subnet.network());
        let most = (1_u128 << (bits - subnet.prefix()).min(127)) - 1;
        // A /0 of IPv6 alone has more addresses than the shift can say; nobody leases them all.
        let top = if subnet.prefix() == 0 && !v4 { u128::MAX } else { network + most };
        let (lowest, highest) = (network + 1, if v4 { top - 1 } else { top });

        let end_of = |key: &str, ip: Option<IpAddr>, default: u128| match ip {
            None => Ok(default),
            Some(ip) if subnet.contains(ip) => Ok(number(ip).clamp(lowest, highest)),
            Some(ip) => invalid(format!("{key} {ip} is not in subnet {subnet}")),
        };
        let range = Self {
            subnet,
            gateway: gateway.unwrap_or_else(|| address(v4, lowest)),
            first: end_of("rangeStart", start, lowest)?,
            last: end_of("rangeEnd", end, highest)?,
        };
        if range.gateway.is_ipv4() != v4 {
            return invalid(format!("gateway {} is of another family", range.gateway));
        }
        if range.first > range.last {
            let (first, last) = (address(v4, range.first), address(v4, range.last));
            return invalid(format!("rangeStart {first} comes after rangeEnd {last}"));
        }
        Ok(range)
    }

    /// The subnet that it is a part of.
    pub fn subnet(&self) -> IpNetwork {
        self.subnet
    }

    fn is_ipv4(&self) -> bool {
        self.subnet.is_ipv4()
    }

    fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.is_ipv4() && (self.first..=self.last).contains(&number(ip))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.is_ipv4() == other.is_ipv4() && self.first <= other.last && other.first <= self.last
    }

    /// How many addresses lie between its ends, the gateway included.
    fn size(&self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    fn lease(&self, ip: IpAddr) -> Option<Address> {
        let address = IpNetwork::new(ip, self.subnet.prefix()).ok()?;
        Some(Address { address, gateway: Some(self.gateway) })
    }
}

fn address(v4: bool, number: u128) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if v4 => IpAddr::V4(number.into()),
        _ => IpAddr::V6(number.into()),
    }
}

impl RangeSet {
    /// Checks that an attachment can get one address from any of these.
    ///
    /// # Errors
    /// [`Kind::Config`]: no range, too many, ranges of two families, or ranges that overlap.
    pub fn new(ranges: Vec<Range>) -> Result<Self> {
        check_count(ranges.len())?;
        let Some(first) = ranges.first() else {
            return invalid("a range set needs at least one range".into());
        };
        if let Some(other) = ranges.iter().find(|range| range.is_ipv4() != first.is_ipv4()) {
            let (a, b) = (first.subnet, other.subnet);
            return invalid(format!("{a} and {b} are of two families, each needs its range set"));
        }
        let set = Self(ranges);
        for (at, range) in set.0.iter().enumerate() {
            disjoint(&set.0[..at], range)?;
        }
        Ok(set)
    }

    /// Its ranges.
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// How many addresses it can give at the same time.
    pub fn capacity(&self) -> u128 {
        let all = self.0.iter().map(Range::size).fold(0, u128::saturating_add);
        let mut gateways: Vec<_> = self
            .0
            .iter()
            .map(|range| range.gateway)
            .filter(|&ip| self.find(ip).is_some())
            .collect();
        gateways.sort_unstable();
        gateways.dedup();
        all.saturating_sub(gateways.len() as u128)
    }

    /// The lease of one address, if it is one of these and may be given.
    pub fn lease(&self, ip: IpAddr) -> Option<Address> {
        let range = self.find(ip).filter(|_| !self.is_gateway(ip))?;
        range.lease(ip)
    }

    /// Whether a range of the set reaches over the address, though it may be its gateway.
    pub fn covers(&self, ip: IpAddr) -> bool {
        self.find(ip).is_some()
    }

    /// Every address that may be given, each once, in a round that begins behind `last`: an address
    /// just released is the last to be given again.
    pub fn round(&self, last: Option<IpAddr>) -> impl Iterator<Item = Address> + '_ {
        let begin = last.and_then(|ip| {
            let at = self.0.iter().position(|range| range.contains(ip))?;
            Some((at, number(ip)))
        });
        let count = self.0.len();
        let (at, last) = begin.map_or((count - 1, None), |(at, last)| (at, Some(last)));
        // The range of `last` comes first from behind it, and at the end once more up to it.
        let mut spans = Vec::with_capacity(count + 1);
        spans.extend(last.and_then(|last| Some((at, last.checked_add(1)?, self.0[at].last))));
        spans.extend((1..=count).map(|step| {
            let at = (at + step) % count;
            (at, self.0[at].first, self.0[at].last)
        }));
        if let (Some(last), Some(own)) = (last, spans.last_mut()) {
            own.2 = last;
        }
        spans
            .into_iter()
            .flat_map(|(at, from, to)| (from..=to).map(move |number| (at, number)))
            .map(|(at, number)| (&self.0[at], address(self.0[at].is_ipv4(), number)))
            .filter(|&(_, ip)| !self.is_gateway(ip))
            .filter_map(|(range, ip)| range.lease(ip))
    }

    fn find(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip))
    }

    fn is_gateway(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|range| range.gateway == ip)
    }
}

/// Every subnet that these ranges are parts of, once.
pub fn subnets(sets: &[RangeSet]) -> Vec<IpNetwork> {
    let mut subnets: Vec<_> = sets.iter().flat_map(RangeSet::ranges).map(Range::subnet).collect();
    subnets.sort_unstable();
    subnets.dedup();
    subnets
}

/// Checks that no address is in two sets, and that there are not more ranges than may be.
///
/// # Errors
/// [`Kind::Config`] naming the two ranges that overlap.
pub fn check_disjoint(sets: &[RangeSet]) -> Result<()> {
    check_count(sets.iter().map(|set| set.0.len()).sum())?;
    for (at, set) in sets.iter().enumerate() {
        for before in &sets[..at] {
            set.0.iter().try_for_each(|range| disjoint(&before.0, range))?;
        }
    }
    Ok(())
}

fn check_count(ranges: usize) -> Result<()> {
    if ranges <= MAX_RANGES {
        return Ok(());
    }
    invalid(format!("{ranges} ranges are more than a network may have, which is {MAX_RANGES}"))
}

fn disjoint(others: &[Range], range: &Range) -> Result<()> {
    let Some(other) = others.iter().find(|other| other.overlaps(range)) else { return Ok(()) };
    let ends = |range: &Range| {
        let end = |number| address(range.is_ipv4(), number);
        format!("{}-{}", end(range.first), end(range.last))
    };
    invalid(format!("range {} overlaps range {}", ends(range), ends(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn range(subnet: &str, start: &str, end: &str, gateway: &str) -> Result<Range> {
        let optional = |text: &str| (!text.is_empty()).then(|| ip(text));
        Range::new(subnet.parse().unwrap(), optional(start), optional(end), optional(gateway))
    }

    fn set(ranges: &[(&str, &str, &str)]) -> RangeSet {
        let made = ranges.iter().map(|(subnet, start, end)| range(subnet, start, end, "").unwrap());
        RangeSet::new(made.collect()).unwrap()
    }

    fn round(set: &RangeSet, last: &str) -> Vec<String> {
        let last = (!last.is_empty()).then(|| ip(last));
        set.round(last).map(|address| address.ip().to_string()).collect()
    }

    #[test]
    fn network_broadcast_and_gateway_are_never_given() {
        assert_eq!(
            round(&set(&[("10.0.0.0/29", "", "")]), "").join(" "),
            "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"
        );
        assert_eq!(round(&set(&[("10.0.0.0/30", "10.0.0.0", "10.0.0.3")]), ""), ["10.0.0.2"]);
        assert_eq!(round(&set(&[("fd00::/126", "", "")]), "").join(" "), "fd00::2 fd00::3");
        let other = RangeSet::new(vec![range("10.0.0.0/29", "", "", "10.0.0.4").unwrap()]).unwrap();
        assert_eq!(round(&other, "").join(" "), "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.5 10.0.0.6");
        assert_eq!(other.lease(ip("10.0.0.4")), None);
        assert_eq!(other.lease(ip("10.0.0.7")), None);
        assert_eq!(other.lease(ip("10.0.0.5")).unwrap().address.to_string(), "10.0.0.5/29");
    }

    #[test]
    fn a_round_begins_behind_the_last_and_meets_every_address_once() {
        let set = set(&[("10.0.0.0/24", "10.0.0.5", "10.0.0.7"), ("10.1.0.0/30", "", "")]);
        assert_eq!(round(&set, "").join(" "), "10.0.0.5 10.0.0.6 10.0.0.7 10.1.0.2");
        assert_eq!(round(&set, "10.0.0.5").join(" "), "10.0.0.6 10.0.0.7 10.1.0.2 10.0.0.5");
        assert_eq!(round(&set, "10.0.0.7").join(" "), "10.1.0.2 10.0.0.5 10.0.0.6 10.0.0.7");
        assert_eq!(round(&set, "10.1.0.2").join(" "), "10.0.0.5 10.0.0.6 10.0.0.7 10.1.0.2");
        assert_eq!(round(&set, "192.0.2.1").join(" "), "10.0.0.5 10.0.0.6 10.0.0.7 10.1.0.2");
        assert_eq!(set.capacity(), 4);
    }

    #[test]
    fn the_widest_subnets_neither_overflow_nor_hang() {
        for subnet in ["::/0", "::/1", "fd00::/64", "0.0.0.0/0"] {
            let set = set(&[(subnet, "", "")]);
            assert!(set.capacity() > 1 << 30);
            assert_eq!(set.round(None).take(3).count(), 3);
        }
        let end = set(&[("::/0", "", "")]);
        let last = ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(end.round(Some(last)).next().unwrap().ip(), ip("::2"));
    }

    #[test]
    fn wrong_ranges_are_refused_saying_why() {
        for (subnet, start, end, gateway, why) in [
            ("10.0.0.1/24", "", "", "", "its network is 10.0.0.0"),
            ("fd00::1/64", "", "", "", "its network is fd00::"),
            ("10.0.0.0/31", "", "", "", "too small"),
            ("10.0.0.0/32", "", "", "", "too small"),
            ("fd00::/127", "", "", "", "too small"),
            ("10.0.0.0/24", "10.0.1.1", "", "", "rangeStart 10.0.1.1 is not in"),
            ("10.0.0.0/24", "", "fd00::1", "", "rangeEnd fd00::1 is not in"),
            ("10.0.0.0/24", "10.0.0.9", "10.0.0.8", "", "comes after"),
            ("10.0.0.0/24", "", "", "fd00::1", "gateway fd00::1"),
        ] {
            let err = range(subnet, start, end, gateway).unwrap_err();
            assert_eq!(err.kind(), Kind::Config);
            assert!(err.msg().contains(why), "{err}");
        }
    }

    #[test]
    fn there_are_not_more_ranges_than_may_be() {
        let subnets: Vec<_> = (0..=MAX_RANGES).map(|at| format!("10.0.{at}.0/24")).collect();
        let ranges: Vec<_> = subnets.iter().map(|net| range(net, "", "", "").unwrap()).collect();
        let sets: Vec<_> =
            ranges.iter().map(|range| RangeSet::new(vec![range.clone()]).unwrap()).collect();
        check_disjoint(&sets[1..]).unwrap();
        assert!(RangeSet::new(ranges[1..].to_vec()).is_ok());
        let refused = [check_disjoint(&sets).unwrap_err(), RangeSet::new(ranges).unwrap_err()];
        assert!(refused.iter().all(|err| err.msg().starts_with("65 ranges")), "{refused:?}");
    }

    #[test]
    fn overlaps_and_mixed_families_are_refused() {
        let make = |ranges: &[(&str, &str, &str)]| {
            RangeSet::new(ranges.iter().map(|(s, a, b)| range(s, a, b, "").unwrap()).collect())
        };
        assert!(make(&[]).is_err());
        assert!(make(&[("10.0.0.0/24", "", ""), ("fd00::/64", "", "")]).is_err());
        let halves = [("10.0.0.0/24", "", "10.0.0.9"), ("10.0.0.0/24", "10.0.0.10", "")];
        assert!(make(&halves).is_ok());
        let touching = [("10.0.0.0/24", "", "10.0.0.10"), ("10.0.0.0/24", "10.0.0.10", "")];
        assert!(make(&touching).is_err());
        let inside = [("10.0.0.0/16", "", ""), ("10.0.7.0/24", "", "")];
        let err = make(&inside).unwrap_err();
        assert!(err.msg().contains("10.0.7.1-10.0.7.254 overlaps range 10.0.0.1-10.0.255.254"));
        let two = [make(&inside[..1]).unwrap(), make(&inside[1..]).unwrap()];
        assert!(check_disjoint(&two).is_err());
        assert!(check_disjoint(&two[..1]).is_ok());
    }
}

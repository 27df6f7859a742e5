//! Who talks to whom: exchanges of the last seconds, added up by pair of pods.
//!
//! An exchange between two pods of this node is recorded at both ends and is one here, as the serving
//! end saw it. The asking end may have seen another address than the pod's own: of a virtual service
//! that the host rewrote in between. So it counts only if the serving end was not seen: neither is
//! its peer a counted pod, nor has one been asked from its address and port.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use lru::LruCache;
use serde::Serialize;

use super::{
    flow::{Flow, Word},
    peers::Peers,
};
use crate::{
    agent::overview::{Cells, quantile},
    telemetry::histogram::bounds_ns,
};

/// Rates are over this much at most.
const SPAN: Duration = Duration::from_secs(10);

/// Pairs in a second; more are left out, and the number of exchanges said.
const EDGES: usize = 2_048;

/// Client ends that are remembered as having been seen by a server.
const SEEN: NonZeroUsize = NonZeroUsize::new(8_192).unwrap();

/// A pod, in JSON.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Name {
    /// Its namespace, or empty.
    pub namespace: String,
    /// Its name, or the container id.
    pub pod: String,
}

/// Who asks whom by what; none is what is no pod of this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    from: Option<Name>,
    to: Option<Name>,
    protocol: Word,
}

#[derive(Debug, Default)]
struct Sum {
    requests: u64,
    errors: u64,
    cells: Cells,
}

#[derive(Debug)]
struct Slot {
    begun: Instant,
    sums: BTreeMap<Pair, Sum>,
    left_out: u64,
}

/// What is sent once a second.
#[derive(Debug, Serialize)]
pub struct Map {
    /// The time that rates and quantiles are of.
    pub interval_seconds: f64,
    /// Sorted by who asks, who answers, and the protocol.
    pub edges: Vec<Edge>,
    /// Exchanges of that time between more pairs than there is room for.
    pub left_out: u64,
}

/// What one asked of another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Edge {
    /// Who asked; `null` for the outside.
    pub from: Option<Name>,
    /// Who was asked.
    pub to: Option<Name>,
    /// As in a [`Flow`].
    pub protocol: Word,
    /// Exchanges a second.
    pub rate: f64,
    /// Failures a second, of them.
    pub error_rate: f64,
    /// Half of them took no longer.
    pub p50_seconds: Option<f64>,
    /// 99 of 100 took no longer.
    pub p99_seconds: Option<f64>,
}

/// The last seconds.
#[derive(Debug)]
pub struct Services {
    slots: VecDeque<Slot>,
    seen: LruCache<SocketAddr, ()>,
    bounds: Vec<u64>,
}

impl Services {
    /// With nothing known.
    pub fn new() -> Self {
        let bounds = bounds_ns().to_vec();
        Self { slots: VecDeque::new(), seen: LruCache::new(SEEN), bounds }
    }

    /// Begins a second. Without one, nothing is added up.
    pub fn tick(&mut self, now: Instant) {
        self.slots.retain(|slot| now.duration_since(slot.begun) < SPAN);
        self.slots.push_back(Slot { begun: now, sums: BTreeMap::new(), left_out: 0 });
    }

    /// Forgets what was, as nobody will add to it any more.
    pub fn clear(&mut self) {
        self.slots.clear();
    }

    /// Adds an exchange that `flow` tells of, from attachment `pod`'s end of it.
    pub fn take(&mut self, flow: &Flow, pod: u32, peer: Option<SocketAddr>, peers: &Peers) {
        let Some(slot) = self.slots.back_mut() else { return };
        let known = peer.and_then(|peer| peers.of(peer.ip()));
        let this = Some(Name { namespace: flow.namespace.clone(), pod: flow.pod.clone() });
        let that =
            known.map(|peer| Name { namespace: peer.namespace.clone(), pod: peer.pod.clone() });
        let (from, to) = if flow.role == "server" {
            if let (Some(_), Some(peer)) = (known, peer) {
                self.seen.put(plain(peer.ip(), peer.port()), ());
            }
            (that, this)
        } else {
            let port = flow.port.unwrap_or_default();
            let mut ends = peers.addresses(pod).iter().map(|address| plain(*address, port));
            let counted = known.is_some_and(|peer| peer.attachment.is_some());
            if counted || ends.any(|end| self.seen.get(&end).is_some()) {
                return;
            }
            (this, that)
        };
        let pair = Pair { from, to, protocol: flow.protocol.clone() };
        if slot.sums.len() >= EDGES && !slot.sums.contains_key(&pair) {
            slot.left_out += 1;
            return;
        }
        let sum = slot.sums.entry(pair).or_default();
        sum.requests += 1;
        sum.errors += u64::from(flow.failed);
        if let Some(seconds) = flow.duration_seconds {
            let at = self.bounds.partition_point(|bound| *bound < nanoseconds(seconds));
            *sum.cells.entry(u8::try_from(at).unwrap_or(u8::MAX)).or_default() += 1;
        }
    }

    /// All that is known of the last seconds.
    pub fn map(&self, now: Instant) -> Map {
        let begun = self.slots.front().map_or(now, |slot| slot.begun);
        let interval = now.duration_since(begun).as_secs_f64();
        let mut all = BTreeMap::<&Pair, Sum>::new();
        for (pair, sum) in self.slots.iter().flat_map(|slot| &slot.sums) {
            let into = all.entry(pair).or_default();
            into.requests += sum.requests;
            into.errors += sum.errors;
            sum.cells.iter().for_each(|(at, times)| *into.cells.entry(*at).or_default() += times);
        }
        let edges = all.into_iter().take(EDGES).map(|(pair, sum)| Edge {
            from: pair.from.clone(),
            to: pair.to.clone(),
            protocol: pair.protocol.clone(),
            rate: per_second(sum.requests, interval),
            error_rate: per_second(sum.errors, interval),
            p50_seconds: quantile(&self.bounds, &sum.cells, 50),
            p99_seconds: quantile(&self.bounds, &sum.cells, 99),
        });
        let left_out = self.slots.iter().map(|slot| slot.left_out).sum();
        Map { interval_seconds: interval, edges: edges.collect(), left_out }
    }
}

/// An IPv4 address in IPv6's clothes is the same end.
fn plain(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

fn nanoseconds(seconds: f64) -> u64 {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_precision_loss)] // Of counts in ten seconds.
fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Peers {
        Peers::with(&[
            ("shop", "web", Some(1), "10.0.0.1"),
            ("shop", "db", Some(2), "10.0.0.2"),
            ("shop", "bare", None, "10.0.0.3"),
        ])
    }

    /// An exchange as the pod's end saw it: role, pod, its port, peer, status.
    fn take(
        services: &mut Services,
        role: &'static str,
        pod: u32,
        port: u16,
        peer: &str,
        status: u16,
    ) {
        let flow = Flow {
            namespace: "shop".into(),
            pod: if pod == 1 { "web" } else { "db" }.into(),
            role: role.into(),
            protocol: "http".into(),
            status: Some(status),
            failed: status >= 500,
            port: Some(port),
            duration_seconds: Some(0.004),
            ..Flow::default()
        };
        services.take(&flow, pod, Some(peer.parse().unwrap()), &peers());
    }

    fn pairs(services: &Services, now: Instant) -> Vec<(String, String, f64)> {
        let name = |name: &Option<Name>| name.as_ref().map_or("outside".into(), |n| n.pod.clone());
        let edges = services.map(now).edges;
        edges.iter().map(|edge| (name(&edge.from), name(&edge.to), edge.rate)).collect()
    }

    #[test]
    fn an_exchange_within_the_node_is_one_whatever_address_was_asked() {
        let (mut services, begun) = (Services::new(), Instant::now());
        services.tick(begun);
        // By the pod's own address, then by a virtual one that the server's end never sees.
        for asked in ["10.0.0.2:80", "10.96.0.7:80"] {
            take(&mut services, "server", 2, 80, "10.0.0.1:4000", 200);
            take(&mut services, "client", 1, 4_000, asked, 200);
        }
        take(&mut services, "client", 1, 4_001, "10.0.0.3:80", 200);
        take(&mut services, "client", 1, 4_002, "192.0.2.1:80", 200);
        take(&mut services, "server", 1, 80, "192.0.2.9:5000", 503);
        let now = begun + Duration::from_secs(2);
        let edge = |from: &str, to: &str, rate| (from.to_owned(), to.to_owned(), rate);
        assert_eq!(
            pairs(&services, now),
            [
                edge("outside", "web", 0.5),
                edge("web", "outside", 0.5),
                edge("web", "bare", 0.5),
                edge("web", "db", 1.0),
            ]
        );
        let first = &services.map(now).edges[0];
        assert_eq!((first.error_rate, first.p50_seconds), (0.5, Some(0.004_645_34)));
    }

    #[test]
    fn rates_are_of_the_last_ten_seconds() {
        let (mut services, begun) = (Services::new(), Instant::now());
        take(&mut services, "server", 1, 80, "192.0.2.9:5000", 200);
        assert!(services.map(begun).edges.is_empty(), "nobody asked yet");
        for second in 0..30 {
            services.tick(begun + Duration::from_secs(second));
            for _ in 0..5 {
                take(&mut services, "server", 1, 80, "192.0.2.9:5000", 200);
            }
        }
        let map = services.map(begun + Duration::from_secs(30));
        assert!((map.edges[0].rate - 5.0).abs() < 1e-6 && map.interval_seconds <= 10.0, "{map:?}");
        services.tick(begun + Duration::from_secs(60));
        assert!(services.map(begun + Duration::from_secs(60)).edges.is_empty());
    }

    #[test]
    fn pairs_beyond_all_bounds_are_counted_as_left_out() {
        let (mut services, begun) = (Services::new(), Instant::now());
        services.tick(begun);
        for number in 0..3_000 {
            let flow = Flow { pod: format!("p{number}"), role: "server".into(), ..Flow::default() };
            services.take(&flow, number, None, &peers());
        }
        let map = services.map(begun);
        assert_eq!((map.edges.len(), map.left_out), (EDGES, 3_000 - EDGES as u64));
    }
}

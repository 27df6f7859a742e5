//! What pods have counted.

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use weir::telemetry::{
    pin,
    wire::{CounterKind, HistogramKey, HistogramKind, L7Protocol, Role, bytes_of},
};

use crate::{Result, fill::Pod, node::Node};

/// What a pod has that serves some HTTP and asks some DNS: with what every pod has, 91 samples of a page.
pub fn usual(pod: &Pod, _: &Node) -> Result<()> {
    for status in [200, 404, 500] {
        pod.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, status, 1_000);
    }
    pod.count(CounterKind::COUNTER_DNS_QUERIES, 0, 0, 1, 100);
    pod.count(CounterKind::COUNTER_DNS_RESPONSES, 0, 0, 1, 100);
    pod.observe(HistogramKind::HISTOGRAM_HTTP_REQUEST, 1, &spread());
    Ok(())
}

/// What a pod has that does some of everything: as much as of 250 of them fits into the maps and is not folded.
pub fn varied(pod: &Pod, node: &Node) -> Result<()> {
    usual(pod, node)?;
    for status in 0..37 {
        pod.count(CounterKind::COUNTER_HTTP_REQUESTS, 2, 2, 400 + status, 10);
    }
    for qtype in [2, 5, 6, 12, 15, 16, 28, 33, 65] {
        pod.count(CounterKind::COUNTER_DNS_QUERIES, 0, 0, qtype, 10);
        for code in [0, 3] {
            pod.count(CounterKind::COUNTER_DNS_RESPONSES, code, 0, qtype, 10);
        }
    }
    for status in 1..=17 {
        pod.count(CounterKind::COUNTER_GRPC_REQUESTS, status, 0, 0, 10);
    }
    let databases = [L7Protocol::L7_REDIS, L7Protocol::L7_POSTGRESQL];
    for operation in 2..42 {
        pod.count(CounterKind::COUNTER_DB_REQUESTS, databases[0].0, operation, 1, 10);
    }
    for database in databases {
        pod.observe(HistogramKind::HISTOGRAM_DB_REQUEST, database.0, &spread());
    }
    pod.observe(HistogramKind::HISTOGRAM_HTTP_REQUEST, 2, &spread());
    let map = MapHandle::from_pinned_path(pin::dir(&node.bpf_dir()).join("histograms"))?;
    for kind in [
        HistogramKind::HISTOGRAM_GRPC_REQUEST,
        HistogramKind::HISTOGRAM_DNS_LOOKUP,
        HistogramKind::HISTOGRAM_TCP_CONNECT,
        HistogramKind::HISTOGRAM_TCP_RTT,
    ] {
        pod.observe(kind, 0, &spread());
        also_client(&map, pod, kind)?;
    }
    Ok(())
}

/// What a pod has seen as a server it has seen as a client, too.
fn also_client(map: &MapHandle, pod: &Pod, kind: HistogramKind) -> Result<()> {
    let key = |role: Role| -> Result<HistogramKey> {
        let (kind, role) = (kind.0.try_into()?, role.0.try_into()?);
        Ok(HistogramKey { pod: pod.id, kind, role, a: 0, zero: 0 })
    };
    let seen = map.lookup(bytes_of(&key(Role::ROLE_SERVER)?), MapFlags::ANY)?;
    let seen = seen.ok_or("no histogram of a server")?;
    Ok(map.update(bytes_of(&key(Role::ROLE_CLIENT)?), &seen, MapFlags::ANY)?)
}

/// Durations over many buckets.
fn spread() -> Vec<(u64, u64)> {
    (0..40).map(|at| (1_000_000 << (at % 12), at)).collect()
}

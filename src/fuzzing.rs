//! The decoders of bytes that others write, each behind one function, for the crate `fuzz/`. Whatever the
//! bytes are, they return; what must be true of what they make of them is asserted there.

use std::{net::Ipv4Addr, os::unix::process::ExitStatusExt, process::ExitStatus};

use crate::{
    agent::{
        accept,
        flows::{assemble::Assembly, filter::Filter, flow::Flow},
        otlp,
        overview::Overview,
    },
    attachment::Attachment,
    cli::{
        events::Events,
        line::{Colours, line},
    },
    cni::{
        args::Args, behind::Behind, chain, check, config, counting::Counting, list, reply,
        wanted::Wanted,
    },
    error::Result,
    ipam::{delegate, resolv},
    record::{NetnsRef, Record},
    telemetry::records,
};

/// Elements of the kernel's ring, each behind its length (2 bytes); the lines that `weir observe` shows.
pub fn ring(bytes: &[u8]) -> Vec<String> {
    let (mut assembly, mut rest, mut lines) = (Assembly::new(), bytes, Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(behind.len());
        let (element, others) = behind.split_at(length);
        rest = others;
        let told = records::decode(element);
        if let Some(flow) = told.and_then(|(record, data)| assembly.take(&record, data)) {
            lines.push(line(&flow, Colours(false)));
        }
    }
    lines
}

/// A runtime's call: the configuration on stdin, with `prevResult`, `runtimeConfig` and all it may have.
///
/// # Errors
/// As the plugin's.
pub fn stdin(bytes: &[u8]) -> Result<()> {
    let config = config::decode(bytes).and_then(config::Config::parse)?;
    Counting::parse(&config)?;
    if let Some(result) = chain::interfaces_before(&config)? {
        chain::addresses(result.value(), "eth0");
        reply::passed_on(config.version, result.value().clone());
        let its = Attachment::new("c1", "eth0")?;
        let record = Record::new(&its, "pods", NetnsRef { path: "/".into(), dev: 4, ino: 5 })?;
        // What differs is no error of the decoder.
        let _ = check::consult(&result, &its, &record);
    }
    let behind = Behind::look(&config, &Args::default())?;
    Wanted::parse(&config, &Args::default()).map(|wanted| drop(wanted.beside(&behind)))
}

/// `CNI_ARGS`.
pub fn args(bytes: &[u8]) {
    let args = Args::parse(&String::from_utf8_lossy(bytes));
    let _ = (args.ip(), args.mac());
}

/// What an IPAM plugin prints, whether it says to have failed or not.
pub fn delegate(bytes: &[u8]) {
    let _ = delegate::lease("fuzz", bytes);
    let _ = delegate::refusal("fuzz", ExitStatus::from_raw(256), bytes);
}

/// A record in the journal.
pub fn record(bytes: &[u8]) {
    is_record(bytes);
}

/// Whether [`record`] finds one.
pub fn is_record(bytes: &[u8]) -> bool {
    let found = Attachment::new("c1", "eth0").ok().map(|its| Record::decode(bytes, &its));
    let Some(Ok(record)) = found else { return false };
    record.addresses().for_each(drop);
    true
}

/// One that [`record`] accepts; empty if none could be made.
pub fn a_record() -> Vec<u8> {
    let netns = NetnsRef { path: "/proc/1/ns/net".into(), dev: 4, ino: 4_026_531_840 };
    let made = Attachment::new("c1", "eth0").and_then(|its| Record::new(&its, "pods", netns));
    let written = made.and_then(|mut record| {
        record.pod.name = "web".into();
        record.host_ifindex = Some(7);
        record.others_addresses = vec![Ipv4Addr::new(10, 88, 0, 2).into()];
        record.encode()
    });
    written.unwrap_or_default()
}

/// A query of `/api/flows`; the queries that it is written as again, and that one is.
pub fn query(bytes: &[u8]) -> Option<(String, String)> {
    let filter = Filter::from_query(&String::from_utf8_lossy(bytes)).ok()?;
    filter.judge(&Flow::default());
    let written = filter.to_query();
    let again = Filter::from_query(&written).map(|filter| filter.to_query()).unwrap_or_default();
    Some((written, again))
}

/// What answers `weir observe`, in two pieces; the lines that it shows.
pub fn events(bytes: &[u8]) -> Vec<String> {
    let mut events = Events::default();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let found = [first, second].into_iter().filter_map(|piece| events.take(piece)).flatten();
    let records = found.filter(|event| event.name.is_empty());
    let flows = records.filter_map(|event| serde_json::from_str::<Flow>(&event.data).ok());
    flows.map(|flow| line(&flow, Colours(false))).collect()
}

/// What a scraper's headers ask for: `Accept`, and `Accept-Encoding`.
pub fn accept(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = (accept::form(Some(&text)), accept::gzip(&text));
}

/// A network's list, as runtimes have it in a directory; the plugins from Weir's on.
pub fn conflist(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes);
    list::from(&serde_json::from_str(&text).ok()?, "pods", "weir").map(|plugins| plugins.len())
}

/// What answers `weir top`; how many pods there are.
pub fn overview(bytes: &[u8]) -> Option<usize> {
    serde_json::from_slice::<Overview>(bytes).ok().map(|overview| overview.pods.len())
}

/// What an OpenTelemetry receiver answers; how many spans or data points it refused.
pub fn receiver(bytes: &[u8]) -> u64 {
    otlp::rejected(bytes)
}

/// A resolv.conf(5).
pub fn resolv(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = resolv::parse(text);
    }
}

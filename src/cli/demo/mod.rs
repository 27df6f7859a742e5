//! `weir demo`: the whole job on real traffic, in namespaces that vanish with the process.
//!
//! Two pods are plumbed as a runtime does it; a client in one talks HTTP and DNS to servers in the
//! other, each end keeping its own count; then the kernel's counts are set beside theirs.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    process::ExitCode,
};

use self::{
    node::{Added, Pod},
    report::Report,
    seen::Seen,
};
use super::Output;
use crate::{
    agent::log,
    error::{Context, Error, Kind, Result},
};

mod client;
mod dns;
mod http;
mod node;
mod report;
mod seen;
mod server;

/// Plumbs two throw-away pods, sends real traffic between them, shows what the kernel counted.
///
/// Needs root. Everything happens in namespaces of its own: nothing of this host's network is
/// touched, and nothing is left behind however it ends.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The form of the read-out
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// Runs the demo; fails unless every exchange was counted as what it was.
pub fn run(args: &Args) -> Result<ExitCode> {
    node::enter()?;
    log::say("demo: a node in namespaces of its own");
    let (web, client) = (Pod::new("web")?, Pod::new("client")?);
    let (added_web, added_client) = (add(&web)?, add(&client)?);
    let seen = traffic(&web, &added_web.addresses, &client)?;
    let report = report::read(&seen)?;
    for (pod, added) in [(&web, &added_web), (&client, &added_client)] {
        let took = pod.del(&added.reply)?;
        log::say(format_args!("demo: DEL {} in {took:.1?}", pod.name));
    }
    show(args.output, [&added_web, &added_client], &report)?;
    Ok(if report.exact() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn add(pod: &Pod) -> Result<Added> {
    let added = pod.add()?;
    let addresses: Vec<String> = added.addresses.iter().map(ToString::to_string).collect();
    let (took, addresses) = (added.took, addresses.join(" and "));
    log::say(format_args!("demo: ADD {} in {took:.1?}: {addresses}", pod.name));
    Ok(added)
}

/// Everything that both ends saw, over each of the server's addresses.
fn traffic(web: &Pod, addresses: &[IpAddr], client: &Pod) -> Result<Seen> {
    let (http_served, dns_served) = (server::Served::default(), dns::Served::default());
    let mut seen = Seen::default();
    for &address in addresses {
        let (http, dns) = (SocketAddr::new(address, 80), SocketAddr::new(address, 53));
        let listener = web.netns.run(|| TcpListener::bind(http))?;
        let socket = web.netns.run(|| UdpSocket::bind(dns))?;
        server::serve(listener.map_err(|err| failed("HTTP", http, &err))?, http_served.clone());
        dns::serve(socket.map_err(|err| failed("DNS", dns, &err))?, dns_served.clone());
        let answered = client::run(&client.netns, http)?;
        log::say(format_args!(
            "demo: {} HTTP exchanges with {http}",
            answered.values().sum::<u64>()
        ));
        merge(&mut seen.http_answered, answered);
        let answered = dns::run(&client.netns, dns)?;
        log::say(format_args!("demo: {} DNS look-ups at {dns}", answered.values().sum::<u64>()));
        merge(&mut seen.dns_answered, answered);
    }
    seen.http_served = http_served.tally();
    seen.dns_served = dns_served.tally();
    Ok(seen)
}

fn merge<K: Ord>(
    all: &mut std::collections::BTreeMap<K, u64>,
    more: std::collections::BTreeMap<K, u64>,
) {
    for (key, count) in more {
        *all.entry(key).or_default() += count;
    }
}

fn show(output: Output, added: [&Added; 2], report: &Report) -> Result<()> {
    let replies = added.map(|added| &added.reply);
    let text = match output {
        Output::Json => report.json(&replies),
        Output::Text => {
            let reply = serde_json::to_string_pretty(replies[0])
                .context(Kind::Decode, || "can't print the reply".into())?;
            log::say("demo: what the ADD of web told its runtime, and then what was counted:");
            format!("{reply}\n\n{}", report.text())
        }
    };
    super::print(&text)
}

/// An exchange that did not go as it should.
fn failed(protocol: &str, server: SocketAddr, err: &std::io::Error) -> Error {
    Error::new(Kind::Unavailable, format!("{protocol} with {server} failed")).details(err)
}

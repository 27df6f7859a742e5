//! The long-lived half: shows what the kernel counted, and counts nothing itself.
//!
//! ```text
//! totals (a thread, owns the maps) > series (by the table of families) > exposition > server > routes
//! flows (a thread, owns the ring of live records while somebody listens)          > server > routes
//! both > otlp > a receiver, if one is named
//! ```
//!
//! Nothing waits for it: a pod is plumbed and counted without an agent, and one that is started late
//! or killed and started again shows the same totals.

use std::{
    io::{self, IsTerminal},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinSet,
};

use crate::{
    error::{Context, Error, Kind, Result},
    record,
    telemetry::place::Place,
};

pub(crate) mod accept;
mod audit;
mod budget;
mod cached;
#[cfg(test)]
mod dashboard;
#[cfg(test)]
mod docs;
pub mod due;
mod exemplar;
mod exposition;
pub(crate) mod families;
pub(crate) mod family;
mod fill;
#[cfg(test)]
pub(crate) mod fixture;
pub mod flows;
pub mod hosts;
mod journal;
mod keeper;
pub(crate) mod labels;
pub mod log;
pub mod otlp;
pub mod overview;
mod page;
pub(crate) mod pods;
mod privilege;
pub(crate) mod reading;
pub mod roster;
mod routes;
pub(crate) mod series;
mod server;
pub(crate) mod server_names;
mod takeover;
pub(crate) mod totals;

use keeper::Keeper;

/// What the agent is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Addresses to serve on.
    pub listen: Vec<SocketAddr>,
    /// Directory of the attachment records.
    pub state_dir: PathBuf,
    /// Directory of the pinned maps.
    pub bpf_dir: PathBuf,
    /// Where spans and metrics are sent, if anywhere.
    pub otlp: Option<otlp::Options>,
    /// For each pod and role so many names of TLS servers are told apart, if any.
    pub tls_names: Option<usize>,
    /// What the machine is called besides its own name.
    pub allowed_hosts: Vec<hosts::Name>,
}

/// Serves until SIGTERM or SIGINT, or until its terminal is gone.
///
/// # Errors
/// `Kind::Io` naming an address that can't be listened on; `Kind::Unavailable` where another agent serves
/// the same maps, or has taken them over while there were none; `Kind::Kernel` for want of a thread.
/// Absent maps are no error: they are looked for until they are there.
pub fn run(options: Options) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(Kind::Kernel, || "can't start the event loop".into())?
        .block_on(serve(options))
}

async fn serve(options: Options) -> Result<()> {
    let Options { listen, state_dir, bpf_dir, otlp, tls_names, allowed_hosts } = options;
    // Before anything else: a signal that comes early must not kill.
    let told = told_to_stop()?;
    // Nobody is told of an address whose agent is refused a moment later.
    let place =
        Place::take(&bpf_dir, |place| record::holders_of(place).first().map(ToString::to_string))?;
    let mut listeners = Vec::with_capacity(listen.len());
    for address in listen {
        listeners.push(server::bind(address)?);
    }
    // A port below 1024 takes one more capability: those are bound by now. No other thread runs yet.
    privilege::drop_all_but_needed()?;
    let spans = otlp.as_ref().map(|_| Arc::new(otlp::queue::Spans::default()));
    let names = tls_names.map(|places| Arc::new(server_names::ServerNames::new(places)));
    let finds = flows::Finds { exemplars: Arc::default(), spans: spans.clone(), names };
    let (flows, flows_thread) =
        flows::Flows::start(state_dir.clone(), bpf_dir.clone(), finds.clone())?;
    let (lost, displaced) = oneshot::channel();
    let keeper = Keeper::new(place, lost);
    let node = own_name();
    let hosts = hosts::Hosts::new(&node, allowed_hosts);
    let (totals, totals_thread) =
        totals::Totals::start(node.into(), state_dir, bpf_dir, finds, keeper)?;
    let sources = Arc::new(routes::Sources { totals, flows, hosts });
    let (stop, stopped) = watch::channel(());
    let mut servers = JoinSet::new();
    for listener in listeners {
        // Only now: who plumbs a pod on having read this has it counted among those that came.
        if let Ok(address) = listener.local_addr() {
            log::say(format_args!("agent: listening on http://{address}/metrics"));
        }
        let mut stopped = stopped.clone();
        // The sender gone means the same as a message: stop.
        let stop = async move { drop(stopped.changed().await) };
        servers.spawn(server::serve(listener, Arc::clone(&sources), stop));
    }
    if let (Some(options), Some(spans)) = (otlp, spans) {
        let exporter = otlp::Exporter::new(options, spans);
        servers.spawn(exporter.run(Arc::clone(&sources), stopped));
    }
    let displaced = tokio::select! {
        () = told => None,
        // The thread goes on as long as its handle.
        Ok(err) = displaced => Some(err),
    };
    log::say("agent: stopping");
    // Streams have no end of their own. What the thread holds back is there for the exporter's last batches.
    sources.flows.close();
    let died = |_| Error::new(Kind::Kernel, "a reading thread died");
    flows_thread.join().map_err(died)?;
    drop(stop);
    while servers.join_next().await.is_some() {}
    drop(sources);
    totals_thread.join().map_err(died)?;
    displaced.map_or(Ok(()), Err)
}

/// The machine's name; empty if it has none that is a text.
fn own_name() -> String {
    let told = nix::sys::utsname::uname().ok();
    told.and_then(|told| told.nodename().to_str().map(str::to_owned)).unwrap_or_default()
}

/// Done once SIGTERM or SIGINT has come, or its terminal has gone: all three are caught from now on.
/// Without a terminal SIGHUP asks a daemon to read its configuration again, and this one has none.
fn told_to_stop() -> Result<impl Future<Output = ()>> {
    let handler = |kind| signal(kind).context(Kind::Kernel, || "can't handle signals".into());
    let (mut terminate, mut interrupt, mut hangup) = (
        handler(SignalKind::terminate())?,
        handler(SignalKind::interrupt())?,
        handler(SignalKind::hangup())?,
    );
    let by_hand = io::stdin().is_terminal() || io::stderr().is_terminal();
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                _ = hangup.recv() => {
                    if by_hand {
                        return;
                    }
                    log::say(
                        "agent: SIGHUP changes nothing: the configuration is the command line, \
                         restart it to change that; no total is lost",
                    );
                }
            }
        }
    })
}

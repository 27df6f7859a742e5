//! `weir agent`: the flags of the long-lived half.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    agent::{
        self, Options, hosts,
        otlp::{self, Endpoint},
    },
    cni::{BPF_DIR, STATE_DIR},
    error::{Error, Kind, Result},
};

/// Serves what the kernel counted until SIGTERM or SIGINT.
///
/// Nothing depends on it: pods start, stop and are counted without an agent, and an agent that is
/// started late or again shows the same totals.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address and port to serve on; may be given several times
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9920", value_parser = listen)]
    listen: Vec<SocketAddr>,
    /// Answer for the page and /api/ under this host name, too; may be given several times
    ///
    /// Besides addresses, localhost and the machine's own name. Any other name may be that of a site which wants to
    /// read here what a browser of yours can reach. /metrics, /healthz and /readyz are served under every name.
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<hosts::Name>,
    /// Send spans of traced requests, and all metrics, to this OTLP receiver
    ///
    /// A URL such as http://127.0.0.1:4317. Spans are made of HTTP and gRPC requests that come with a
    /// sampled W3C traceparent; see docs/traces.md. While the receiver is away, as many as there is room
    /// for wait for it.
    #[arg(long, value_name = "URL", value_parser = endpoint)]
    otlp_endpoint: Option<String>,
    /// How the receiver is spoken to
    #[arg(long, value_name = "PROTOCOL", value_enum, default_value = "grpc")]
    otlp_protocol: Protocol,
    /// Between two exports of the metrics, such as 15s
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "1m")]
    otlp_interval: Duration,
    /// Count TLS handshakes by server name (SNI), telling this many names of a pod and role apart
    ///
    /// The first names that come are told apart, all others are one, __other__; a name that nobody asked
    /// for in an hour makes room for the next. Live records are then read all the time, as by an observer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=50))]
    tls_sni_top: Option<u8>,
    /// Directory of the attachment records
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Directory of the pinned programs and maps, on a bpffs
    #[arg(long, value_name = "DIR", default_value = BPF_DIR)]
    bpf_dir: PathBuf,
}

/// As [`otlp::Protocol`].
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Protocol {
    /// gRPC, port 4317 unless the URL names one
    Grpc,
    /// Protocol buffers over HTTP, port 4318 unless the URL names one
    Http,
}

/// Told at once whether it is one; what it means depends on the protocol.
fn endpoint(url: &str) -> Result<String, String> {
    Endpoint::parse(url, otlp::Protocol::Grpc).map(|_| url.to_owned())
}

/// What is shorter than a second would be the same page again.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|err| err.to_string())?;
    let bounds = Duration::from_secs(1)..=Duration::from_secs(86_400);
    if bounds.contains(&interval) { Ok(interval) } else { Err("it is from 1s to 1day".into()) }
}

/// Names are not looked up: what one means may change, and where an agent can be reached must not.
fn listen(text: &str) -> Result<SocketAddr, String> {
    let hint =
        "an address and a port are needed, such as 127.0.0.1:9920 or [::1]:9920; no host name";
    text.parse().map_err(|_| hint.to_owned())
}

/// Runs the agent in the foreground.
pub fn run(args: Args) -> Result<()> {
    let Args { state_dir, bpf_dir, .. } = args;
    let protocol = match args.otlp_protocol {
        Protocol::Grpc => otlp::Protocol::Grpc,
        Protocol::Http => otlp::Protocol::Http,
    };
    let otlp = match args.otlp_endpoint {
        None => None,
        Some(url) => {
            let endpoint = Endpoint::parse(&url, protocol);
            let endpoint = endpoint.map_err(|wrong| Error::new(Kind::Environment, wrong))?;
            Some(otlp::Options { endpoint, interval: args.otlp_interval })
        }
    };
    let tls_names = args.tls_sni_top.map(usize::from);
    let (listen, allowed_hosts) = (args.listen, args.allow_host);
    agent::run(Options { listen, state_dir, bpf_dir, otlp, tls_names, allowed_hosts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_is_answered_with_one() {
        assert_eq!(listen("[::1]:80").unwrap(), "[::1]:80".parse().unwrap());
        for text in ["localhost:9920", "9920", ":9920", "127.0.0.1", "::1:9920:", ""] {
            assert!(listen(text).unwrap_err().contains("such as 127.0.0.1:9920"), "{text}");
        }
    }
}

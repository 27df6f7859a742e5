//! OTLP: spans of traced requests, and all metrics at an interval, sent to a receiver.
//!
//! ```text
//! flows > queue of spans ─┐
//! totals > metrics ───────┴> export (batches, retries) > client (gRPC or HTTP) > receiver
//! ```
//!
//! Nothing that is counted waits for a receiver. Spans of an outage wait for it to end, as many as there
//! is room for; metrics are cumulative, so that a missed export loses nothing.

mod client;
mod export;
mod message;
pub mod metrics;
pub mod queue;
mod resource;
mod span;

use std::time::Duration;

pub(crate) use client::rejected;
pub use export::Exporter;

/// How OTLP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2 in the clear.
    Grpc,
    /// Protocol buffers over HTTP/1.1.
    Http,
}

/// Where the receiver is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// As it was given.
    pub url: String,
    /// `host:port`, as requests name it.
    pub authority: String,
    /// Name or address to connect to.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
    /// What paths begin with over HTTP; without a slash at its end.
    pub path: String,
    /// How it is spoken to.
    pub protocol: Protocol,
}

/// What the exporter is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The receiver.
    pub endpoint: Endpoint,
    /// Between two exports of metrics.
    pub interval: Duration,
}

impl Endpoint {
    /// Reads a URL, with OTLP's port for the protocol where it names none.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn parse(url: &str, protocol: Protocol) -> Result<Self, String> {
        let uri: hyper::Uri = url.parse().map_err(|_| hint(url))?;
        if uri.scheme_str() == Some("https") {
            return Err(format!(
                "{url:?}: the agent speaks no TLS; name a collector on this node or in the cluster, by http://"
            ));
        }
        let authority = uri.authority().filter(|it| !it.as_str().contains('@'));
        let (Some("http"), Some(authority), None) = (uri.scheme_str(), authority, uri.query())
        else {
            return Err(hint(url));
        };
        let port = authority.port_u16().unwrap_or(match protocol {
            Protocol::Grpc => 4317,
            Protocol::Http => 4318,
        });
        let bare = authority.host();
        Ok(Self {
            url: url.to_owned(),
            authority: format!("{bare}:{port}"),
            host: bare.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            path: uri.path().trim_end_matches('/').to_owned(),
            protocol,
        })
    }
}

fn hint(url: &str) -> String {
    format!("{url:?} is no URL of a receiver, such as http://127.0.0.1:4317")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_and_port_or_the_protocols_own() {
        let of = |url: &str, protocol| {
            let Endpoint { authority, host, port, path, .. } =
                Endpoint::parse(url, protocol).unwrap();
            (authority, host, port, path)
        };
        let expected = ("a:4317".to_owned(), "a".to_owned(), 4317, String::new());
        assert_eq!(of("http://a", Protocol::Grpc), expected);
        let expected = ("[::1]:9".to_owned(), "::1".to_owned(), 9, "/otlp".to_owned());
        assert_eq!(of("http://[::1]:9/otlp/", Protocol::Http), expected);
    }

    #[test]
    fn what_is_no_endpoint_is_answered_with_one() {
        for url in ["", "a:4317", "ftp://a", "http://", "http://u:p@a", "http://a/?b", "http://a b"]
        {
            let err = Endpoint::parse(url, Protocol::Grpc).unwrap_err();
            assert!(err.contains("http://127.0.0.1:4317"), "{url}: {err}");
        }
        let err = Endpoint::parse("https://a", Protocol::Http).unwrap_err();
        assert!(err.contains("speaks no TLS"), "{err}");
    }
}

//! One exchange as a listener is told of it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::agent::labels::Value;

/// A word of a closed set in the agent, and any in what a client reads.
pub type Word = Cow<'static, str>;

/// One exchange; what does not apply or is not known is left out of the JSON.
///
/// Texts that come from pods hold neither control characters nor line ends: a path and a host are
/// percent-encoded outside of visible ASCII, names are as RFC 1035, section 5.1, writes them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flow {
    /// When it ended (RFC 3339, UTC).
    pub time: String,
    /// The pod's namespace, or empty.
    pub namespace: String,
    /// The pod's name, or its container id.
    pub pod: String,
    /// The pod's role: `server` or `client`.
    pub role: Word,
    /// `http`, `grpc`, `dns`, `tls`, `redis`, `postgresql`, `mysql`, `kafka`, or what a newer release knows.
    pub protocol: Word,
    /// HTTP's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Word>,
    /// HTTP's method, of the ten that are known, or `_OTHER`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Word>,
    /// The target without its query, which may hold secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `Host` or `:authority`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// HTTP's status, if a response was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there is no complete response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Word>,
    /// gRPC's status, `0` to `16` or `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<Word>,
    /// The name that DNS was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// DNS's query type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qtype: Option<Word>,
    /// DNS's return code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rcode: Option<Word>,
    /// What carried DNS: `udp` or `tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Word>,
    /// What a database was asked for, never with what values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Word>,
    /// What a database answered: `ok`, `error`, `no_response` or `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Word>,
    /// The version that the TLS server chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_version: Option<Word>,
    /// The versions that the TLS client offered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub offered_versions: Vec<Word>,
    /// The name that the TLS client asked for (SNI).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The protocols that the TLS client offered (ALPN).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
    /// Address and port of the other side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The other side's namespace, if it is a pod of this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_namespace: Option<String>,
    /// The other side's name, if it is a pod of this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_pod: Option<String>,
    /// The pod's own port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The trace that the request is part of, 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The span that sent the request, 16 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// Whether it failed: 5xx or no complete response, of gRPC the codes that OpenTelemetry counts as
    /// a server's errors, of DNS any code but NOERROR and NXDOMAIN, of databases an error or no answer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// Whether the caller records its trace.
    #[serde(skip)]
    pub sampled: bool,
}

impl Flow {
    /// Whether what it has of an answer makes it [`failed`](Self::failed).
    pub fn fails(&self) -> bool {
        let grpc = |status: &Word| matches!(&**status, "2" | "4" | "12" | "13" | "14" | "15");
        let dns = |rcode: &Word| !matches!(&**rcode, "NOERROR" | "NXDOMAIN");
        let db = |outcome: &Word| matches!(&**outcome, "error" | "no_response");
        self.error.is_some()
            || self.status.is_some_and(|status| (500..600).contains(&status))
            || self.grpc_status.as_ref().is_some_and(grpc)
            || self.rcode.as_ref().is_some_and(dns)
            || self.outcome.as_ref().is_some_and(db)
    }
}

/// Records that a listener was not given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// How many.
    pub records: u64,
    /// `ring`: the agent was too slow for the traffic; `client`: this client was; `head`: this client asks for a path, and
    /// theirs is not known; `away`: more than the agent keeps
    /// came while this client was away, whether it wanted them or not.
    #[serde(rename = "where")]
    pub place: Word,
}

/// A label's value as a word.
pub fn word(value: Value) -> Word {
    match value {
        Value::Name(name) => Cow::Borrowed(name),
        Value::Number(_) | Value::Text(_) => Cow::Owned(value.to_string()),
    }
}

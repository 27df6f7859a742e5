//! What a runtime asks for pod by pod (CONVENTIONS.md, "dynamic plugin specific fields"): ports of the
//! node that lead to the pod, and limits on its traffic.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// The transport protocols that have ports to map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, which an unnamed protocol means.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol of that name, in any case; none for another.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Tcp, Self::Udp, Self::Sctp];
        all.into_iter().find(|protocol| protocol.name().eq_ignore_ascii_case(name))
    }

    /// Its number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of the node that leads to one of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The port of the node, never 0.
    pub host_port: u16,
    /// The port of the pod, never 0.
    pub container_port: u16,
    /// The protocol of both.
    pub protocol: Protocol,
    /// The node's address that it is for: none for any, an unspecified one for any of its family.
    pub host_ip: Option<IpAddr>,
}

impl PortMapping {
    /// Whether it is for an address of that family.
    pub fn is_of(&self, v4: bool) -> bool {
        self.host_ip.is_none_or(|ip| ip.is_ipv4() == v4)
    }

    /// The one address that it is for; none if it is for any.
    pub fn address(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (port, protocol) = (self.host_port, self.protocol.name());
        match self.address() {
            Some(ip) => write!(f, "{port}/{protocol} of {ip}"),
            None => write!(f, "{port}/{protocol}"),
        }
    }
}

/// What a pod's traffic is limited to, by direction as the pod sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// To the pod.
    pub ingress: Option<Limit>,
    /// From the pod.
    pub egress: Option<Limit>,
}

impl Bandwidth {
    /// Whether anything is limited.
    pub fn is_limited(&self) -> bool {
        self.ingress.is_some() || self.egress.is_some()
    }
}

/// The limit of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub struct Limit {
    /// The rate in bits a second, Ethernet headers included.
    pub rate: u64,
    /// How much may pass at once after a pause, in bytes.
    pub burst: u32,
}

impl Limit {
    /// The least and the most, in bits a second: what Kubernetes takes.
    pub const RATES: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
    /// No packet takes more, with the headers of all segments that it stands for.
    const LONGEST_PACKET: u64 = 72 << 10;
    /// How long a packet waits at most, in milliseconds, beyond what the burst lets pass.
    const LATENCY_MS: u64 = 25;
    /// What the burst is worth where none was asked for, in milliseconds.
    const BURST_MS: u64 = 20;

    /// A limit with the burst that goes well with it: packets of all sizes pass whole, and a second's
    /// worth of traffic is hardly exceeded.
    pub fn of(rate: u64) -> Self {
        let burst = bytes(rate, Self::BURST_MS).max(Self::LONGEST_PACKET);
        Self { rate, burst: u32::try_from(burst).unwrap_or(u32::MAX) }
    }

    /// The rate in bytes a second.
    pub fn bytes_per_second(&self) -> u64 {
        self.rate / 8
    }

    /// How many bytes may be ahead of the rate: the burst, and what waits.
    pub fn ahead(&self) -> u64 {
        u64::from(self.burst) + bytes(self.rate, Self::LATENCY_MS)
    }

    /// How many bytes a queue must take that gets no more than is [`ahead`](Self::ahead) when the last
    /// packet comes.
    pub fn queue(&self) -> u32 {
        u32::try_from(self.ahead() + Self::LONGEST_PACKET).unwrap_or(u32::MAX)
    }
}

/// What a rate in bits a second is worth in so many milliseconds, in bytes.
fn bytes(rate: u64, milliseconds: u64) -> u64 {
    rate / 8 / 1000 * milliseconds
}

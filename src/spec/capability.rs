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

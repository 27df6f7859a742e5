//! Plain data of the CNI specification that more than one part of weir speaks: versions, routes, DNS.

use std::{fmt, net::IpAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize};

pub mod capability;

/// The spec versions that weir speaks, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK, and `prevResult` on DEL.
    V0_4_0,
    /// 1.0.0: no `version` in `ips` any more.
    V1_0_0,
    /// 1.1.0: GC, STATUS, `mtu` in interfaces, more of a route.
    V1_1_0,
}

impl Version {
    /// All of them, oldest first, as VERSION lists them.
    pub const ALL: [Self; 5] =
        [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// What weir speaks to a caller that named no version.
    pub const NEWEST: Self = Self::V1_1_0;

    /// The version of that text; `None` if weir doesn't speak it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.text() == text)
    }

    /// The text on the wire.
    pub fn text(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// An address for the container, as an IPAM gives it and a reply reports it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Address {
    /// The address with the prefix length of the subnet it was taken from.
    #[serde(deserialize_with = "interface_address")]
    pub address: IpNetwork,
    /// The subnet's gateway, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

impl Address {
    /// The address alone.
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// The subnet it was taken from.
    pub fn subnet(&self) -> IpNetwork {
        without_host_bits(self.address)
    }
}

/// A route inside the container, as a configuration asks for it and a reply reports it.
///
/// The fields after `gw` are of spec 1.1.0.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Route {
    /// The destination, without host bits.
    #[serde(deserialize_with = "network")]
    pub dst: IpNetwork,
    /// The next hop; none means weir's own gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// The path's MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The MSS in bytes to tell a TCP peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// The metric; lower wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// The routing table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// The kernel's `RT_SCOPE_*`: 0 global, 253 link, 254 host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Route {
    /// A route with a destination only.
    pub fn to(dst: IpNetwork) -> Self {
        Self { dst, gw: None, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// Name resolution for the container; weir only reports it, the runtime writes the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Dns {
    /// Addresses of name servers, by preference.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains, by preference.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options for the resolver.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads `address/prefix length`; the host bits stay.
///
/// # Errors
/// A sentence that says what is wrong with the text.
pub fn cidr(text: &str) -> Result<IpNetwork, String> {
    // IpNetwork alone would also take "10.0.0.1" and "10.0.0.0/255.0.0.0", which Go's CNI doesn't.
    let parts = text.split_once('/').and_then(|(ip, prefix)| {
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        Some((ip.parse().ok()?, prefix.parse().ok().filter(|_| digits)?))
    });
    parts
        .and_then(|(ip, prefix)| IpNetwork::new(ip, prefix).ok())
        .ok_or_else(|| format!("{text:?} is not an address with a prefix length"))
}

fn interface_address<'de, D: Deserializer<'de>>(json: D) -> Result<IpNetwork, D::Error> {
    let text = String::deserialize(json)?;
    cidr(&text).map_err(serde::de::Error::custom)
}

/// A network address as JSON; host bits are cut off, as Go's `net.ParseCIDR` does.
fn network<'de, D: Deserializer<'de>>(json: D) -> Result<IpNetwork, D::Error> {
    let text = String::deserialize(json)?;
    cidr(&text).map(without_host_bits).map_err(serde::de::Error::custom)
}

/// The network that an address with a prefix length lies in.
fn without_host_bits(net: IpNetwork) -> IpNetwork {
    // The prefix is the network's own, so the fallback can't be reached.
    IpNetwork::new(net.network(), net.prefix()).unwrap_or(net)
}

/// Go writes an empty slice as `null`.
pub fn null_is_empty<'de, D, T>(json: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(json)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_comes_back_from_its_text_and_no_other_text_is_one() {
        for version in Version::ALL {
            assert_eq!(Version::parse(version.text()), Some(version));
        }
        for text in ["", "0.1.0", "0.2.0", "1.2.0", "2.0.0", "1.1", "1.1.0 ", "v1.1.0"] {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_cidr_needs_a_decimal_prefix_within_its_family() {
        for text in ["10.0.0.1/24", "::/0", "fd00::1/128", "0.0.0.0/0"] {
            assert_eq!(cidr(text).unwrap().to_string(), text);
        }
        for text in ["", "10.0.0.1", "10.0.0.1/33", "10.0.0.0/255.0.0.0", "::/129", "10.0.0.1/+8"] {
            assert!(cidr(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_route_loses_its_host_bits_and_a_dns_its_nulls() {
        let route: Route = serde_json::from_str(r#"{"dst":"10.1.2.3/8","gw":null}"#).unwrap();
        assert_eq!(route, Route::to("10.0.0.0/8".parse().unwrap()));
        let dns: Dns = serde_json::from_str(r#"{"nameservers":null,"domain":null}"#).unwrap();
        assert!(dns.is_empty());
    }
}

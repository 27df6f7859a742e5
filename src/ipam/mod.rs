//! Addresses: which there are ([`range`]), who has them ([`pool`]), and the IPAM plugins that may
//! answer instead ([`delegate`]).

use serde::{Deserialize, Serialize};

use crate::spec::{Address, Dns, Route, null_is_empty};

pub mod delegate;
pub mod pool;
pub mod range;
pub mod resolv;

/// What an IPAM gives an attachment; also the JSON of an IPAM plugin's answer, whose other keys
/// are of no use here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Lease {
    /// The addresses, at least one.
    #[serde(default, rename = "ips", deserialize_with = "null_is_empty")]
    pub addresses: Vec<Address>,
    /// The routes that the container shall have.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub routes: Vec<Route>,
    /// Name resolution to report.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub dns: Dns,
}

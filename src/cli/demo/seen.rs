//! What the ends of the traffic counted themselves, named as the kernel's counts are.

use std::collections::BTreeMap;

use super::{dns, http};
use crate::agent::labels;

/// A family that the ends can speak of: HTTP exchanges.
pub const REQUESTS: &str = "weir_http_requests";
/// Likewise: DNS queries.
pub const QUERIES: &str = "weir_dns_queries";
/// Likewise: DNS responses.
pub const RESPONSES: &str = "weir_dns_responses";

/// Counts by pod and by the values of a family's labels.
pub type Counts = BTreeMap<(String, Vec<String>), u64>;

/// What the two ends of the traffic counted themselves.
#[derive(Debug, Default)]
pub struct Seen {
    /// By the HTTP server.
    pub http_served: http::Tally,
    /// By the HTTP client.
    pub http_answered: http::Tally,
    /// By the DNS responder.
    pub dns_served: dns::Tally,
    /// By the DNS client.
    pub dns_answered: dns::Tally,
}

impl Seen {
    /// What the ends know of a family; `None` where they know nothing.
    pub fn of(&self, family: &str) -> Option<Counts> {
        match family {
            REQUESTS => Some(self.requests()),
            QUERIES => Some(self.dns(|_| "udp".to_owned())),
            RESPONSES => Some(self.dns(|rcode| labels::dns_rcode(rcode.into()).to_string())),
            _ => None,
        }
    }

    fn requests(&self) -> Counts {
        let mut counts = Counts::new();
        for ((pod, role), tally) in ENDS.into_iter().zip([&self.http_served, &self.http_answered]) {
            for ((method, protocol, status), count) in tally {
                // A method that is not registered has this label.
                let known = labels::HTTP_METHODS.contains(&method.as_str());
                let method = if known { method } else { "_OTHER" };
                add(&mut counts, pod, [role, method, protocol, &status.to_string()], *count);
            }
        }
        counts
    }

    fn dns(&self, last_label: fn(u8) -> String) -> Counts {
        let mut counts = Counts::new();
        for ((pod, role), tally) in ENDS.into_iter().zip([&self.dns_served, &self.dns_answered]) {
            for ((qtype, rcode), count) in tally {
                let qtype = labels::dns_qtype((*qtype).into()).to_string();
                add(&mut counts, pod, [role, &qtype, &last_label(*rcode)], *count);
            }
        }
        counts
    }
}

/// Pod and role: the end that serves, and the end that asks.
const ENDS: [(&str, &str); 2] = [("web", "server"), ("client", "client")];

fn add<const N: usize>(counts: &mut Counts, pod: &str, values: [&str; N], count: u64) {
    let key = (pod.to_owned(), values.map(str::to_owned).to_vec());
    *counts.entry(key).or_default() += count;
}

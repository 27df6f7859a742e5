//! How the network's ranges lie in the node's own routing.

use ipnetwork::IpNetwork;

use super::{Finding, checks};
use crate::{
    error::Result,
    net::{address, claim, link},
};

/// A metric behind that of any other route to the same subnet.
const LAST: u32 = 4096;

/// Looks at the node's routing as far as these subnets are concerned; where there are none, another
/// plugin gives the addresses and knows better.
pub fn look(subnets: &[IpNetwork]) -> Vec<Finding> {
    if subnets.is_empty() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if subnets.iter().any(IpNetwork::is_ipv4) {
        findings.push(node_address().unwrap_or_else(|err| checks::untried("address", &err)));
    }
    findings.push(ranges(subnets).unwrap_or_else(|err| checks::untried("ranges", &err)));
    findings.push(unleased(subnets).unwrap_or_else(|err| checks::untried("unleased", &err)));
    findings
}

/// Pods are spoken to from the node's own address, and their links have none of IPv4.
fn node_address() -> Result<Finding> {
    Ok(if address::has_v4(&mut link::socket()?)? {
        Finding::ok("address", "the node has an IPv4 address to reach its pods from")
    } else {
        Finding::warn(
            "address",
            "the node has no IPv4 address, and can't reach the IPv4 addresses of its pods",
            "give it one, be it on lo; or run doctor in the host's network namespace",
        )
    })
}

fn ranges(subnets: &[IpNetwork]) -> Result<Finding> {
    let overlaps = claim::overlaps(subnets)?;
    let Some(first) = overlaps.first() else {
        return Ok(Finding::ok("ranges", "apart from the node's own networks"));
    };
    let text = first.to_string();
    let (says, mend) = text.split_once("; ").unwrap_or((&text, "take another range"));
    Ok(Finding::warn("ranges", says, mend))
}

/// The route that mends it is the operator's to make: Weir leaves no route behind when its last pod
/// goes, and doesn't know whether the rest of the subnet is other nodes'.
fn unleased(subnets: &[IpNetwork]) -> Result<Finding> {
    let leaving = claim::leaving(subnets)?;
    let Some((_, link)) = leaving.first() else {
        return Ok(Finding::ok("unleased", "addresses that no pod has lead nowhere"));
    };
    let listed: Vec<_> = leaving.iter().map(|(subnet, _)| subnet.to_string()).collect();
    let routes =
        listed.iter().map(|subnet| format!("ip route add unreachable {subnet} metric {LAST}"));
    let routes: Vec<_> = routes.collect();
    Ok(Finding::warn(
        "unleased",
        format!(
            "packets to addresses of {} that no pod has leave through {link}",
            listed.join(", ")
        ),
        format!("if they are all this node's: {}", routes.join("; ")),
    ))
}

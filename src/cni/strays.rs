//! What of Weir's is on the node for nobody that the records know: looked for, and left as it is.
//!
//! Of what [`reconcile`](super::reconcile) drops or leaves, for who only wants to know. Things are looked at before
//! the records are, since an ADD writes its record before it makes anything.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;

use super::reclaim;
use crate::{
    attachment::Attachment,
    error::Result,
    net::{link, nft},
    record::{self, Entry},
    telemetry::traces,
};

/// Attachments that have an interface or are counted, and have no record in any of these; as texts.
///
/// # Errors
/// Those of asking the kernel and of reading records.
pub fn unrecorded(state_dirs: &BTreeSet<PathBuf>, bpf_dir: &Path) -> Result<BTreeSet<String>> {
    let links = link::all(&mut link::socket()?)?;
    let marked = links.iter().filter_map(|link| Some(reclaim::owner(link)?.1.to_string()));
    let mut found: BTreeSet<String> = marked.collect();
    let traces = traces::list(bpf_dir)?;
    let recorded = records(state_dirs)?;
    for trace in traces {
        // A long id is cut there.
        let is_recorded = recorded.iter().any(|(attachment, _)| trace.is_of(attachment));
        found.extend(trace.owner().filter(|_| !is_recorded));
    }
    for (attachment, _) in recorded {
        found.remove(&attachment.to_string());
    }
    Ok(found)
}

/// Subnets that are masqueraded, and so exempt from it as a destination, for no pod and for no network that is
/// configured with one of these.
///
/// # Errors
/// Those of asking the kernel and of reading records.
pub fn masqueraded(
    state_dirs: &BTreeSet<PathBuf>,
    configured: &[IpNetwork],
) -> Result<Vec<String>> {
    let mut wanted = Vec::new();
    for (_, entry) in records(state_dirs)? {
        match entry {
            Entry::Record(record) => {
                wanted.extend(record.plumbing.into_iter().flat_map(|its| its.masquerade));
            }
            // It may be what that one needs.
            Entry::OutOfReach(_) | Entry::Unreadable(_) => return Ok(Vec::new()),
            Entry::Absent => {}
        }
    }
    let mut surplus = nft::masquerade_narrow(&wanted, false)?;
    surplus.retain(|subnet| !is_within(subnet, configured));
    Ok(surplus)
}

fn records(state_dirs: &BTreeSet<PathBuf>) -> Result<Vec<(Attachment, Entry)>> {
    let mut all = Vec::new();
    for state_dir in state_dirs {
        all.extend(record::list(state_dir)?);
    }
    Ok(all)
}

fn is_within(subnet: &str, configured: &[IpNetwork]) -> bool {
    let Ok(subnet) = subnet.parse::<IpNetwork>() else { return false };
    configured.iter().any(|wide| wide.prefix() <= subnet.prefix() && wide.contains(subnet.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_what_is_configured_is_and_what_is_wider_or_apart_is_not() {
        let configured = ["10.88.0.0/24", "fd00:88::/64"].map(|subnet| subnet.parse().unwrap());
        let within = |subnet: &str| is_within(subnet, &configured);
        assert!(within("10.88.0.0/24") && within("10.88.0.128/25") && within("fd00:88::/64"));
        assert!(!within("10.0.0.0/8") && !within("10.89.0.0/24") && !within("10.1.0.1-10.1.0.9"));
    }
}

//! What living attachments lack of what their ADD made, besides their counting: looked for, and left as it is.
//!
//! What [`mend`] puts back, for who only wants to know.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use super::{
    mend::{self, Mend},
    ports, teardown,
};
use crate::{
    attachment::Attachment,
    error::{Kind, Result},
    net::{link, nft, qdisc},
    record::{Plumbing, Record},
    telemetry::limit,
};

/// What each of these attachments lacks. Those whose ADD is under way, or whose link is gone, lack nothing.
///
/// # Errors
/// [`Kind::Kernel`] and [`Kind::Telemetry`]: it can't be told.
pub fn find<'a>(records: impl Iterator<Item = &'a Record>) -> Result<Vec<(Attachment, Mend)>> {
    let mut lacking = Vec::new();
    // All pods of a network have the same ones: asked about once.
    let mut networks = BTreeMap::<&[IpNetwork], bool>::new();
    for record in records.filter(|record| !record.under_way && !record.abandoned) {
        let (Some(plumbing), Some(index)) = (&record.plumbing, record.host_ifindex) else {
            continue;
        };
        if !teardown::still_there(record) {
            continue;
        }
        let attachment = record.attachment()?;
        let subnets = &*plumbing.masquerade;
        let bare = match networks.get(subnets) {
            Some(bare) => *bare,
            None if subnets.is_empty() => false,
            None => differs(nft::masquerade_check(subnets))?,
        };
        networks.insert(subnets, bare);
        let found = [
            (is_unlimited(record, plumbing, index)?, Mend::Limited),
            (differs(ports::check(&attachment, plumbing))?, Mend::Exposed),
            (bare, Mend::Masqueraded),
        ];
        let found = found.into_iter().filter(|(lacks, _)| *lacks);
        lacking.extend(found.map(|(_, what)| (attachment.clone(), what)));
    }
    Ok(lacking)
}

/// Whether a limited pod is not held to its bandwidth on the host side.
fn is_unlimited(record: &Record, plumbing: &Plumbing, index: u32) -> Result<bool> {
    if plumbing.guarded && differs(limit::verify(&record.bpf_dir, index, &plumbing.bandwidth))? {
        return Ok(true);
    }
    let Some((_, limit)) = mend::queue(record) else { return Ok(false) };
    differs(qdisc::check(&mut link::socket()?, &record.host_ifname, index, limit))
}

/// Whether a check found a difference.
fn differs(checked: Result<()>) -> Result<bool> {
    match checked {
        Err(err) if err.kind() == Kind::Difference => Ok(true),
        checked => checked.map(|()| false),
    }
}

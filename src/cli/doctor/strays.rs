//! What of Weir's is there for nobody: interfaces and counters of a state directory that was lost or is another, and
//! subnets that a configuration of before has left.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    thread,
};

use ipnetwork::IpNetwork;

use super::{Finding, checks};
use crate::{
    cni::{mend::A_CALL, strays},
    error::Result,
};

/// Of so many attachments the names are said.
const NAMED: usize = 3;

/// Looks at interfaces, maps and the masquerade; nothing to say where all belongs to somebody. `configured` are the
/// subnets of all networks of Weir's that the runtime has, and their state directories are among these.
pub fn look(
    state_dirs: &BTreeSet<PathBuf>,
    bpf_dir: &Path,
    configured: &[IpNetwork],
) -> Option<Finding> {
    let unrecorded = match unrecorded(state_dirs, bpf_dir) {
        Ok(unrecorded) => unrecorded,
        Err(err) => return Some(checks::untried("records", &err)),
    };
    if !unrecorded.is_empty() {
        // Whose subnets they are can't be known either.
        return Some(lost(state_dirs, &unrecorded));
    }
    match strays::masqueraded(state_dirs, configured) {
        Ok(subnets) if subnets.is_empty() => None,
        Ok(subnets) => Some(left(&subnets)),
        Err(err) => Some(checks::untried("masquerade", &err)),
    }
}

/// Those of a call that ends meanwhile are none.
fn unrecorded(state_dirs: &BTreeSet<PathBuf>, bpf_dir: &Path) -> Result<BTreeSet<String>> {
    let mut first = strays::unrecorded(state_dirs, bpf_dir)?;
    if !first.is_empty() {
        thread::sleep(A_CALL);
        let second = strays::unrecorded(state_dirs, bpf_dir)?;
        first.retain(|attachment| second.contains(attachment));
    }
    Ok(first)
}

fn lost(state_dirs: &BTreeSet<PathBuf>, unrecorded: &BTreeSet<String>) -> Finding {
    let named: Vec<&str> = unrecorded.iter().take(NAMED).map(String::as_str).collect();
    let more = match unrecorded.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown: Vec<_> = state_dirs.iter().map(|dir| dir.display().to_string()).collect();
    let shown = shown.join(" and ");
    Finding::warn(
        "records",
        format!(
            "no record in {shown} is of pods that are there, as it was lost or is elsewhere: {}{more}",
            named.join(", ")
        ),
        "if the configuration has another stateDir, give it by --state-dir; else they run on until they are made \
         anew, and weir reconcile takes away what is left of those that ended",
    )
}

fn left(subnets: &[String]) -> Finding {
    Finding::warn(
        "masquerade",
        format!(
            "subnets of no pod and of no configured network are in nftables table inet weir, and what masqueraded \
             pods send there keeps their own address: {}",
            subnets.join(", ")
        ),
        "weir reconcile",
    )
}

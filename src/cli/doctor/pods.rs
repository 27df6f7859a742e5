//! Whether the pods of this node still have what their ADD made, of what other tools take away on a node: hooks,
//! limits and rules. Links, addresses and routes are for CHECK to compare, which knows the namespace.

use std::{collections::BTreeMap, path::Path, thread};

use super::{Finding, checks};
use crate::{
    agent::{
        due::{due, names},
        roster::{Member, join},
    },
    attachment::Attachment,
    cli::{
        pods::{A_CALL, uncounted},
        several,
    },
    cni::{lacking, mend::Mend},
    error::Result,
    record::{self, Entry},
    telemetry::{census, pin},
};

const CHECK: &str = "pods";

/// Looks at the records, the maps, the hooks and the rules; nothing where there are no pods.
pub fn look(state_dir: &Path, bpf_dir: &Path) -> Option<Finding> {
    let journal = record::list(state_dir).ok()?;
    let lacking = match lacking(state_dir) {
        Ok(lacking) => lacking,
        Err(err) => return Some(checks::untried(CHECK, &err)),
    };
    let looked = census(bpf_dir).and_then(|all| Ok((all, uncounted(state_dir, bpf_dir)?)));
    let (census, uncounted) = match looked {
        Ok((census, uncounted)) => (Some(census), uncounted),
        // Of a bpffs that is not there another check tells.
        Err(_) if !journal.iter().any(|(_, entry)| is_counted(entry)) => (None, Vec::new()),
        Err(err) => {
            let says = format!("whether pods are counted can't be told: {err}");
            return Some(Finding::warn(CHECK, says, "put that right, then once more: weir doctor"));
        }
    };
    let mut members = join(&journal, census.as_ref(), &BTreeMap::new());
    for uncounted in uncounted {
        let same = members.iter_mut().find(|member| member.attachment == uncounted.attachment);
        same.into_iter().for_each(|member| member.state = uncounted.state.clone());
    }
    judge(&members, &lacking)
}

/// Whether a record says that its pod is counted.
fn is_counted(entry: &Entry) -> bool {
    matches!(entry, Entry::Record(record) if record.telemetry.is_some())
}

/// What attachments lack, and no call that runs is about to make or to take away.
fn lacking(state_dir: &Path) -> Result<Vec<(Attachment, Mend)>> {
    let look = || {
        let journal = record::list(state_dir)?;
        lacking::find(journal.iter().filter_map(|(_, entry)| match entry {
            Entry::Record(record) => Some(&**record),
            Entry::Absent | Entry::Unreadable(_) | Entry::OutOfReach(_) => None,
        }))
    };
    let mut first = look()?;
    if !first.is_empty() {
        thread::sleep(A_CALL);
        let second = look()?;
        first.retain(|lacked| second.contains(lacked));
    }
    Ok(first)
}

fn judge(members: &[Member], lacking: &[(Attachment, Mend)]) -> Option<Finding> {
    if members.is_empty() {
        return None;
    }
    let due = due(members);
    let (reload, due): (Vec<_>, Vec<_>) =
        due.into_iter().partition(|due| due.mend == pin::OTHERS_MEND);
    let mut said: Vec<String> = due.into_iter().map(|due| due.says).collect();
    for (mend, says) in [
        (Mend::Limited, "pods are not held to their bandwidth"),
        (Mend::Exposed, "host ports don't lead to their pods"),
        (Mend::Masqueraded, "what pods send out is not masqueraded"),
    ] {
        let lacks = |member: &&Member| {
            lacking.iter().any(|(pod, what)| {
                *what == mend
                    && (pod.container_id(), pod.ifname()) == (&member.container_id, &member.ifname)
            })
        };
        let those: Vec<_> = members.iter().filter(lacks).collect();
        if !those.is_empty() {
            said.push(format!("{says}: {}", names(&those)));
        }
    }
    if said.is_empty() {
        let pods = several(members.len(), "attachment");
        return Some(Finding::ok(
            CHECK,
            format!("{pods}, with hooks, limits, host ports and masquerade in place"),
        ));
    }
    let mend =
        if reload.is_empty() { "weir reconcile" } else { "weir reload, then weir reconcile" };
    Some(Finding::warn(CHECK, said.join("; "), mend))
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};
    use crate::agent::{fixture::members, roster::State};

    #[test]
    fn all_that_is_missing_is_one_finding_with_the_names_and_the_mend() {
        let states = [State::Counted, State::Lost, State::Detached, State::Counted];
        let lacks = |pod: &str, what| (Attachment::new(pod, "eth0").unwrap(), what);
        let lacking = [
            lacks("p0", Mend::Masqueraded),
            lacks("p0", Mend::Exposed),
            lacks("p3", Mend::Masqueraded),
        ];
        let said = judge(&members(&states), &lacking).unwrap();
        assert_eq!((said.verdict, said.mend.as_deref()), (Verdict::Warn, Some("weir reconcile")));
        for words in [
            "as the pins were removed: shop/p1;",
            "took their hooks off: shop/p2;",
            "host ports don't lead to their pods: shop/p0;",
            "what pods send out is not masqueraded: shop/p0, shop/p3",
        ] {
            assert!(said.says.contains(words), "{said:?}");
        }
        let waiting = State::OtherVersion("0123".to_owned());
        let said = judge(&members(&[State::Detached, waiting.clone()]), &[]).unwrap();
        assert_eq!(said.mend.as_deref(), Some("weir reload, then weir reconcile"));
        // Of an upgrade alone another check tells.
        let said = judge(&members(&[State::Counted, waiting]), &[]).unwrap();
        assert_eq!(
            (said.verdict, &*said.says),
            (Verdict::Ok, "2 attachments, with hooks, limits, host ports and masquerade in place")
        );
        assert_eq!(judge(&[], &[]), None);
    }
}

//! Whether the pods of this node still have what their ADD made, of what other tools take away on a node: hooks,
//! limits and rules. Links, addresses and routes are for CHECK to compare, which knows the namespace.

use std::{collections::BTreeMap, path::Path, thread};

use super::{Finding, checks};
use crate::{
    agent::{
        due::{Due, due, names},
        roster::{Member, State, join},
    },
    attachment::Attachment,
    cli::{pods::uncounted, several},
    cni::{
        lacking,
        mend::{A_CALL, Mend},
    },
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
        let is_same = |member: &&mut Member| {
            (&member.container_id, &member.ifname) == (&uncounted.container_id, &uncounted.ifname)
        };
        let same = members.iter_mut().find(is_same);
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
    let of = |due: &Due, state: &State| due.state == state.word();
    let (reload, due): (Vec<_>, Vec<_>) =
        due(members).into_iter().partition(|due| due.mend == pin::OTHERS_MEND);
    let cut = due.iter().find(|due| of(due, &State::Disconnected)).map(|due| due.mend);
    let mut is_reconciled = due.iter().any(|due| !of(due, &State::Disconnected));
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
            is_reconciled = true;
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
    let reconcile =
        if reload.is_empty() { "weir reconcile" } else { "weir reload, then weir reconcile" };
    let mends: Vec<_> = is_reconciled.then_some(reconcile).into_iter().chain(cut).collect();
    Some(Finding::warn(CHECK, said.join("; "), mends.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};
    use crate::agent::fixture::members;

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
        // What takes more than a command of Weir's.
        let said = judge(&members(&[State::Counted, State::Disconnected]), &[]).unwrap();
        assert!(said.says.contains("gone from the node") && said.says.ends_with(": shop/p1"));
        assert!(said.mend.unwrap().starts_with("let their runtime make them anew"));
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

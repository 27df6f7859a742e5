//! What is to be done so that every living pod is counted, and shown by this version.

use std::{collections::BTreeSet, fmt, path::Path};

use super::{
    log::visible,
    roster::{Member, State},
};
use crate::telemetry::pin;

/// Of so many pods the names are said, of the others how many there are.
const NAMED: usize = 3;

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The [word](State::word) of the pods' state, or another of its own.
    pub state: &'static str,
    /// What is so, with the names of some pods.
    pub says: String,
    /// The command.
    pub mend: &'static str,
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.says, self.mend)
    }
}

/// All that is due by the states of a node's attachments: one for each state that asks for something.
pub fn due(members: &[Member]) -> Vec<Due> {
    let of = |is: fn(&State) -> bool| {
        let found: Vec<&Member> = members.iter().filter(|member| is(&member.state)).collect();
        let word = found.first()?.state.word();
        Some((word, names(&found)))
    };
    let lost = of(|state| *state == State::Lost).map(|(state, names)| Due {
        state,
        says: format!(
            "pods were counted that no map knows any more, as the pins were removed: {names}"
        ),
        mend: "weir reconcile counts them again, from 0",
    });
    let layouts = members.iter().filter_map(|member| match &member.state {
        State::OtherVersion(layout) => Some(layout.clone()),
        _ => None,
    });
    let layouts: Vec<String> = layouts.collect::<BTreeSet<_>>().into_iter().collect();
    let others = of(|state| matches!(state, State::OtherVersion(_))).map(|(state, names)| Due {
        state,
        says: format!("{}: {names}", pin::others(&layouts)),
        mend: pin::OTHERS_MEND,
    });
    let detached = of(|state| *state == State::Detached).map(|(state, names)| Due {
        state,
        says: format!("pods are not counted any more, as something took their hooks off: {names}"),
        // Who moves a pod with its totals is a reload.
        mend: if layouts.is_empty() {
            "weir reconcile puts them back"
        } else {
            "weir reconcile, after the reload, puts them back"
        },
    });
    let cut = of(|state| *state == State::Disconnected).map(|(state, names)| Due {
        state,
        says: format!(
            "the interfaces of pods are gone from the node, and their network with them: {names}"
        ),
        mend: "let their runtime make them anew (kubectl delete pod); of those that have ended already weir \
               reconcile takes away what is left",
    });
    [lost, others, detached, cut].into_iter().flatten().collect()
}

/// Where a reload was cut off that had brought the pods of these layouts over.
pub fn unfinished(layouts: &[String]) -> Option<Due> {
    let (says, mend) = (pin::unfinished(layouts), pin::UNFINISHED_MEND);
    (!layouts.is_empty()).then_some(Due { state: "unfinished", says, mend })
}

/// Where pins are [missing](crate::telemetry::whole::torn) of a layout that has others.
pub fn torn(bpf_dir: &Path, torn: &[String]) -> Option<Due> {
    let due = || Due { state: "torn", says: pin::torn_apart(bpf_dir, torn), mend: pin::TORN_MEND };
    (!torn.is_empty()).then(due)
}

/// Some of the names, and how many others there are.
pub fn names(members: &[&Member]) -> String {
    let named = members.iter().take(NAMED).map(|member| {
        let pod = visible(&member.pod);
        if member.namespace.is_empty() {
            pod
        } else {
            format!("{}/{pod}", visible(&member.namespace))
        }
    });
    let named = named.collect::<Vec<_>>().join(", ");
    match members.len().saturating_sub(NAMED) {
        0 => named,
        1 => format!("{named} and another"),
        more => format!("{named} and {more} others"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fixture::members;

    #[test]
    fn a_state_that_asks_for_something_is_said_once_with_some_of_its_pods() {
        let others = |layout: &str| State::OtherVersion(layout.to_owned());
        let quiet = [State::Counted, State::Uncounted, State::Unknown, State::Unrecorded];
        assert_eq!(due(&members(&quiet)), []);
        let lost = due(&members(&[&quiet[..], &[State::Lost]].concat()));
        assert_eq!(lost.len(), 1);
        assert!(
            lost[0]
                .to_string()
                .ends_with("removed: shop/p4; weir reconcile counts them again, from 0")
        );
        let all = due(&members(&[
            others("b"),
            others("a"),
            others("b"),
            State::Detached,
            others("a"),
            others("a"),
        ]));
        assert_eq!(
            all.iter().map(|due| due.state).collect::<Vec<_>>(),
            ["other-version", "detached"]
        );
        let said = all[0].to_string();
        assert!(said.contains("(a and b, where this version's is ") && said.contains(pin::SCHEMA));
        assert!(said.ends_with(
            ": shop/p0, shop/p1, shop/p2 and 2 others; weir reload, and restart the agent"
        ));
        assert!(all[1].mend.contains("after the reload"), "{}", all[1]);
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        let mut members = members(&[State::Lost]);
        members[0].pod = "\u{1b}[2J\n".to_owned();
        members[0].namespace.clear();
        let said = due(&members)[0].to_string();
        assert!(said.contains(r"removed: \u{1b}[2J\n;"), "{said}");
    }
}

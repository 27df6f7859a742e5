//! Whether the hooks are still where ADD put them.
//!
//! Any tool with the privilege can take a filter or a qdisc off an interface, and a pod whose hook is
//! gone looks idle. Asking the kernel costs a few system calls a pod, so each reading asks about some.

use std::collections::BTreeSet;

use super::roster::{Member, State};
use crate::{
    error::{Kind, Result},
    telemetry::Attached,
};

/// Asked about per reading: some milliseconds, and 250 pods are through in four.
const AT_ONCE: usize = 64;

/// What was found so far.
#[derive(Debug, Default)]
pub struct Audit {
    /// The attachment that was asked about last.
    last: u32,
    /// Attachments whose hook was missing when they were last asked about.
    detached: BTreeSet<u32>,
}

impl Audit {
    /// Asks about the next ones in turn, and marks all that are known to be without their hook.
    ///
    /// `verify` is [`telemetry::verify_at_once`](crate::telemetry::verify_at_once) of an interface's attachment.
    pub fn run(&mut self, members: &mut [Member], verify: impl Fn(u32, &Attached) -> Result<()>) {
        let mut hooked: Vec<_> = members.iter().filter_map(Member::hooked).collect();
        hooked.sort_by_key(|(_, attached)| attached.pod);
        self.detached.retain(|pod| hooked.binary_search_by_key(pod, |(_, it)| it.pod).is_ok());
        let next = hooked.partition_point(|(_, attached)| attached.pod <= self.last);
        hooked.rotate_left(next);
        for (ifindex, attached) in hooked.iter().take(AT_ONCE) {
            self.last = attached.pod;
            match verify(*ifindex, attached) {
                Ok(()) => self.detached.remove(&attached.pod),
                Err(err) if err.kind() == Kind::Difference => self.detached.insert(attached.pod),
                // A reload has it: these are asked about next time.
                Err(err) if err.kind() == Kind::TryAgain => break,
                // The kernel could not be asked, which proves nothing.
                Err(_) => continue,
            };
        }
        for member in members.iter_mut().filter(|member| member.hooked().is_some()) {
            if member.attachment.is_some_and(|pod| self.detached.contains(&pod)) {
                member.state = State::Detached;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::{
        agent::{fixture, roster::join},
        error::Error,
    };

    fn members(count: u32) -> Vec<Member> {
        let pods = (0..count).map(|at| fixture::pod(&format!("p{at}")));
        join(&[], None, &fixture::snapshot(pods).pods)
    }

    #[test]
    fn every_attachment_is_asked_about_in_turn() {
        let asked = RefCell::new(Vec::new());
        let verify = |_: u32, attached: &Attached| {
            asked.borrow_mut().push(attached.pod);
            Ok(())
        };
        let mut audit = Audit::default();
        for _ in 0..5 {
            audit.run(&mut members(160), verify);
        }
        let expected: Vec<u32> = (1..=160).cycle().take(5 * AT_ONCE).collect();
        assert_eq!(*asked.borrow(), expected);
    }

    #[test]
    fn a_missing_hook_is_remembered_until_it_is_back_or_its_pod_is_gone() {
        let missing = |_: u32, attached: &Attached| match attached.pod {
            1 => Err(Error::new(Kind::Difference, "no filter")),
            _ => Ok(()),
        };
        let detached = |members: &[Member]| {
            members.iter().filter(|member| member.state == State::Detached).count()
        };
        let mut audit = Audit::default();
        let mut all = members(128);
        audit.run(&mut all, missing);
        assert_eq!(detached(&all), 1);
        // This time the others are asked about; what was found before still stands.
        let mut all = members(128);
        audit.run(&mut all, |_, _| Ok(()));
        assert_eq!(detached(&all), 1);
        let mut all = members(128);
        audit.run(&mut all, |_, _| Ok(()));
        assert_eq!(detached(&all), 0);
        audit.run(&mut members(1), missing);
        audit.run(&mut [], missing);
        assert!(audit.detached.is_empty());
    }
}

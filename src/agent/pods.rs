//! Which attachments share the series of one pod.
//!
//! A series is named by namespace and pod alone, and Prometheus refuses a page that says a thing
//! twice. Several attachments may bear one name: a pod with two networks (they are added up), and a
//! pod that was started anew under the name of one that is still in its grace time (the newest
//! sandbox has the name; its series begin again at 0, with a creation time of their own).

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{labels::OTHER, roster::Member};
use crate::telemetry::reader::{Began, Pod};

/// The series of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<'a> {
    /// The label `namespace`.
    pub namespace: &'a str,
    /// The label `pod`.
    pub pod: &'a str,
    /// When the first of its attachments was made, since the Unix epoch.
    pub created: Duration,
    /// When their totals began.
    pub began: Began,
}

/// All pods that a page shows.
#[derive(Debug)]
pub struct Pods<'a> {
    /// The counted, sorted by name; those that are not counted; those that the budget has added.
    rows: Vec<Row<'a>>,
    counted: usize,
    named: usize,
    of: HashMap<u32, usize>,
}

impl<'a> Pods<'a> {
    /// Groups attachments by name, leaving out pods that were deleted `grace` or longer ago, and
    /// adds the members that have no attachment in the maps.
    pub fn new(
        attachments: &'a BTreeMap<u32, Pod>,
        members: &'a [Member],
        now: Duration,
        grace: Duration,
    ) -> Self {
        let mut named = BTreeMap::<(&str, &str), Vec<(u32, &Pod)>>::new();
        for (id, pod) in attachments {
            named.entry((&pod.namespace, &pod.pod)).or_default().push((*id, pod));
        }
        let mut pods = Self { rows: Vec::new(), counted: 0, named: 0, of: HashMap::new() };
        for ((namespace, pod), same_name) in named {
            // One that lives is never older than one that was deleted, whatever the clock says: it may
            // have been set back between.
            let age = |(id, pod): &&(u32, &Pod)| (pod.deleted.is_none(), pod.created, *id);
            let newest = same_name.iter().max_by_key(age);
            let Some(sandbox) = newest.map(|(_, pod)| &pod.container_id) else { continue };
            let own: Vec<_> =
                same_name.iter().filter(|(_, pod)| pod.container_id == *sandbox).collect();
            if own.iter().all(|(_, pod)| expired(pod, now, grace)) {
                continue;
            }
            let created = own.iter().map(|(_, pod)| pod.created).min().unwrap_or_default();
            let began = own.iter().map(|(_, pod)| pod.began).reduce(Began::or_before);
            pods.of.extend(own.iter().map(|(id, _)| (*id, pods.rows.len())));
            pods.rows.push(Row { namespace, pod, created, began: began.unwrap_or_default() });
        }
        pods.counted = pods.rows.len();
        for &Member { ref namespace, ref pod, created, .. } in members {
            if pods.named(namespace, pod).is_none() {
                pods.rows.push(Row { namespace, pod, created, began: Began::at(created) });
            }
        }
        pods.named = pods.rows.len();
        pods
    }

    /// The pods that have totals, sorted by name. Their rows are the first.
    pub fn counted(&self) -> &[Row<'a>] {
        &self.rows[..self.counted]
    }

    /// The row of a name.
    pub fn named(&self, namespace: &str, pod: &str) -> Option<usize> {
        let name = (namespace, pod);
        let counted = self.counted().binary_search_by_key(&name, |row| (row.namespace, row.pod));
        let uncounted = &self.rows[self.counted..];
        counted.ok().or_else(|| {
            let at = uncounted.iter().position(|row| (row.namespace, row.pod) == name)?;
            Some(self.counted + at)
        })
    }

    /// What a key's row stands for: a pod, or pods that were folded into one.
    pub fn rows(&self) -> &[Row<'a>] {
        &self.rows
    }

    /// The row of an attachment, if it is shown.
    pub fn row(&self, attachment: u32) -> Option<usize> {
        self.of.get(&attachment).copied()
    }

    /// The row that stands for several pods of `row`'s namespace, or for pods of all namespaces.
    pub fn fold(&mut self, row: usize, keep_namespace: bool) -> usize {
        let Some(own) = self.rows.get(row).cloned() else { return row };
        let Row { namespace, created, began, .. } = own;
        let namespace = if keep_namespace { namespace } else { OTHER };
        let same = |row: &Row<'_>| row.namespace == namespace && row.pod == OTHER;
        match self.rows[self.named..].iter().position(same) {
            Some(at) => {
                let at = self.named + at;
                let folded = &mut self.rows[at];
                folded.created = folded.created.min(created);
                folded.began = folded.began.or_before(began);
                at
            }
            None => {
                self.rows.push(Row { namespace, pod: OTHER, created, began });
                self.rows.len() - 1
            }
        }
    }
}

fn expired(pod: &Pod, now: Duration, grace: Duration) -> bool {
    pod.deleted.is_some_and(|deleted| deleted + grace <= now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Mode;

    fn attachment(pod: &str, container: &str, created: u64, deleted: Option<u64>) -> Pod {
        Pod {
            namespace: "shop".into(),
            pod: pod.into(),
            uid: String::new(),
            container_id: container.into(),
            ifname: "eth0".into(),
            created: Duration::from_secs(created),
            began: Began::at(Duration::from_secs(created)),
            deleted: deleted.map(Duration::from_secs),
            ifindex: 7,
            mode: Mode::Clsact,
            network: Default::default(),
        }
    }

    const GRACE: Duration = Duration::from_secs(60);

    #[test]
    fn two_networks_of_a_pod_share_its_row_and_count_from_the_older() {
        let attachments =
            [(1, attachment("web", "c1", 100, None)), (2, attachment("web", "c1", 90, None))]
                .into();
        let pods = Pods::new(&attachments, &[], Duration::from_secs(200), GRACE);
        assert_eq!((pods.row(1), pods.row(2)), (Some(0), Some(0)));
        let created = Duration::from_secs(90);
        assert_eq!(
            pods.rows(),
            [Row { namespace: "shop", pod: "web", created, began: Began::at(created) }]
        );
    }

    #[test]
    fn a_pod_started_anew_under_its_name_is_never_merged_with_the_one_before() {
        let attachments =
            [(1, attachment("web", "c1", 100, Some(190))), (2, attachment("web", "c2", 191, None))]
                .into();
        let pods = Pods::new(&attachments, &[], Duration::from_secs(200), GRACE);
        assert_eq!((pods.row(1), pods.row(2)), (None, Some(0)));
        assert_eq!(pods.rows()[0].created, Duration::from_secs(191));
    }

    #[test]
    fn a_clock_that_was_set_back_hides_no_living_pod_behind_its_predecessor() {
        let attachments =
            [(2, attachment("web", "c1", 140, Some(190))), (1, attachment("web", "c2", 131, None))]
                .into();
        let pods = Pods::new(&attachments, &[], Duration::from_secs(150), GRACE);
        assert_eq!((pods.row(1), pods.row(2)), (Some(0), None));
        assert_eq!(pods.rows()[0].created, Duration::from_secs(131));
    }

    #[test]
    fn a_pod_is_shown_for_its_grace_time_and_then_not_at_all() {
        let attachments = [(1, attachment("web", "c1", 100, Some(200)))].into();
        assert_eq!(Pods::new(&attachments, &[], Duration::from_secs(259), GRACE).row(1), Some(0));
        let gone = Pods::new(&attachments, &[], Duration::from_secs(260), GRACE);
        assert!(gone.row(1).is_none() && gone.rows().is_empty());
    }

    #[test]
    fn folded_pods_keep_their_namespace_and_the_oldest_creation_time() {
        let attachments =
            [(1, attachment("a", "c1", 100, None)), (2, attachment("b", "c2", 90, None))].into();
        let mut pods = Pods::new(&attachments, &[], Duration::from_secs(200), GRACE);
        let (first, second) = (pods.fold(0, true), pods.fold(1, true));
        assert_eq!(first, second);
        let created = Duration::from_secs(90);
        assert_eq!(
            pods.rows()[first],
            Row { namespace: "shop", pod: OTHER, created, began: Began::at(created) }
        );
        assert_eq!(pods.counted().len(), 2);
        assert_ne!(pods.fold(0, false), first);
    }
}

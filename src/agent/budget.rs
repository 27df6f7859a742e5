//! A bound on the series of a family, whatever the pods send.
//!
//! What is over it is folded, never dropped: one label becomes `__other__`, the others and the sums
//! stay right. Who is folded depends on what was counted and on the pods' age alone, not on the order
//! of a map or on the agent's memory, so another scrape or another agent folds the same.
//!
//! In this order, and only as far as needed: the open label (a status, a query type) of a pod that
//! has too many by itself; that label of every pod; the names of the youngest pods; namespaces.

use super::{
    family::{Family, Kind, MAX_LABELS},
    labels::{OTHER, Value},
    pods::Pods,
    series::{Key, Sum, merge},
};

/// Samples of one family on a page: 250 pods with 40 series each, or a histogram of each in both roles.
pub const FAMILY: usize = 10_000;

/// Label sets of one pod in one family: a busy one has a few tens (4 methods, 6 statuses, 2 roles).
pub const POD: usize = 128;

/// Sample lines of one label set: a histogram's buckets, sum and count.
fn lines(family: &Family) -> usize {
    match family.kind {
        Kind::Histogram => crate::telemetry::histogram::CLASSIC_NS.len() + 3,
        _ => 1,
    }
}

/// Folds until `series` (sorted) fits, and says how many label sets were folded into others.
pub fn fit<V: Sum>(
    series: Vec<(Key, V)>,
    family: &Family,
    pods: &mut Pods<'_>,
) -> (Vec<(Key, V)>, u64) {
    fit_within(series, family, pods, FAMILY / lines(family), POD)
}

fn fit_within<V: Sum>(
    mut series: Vec<(Key, V)>,
    family: &Family,
    pods: &mut Pods<'_>,
    most: usize,
    most_of_pod: usize,
) -> (Vec<(Key, V)>, u64) {
    let mut folded = 0;
    if let Some(label) = family.fold.filter(|label| *label < MAX_LABELS) {
        let crowded = crowded_pods(&series, most_of_pod);
        let other = |key: &mut Key| key.values[label] = Value::Name(OTHER);
        if !crowded.is_empty() {
            (series, folded) = fold(series, |key| crowded.contains(&key.row), other);
        }
        if series.len() > most {
            let more;
            (series, more) = fold(series, |key| key.values[label] != Value::Name(OTHER), other);
            folded += more;
        }
    }
    for keep_namespace in [true, false] {
        if series.len() > most {
            let young = youngest_pods(&series, pods, most);
            let more;
            (series, more) = fold(
                series,
                |key| key.row.is_some_and(|row| young.contains(&row)),
                |key| key.row = key.row.map(|row| pods.fold(row, keep_namespace)),
            );
            folded += more;
        }
    }
    (series, folded)
}

/// Changes the keys that `which` picks, adds up what has become the same, and counts the changed.
fn fold<V: Sum>(
    mut series: Vec<(Key, V)>,
    which: impl Fn(&Key) -> bool,
    mut change: impl FnMut(&mut Key),
) -> (Vec<(Key, V)>, u64) {
    let mut folded = 0;
    for (key, _) in series.iter_mut().filter(|(key, _)| which(key)) {
        change(key);
        folded += 1;
    }
    (merge(series), folded)
}

/// The pods with more than `most` label sets. `series` is sorted, so a pod's are neighbours.
fn crowded_pods<V>(series: &[(Key, V)], most: usize) -> Vec<Option<usize>> {
    let of_pods = series.chunk_by(|(a, _), (b, _)| a.row == b.row);
    of_pods.filter(|of_pod| of_pod.len() > most).map(|of_pod| of_pod[0].0.row).collect()
}

/// The pods, youngest first, without which the others take no more than half of `most`: the other
/// half is for what the folded ones become.
fn youngest_pods<V>(series: &[(Key, V)], pods: &Pods<'_>, most: usize) -> Vec<usize> {
    let mut sizes: Vec<(usize, usize)> = series
        .chunk_by(|(a, _), (b, _)| a.row == b.row)
        .filter_map(|of_pod| Some((of_pod[0].0.row?, of_pod.len())))
        .collect();
    sizes.sort_by_key(|(row, _)| (pods.rows().get(*row).map(|pod| pod.created), *row));
    let mut taken = 0;
    let keep = sizes.iter().take_while(|(_, size)| {
        taken += size;
        taken <= most / 2
    });
    let keep = keep.count();
    sizes[keep..].iter().map(|(row, _)| *row).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::agent::{families, fixture, series::Key};
    use crate::telemetry::reader::Pod;

    fn requests() -> &'static Family {
        families::all().find(|family| family.name == "weir_http_requests").unwrap()
    }

    /// One series for each status from 100 on.
    fn statuses(row: usize, count: u16) -> impl Iterator<Item = (Key, u64)> {
        (100..100 + count).map(move |status| {
            let [role, method] = ["server", "GET"].map(Value::Name);
            let values = [role, method, Value::Name("1.1"), Value::Number(status)];
            (Key { row: Some(row), values }, 1)
        })
    }

    /// Pods `p0`, `p1` … each a second younger than the one before.
    fn attachments(count: u32) -> BTreeMap<u32, Pod> {
        let pods = (0..count).map(|at| {
            let created = Duration::from_secs(1_000 + u64::from(at));
            (at, Pod { created, ..fixture::pod(&format!("p{at:04}")) })
        });
        pods.collect()
    }

    fn within(
        series: Vec<(Key, u64)>,
        attachments: &BTreeMap<u32, Pod>,
        most: usize,
        most_of_pod: usize,
    ) -> (Vec<(String, String, u64)>, u64) {
        let mut pods = Pods::new(attachments, &[], fixture::NOW, Duration::from_secs(60));
        let (series, folded) = fit_within(series, requests(), &mut pods, most, most_of_pod);
        let named = series.iter().map(|(key, value)| {
            let row = &pods.rows()[key.row.unwrap()];
            (format!("{}/{}", row.namespace, row.pod), key.values[3].to_string(), *value)
        });
        (named.collect(), folded)
    }

    #[test]
    fn what_fits_is_left_as_it_is() {
        let attachments = attachments(1);
        let (series, folded) = within(statuses(0, 4).collect(), &attachments, 4, 4);
        assert_eq!((series.len(), folded), (4, 0));
    }

    #[test]
    fn a_pod_that_invents_statuses_loses_its_own_and_no_one_elses() {
        let attachments = attachments(2);
        let series = statuses(0, 500).chain(statuses(1, 2)).collect();
        let (series, folded) = within(series, &attachments, 1_000, 128);
        let expected = [
            ("shop/p0000".into(), "__other__".into(), 500),
            ("shop/p0001".into(), "100".into(), 1),
            ("shop/p0001".into(), "101".into(), 1),
        ];
        assert_eq!((series, folded), (expected.into(), 500));
    }

    #[test]
    fn a_family_over_its_budget_folds_the_label_of_all() {
        let attachments = attachments(3);
        let series = (0..3).flat_map(|row| statuses(row, 4)).collect();
        let (series, folded) = within(series, &attachments, 10, 128);
        assert_eq!(series.len(), 3);
        assert!(series.iter().all(|(_, status, value)| status == "__other__" && *value == 4));
        assert_eq!(folded, 12);
    }

    #[test]
    fn then_the_youngest_pods_share_a_name_in_their_namespace() {
        let attachments = attachments(100);
        let series = (0..100).flat_map(|row| statuses(row, 1)).collect();
        let (series, _) = within(series, &attachments, 20, 128);
        assert_eq!(series.len(), 11);
        assert_eq!(series[0].0, "shop/p0000");
        assert_eq!(series[9].0, "shop/p0009");
        assert_eq!(series[10], ("shop/__other__".into(), "__other__".into(), 90));
    }

    #[test]
    fn and_last_the_namespaces_so_that_there_is_a_bound_at_all() {
        let mut attachments = attachments(100);
        for (at, pod) in &mut attachments {
            pod.namespace = format!("ns{at:04}");
        }
        let series: Vec<_> = (0..100).flat_map(|row| statuses(row, 1)).collect();
        let (series, _) = within(series, &attachments, 20, 128);
        assert!(series.len() <= 20, "{}", series.len());
        assert_eq!(series.iter().map(|(.., value)| value).sum::<u64>(), 100);
        assert_eq!(series[0].0, "ns0000/p0000");
        assert_eq!(series.last().unwrap().0, "__other__/__other__");
    }

    #[test]
    fn the_order_of_the_map_does_not_matter() {
        let attachments = attachments(40);
        let series: Vec<_> = (0..40).flat_map(|row| statuses(row, 2)).collect();
        let expected = within(series.clone(), &attachments, 20, 128);
        let shuffled = merge(series.into_iter().rev().collect());
        assert_eq!(within(shuffled, &attachments, 20, 128), expected);
    }
}

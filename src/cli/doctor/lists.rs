//! Whether an ADD finds the list of its network, and so learns of the plugins behind Weir.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{Finding, conflist::File, probes::configurations};
use crate::{
    cni::list::PLACES,
    record::{self, Entry},
};

const CHECK: &str = "lists";

/// A directory and what is in it.
type Place = (PathBuf, Vec<File>);

/// Looks for the lists of the networks that have pods; nothing where there are no pods. `given` is where the
/// operator says that the lists are.
pub fn look(state_dir: &Path, given: Option<&Path>) -> Option<Finding> {
    let records = record::list(state_dir).ok()?;
    let networks = records.into_iter().filter_map(|(_, entry)| match entry {
        Entry::Record(record) => Some(record.network),
        Entry::Unreadable(_) | Entry::OutOfReach(_) | Entry::Absent => None,
    });
    let networks: BTreeSet<String> = networks.collect();
    let usual = PLACES.map(PathBuf::from);
    let mut dirs: Vec<PathBuf> = usual.into_iter().chain(given.map(Path::to_owned)).collect();
    let read = |dir: &PathBuf| (dir.clone(), configurations(dir));
    let mut places: Vec<Place> = dirs.iter().map(read).collect();
    let named = places.iter().flat_map(|(_, files)| files).filter_map(File::conf_dir);
    let mut named: Vec<PathBuf> = named.collect();
    named.retain(|dir| !dirs.contains(dir));
    named.sort_unstable();
    named.dedup();
    places.extend(named.iter().map(read));
    dirs.extend(named);
    judge(&networks, &places)
}

fn judge(networks: &BTreeSet<String>, places: &[Place]) -> Option<Finding> {
    if networks.is_empty() {
        return None;
    }
    let mut lost = networks.iter().filter_map(|network| Some((network, mend(network, places)?)));
    let Some((network, mend)) = lost.next() else {
        return Some(Finding::ok(CHECK, "the list of each network that has pods is found by ADD"));
    };
    let more = lost.count();
    let others = match more {
        0 => String::new(),
        1 => ", nor is that of another".to_owned(),
        more => format!(", nor are those of {more} others"),
    };
    let says = format!(
        "the list of network {network}, which has pods, is not where ADD looks{others}: of plugins behind weir \
         (bandwidth, tuning) it knows nothing"
    );
    Some(Finding::warn(CHECK, says, mend))
}

/// What to do so that an ADD of the network finds its list; `None` where it finds it, or there is nothing in it
/// that it has to know.
fn mend(network: &str, places: &[Place]) -> Option<String> {
    let its = || {
        places
            .iter()
            .flat_map(|(dir, files)| files.iter().map(move |file| (dir, file)))
            .filter(|(_, file)| file.is_of(network) && file.position().is_some())
    };
    if its().next().is_none() {
        return Some(format!(
            "say where it is: \"confDir\": \"DIR\" in weir's entry, and --conf-dir DIR to doctor; if it is gone \
             for good, so may be what the runtime knows of {network}"
        ));
    }
    let is_found = |(_, file): &(&PathBuf, &File)| match file.conf_dir() {
        Some(named) => its().any(|(dir, _)| *dir == named),
        None => its().any(|(dir, _)| PLACES.iter().any(|usual| dir == Path::new(usual))),
    };
    if its().any(|it| is_found(&it) || it.1.is_last()) {
        return None;
    }
    let (dir, file) = its().next()?;
    let name = &file.name;
    Some(format!("give weir's entry in {0}/{name} \"confDir\": \"{0}\"", dir.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::Verdict, *};

    fn place(dir: &str, network: &str, keys: serde_json::Value, behind: &[&str]) -> Place {
        let mut weir = json!({"type": "weir"});
        weir.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let behind = behind.iter().map(|kind| json!({"type": kind}));
        let plugins: Vec<_> = std::iter::once(weir).chain(behind).collect();
        let list = json!({"cniVersion": "1.0.0", "name": network, "plugins": plugins});
        (dir.into(), vec![File::new("10.conflist".to_owned(), Ok(list.to_string()))])
    }

    #[test]
    fn a_list_that_add_does_not_find_is_named_with_the_key() {
        let networks = BTreeSet::from(["n".to_owned()]);
        let said = |places: &[Place]| judge(&networks, places).unwrap();
        let shaped = &["bandwidth"][..];
        let k3s = "/var/lib/rancher/k3s/agent/etc/cni/net.d";
        for found in [
            place("/etc/cni/net.d", "n", json!({}), shaped),
            place(k3s, "n", json!({}), shaped),
            place("/x", "n", json!({"confDir": "/x"}), shaped),
            place("/x", "n", json!({}), &[]),
        ] {
            assert_eq!(said(&[found]).verdict, Verdict::Ok);
        }
        for (lost, mend) in [
            (place("/etc/cni/net.d", "m", json!({}), shaped), "\"confDir\": \"DIR\""),
            (place("/x", "n", json!({}), shaped), "/x/10.conflist \"confDir\": \"/x\""),
            (place("/etc/cni/net.d", "n", json!({"confDir": "/y"}), shaped), "\"confDir\": \"/etc"),
        ] {
            let finding = said(&[lost]);
            assert_eq!(finding.verdict, Verdict::Warn);
            assert!(finding.says.contains("network n,"), "{finding:?}");
            assert!(finding.mend.as_ref().unwrap().contains(mend), "{finding:?}");
        }
        assert_eq!(judge(&BTreeSet::new(), &[]), None);
    }
}

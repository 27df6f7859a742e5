//! Who an address of this node belongs to, by the journal.
//!
//! It is read again when its directory has changed: a pod's record appears, grows its addresses and
//! goes by a rename or a removal in there. What it says is up to a second old.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use crate::{
    error::Result,
    record::{self, Entry, Record},
};

/// Addresses that are known at a time; a node has far fewer.
const ADDRESSES: usize = 16_384;

/// A directory's time moves in steps: one that is as old as this has missed nothing.
const SETTLED: Duration = Duration::from_secs(1);

/// A pod that has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its namespace, or empty.
    pub namespace: String,
    /// Its name, or the container id.
    pub pod: String,
    /// Its attachment's id, if its traffic is counted.
    pub attachment: Option<u32>,
}

/// The addresses of the node's pods.
#[derive(Debug, Default)]
pub struct Peers {
    state_dir: PathBuf,
    /// When the directory had last changed as it was read, if that is to be relied on.
    as_of: Option<SystemTime>,
    by_address: HashMap<IpAddr, Peer>,
    by_attachment: HashMap<u32, Vec<IpAddr>>,
}

impl Peers {
    /// Of the journal in this state dir; empty until the first [`refresh`](Self::refresh).
    pub fn new(state_dir: PathBuf) -> Self {
        Self { state_dir, ..Self::default() }
    }

    /// Reads the journal if it has changed.
    ///
    /// # Errors
    /// `Kind::Io`: it can't be listed. What was known stays.
    pub fn refresh(&mut self) -> Result<()> {
        let changed = record::changed(&self.state_dir);
        if changed.is_some() && changed == self.as_of {
            return Ok(());
        }
        let journal = record::list(&self.state_dir)?;
        let records = journal.into_iter().filter_map(|(_, entry)| match entry {
            Entry::Record(record) => Some(*record),
            Entry::Absent | Entry::Unreadable(_) | Entry::OutOfReach(_) => None,
        });
        self.know(records.collect());
        let settled = |changed: &SystemTime| changed.elapsed().is_ok_and(|age| age > SETTLED);
        self.as_of = changed.filter(settled);
        Ok(())
    }

    /// Of two records with one address, the younger has it.
    fn know(&mut self, mut records: Vec<Record>) {
        self.by_address.clear();
        self.by_attachment.clear();
        records.sort_by_key(|record| record.created);
        for record in records {
            let addresses = record.addresses().chain(record.others_addresses.iter().copied());
            let addresses: Vec<IpAddr> = addresses.collect();
            if self.by_address.len() + addresses.len() > ADDRESSES {
                return;
            }
            let attachment = record.telemetry.map(|attached| attached.pod);
            let name =
                if record.pod.name.is_empty() { record.container_id } else { record.pod.name };
            let peer = Peer { namespace: record.pod.namespace, pod: name, attachment };
            self.by_address.extend(addresses.iter().map(|address| (*address, peer.clone())));
            if let Some(id) = attachment {
                self.by_attachment.insert(id, addresses);
            }
        }
    }

    /// The pod that has an address.
    pub fn of(&self, address: IpAddr) -> Option<&Peer> {
        self.by_address.get(&address.to_canonical())
    }

    /// The addresses of a pod that is counted.
    pub fn addresses(&self, attachment: u32) -> &[IpAddr] {
        self.by_attachment.get(&attachment).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
impl Peers {
    /// With these pods: namespace, name, attachment, address.
    pub fn with(pods: &[(&str, &str, Option<u32>, &str)]) -> Self {
        let mut peers = Self::default();
        for (namespace, pod, attachment, address) in pods {
            let address: IpAddr = address.parse().unwrap();
            let (namespace, pod) = ((*namespace).to_owned(), (*pod).to_owned());
            let peer = Peer { namespace, pod, attachment: *attachment };
            peers.by_address.insert(address, peer);
            peers.by_attachment.extend(attachment.map(|id| (id, vec![address])));
        }
        peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attachment::Attachment,
        record::NetnsRef,
        telemetry::{Attached, Mode},
    };

    fn record(container: &str, created: u64, address: &str, attachment: Option<u32>) -> Record {
        let attached = Attachment::new(container, "eth0").unwrap();
        let netns = NetnsRef { path: "/run/netns/x".into(), dev: 1, ino: 2 };
        let mut record = Record::new(&attached, "podnet", netns).unwrap();
        record.created = created;
        record.others_addresses = vec![address.parse().unwrap()];
        record.telemetry = attachment.map(|pod| Attached { pod, mode: Mode::Tcx });
        record
    }

    #[test]
    fn an_address_is_its_last_owners() {
        let mut peers = Peers::default();
        peers.know(vec![
            record("new", 20, "10.0.0.2", Some(7)),
            record("old", 10, "10.0.0.2", Some(3)),
            record("bare", 10, "fd00::9", None),
        ]);
        let name = |address: &str| peers.of(address.parse().unwrap()).map(|peer| peer.pod.as_str());
        assert_eq!(name("10.0.0.2"), Some("new"));
        assert_eq!(name("::ffff:10.0.0.2"), Some("new"));
        assert_eq!(name("fd00::9"), Some("bare"));
        assert_eq!(name("10.0.0.3"), None);
        assert_eq!(peers.addresses(7), ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert!(peers.addresses(8).is_empty());
    }

    #[test]
    fn the_journal_is_read_again_when_it_changes() {
        let dir = std::env::temp_dir().join(format!("weir-peers-{}", std::process::id()));
        let mut peers = Peers::new(dir.clone());
        peers.refresh().unwrap();
        let written = record("late", 1, "10.0.0.5", Some(1));
        let mut begun = written.begin(&dir).unwrap();
        begun.update(&written).unwrap();
        peers.refresh().unwrap();
        let found = peers.of("10.0.0.5".parse().unwrap()).map(|peer| peer.pod.clone());
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found.as_deref(), Some("late"));
        peers.refresh().unwrap();
        assert_eq!(peers.of("10.0.0.5".parse().unwrap()), None);
    }
}

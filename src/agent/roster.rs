//! The attachments of this node: what the journal says, what the maps say, and whether they agree.
//!
//! The journal knows who was plumbed, the maps who is counted. Failing open is Weir's policy, so the
//! two may differ, and that has to be seen: in `weir pods`, and as `weir_attach_status` 0.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use crate::{
    attachment::Attachment,
    record::{Entry, Record},
    telemetry::{
        Attached, Mode,
        reader::{Pod, Snapshot},
    },
};

/// Whether an attachment's traffic is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is.
    Counted,
    /// The pod was started without: its programs could not be attached, or it asked for none.
    Uncounted,
    /// The journal says that it is, but the maps don't know it.
    Lost,
    /// Journal and maps agree that it is, but the hook is not on the interface any more.
    Detached,
    /// It is, by the programs of another version of Weir: its totals are in the maps of that.
    OtherVersion,
    /// The maps can't be read, or its ADD is not done yet.
    Unknown,
    /// DEL was here (time since the Unix epoch); the totals are kept for the grace time.
    Deleted(Duration),
    /// Counted, but the journal doesn't know it: a DEL was cut off, or the state dir is another.
    Unrecorded,
    /// Its record can't be read, for this reason.
    Unreadable(String),
}

impl State {
    /// Whether the pod has had no DEL, as far as can be told.
    pub fn living(&self) -> bool {
        !matches!(self, Self::Deleted(_) | Self::Unreadable(_))
    }

    /// Whether its traffic is counted, where that can be told of a living pod.
    pub fn counted(&self) -> Option<bool> {
        match self {
            Self::Counted | Self::OtherVersion | Self::Unrecorded => Some(true),
            Self::Uncounted | Self::Lost | Self::Detached => Some(false),
            Self::Unknown | Self::Deleted(_) | Self::Unreadable(_) => None,
        }
    }
}

/// One attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The network's name; empty if there is no record.
    pub network: String,
    /// `K8S_POD_NAMESPACE`, or empty.
    pub namespace: String,
    /// `K8S_POD_NAME`, or the container id.
    pub pod: String,
    /// `K8S_POD_UID`, or empty.
    pub uid: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// Its attachment id, if it was ever counted.
    pub attachment: Option<u32>,
    /// Index of the host side, once it is known.
    pub host_ifindex: Option<u32>,
    /// The pod's addresses, whoever gave them.
    pub addresses: Vec<IpAddr>,
    /// The hook that counts, or is said to.
    pub hook: Option<Mode>,
    /// When ADD was called, since the Unix epoch.
    pub created: Duration,
    /// Whether it is counted.
    pub state: State,
}

/// Puts journal and maps together, sorted by namespace, pod, container and interface.
///
/// `snapshot` is `None` when the maps can't be read.
pub fn join(journal: &[(Attachment, Entry)], snapshot: Option<&Snapshot>) -> Vec<Member> {
    let nobody = BTreeMap::new();
    let mut unseen: BTreeMap<u32, &Pod> = snapshot
        .map_or(&nobody, |snapshot| &snapshot.pods)
        .iter()
        .map(|(id, pod)| (*id, pod))
        .collect();
    let mut members: Vec<Member> = journal
        .iter()
        .filter_map(|(attachment, entry)| match entry {
            Entry::Absent => None,
            Entry::Record(record) => Some(recorded(record, snapshot.is_some(), &mut unseen)),
            Entry::Unreadable(why) | Entry::OutOfReach(why) => {
                Some(unreadable(attachment, why.to_string()))
            }
        })
        .collect();
    members.extend(unseen.iter().map(|(id, pod)| unrecorded(*id, pod)));
    members.sort_by(|a, b| key(a).cmp(&key(b)));
    members
}

/// Marks those that the programs of other versions count, which the maps of this one don't know.
pub fn mark_others(members: &mut [Member], others: &BTreeSet<u32>) {
    for member in members {
        let unseen = matches!(member.state, State::Lost | State::Unknown);
        if unseen && member.attachment.is_some_and(|id| others.contains(&id)) {
            member.state = State::OtherVersion;
        }
    }
}

impl Member {
    /// What to look for on which interface, if this attachment is said to be counted.
    pub fn hooked(&self) -> Option<(u32, Attached)> {
        let attached = Attached { pod: self.attachment?, mode: self.hook? };
        (self.state.counted() == Some(true)).then_some((self.host_ifindex?, attached))
    }
}

fn key(member: &Member) -> (&str, &str, &str, &str) {
    (&member.namespace, &member.pod, &member.container_id, &member.ifname)
}

fn recorded(record: &Record, readable: bool, unseen: &mut BTreeMap<u32, &Pod>) -> Member {
    let counted = record.telemetry.as_ref().and_then(|attached| unseen.remove(&attached.pod));
    let state = match (&record.telemetry, counted) {
        (None, _) => State::Uncounted,
        (Some(_), _) if !readable => State::Unknown,
        (Some(_), None) if record.under_way => State::Unknown,
        (Some(_), None) => State::Lost,
        (Some(_), Some(Pod { deleted: Some(at), .. })) => State::Deleted(*at),
        (Some(_), Some(_)) => State::Counted,
    };
    let name = if record.pod.name.is_empty() { &record.container_id } else { &record.pod.name };
    Member {
        network: record.network.clone(),
        namespace: record.pod.namespace.clone(),
        pod: name.clone(),
        uid: record.pod.uid.clone(),
        container_id: record.container_id.clone(),
        ifname: record.ifname.clone(),
        attachment: record.telemetry.as_ref().map(|attached| attached.pod),
        host_ifindex: record.host_ifindex,
        addresses: record.addresses().chain(record.others_addresses.iter().copied()).collect(),
        hook: record.telemetry.as_ref().map(|attached| attached.mode),
        created: Duration::from_secs(record.created),
        state,
    }
}

fn unrecorded(id: u32, pod: &Pod) -> Member {
    Member {
        network: String::new(),
        namespace: pod.namespace.clone(),
        pod: pod.pod.clone(),
        uid: pod.uid.clone(),
        container_id: pod.container_id.clone(),
        ifname: pod.ifname.clone(),
        attachment: Some(id),
        host_ifindex: Some(pod.ifindex),
        addresses: Vec::new(),
        hook: Some(pod.mode),
        created: pod.created,
        state: pod.deleted.map_or(State::Unrecorded, State::Deleted),
    }
}

fn unreadable(attachment: &Attachment, why: String) -> Member {
    Member {
        network: String::new(),
        namespace: String::new(),
        pod: attachment.container_id().to_owned(),
        uid: String::new(),
        container_id: attachment.container_id().to_owned(),
        ifname: attachment.ifname().to_owned(),
        attachment: None,
        host_ifindex: None,
        addresses: Vec::new(),
        hook: None,
        created: Duration::ZERO,
        state: State::Unreadable(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::fixture,
        error::{Error, Kind},
        record::NetnsRef,
    };

    fn record(container: &str, telemetry: Option<u32>) -> (Attachment, Entry) {
        let attachment = Attachment::new(container, "eth0").unwrap();
        let netns = NetnsRef { path: "/run/netns/x".into(), dev: 1, ino: 2 };
        let mut record = Record::new(&attachment, "podnet", netns).unwrap();
        record.telemetry = telemetry.map(|pod| Attached { pod, mode: Mode::Tcx });
        record.under_way = container == "begun";
        (attachment, Entry::Record(Box::new(record)))
    }

    #[test]
    fn every_way_in_which_journal_and_maps_can_differ_has_a_state() {
        let mut deleted = fixture::pod("deleted");
        deleted.deleted = Some(Duration::from_secs(1_900));
        let snapshot = fixture::snapshot([fixture::pod("counted"), fixture::pod("stray"), deleted]);
        let broken = Attachment::new("broken", "eth0").unwrap();
        let journal = [
            record("counted", Some(1)),
            record("lost", Some(77)),
            record("begun", Some(78)),
            record("bare", None),
            (broken, Entry::Unreadable(Error::new(Kind::Io, "cut off"))),
            (Attachment::new("gone", "eth0").unwrap(), Entry::Absent),
        ];
        let states: BTreeMap<_, _> = join(&journal, Some(&snapshot))
            .into_iter()
            .map(|member| (member.container_id, member.state))
            .collect();
        let expected = [
            ("counted".into(), State::Counted),
            ("lost".into(), State::Lost),
            ("begun".into(), State::Unknown),
            ("bare".into(), State::Uncounted),
            ("broken".into(), State::Unreadable("cut off".into())),
            ("stray".into(), State::Unrecorded),
            ("deleted".into(), State::Deleted(Duration::from_secs(1_900))),
        ];
        assert_eq!(states, expected.into());
    }

    #[test]
    fn maps_that_cannot_be_read_prove_nothing() {
        let states = join(&[record("a", Some(1)), record("b", None)], None);
        let states: Vec<_> = states.into_iter().map(|member| member.state).collect();
        assert_eq!(states, [State::Unknown, State::Uncounted]);
    }

    #[test]
    fn whom_another_version_counts_is_neither_lost_nor_unknown() {
        let snapshot = fixture::snapshot([fixture::pod("counted")]);
        let journal = [("a", 1), ("b", 77), ("c", 78)].map(|(name, id)| record(name, Some(id)));
        let states = |snapshot| {
            let mut members = join(&journal, snapshot);
            mark_others(&mut members, &[1, 77].into());
            members.into_iter().map(|member| member.state).collect::<Vec<_>>()
        };
        assert_eq!(states(Some(&snapshot)), [State::Counted, State::OtherVersion, State::Lost]);
        assert_eq!(states(None), [State::OtherVersion, State::OtherVersion, State::Unknown]);
        assert_eq!(State::OtherVersion.counted(), Some(true));
    }

    #[test]
    fn without_kubernetes_the_container_id_is_the_name() {
        let members = join(&[record("a", None)], None);
        assert_eq!((members[0].namespace.as_str(), members[0].pod.as_str()), ("", "a"));
    }
}

//! The attachments of this node: what the journal says, what the maps say, and whether they agree.
//!
//! The journal knows who was plumbed, the maps who is counted. Failing open is Weir's policy, so the
//! two may differ, and that has to be seen: in `weir pods`, and as `weir_attach_status` 0.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use crate::{
    attachment::Attachment,
    record::{Entry, Record},
    telemetry::{Attached, Census, Mode, reader::Pod},
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
    /// Its interface on the node is gone, and its network with it, while nobody has ended it.
    Disconnected,
    /// It is, by the programs of another version of Weir: its totals are in the maps of that layout.
    OtherVersion(String),
    /// The maps can't be read, or its pins are in another directory than the one that was looked at, or its
    /// ADD or its DEL is not done yet.
    Unknown,
    /// DEL was here (time since the Unix epoch); the totals are kept for the grace time.
    Deleted(Duration),
    /// Counted, but the journal doesn't know it: a DEL was cut off, or the state dir is another.
    Unrecorded,
    /// Its record can't be read, for this reason.
    Unreadable(String),
}

impl State {
    /// Every [`word`](Self::word).
    pub const WORDS: &[&str] = &[
        "counted",
        "uncounted",
        "lost",
        "detached",
        "disconnected",
        "other-version",
        "unknown",
        "deleted",
        "unrecorded",
        "unreadable",
    ];

    /// Whether the pod has had no DEL, as far as can be told.
    pub fn living(&self) -> bool {
        !matches!(self, Self::Deleted(_) | Self::Unreadable(_))
    }

    /// Whether its traffic is counted, and shown by this version, where that can be told of a living pod.
    pub fn counted(&self) -> Option<bool> {
        match self {
            Self::Counted | Self::Unrecorded => Some(true),
            Self::Uncounted
            | Self::Lost
            | Self::Detached
            | Self::Disconnected
            | Self::OtherVersion(_) => Some(false),
            Self::Unknown | Self::Deleted(_) | Self::Unreadable(_) => None,
        }
    }

    /// What it is called in `weir pods` and on `/metrics`.
    pub fn word(&self) -> &'static str {
        let at = match self {
            Self::Counted => 0,
            Self::Uncounted => 1,
            Self::Lost => 2,
            Self::Detached => 3,
            Self::Disconnected => 4,
            Self::OtherVersion(_) => 5,
            Self::Unknown => 6,
            Self::Deleted(_) => 7,
            Self::Unrecorded => 8,
            Self::Unreadable(_) => 9,
        };
        Self::WORDS[at]
    }
}

/// What state a recorded attachment's counting is in; `None`: the maps can't be read. That its hook is
/// still on the interface is for [`verify`](crate::telemetry::verify) to say.
pub fn state(record: &Record, census: Option<&Census>) -> State {
    let Some(attached) = &record.telemetry else { return State::Uncounted };
    let Some(census) = census else { return State::Unknown };
    let here = census.here.as_ref().and_then(|here| here.get(&attached.pod));
    match (here, census.elsewhere.get(&attached.pod)) {
        (Some(Some(at)), _) => State::Deleted(*at),
        // Its hooks may be missing as yet.
        _ if record.under_way => State::Unknown,
        (Some(None), _) => State::Counted,
        (None, Some(there)) => State::OtherVersion(there.layout.clone()),
        (None, None) if record.leaving || record.abandoned => State::Unknown,
        (None, None) if record.bpf_dir != census.bpf_dir => State::Unknown,
        (None, None) => State::Lost,
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
    /// Name of the host side, if there is a record, and no call works on it.
    pub host_ifname: Option<String>,
    /// Its alias, likewise, where it is ours.
    pub host_alias: Option<String>,
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
/// The journal has to be read before the maps: an attachment without a record is shown by what the maps say of
/// it, but one that the maps don't know yet would be lost. `pods` are those of this version's maps; `None` for
/// `census`: the maps can't be read.
pub fn join(
    journal: &[(Attachment, Entry)],
    census: Option<&Census>,
    pods: &BTreeMap<u32, Pod>,
) -> Vec<Member> {
    let mut unseen: BTreeMap<u32, &Pod> = pods.iter().map(|(id, pod)| (*id, pod)).collect();
    let mut elsewhere = census.map(|census| census.elsewhere.iter().collect::<BTreeMap<_, _>>());
    let mut members: Vec<Member> = journal
        .iter()
        .filter_map(|(attachment, entry)| match entry {
            Entry::Absent => None,
            Entry::Record(record) => {
                if let Some(Attached { pod, .. }) = record.telemetry {
                    unseen.remove(&pod);
                    elsewhere.as_mut().and_then(|elsewhere| elsewhere.remove(&pod));
                }
                Some(recorded(record, state(record, census)))
            }
            Entry::Unreadable(why) | Entry::OutOfReach(why) => {
                Some(unreadable(attachment, why.to_string()))
            }
        })
        .collect();
    members.extend(unseen.iter().map(|(id, pod)| unrecorded(*id, pod)));
    members.extend(elsewhere.into_iter().flatten().map(|(id, there)| {
        let state = State::OtherVersion(there.layout.clone());
        Member { state, ..unrecorded(*id, &there.pod) }
    }));
    members.sort_by(|a, b| key(a).cmp(&key(b)));
    members
}

impl Member {
    /// What to look for on which interface, if this attachment is said to be counted.
    pub fn hooked(&self) -> Option<(u32, Attached)> {
        let attached = Attached { pod: self.attachment?, mode: self.hook? };
        let hooked =
            matches!(self.state, State::Counted | State::OtherVersion(_) | State::Unrecorded);
        hooked.then_some((self.host_ifindex?, attached))
    }

    /// Whether the interface on the node that a record names is gone.
    fn is_cut_off(&self, name_of: impl Asks, alias_of: impl Asks) -> bool {
        let lives = self.state.living() && self.state != State::Unknown;
        match (self.host_ifindex, &self.host_ifname) {
            // The number may be another interface's by now, and the name one that somebody gave it.
            (Some(index), Some(name)) if lives && name_of(index).as_ref() != Some(name) => {
                self.host_alias.is_none() || alias_of(index) != self.host_alias
            }
            _ => false,
        }
    }
}

/// A question about an interface, by its index.
pub trait Asks: Fn(u32) -> Option<String> {}

impl<T: Fn(u32) -> Option<String>> Asks for T {}

/// Marks those whose interface on the node is gone: whatever else is wrong with them comes from that. The kernel is
/// asked by [`name_of`](crate::telemetry::name_of) and [`alias_of`](crate::telemetry::alias_of).
pub fn mark_disconnected(members: &mut [Member], name_of: impl Asks, alias_of: impl Asks) {
    for member in members.iter_mut().filter(|member| member.is_cut_off(&name_of, &alias_of)) {
        member.state = State::Disconnected;
    }
}

fn key(member: &Member) -> (&str, &str, &str, &str) {
    (&member.namespace, &member.pod, &member.container_id, &member.ifname)
}

fn recorded(record: &Record, state: State) -> Member {
    let settled = !(record.under_way || record.leaving || record.abandoned);
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
        host_ifname: settled.then(|| record.host_ifname.clone()),
        host_alias: record.alias().filter(|_| settled),
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
        host_ifname: None,
        host_alias: None,
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
        host_ifname: None,
        host_alias: None,
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
        record::{NetnsRef, Plumbing},
        spec::capability::Bandwidth,
        telemetry::Elsewhere,
    };

    fn plumbing() -> Plumbing {
        Plumbing {
            mtu: 1500,
            mac: None,
            addresses: Vec::new(),
            routes: Vec::new(),
            masquerade: Vec::new(),
            delegate: None,
            ports: Vec::new(),
            bandwidth: Bandwidth::default(),
            guarded: false,
        }
    }

    fn record(container: &str, telemetry: Option<u32>) -> (Attachment, Entry) {
        let attachment = Attachment::new(container, "eth0").unwrap();
        let netns = NetnsRef { path: "/run/netns/x".into(), dev: 1, ino: 2 };
        let mut record = Record::new(&attachment, "podnet", netns).unwrap();
        record.telemetry = telemetry.map(|pod| Attached { pod, mode: Mode::Tcx });
        record.under_way = container == "begun";
        record.leaving = container == "leaving";
        record.bpf_dir = if container == "distant" { "/y" } else { "/x" }.into();
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
            record("leaving", Some(81)),
            record("distant", Some(79)),
            record("old", Some(80)),
            record("bare", None),
            (broken, Entry::Unreadable(Error::new(Kind::Io, "cut off"))),
            (Attachment::new("gone", "eth0").unwrap(), Entry::Absent),
        ];
        let mut census = fixture::census(&snapshot);
        let there = |name: &str| Elsewhere { layout: "0123".to_owned(), pod: fixture::pod(name) };
        census.elsewhere.insert(80, there("old"));
        census.elsewhere.insert(90, there("old-stray"));
        let states: BTreeMap<_, _> = join(&journal, Some(&census), &snapshot.pods)
            .into_iter()
            .map(|member| (member.container_id, member.state))
            .collect();
        let expected = [
            ("counted".into(), State::Counted),
            ("lost".into(), State::Lost),
            ("begun".into(), State::Unknown),
            ("leaving".into(), State::Unknown),
            ("distant".into(), State::Unknown),
            ("old".into(), State::OtherVersion("0123".into())),
            ("bare".into(), State::Uncounted),
            ("broken".into(), State::Unreadable("cut off".into())),
            ("stray".into(), State::Unrecorded),
            ("old-stray".into(), State::OtherVersion("0123".into())),
            ("deleted".into(), State::Deleted(Duration::from_secs(1_900))),
        ];
        assert_eq!(states, expected.into());
    }

    #[test]
    fn whose_interface_is_gone_or_anothers_is_disconnected_unless_a_call_works_on_it() {
        let mut journal = ["here", "gone", "given-on", "leaving", "begun", "bare", "renamed"]
            .map(|name| record(name, (name != "bare").then_some(1)));
        for ((_, entry), index) in journal.iter_mut().zip(1..) {
            let Entry::Record(record) = entry else { panic!() };
            (record.host_ifindex, record.host_ifname) = (Some(index), format!("weir{index}"));
            record.plumbing = Some(plumbing());
        }
        let here = [(1, None)].into();
        let census = Census { bpf_dir: "/x".into(), here: Some(here), ..Census::default() };
        let mut members = join(&journal, Some(&census), &BTreeMap::new());
        let name_of = |index| match index {
            1 => Some("weir1".to_owned()),
            3 | 7 => Some("eth7".to_owned()),
            _ => None,
        };
        let alias_of = |index| match index {
            3 => Some("weir:podnet/another/eth0".to_owned()),
            7 => Some("weir:podnet/renamed/eth0".to_owned()),
            _ => None,
        };
        mark_disconnected(&mut members, name_of, alias_of);
        let cut = members.iter().filter(|member| member.state == State::Disconnected);
        let cut: Vec<_> = cut.map(|member| &*member.container_id).collect();
        assert_eq!(cut, ["bare", "given-on", "gone"]);
    }

    #[test]
    fn maps_that_cannot_be_read_prove_nothing() {
        let states = join(&[record("a", Some(1)), record("b", None)], None, &BTreeMap::new());
        let states: Vec<_> = states.into_iter().map(|member| member.state).collect();
        assert_eq!(states, [State::Unknown, State::Uncounted]);
    }

    #[test]
    fn where_there_are_no_maps_who_was_counted_is_lost_or_another_versions() {
        let journal = [("a", 1), ("b", 77), ("begun", 78)].map(|(name, id)| record(name, Some(id)));
        let there = Elsewhere { layout: "0123".to_owned(), pod: fixture::pod("b") };
        let elsewhere = [(77, there)].into();
        let census = Census { bpf_dir: "/x".into(), elsewhere, ..Census::default() };
        let members = join(&journal, Some(&census), &BTreeMap::new());
        let states: Vec<_> = members.iter().map(|member| &member.state).collect();
        let others = State::OtherVersion("0123".into());
        assert_eq!(states, [&State::Lost, &others, &State::Unknown]);
        // It is counted, so its hook can be missing, and is not shown here.
        assert_eq!((others.counted(), members[1].attachment), (Some(false), Some(77)));
    }

    #[test]
    fn without_kubernetes_the_container_id_is_the_name() {
        let members = join(&[record("a", None)], None, &BTreeMap::new());
        assert_eq!((members[0].namespace.as_str(), members[0].pod.as_str()), ("", "a"));
    }
}

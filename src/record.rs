//! The journal: one record per attachment, from before its first kernel object to after its last.
//!
//! Whatever a killed call left behind, the record says where to look for it: DEL, GC and an ADD in
//! need of an address finish the work from here, whichever configuration they came with. It is
//! found by (container id, interface name) alone.
//!
//! An ADD writes it twice: before it makes anything, as one under way, and when all is made. It holds
//! the record's lock meanwhile, which ends with the process: a record under way that nobody holds is
//! that of an ADD that was killed.

use std::{
    fs::File,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{
    attachment::Attachment,
    error::{Context, Error, Kind, Result},
    spec::{
        Address, Route,
        capability::{Bandwidth, PortMapping},
    },
    state::{self, ATTACHMENTS, Dir, Lock, Share},
    telemetry::Attached,
};

/// The format that this binary writes; another one is unreadable to it.
const FORMAT: u32 = 1;
/// No record of ours comes near: the longest part is a configuration of at most 1 MiB.
const MAX_BYTES: u64 = 4 << 20;
/// A reconciliation keeps ADDs from beginning for some milliseconds; who waits this long meets a stuck
/// one.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one ADD made, or was about to make when it was killed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    format: u32,
    /// Whether its ADD has not made everything yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub under_way: bool,
    /// Whether it is under way, and its ADD is dead.
    #[serde(skip)]
    pub abandoned: bool,
    /// The boot that the kernel objects belong to.
    pub boot_id: String,
    /// When ADD was called, in seconds since the Unix epoch.
    pub created: u64,
    /// The network's name.
    pub network: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// The Kubernetes names, empty without Kubernetes.
    pub pod: PodName,
    /// The container's network namespace.
    pub netns: NetnsRef,
    /// The host side's name.
    pub host_ifname: String,
    /// The host side's index, once it is known.
    pub host_ifindex: Option<u32>,
    /// Where the pin directory of the telemetry is.
    pub bpf_dir: PathBuf,
    /// How the traffic is counted, or is to be; none if it isn't.
    pub telemetry: Option<Attached>,
    /// The pod's network; none where another plugin made it and weir only counts.
    pub plumbing: Option<Plumbing>,
    /// The addresses that such another plugin gave, to be shown; none of ours to release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others_addresses: Vec<IpAddr>,
}

/// A pod's Kubernetes names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct PodName {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`.
    pub uid: String,
}

/// A network namespace: the path it was given by, and what tells it from a later one there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct NetnsRef {
    /// `CNI_NETNS`.
    pub path: PathBuf,
    /// `st_dev` of the namespace file.
    pub dev: u64,
    /// `st_ino` of the namespace file.
    pub ino: u64,
}

/// What the pod's network was made from: enough to plan it again for CHECK.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plumbing {
    /// MTU of both ends in bytes.
    pub mtu: u32,
    /// The MAC that was asked for.
    pub mac: Option<String>,
    /// The pod's addresses; empty until a delegate has given them.
    pub addresses: Vec<Address>,
    /// The routes that were asked for.
    pub routes: Vec<Route>,
    /// The networks whose pods are masqueraded; empty if they are not.
    pub masquerade: Vec<IpNetwork>,
    /// Set where another IPAM plugin gave the addresses and has to be told of the end.
    pub delegate: Option<Delegated>,
    /// The node's ports that lead to the pod.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// What the pod's traffic is limited to.
    #[serde(default)]
    pub bandwidth: Bandwidth,
    /// Whether the programs that limit are hooked to the host side.
    #[serde(default)]
    pub guarded: bool,
}

/// An IPAM plugin, and the configuration that its ADD was called with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Delegated {
    /// `ipam.type`.
    pub plugin: String,
    /// The whole configuration, as it came on stdin.
    pub config: String,
}

/// What the journal has of an attachment.
#[derive(Debug)]
pub enum Entry {
    /// Nothing.
    Absent,
    /// A record.
    Record(Box<Record>),
    /// Something that can't be read as one: of another version, cut off, or not ours.
    Unreadable(Error),
}

impl Record {
    /// A record of a call that is about to begin: no addresses, no interface index, no telemetry.
    ///
    /// # Errors
    /// [`Kind::Io`]: the boot id can't be read.
    pub fn new(attachment: &Attachment, network: &str, netns: NetnsRef) -> Result<Self> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            format: FORMAT,
            under_way: true,
            abandoned: false,
            boot_id: state::boot_id()?,
            created: since_epoch.as_secs(),
            network: network.to_owned(),
            container_id: attachment.container_id().to_owned(),
            ifname: attachment.ifname().to_owned(),
            pod: PodName::default(),
            netns,
            host_ifname: String::new(),
            host_ifindex: None,
            bpf_dir: PathBuf::new(),
            telemetry: None,
            plumbing: None,
            others_addresses: Vec::new(),
        })
    }

    /// Whose record it is.
    ///
    /// # Errors
    /// [`Kind::Environment`]: the record's names are not names.
    pub fn attachment(&self) -> Result<Attachment> {
        Attachment::new(&self.container_id, &self.ifname)
    }

    /// The addresses that weir gave the pod, or had given.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.plumbing.iter().flat_map(|plumbing| plumbing.addresses.iter().map(Address::ip))
    }

    /// Writes it for the first time.
    ///
    /// # Errors
    /// [`Kind::NameTaken`]: the attachment has a record already, which stays as it is;
    /// [`Kind::TryAgain`], [`Kind::Io`].
    pub fn begin(&self, state_dir: &Path) -> Result<Begun> {
        let attachment = self.attachment()?;
        let dir = state::create(state_dir, &[ATTACHMENTS])?;
        dir.hold(Share::Many, PATIENCE)?;
        let Some(alive) = dir.create_file(&attachment.file_name(), &self.encode()?)? else {
            let msg =
                format!("{attachment} is attached already; it needs a DEL before another ADD");
            return Err(Error::new(Kind::NameTaken, msg));
        };
        Ok(Begun { dir, alive })
    }

    fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).context(Kind::Io, || "can't encode a record".into())
    }
}

/// An ADD that has begun: while this lives its record is not abandoned, and no
/// [pause](pause_adds) begins.
#[derive(Debug)]
pub struct Begun {
    dir: Dir,
    alive: Lock,
}

impl Begun {
    /// Writes the record again with what is known by now.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn update(&mut self, record: &Record) -> Result<()> {
        let name = record.attachment()?.file_name();
        self.alive = self.dir.replace_file(&name, &record.encode()?)?;
        Ok(())
    }
}

/// Keeps any ADD from beginning, and waits for those that have begun, until the answer is dropped;
/// `None` if there never was one.
///
/// # Errors
/// [`Kind::TryAgain`]: ADDs were under way all the time; [`Kind::Io`].
pub fn pause_adds(state_dir: &Path, patience: Duration) -> Result<Option<Dir>> {
    let dir = state::open(state_dir, &[ATTACHMENTS])?;
    if let Some(dir) = &dir {
        dir.hold(Share::Alone, patience)?;
    }
    Ok(dir)
}

/// Looks an attachment up.
///
/// # Errors
/// [`Kind::Io`]: the directory can't be read; a record that can't is [`Entry::Unreadable`].
pub fn find(state_dir: &Path, attachment: &Attachment) -> Result<Entry> {
    let dir = state::open(state_dir, &[ATTACHMENTS])?;
    Ok(dir.map_or(Entry::Absent, |dir| read(&dir, attachment)))
}

/// Forgets an attachment, as the last step of its end. Nothing there to forget is success.
///
/// # Errors
/// [`Kind::Io`].
pub fn remove(state_dir: &Path, attachment: &Attachment) -> Result<()> {
    match state::open(state_dir, &[ATTACHMENTS])? {
        Some(dir) => dir.remove_file(&attachment.file_name()).map(drop),
        None => Ok(()),
    }
}

/// Every attachment of the node, in no order; names that are no attachment's are passed over.
///
/// # Errors
/// [`Kind::Io`]: the directory can't be listed.
pub fn list(state_dir: &Path) -> Result<Vec<(Attachment, Entry)>> {
    let Some(dir) = state::open(state_dir, &[ATTACHMENTS])? else { return Ok(Vec::new()) };
    let names = dir.names()?;
    let attachments = names.iter().filter_map(|name| Attachment::from_file_name(name));
    Ok(attachments.map(|attachment| (attachment.clone(), read(&dir, &attachment))).collect())
}

/// Removes the temporary files of writes that were killed, which nobody has touched for a minute and
/// behind which no record stands; says whose. Only a file system without unnamed files has them.
///
/// # Errors
/// [`Kind::Io`].
pub fn sweep(state_dir: &Path) -> Result<Vec<Attachment>> {
    const OLD: Duration = Duration::from_secs(60);
    let Some(dir) = state::open(state_dir, &[ATTACHMENTS])? else { return Ok(Vec::new()) };
    let mut swept = Vec::new();
    for name in dir.temporary(OLD)? {
        if let Some(attachment) = Attachment::from_file_name(&name)
            && !dir.has(&name)?
            && dir.remove_file(&name).is_ok()
        {
            swept.push(attachment);
        }
    }
    Ok(swept)
}

fn read(dir: &Dir, attachment: &Attachment) -> Entry {
    match dir.read_open(&attachment.file_name(), MAX_BYTES) {
        Ok(None) => Entry::Absent,
        Ok(Some((bytes, file))) => match decode(&bytes, attachment) {
            Ok(mut record) => {
                record.abandoned = record.under_way && is_free(&file);
                Entry::Record(Box::new(record))
            }
            Err(why) => {
                let msg = format!("the record of {attachment} is unreadable");
                Entry::Unreadable(Error::new(Kind::Io, msg).details(why))
            }
        },
        Err(err) => Entry::Unreadable(err),
    }
}

/// Whether nobody holds the lock. Asked for as one that many may have, so that those who ask at once
/// don't take each other for the holder; closing the file gives it back.
fn is_free(file: &File) -> bool {
    file.try_lock_shared().is_ok()
}

fn decode(bytes: &[u8], attachment: &Attachment) -> Result<Record, String> {
    let record: Record = serde_json::from_slice(bytes).map_err(|err| err.to_string())?;
    if record.format != FORMAT {
        return Err(format!("its format is {}, not {FORMAT}", record.format));
    }
    match record.attachment() {
        Ok(own) if own == *attachment => Ok(record),
        _ => Err("it is another attachment's".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("weir-{name}-{}", std::process::id()));
            fs::create_dir(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn record(ifname: &str) -> Record {
        let attachment = Attachment::new("c1", ifname).unwrap();
        let netns = NetnsRef { path: "/run/netns/x".into(), dev: 4, ino: 5 };
        Record::new(&attachment, "podnet", netns).unwrap()
    }

    #[test]
    fn a_record_is_written_once_updated_and_forgotten() {
        let dir = Scratch::new("record");
        let mut record = record("eth0");
        let attachment = record.attachment().unwrap();
        assert!(matches!(find(&dir.0, &attachment).unwrap(), Entry::Absent));

        let mut begun = record.begin(&dir.0).unwrap();
        let refused = record.begin(&dir.0).unwrap_err();
        assert_eq!(refused.kind(), Kind::NameTaken);

        record.host_ifindex = Some(7);
        record.under_way = false;
        begun.update(&record).unwrap();
        let Entry::Record(found) = find(&dir.0, &attachment).unwrap() else { panic!("no record") };
        assert_eq!(*found, record);

        remove(&dir.0, &attachment).unwrap();
        remove(&dir.0, &attachment).unwrap();
        assert!(list(&dir.0).unwrap().is_empty());
        assert_eq!(fs::read_dir(dir.0.join(ATTACHMENTS)).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_record_is_unreadable_and_stops_nobody() {
        let dir = Scratch::new("unreadable");
        let good = record("eth0");
        drop(good.begin(&dir.0).unwrap());
        let below = dir.0.join(ATTACHMENTS);
        fs::copy(below.join("c1@eth0"), below.join("c2@eth0")).unwrap();
        fs::write(below.join("c1@eth1"), "").unwrap();
        fs::write(below.join("c1@eth2"), r#"{"format":1}"#).unwrap();
        std::os::unix::fs::symlink("c1@eth0", below.join("c1@eth3")).unwrap();
        fs::create_dir(below.join("c1@eth4")).unwrap();
        nix::unistd::mkfifo(&below.join("c1@eth5"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(below.join("README"), "").unwrap();

        let entries = list(&dir.0).unwrap();
        assert_eq!(entries.len(), 7);
        for (attachment, entry) in entries {
            let readable = matches!(entry, Entry::Record(_));
            assert_eq!(readable, attachment.file_name() == "c1@eth0", "{attachment}");
        }
    }

    #[test]
    fn an_add_that_is_dead_is_told_from_one_under_way() {
        let dir = Scratch::new("abandoned");
        let mut record = record("eth0");
        let attachment = record.attachment().unwrap();
        let state = || {
            let Entry::Record(found) = find(&dir.0, &attachment).unwrap() else { panic!() };
            (found.under_way, found.abandoned)
        };
        let mut begun = record.begin(&dir.0).unwrap();
        assert_eq!(state(), (true, false));
        begun.update(&record).unwrap();
        assert_eq!((state(), state()), ((true, false), (true, false)));
        assert_eq!(pause_adds(&dir.0, Duration::ZERO).unwrap_err().kind(), Kind::TryAgain);
        drop(begun);
        assert_eq!((state(), state()), ((true, true), (true, true)));
        assert!(pause_adds(&dir.0, Duration::ZERO).unwrap().is_some());

        remove(&dir.0, &attachment).unwrap();
        let mut begun = record.begin(&dir.0).unwrap();
        record.under_way = false;
        begun.update(&record).unwrap();
        drop(begun);
        assert_eq!(state(), (false, false));
    }

    #[test]
    fn a_killed_write_leaves_nothing_after_del() {
        let dir = Scratch::new("killed");
        let attachment = record("eth0").attachment().unwrap();
        state::create(&dir.0, &[ATTACHMENTS]).unwrap();
        fs::write(dir.0.join(ATTACHMENTS).join(".c1@eth0"), "{").unwrap();
        remove(&dir.0, &attachment).unwrap();
        assert_eq!(fs::read_dir(dir.0.join(ATTACHMENTS)).unwrap().count(), 0);
    }
}

//! What one ADD made, as the journal keeps it: enough to take it all away, or to make the plan again
//! that CHECK compares with, whichever configuration a later call comes with.

mod claim;
mod holder;
mod journal;

use std::{
    net::IpAddr,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{
    attachment::Attachment,
    error::{Context, Kind, Result},
    spec::{
        Address, Route,
        capability::{Bandwidth, PortMapping},
    },
    state,
    telemetry::Attached,
};

pub use claim::{Claim, claim};
pub use holder::{Holder, holders, holders_of};
pub use journal::{
    Begun, Entry, changed, directory, each, find, is_held, list, pause_adds, remove, some, sweep,
};

/// The format that this binary writes; another one is unreadable to it.
const FORMAT: u32 = 1;

/// What one ADD made, or was about to make when it was killed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    format: u32,
    /// Whether its ADD has not made everything yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub under_way: bool,
    /// Whether it is under way and its ADD is dead, or its end was begun and whoever did that has not come
    /// to an end with it.
    #[serde(skip)]
    pub abandoned: bool,
    /// Whether its end was begun, by whoever, or its boot is over: that the maps have nothing of it is no loss.
    #[serde(skip)]
    pub leaving: bool,
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
            leaving: false,
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

    /// Whether what has the host side's index is the host side: others may have the number by now, and somebody may
    /// have given it another name.
    pub fn is_host_side(&self, name: &str, alias: &str) -> bool {
        name == self.host_ifname || self.alias().is_some_and(|own| own == alias)
    }

    /// The host side's alias; `None` where it is another plugin's.
    pub fn alias(&self) -> Option<String> {
        let own = self.plumbing.as_ref().and_then(|_| self.attachment().ok());
        own.map(|own| own.alias(&self.network))
    }

    /// The addresses that weir gave the pod, or had given.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.plumbing.iter().flat_map(|plumbing| plumbing.addresses.iter().map(Address::ip))
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).context(Kind::Io, || "can't encode a record".into())
    }

    /// A record of the given attachment, or why it is none.
    pub(crate) fn decode(bytes: &[u8], attachment: &Attachment) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(bytes).map_err(|err| err.to_string())?;
        if record.format != FORMAT {
            return Err(format!("its format is {}, not {FORMAT}", record.format));
        }
        match record.attachment() {
            Ok(own) if own == *attachment => Ok(record),
            _ => Err("it is another attachment's".into()),
        }
    }
}

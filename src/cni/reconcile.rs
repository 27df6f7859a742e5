//! What no living attachment owns goes, of every network, and the living get back what they lack: for the
//! node whose runtime lost track, or where something else took hooks or nftables rules of ours off.
//!
//! Safe beside any other call, by the order of its looks. An ADD writes its record before it makes
//! anything, a DEL removes it after all is gone: so whatever was seen, and has no record when the
//! records are read afterwards, is nobody's. Only the masquerade of a subnet belongs to all pods of a
//! network at once; to end it, ADDs are kept from beginning for a moment.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::json;

use super::{
    Call,
    config::Config,
    mend::{self, Mend},
    reclaim,
    request::{Command, Request},
};
use crate::{
    attachment::Attachment,
    error::{Error, Kind, Result},
    ipam::pool::{self, Pool},
    net::{
        link::{self, Link},
        nft::{self, hostport},
        peer,
    },
    record::{self, Entry, Record},
    spec::Version,
    state,
    telemetry::{
        traces::{self, Trace},
        whole::{self, Refilled},
    },
};

/// How long to wait for ADDs under way before the masquerade is left as it is.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a link without a record is left to itself: a runtime starts a pod's first process when its ADD is done,
/// whose record may be in another state dir.
const SETTLE: Duration = Duration::from_secs(3);
/// How long IPAM plugins may take where no runtime waits: one that hangs gets as long as it ever does.
pub const PLUGINS: Duration = Duration::from_secs(60);

/// Where to look.
#[derive(Debug, Clone)]
pub struct Places {
    /// `stateDir` of the networks.
    pub state_dir: PathBuf,
    /// `bpfDir` of the networks.
    pub bpf_dir: PathBuf,
    /// Directories in which an IPAM plugin is found that has to be told of an end.
    pub cni_path: OsString,
    /// How long all that are told may take together, from the beginning on.
    pub plugins: Duration,
}

/// What kind of thing was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Thing {
    /// An attachment, with everything of it.
    Attachment,
    /// An interface without a record.
    Link,
    /// Filters, pinned links or a map entry without a record.
    Hook,
    /// Host ports without a record.
    Ports,
    /// An address leased to nobody.
    Lease,
    /// A half-written record, or programs that were half loaded.
    Remnant,
    /// A subnet that is masqueraded for no pod.
    Masquerade,
    /// A network configuration, when Weir is uninstalled.
    Configuration,
    /// The executable, likewise.
    Executable,
    /// Programs, maps and links, likewise.
    Pins,
    /// The nftables table, likewise.
    Table,
    /// The state dir, likewise.
    State,
}

/// One thing that was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// What it was.
    pub what: Thing,
    /// Its name.
    pub name: String,
    /// The network that it was of, where that is known.
    pub network: Option<String>,
}

/// What a reconciliation did.
#[derive(Debug, Default)]
pub struct Report {
    /// What is gone now.
    pub dropped: Vec<Dropped>,
    /// What living attachments lacked, and have again.
    pub mended: Vec<(Attachment, Mend)>,
    /// Pins of programs and maps that somebody had removed.
    pub refilled: Refilled,
    /// What has no owner and was left all the same, and why.
    pub left: Vec<String>,
    /// What could not be looked at or dropped.
    pub failures: Vec<Error>,
}

/// Drops what no living attachment owns, and mends what the living lack; goes on past failures.
pub fn run(places: &Places) -> Report {
    let mut report = Report::default();
    if let Err(err) = reconcile(places, &mut report) {
        report.failures.push(err);
    }
    report
}

fn reconcile(places: &Places, report: &mut Report) -> Result<()> {
    // Before anything is looked for in the maps.
    report.refilled = report.note(whole::refill(&places.bpf_dir)).unwrap_or_default();
    let traces = report.note(traces::list(&places.bpf_dir)).unwrap_or_default();
    let links = link::all(&mut link::socket()?)?;
    let ports = report.note(hostport::owners()).unwrap_or_default();
    let known = state::open(&places.state_dir, &[state::ATTACHMENTS])?.is_some();
    let records = record::list(&places.state_dir)?;
    let (living, recorded) = drop_dead(places, report, records)?;
    let mut elsewhere = !known;
    if known {
        let left = drop_links(report, &links, &recorded)?;
        // A link that was left may be of a network whose records are elsewhere.
        elsewhere = !report.left.is_empty();
        drop_hooks(places, report, traces, &living, &recorded, &left)?;
        for owner in ports.difference(&recorded).filter(|owner| !left.contains(owner)) {
            report.drop(Thing::Ports, owner, None, hostport::evict(owner).map(drop));
        }
    } else {
        let dir = places.state_dir.display();
        let what = "links, hooks, host ports and masquerade are left";
        report.left.push(format!("{dir} has no records: {what}"));
    }
    mend::run(places, report, &living)?;
    drop_leases(places, report)?;
    drop_remnants(places, report);
    if !elsewhere {
        drop_masquerade(places, report)?;
    }
    Ok(())
}

impl Report {
    pub(super) fn note<T>(&mut self, attempt: Result<T>) -> Option<T> {
        attempt.map_err(|err| self.failures.push(err)).ok()
    }

    /// Remembers what was dropped, if it was.
    pub(super) fn drop(
        &mut self,
        what: Thing,
        name: impl ToString,
        network: Option<&str>,
        gone: Result<()>,
    ) {
        if self.note(gone).is_some() {
            let network = network.map(str::to_owned);
            self.dropped.push(Dropped { what, name: name.to_string(), network });
        }
    }
}

/// The dead go; returns the living, and all that had a record.
fn drop_dead(
    places: &Places,
    report: &mut Report,
    records: Vec<(Attachment, Entry)>,
) -> Result<(Vec<Record>, BTreeSet<Attachment>)> {
    let boot_id = state::boot_id()?;
    let mut work = Work::begin(places);
    let mut living = Vec::new();
    let recorded = records.iter().map(|(attachment, _)| attachment.clone()).collect();
    for (attachment, entry) in records {
        match entry {
            Entry::Record(record) if reclaim::is_dead(&record, &boot_id) => {
                let end = |call: &Call| reclaim::end_dead(call, &attachment);
                match report.note(work.end(&record, end)).flatten() {
                    Some(true) => {
                        report.drop(Thing::Attachment, &attachment, Some(&record.network), Ok(()));
                    }
                    // Somebody else ends it, or ended it, and the ids live anew: nothing of it is touched.
                    Some(false) => living.push(*record),
                    None => {}
                }
            }
            Entry::Record(record) => living.push(*record),
            Entry::Unreadable(why) => match reclaim::end_dead(&work.call(""), &attachment) {
                Ok(true) => report.drop(Thing::Attachment, &attachment, None, Ok(())),
                Ok(false) => {
                    let what = "its interface is there, or another call works on it";
                    report.left.push(format!("{why}, and {what}"));
                }
                Err(err) => report.failures.push(err),
            },
            Entry::OutOfReach(why) => report.failures.push(why),
            Entry::Absent => {}
        }
    }
    work.tell(report);
    Ok((living, recorded))
}

/// Links that bear an attachment's mark and have no record go, unless somebody lives behind them: a
/// state dir that was lost, or is another, must not cost a running pod its network. Returns whose were left.
fn drop_links(
    report: &mut Report,
    links: &[Link],
    recorded: &BTreeSet<Attachment>,
) -> Result<BTreeSet<Attachment>> {
    let mut left = BTreeSet::new();
    let strays = links.iter().filter_map(|link| {
        let (network, attachment) = reclaim::owner(link)?;
        (!recorded.contains(&attachment)).then_some((link, network, attachment))
    });
    let mut socket = link::socket()?;
    // Its DEL may have come between the looks.
    let mut is_there = |link: &Link| -> Result<bool> {
        Ok(link::by_index(&mut socket, link.index)?.is_some_and(|now| now.alias == link.alias))
    };
    let mut there = Vec::new();
    for stray in strays {
        if is_there(stray.0)? {
            there.push(stray);
        }
    }
    if there.is_empty() {
        return Ok(left);
    }
    let lives = |numbers: &BTreeSet<i32>, link: &Link| {
        link.peer_netns.is_some_and(|number| numbers.contains(&number))
    };
    let mut inhabited = report.note(peer::inhabited(&mut socket));
    if inhabited.as_ref().is_some_and(|numbers| there.iter().any(|it| !lives(numbers, it.0))) {
        thread::sleep(SETTLE);
        inhabited = report.note(peer::inhabited(&mut socket));
    }
    for (link, network, attachment) in there {
        let why = match &inhabited {
            Some(numbers) if lives(numbers, link) => {
                Some("has no record, but processes run behind it")
            }
            Some(_) => None,
            None => Some("has no record, and may have processes behind it"),
        };
        if let Some(why) = why {
            let name = &link.name;
            report.left.push(format!("interface {name} of {attachment} {why}"));
            left.insert(attachment);
            continue;
        }
        // Also between these.
        if link::by_index(&mut socket, link.index)?.is_some_and(|now| now.alias == link.alias) {
            report.drop(Thing::Link, &link.name, Some(&network), link::delete(&mut socket, link));
        }
    }
    Ok(left)
}

/// Hooks without a record go with their interface. As long as that is there they may be those of a pod whose
/// records are in another state dir that shares the pins; `left` are those whose interface is told of already.
fn drop_hooks(
    places: &Places,
    report: &mut Report,
    traces: Vec<Trace>,
    living: &[Record],
    recorded: &BTreeSet<Attachment>,
    left: &BTreeSet<Attachment>,
) -> Result<()> {
    let owned: BTreeSet<u32> =
        living.iter().filter_map(|record| Some(record.telemetry?.pod)).collect();
    let is_stray = |trace: &Trace| {
        let mut known = recorded.iter().chain(left);
        !owned.contains(&trace.attached.pod) && !known.any(|owner| trace.is_of(owner))
    };
    let strays: Vec<_> = traces.into_iter().filter(is_stray).collect();
    if strays.is_empty() {
        return Ok(());
    }
    // The DELs of some may have come between the looks.
    let now: BTreeSet<u32> =
        traces::list(&places.bpf_dir)?.iter().map(|trace| trace.attached.pod).collect();
    let mut socket = link::socket()?;
    for trace in strays.into_iter().filter(|trace| now.contains(&trace.attached.pod)) {
        let stays = match trace.ifindex() {
            Some(index) => link::by_index(&mut socket, index)?,
            None => None,
        };
        let passed_on =
            |link: &Link| living.iter().any(|record| record.host_ifindex == Some(link.index));
        if let (Some(link), Some(of)) =
            (stays.as_ref().filter(|link| !passed_on(link)), trace.owner())
        {
            let name = &link.name;
            let why =
                "is counted, and has no record here: of another stateDir, or its record was lost";
            report.left.push(format!("interface {name} of {of} {why}"));
            continue;
        }
        let name = format!("{:08x}", trace.attached.pod);
        let gone = trace.end(&places.bpf_dir, stays.map(|link| link.index));
        report.drop(Thing::Hook, name, None, gone);
    }
    Ok(())
}

fn drop_leases(places: &Places, report: &mut Report) -> Result<()> {
    for network in pool::networks(&places.state_dir)? {
        let pool = Pool { state_dir: &places.state_dir, network: &network };
        for lease in report.note(pool.sweep()).unwrap_or_default() {
            report.drop(Thing::Lease, lease, Some(&network), Ok(()));
        }
    }
    Ok(())
}

/// What was half written or half loaded when its call was killed.
fn drop_remnants(places: &Places, report: &mut Report) {
    for attachment in report.note(record::sweep(&places.state_dir)).unwrap_or_default() {
        report.drop(Thing::Remnant, attachment, None, Ok(()));
    }
    if report.note(traces::clear_load(&places.bpf_dir)) == Some(true) {
        report.drop(Thing::Remnant, "half-loaded programs", None, Ok(()));
    }
}

fn drop_masquerade(places: &Places, report: &mut Report) -> Result<()> {
    let wanted = || -> Result<Vec<_>> {
        let mut wanted = Vec::new();
        for (_, entry) in record::list(&places.state_dir)? {
            match entry {
                Entry::Record(record) => {
                    wanted.extend(record.plumbing.into_iter().flat_map(|its| its.masquerade));
                }
                // Its pod may be the one that lives behind it.
                Entry::OutOfReach(why) => return Err(why),
                Entry::Unreadable(_) | Entry::Absent => {}
            }
        }
        Ok(wanted)
    };
    if nft::masquerade_narrow(&wanted()?, false)?.is_empty() {
        return Ok(());
    }
    let _paused = record::pause_adds(&places.state_dir, PATIENCE)?;
    for subnet in nft::masquerade_narrow(&wanted()?, true)? {
        report.drop(Thing::Masquerade, subnet, None, Ok(()));
    }
    Ok(())
}

/// The ending of attachments for no runtime, in the time that IPAM plugins have for all of them.
pub(super) struct Work<'a> {
    places: &'a Places,
    plugins_until: Instant,
    /// Those that a plugin has to be told of, when the time was over.
    late: usize,
}

impl<'a> Work<'a> {
    /// The time runs from now on.
    pub(super) fn begin(places: &'a Places) -> Self {
        Self { places, plugins_until: Instant::now() + places.plugins, late: 0 }
    }

    /// A call of our own, for what takes an attachment away for a runtime's.
    pub(super) fn call(&self, network: &str) -> Call {
        let path = self.places.cni_path.clone();
        let request = Request { command: Command::Gc, args: String::new(), path };
        let config = Config {
            version: Version::NEWEST,
            name: network.to_owned(),
            state_dir: self.places.state_dir.clone(),
            bpf_dir: self.places.bpf_dir.clone(),
            json: json!({}),
        };
        Call { request, config, stdin: b"{}".to_vec(), plugins_until: self.plugins_until }
    }

    /// Ends an attachment by a call; `None` where only its IPAM plugin is still to be told, for which there
    /// was no time left.
    pub(super) fn end<T>(
        &mut self,
        record: &Record,
        end: impl FnOnce(&Call) -> Result<T>,
    ) -> Result<Option<T>> {
        let delegated =
            record.plumbing.as_ref().is_some_and(|plumbing| plumbing.delegate.is_some());
        let over = delegated && Instant::now() >= self.plugins_until;
        match end(&self.call(&record.network)) {
            Err(err) if over && err.kind() == Kind::TryAgain => {
                self.late += 1;
                Ok(None)
            }
            ended => ended.map(Some),
        }
    }

    /// Says how many are left.
    pub(super) fn tell(self, report: &mut Report) {
        if self.late > 0 {
            let (late, took) = (self.late, self.places.plugins);
            let msg = format!(
                "attachments left to the next run, since IPAM plugins took all of their {took:?}: {late}"
            );
            report.failures.push(Error::new(Kind::TryAgain, msg));
        }
    }
}

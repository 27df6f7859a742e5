//! The end of an attachment, from its record: the one way down for DEL, GC, and a failed ADD.
//!
//! The order is: host ports, link (and with it addresses, routes, neighbours, filters), telemetry,
//! addresses, record. An address is given up only when its link is gone and no host port leads to it,
//! so that no successor meets a stale route; the record only when all is gone, so that what failed can be tried again. Failures are
//! gathered: for some runtimes the first DEL is the only one.

use std::{fmt, os::fd::AsFd, path::Path, time::Duration};

use crate::{
    attachment::Attachment,
    error::{Error, Kind, Result},
    ipam::pool::{self, Pool},
    net::{self, Mark, link, names, nft::hostport::Deletion},
    record::{self, Delegated, Holder, Record},
    state, telemetry,
};

use super::{Call, chain, ports, wanted};

/// How long to wait for who holds an attachment's record, an IPAM plugin that outlives the killed ADD above
/// all: less than any runtime gives us.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long who can do without it waits: a reader holds a record for a moment.
pub const MOMENT: Duration = Duration::from_millis(20);

/// That somebody held the attachment's record all the time, and who.
pub fn held(state_dir: &Path, attachment: &Attachment) -> Error {
    let msg = format!(
        "{attachment} is being added, by its ADD or by an IPAM plugin that outlives it, or taken away by \
         another call; call again when that has ended"
    );
    let held = Error::new(Kind::TryAgain, msg);
    let holders = record::holders(state_dir, attachment);
    if holders.is_empty() {
        return held;
    }
    let all: Vec<_> = holders.iter().map(Holder::to_string).collect();
    held.details(format!("process {} holds its record; if it is stuck, end it", all.join(", ")))
}

/// What went wrong so far, while the work went on.
#[derive(Debug, Default)]
pub struct Failures(Vec<Error>);

impl Failures {
    /// Remembers a failure; says whether it was none.
    pub fn note(&mut self, attempt: Result<()>) -> bool {
        attempt.map_err(|err| self.0.push(err)).is_ok()
    }

    /// The first failure, with the others in its details.
    ///
    /// # Errors
    /// If there was any.
    pub fn into_result(self) -> Result<()> {
        let mut failures = self.0.into_iter();
        failures.next().map_or(Ok(()), |first| Err(failures.fold(first, Error::details)))
    }
}

/// Takes away all that a record names, and then the record.
///
/// # Errors
/// The first failure, with the others in its details.
pub fn recorded(call: &Call, attachment: &Attachment, record: &Record) -> Result<()> {
    let mut failures = Failures::default();
    let ours = record.plumbing.as_ref();
    // Closed at the end: the link waits for the same grace period.
    let mut deletion: Option<Deletion> = None;
    let unmapped = match ours {
        Some(plumbing) => {
            let withdrawn = ports::withdraw(attachment, plumbing);
            failures.note(withdrawn.map(|open| deletion = open))
        }
        None => true,
    };
    let link_gone = match ours {
        Some(_) => {
            let mark = Mark::new(&record.network, attachment);
            let along = deletion.as_ref().map(|deletion| deletion.0.as_fd());
            failures.note(net::remove(record.host_ifindex, &mark, along))
        }
        None => true,
    };
    if let Some(attached) = &record.telemetry {
        let stays = record.host_ifindex.filter(|_| ours.is_none() && still_there(record));
        let (bpf_dir, id) = (&record.bpf_dir, attachment.container_id());
        failures.note(telemetry::detach(bpf_dir, id, attached, stays));
    }
    failures.note(unlimit(record));
    if let Some(plumbing) = ours
        && link_gone
        && unmapped
    {
        failures.note(match &plumbing.delegate {
            Some(delegated) => tell(call, attachment, record, delegated),
            None => {
                let pool = Pool { state_dir: &call.config.state_dir, network: &record.network };
                pool.release(attachment, record.addresses())
            }
        });
    }
    if failures.0.is_empty() {
        failures.note(record::remove(&call.config.state_dir, attachment));
    }
    drop(deletion);
    failures.into_result()
}

/// How far to look for what an attachment without a readable record has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// Only where its link is there: runtimes ask often for an id that never was, which shows by having
    /// neither a record nor a link, and then the maps are not read.
    BehindTheLink,
    /// There, and through the counters' maps: behind another plugin, whose link says nothing.
    Hooks,
    /// Through every map, and the leases of every network.
    Everything,
}

/// What had the name that the attachment's link has.
#[derive(Debug, Default, PartialEq, Eq)]
enum Stray {
    /// Nothing.
    #[default]
    Absent,
    /// A link without its mark, which stays.
    Foreign,
    /// Its link, of this name, which is gone.
    Removed(String),
}

/// What was found without a record, and taken away.
#[derive(Debug, Default)]
struct Strays {
    link: Stray,
    /// Whether there were elements in the host ports' maps.
    ports: bool,
    /// Whether it was in the counters' maps.
    counted: bool,
}

impl fmt::Display for Strays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = match &self.link {
            Stray::Removed(name) => Some(format!("interface {name}")),
            Stray::Absent | Stray::Foreign => None,
        };
        let ports = self.ports.then(|| "its host ports".to_owned());
        let counted = self.counted.then(|| "its counting".to_owned());
        let all: Vec<_> = [link, ports, counted].into_iter().flatten().collect();
        f.write_str(&all.join(", "))
    }
}

/// Takes away what can be found of an attachment whose record is unreadable, and that.
///
/// # Errors
/// As [`recorded`].
pub fn unrecorded(call: &Call, attachment: &Attachment, search: Search) -> Result<()> {
    strays(call, attachment, search)?;
    record::remove(&call.config.state_dir, attachment)
}

/// Takes away what can be found of an attachment without its record: the state dir was lost, or is
/// another, or the record is unreadable. Says whether there was a link, or anything else by its marks. Its
/// addresses are given up only where nothing leads to it any more, and behind another plugin they are that one's.
///
/// # Errors
/// As [`recorded`].
pub fn strays(call: &Call, attachment: &Attachment, search: Search) -> Result<bool> {
    let mut failures = Failures::default();
    let mut strays = Strays::default();
    let link = remove_stray(&call.config.name, attachment);
    let mut unreachable = link.is_ok();
    let is_there = !matches!(link, Ok(Stray::Absent));
    if search == Search::Everything || is_there {
        let evicted = ports::evict(attachment).map(|ports| strays.ports = ports);
        unreachable &= failures.note(evicted);
    }
    if search != Search::BehindTheLink || is_there {
        failures.note(uncount(call, attachment).map(|counted| strays.counted = counted));
    }
    failures.note(link.map(|link| strays.link = link));
    let removed = matches!(strays.link, Stray::Removed(_));
    if search != Search::Everything && (removed || strays.counted) {
        let dir = call.config.state_dir.display();
        let held = if removed { "its addresses are held" } else { "its record is" };
        eprintln!(
            "weir: no record of {attachment} in {dir}: took away by their marks {strays}; if its ADD had \
             another stateDir, {held} there: weir reconcile --state-dir DIR"
        );
    }
    if search == Search::Everything && unreachable {
        release_everywhere(call, attachment, &mut failures);
    }
    if unreachable && !chain::is_behind_another(&call.config, &names::host_ifname(attachment)) {
        failures.note(wanted::delegate(&call.config.root()).and_then(|plugin| match plugin {
            Some(plugin) => call.delegate(&plugin, &call.stdin)?.del(attachment),
            None => Ok(()),
        }));
    }
    let found = removed || strays.ports || strays.counted;
    failures.into_result().map(|()| found)
}

/// Forgets the pod's limit. After a reboot the maps are new, and the index may be another's.
fn unlimit(record: &Record) -> Result<()> {
    let guarded = record.plumbing.as_ref().is_some_and(|plumbing| plumbing.guarded);
    match record.host_ifindex.filter(|_| guarded) {
        Some(index) if record.boot_id == state::boot_id()? => {
            telemetry::limit::forget(&record.bpf_dir, index)
        }
        _ => Ok(()),
    }
}

/// Whether the host side's link is still the one that we hooked to.
pub fn still_there(record: &Record) -> bool {
    has_link(record).unwrap_or(false)
}

/// As [`still_there`].
///
/// # Errors
/// Those of asking the kernel.
pub fn has_link(record: &Record) -> Result<bool> {
    let Some(index) = record.host_ifindex else { return Ok(false) };
    let found = link::by_index(&mut link::socket()?, index)?;
    Ok(found.is_some_and(|link| record.is_host_side(&link.name, &link.alias)))
}

/// Tells the IPAM plugin that gave the addresses. It gets the configuration of this call where that
/// is of the same network and plugin, else the one that its ADD had.
fn tell(
    call: &Call,
    attachment: &Attachment,
    record: &Record,
    delegated: &Delegated,
) -> Result<()> {
    let now = wanted::delegate(&call.config.root()).ok().flatten();
    let same = call.config.name == record.network && now.as_ref() == Some(&delegated.plugin);
    let config = if same { &call.stdin } else { delegated.config.as_bytes() };
    call.delegate(&delegated.plugin, config)?.del(attachment)
}

/// Removes a link that bears the attachment's name and MAC, of whichever network its alias says.
fn remove_stray(network: &str, attachment: &Attachment) -> Result<Stray> {
    let mark = Mark::new(network, attachment);
    if !link::is_there(&mark.host_ifname)? {
        return Ok(Stray::Absent);
    }
    let Some(stray) = link::by_name(&mut link::socket()?, &mark.host_ifname)? else {
        return Ok(Stray::Absent);
    };
    let network = stray.alias.strip_prefix("weir:").and_then(|rest| rest.split('/').next());
    let mark = network.map_or(mark, |network| Mark::new(network, attachment));
    if !mark.is_on(&stray.alias, stray.mac) {
        return Ok(Stray::Foreign);
    }
    net::remove(Some(stray.index), &mark, None).map(|()| Stray::Removed(stray.name))
}

/// Ends the counting of whatever the maps have of the attachment; says whether there was any. An
/// interface that is there by now is another plugin's, to which we are chained.
fn uncount(call: &Call, attachment: &Attachment) -> Result<bool> {
    let bpf_dir = &call.config.bpf_dir;
    let id = attachment.container_id();
    let found = telemetry::find(bpf_dir, id, attachment.ifname())?;
    for (index, attached) in &found {
        let index = *index;
        let stays = link::by_index(&mut link::socket()?, index)?.map(|link| link.index);
        telemetry::detach(bpf_dir, id, attached, stays)?;
        telemetry::limit::forget(bpf_dir, index)?;
    }
    Ok(!found.is_empty())
}

fn release_everywhere(call: &Call, attachment: &Attachment, failures: &mut Failures) {
    let state_dir = &call.config.state_dir;
    let networks = pool::networks(state_dir).map_err(|err| failures.0.push(err));
    for network in networks.unwrap_or_default() {
        let pool = Pool { state_dir, network: &network };
        let held = pool.held_by(attachment);
        failures.note(held.and_then(|held| pool.release(attachment, held)));
    }
}

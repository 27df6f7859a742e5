//! Who has which address: the embedded allocator's store.
//!
//! A lease is a symbolic link from the address to the record of its owner, which is written first.
//! So under the lock, a lease whose record is missing belongs to nobody. Choosing takes the next
//! free address behind the last one given, without reading the other leases: a thousand pods don't
//! make an ADD slower.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    net::IpAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::range::RangeSet;
use crate::{
    attachment::Attachment,
    error::{Context, Error, Kind, Result},
    record,
    spec::Address,
    state::{self, ATTACHMENTS, Dir, LEASES, LOCK, Lock},
};

/// The lock is held for some ten microseconds; who waits this long meets a stuck holder.
const PATIENCE: Duration = Duration::from_secs(5);
/// Enough for a line of each range set that there may be.
const MAX_CURSORS: u64 = 4096;
/// How many addresses in a row may be claimed before the range is given up: more than a node has pods of
/// which no lease is left, few enough to be looked at in a tenth of a second (27 us each, on a busy machine),
/// where the range is one that the node answers for as a whole.
const MAX_CLAIMED: usize = 4096;

/// Why an address that nobody has leased can't be given: the node needs it for itself, or leads to it
/// already; none if it can.
pub type Claimed<'a> = dyn FnMut(IpAddr) -> Result<Option<String>> + 'a;

/// A network's leases.
#[derive(Debug, Clone, Copy)]
pub struct Pool<'a> {
    /// The state dir.
    pub state_dir: &'a Path,
    /// The network's name.
    pub network: &'a str,
}

impl Pool<'_> {
    /// Leases one address of each set; those in `requested` where a set has one of them. One that is
    /// `claimed` is passed over; that is asked for the addresses that nobody has leased.
    ///
    /// `journal` is called before the first lease exists, with what will be leased.
    ///
    /// # Errors
    /// [`Kind::Exhausted`], [`Kind::TryAgain`] when the lock is held too long, [`Kind::Config`]
    /// for a requested address that can't be given, [`Kind::Io`], and those of `journal`. After an
    /// error of `journal` nothing is leased; after a later one [`release`](Self::release) undoes.
    pub fn allocate(
        &self,
        owner: &Attachment,
        sets: &[RangeSet],
        requested: &[IpAddr],
        claimed: &mut Claimed<'_>,
        journal: impl FnOnce(&[Address]) -> Result<()>,
    ) -> Result<Vec<Address>> {
        let wishes = wishes(sets, requested)?;
        let dir = state::create(self.state_dir, &[LEASES, self.network])?;
        let lock = self.lock(&dir)?;
        let mut cursors = read_cursors(lock.file(), sets.len());
        let chosen = match choose(&dir, sets, &wishes, &cursors, claimed) {
            // A call that was killed between its two removals may have left leases of nobody.
            Err(err) if err.kind() == Kind::Exhausted && !self.sweep_locked(&dir)?.is_empty() => {
                choose(&dir, sets, &wishes, &cursors, claimed)?
            }
            chosen => chosen?,
        };
        journal(&chosen)?;
        for ((address, wish), cursor) in chosen.iter().zip(&wishes).zip(&mut cursors) {
            if !dir.link(&address.ip().to_string(), &target(owner))? {
                let msg = format!("lease {} appeared behind the lock", address.ip());
                return Err(Error::new(Kind::Io, msg));
            }
            if wish.is_none() {
                *cursor = Some(address.ip());
            }
        }
        write_cursors(lock.file(), &cursors)?;
        Ok(chosen)
    }

    /// Ends the leases of these addresses, as far as they are the owner's.
    ///
    /// # Errors
    /// [`Kind::TryAgain`], [`Kind::Io`].
    pub fn release(
        &self,
        owner: &Attachment,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<()> {
        let mut addresses = addresses.into_iter().peekable();
        if addresses.peek().is_none() {
            return Ok(());
        }
        let Some(dir) = state::open(self.state_dir, &[LEASES, self.network])? else {
            return Ok(());
        };
        let _lock = self.lock(&dir)?;
        for ip in addresses {
            let name = ip.to_string();
            if dir.read_link(&name)?.is_some_and(|is| is == target(owner)) {
                dir.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Checks that the owner has these addresses.
    ///
    /// # Errors
    /// [`Kind::Difference`] naming the address, [`Kind::Io`].
    pub fn check(&self, owner: &Attachment, addresses: impl Iterator<Item = IpAddr>) -> Result<()> {
        let dir = state::open(self.state_dir, &[LEASES, self.network])?;
        for ip in addresses {
            let lease = dir.as_ref().map(|dir| dir.read_link(&ip.to_string())).transpose()?;
            match lease.flatten() {
                Some(is) if is == target(owner) => {}
                Some(_) => return difference(format!("address {ip} is leased to somebody else")),
                None => return difference(format!("address {ip} is not leased any more")),
            }
        }
        Ok(())
    }

    /// Whether each set has a free address. Takes no lock, and no longer than choosing does.
    ///
    /// # Errors
    /// [`Kind::Exhausted`] naming the set's first range, [`Kind::Io`].
    pub fn check_free(&self, sets: &[RangeSet], claimed: &mut Claimed<'_>) -> Result<()> {
        let Some(dir) = state::open(self.state_dir, &[LEASES, self.network])? else {
            return Ok(());
        };
        let cursors = match dir.read(LOCK, MAX_CURSORS)? {
            Some(bytes) => read_cursors(bytes.as_slice(), sets.len()),
            None => vec![None; sets.len()],
        };
        choose(&dir, sets, &vec![None; sets.len()], &cursors, claimed).map(drop)
    }

    /// Removes the leases that no record stands behind; says which.
    ///
    /// # Errors
    /// [`Kind::TryAgain`], [`Kind::Io`].
    pub fn sweep(&self) -> Result<Vec<String>> {
        let Some(dir) = state::open(self.state_dir, &[LEASES, self.network])? else {
            return Ok(Vec::new());
        };
        let _lock = self.lock(&dir)?;
        self.sweep_locked(&dir)
    }

    /// Takes the network's lock.
    ///
    /// What this process has waited for in vain it hardly waits for any more, until it has had it: GC would wait
    /// again for each of the attachments that it ends, behind a process that was stopped with the lock in its
    /// hands.
    fn lock(&self, dir: &Dir) -> Result<Lock> {
        /// What others need it for takes some microseconds.
        const AGAIN: Duration = Duration::from_millis(20);
        static STUCK: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
        let stuck = || STUCK.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.state_dir.join(LEASES).join(self.network).join(LOCK);
        let again = stuck().contains(&file);
        let patience = if again { AGAIN } else { PATIENCE };
        let locked = dir.lock(LOCK, patience);
        if again && locked.is_ok() {
            stuck().remove(&file);
        }
        locked.map_err(|err| {
            if err.kind() != Kind::TryAgain || again {
                return err;
            }
            let all: Vec<_> = record::holders_of(&file).iter().map(ToString::to_string).collect();
            stuck().insert(file);
            if all.is_empty() {
                return err;
            }
            err.details(format!("process {} holds it; if it is stuck, end it", all.join(", ")))
        })
    }

    fn sweep_locked(&self, dir: &Dir) -> Result<Vec<String>> {
        let attachments = state::open(self.state_dir, &[ATTACHMENTS])?;
        let mut removed = Vec::new();
        for name in dir.names()?.into_iter().filter(|name| name.parse::<IpAddr>().is_ok()) {
            let Some(lease) = dir.read_link(&name)? else { continue };
            let recorded = match (owner(&lease), &attachments) {
                (Some(owner), Some(attachments)) => attachments.has(&owner.file_name())?,
                _ => false,
            };
            if recorded {
                continue;
            }
            let gone = match dir.remove(&name) {
                // A directory of somebody's, which is no lease.
                Err(_) if lease.is_empty() => false,
                gone => gone?,
            };
            if gone {
                removed.push(name);
            }
        }
        Ok(removed)
    }

    /// Who has leases of the network, found by reading each; takes no lock. A lease that names nobody is
    /// nobody's, as is one of an owner without a record.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn owners(&self) -> Result<BTreeSet<Option<Attachment>>> {
        let Some(dir) = state::open(self.state_dir, &[LEASES, self.network])? else {
            return Ok(BTreeSet::new());
        };
        let mut owners = BTreeSet::new();
        for name in dir.names()?.into_iter().filter(|name| name.parse::<IpAddr>().is_ok()) {
            if let Some(lease) = dir.read_link(&name)? {
                owners.insert(owner(&lease));
            }
        }
        Ok(owners)
    }

    /// The addresses that the owner has, found by reading every lease of the network.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn held_by(&self, owner: &Attachment) -> Result<Vec<IpAddr>> {
        let Some(dir) = state::open(self.state_dir, &[LEASES, self.network])? else {
            return Ok(Vec::new());
        };
        let mut held = Vec::new();
        for name in dir.names()? {
            if let Ok(ip) = name.parse()
                && dir.read_link(&name)?.is_some_and(|is| is == target(owner))
            {
                held.push(ip);
            }
        }
        Ok(held)
    }
}

/// The networks that have, or had, leases.
///
/// # Errors
/// [`Kind::Io`].
pub fn networks(state_dir: &Path) -> Result<Vec<String>> {
    state::open(state_dir, &[LEASES])?.map_or(Ok(Vec::new()), |dir| dir.directories())
}

fn difference<T>(msg: String) -> Result<T> {
    Err(Error::new(Kind::Difference, msg))
}

/// What a lease of that owner says, as a path from the lease's directory.
fn target(owner: &Attachment) -> String {
    format!("../../{ATTACHMENTS}/{}", owner.file_name())
}

fn owner(lease: &str) -> Option<Attachment> {
    let (_, name) = lease.rsplit_once('/')?;
    Attachment::from_file_name(name).filter(|owner| target(owner) == lease)
}

/// For each set the requested address that is one of its own.
fn wishes(sets: &[RangeSet], requested: &[IpAddr]) -> Result<Vec<Option<IpAddr>>> {
    let mut wishes = vec![None; sets.len()];
    for &ip in requested {
        let refused =
            |why: &str| Err(Error::new(Kind::Config, format!("the requested address {ip} {why}")));
        let Some(at) = sets.iter().position(|set| set.covers(ip)) else {
            return refused("is in none of the network's ranges");
        };
        if sets[at].lease(ip).is_none() {
            return refused("is its subnet's gateway");
        }
        if wishes[at].replace(ip).is_some_and(|other| other != ip) {
            return refused("is the second one of the same range set");
        }
    }
    Ok(wishes)
}

/// A free address of each set.
fn choose(
    dir: &Dir,
    sets: &[RangeSet],
    wishes: &[Option<IpAddr>],
    cursors: &[Option<IpAddr>],
    claimed: &mut Claimed<'_>,
) -> Result<Vec<Address>> {
    let each = sets.iter().zip(wishes).zip(cursors);
    each.map(|((set, wish), cursor)| match wish.and_then(|ip| set.lease(ip)) {
        Some(address) => grant(dir, address, claimed),
        None => next(dir, set, *cursor, claimed),
    })
    .collect()
}

fn is_free(dir: &Dir, address: &Address) -> Result<bool> {
    dir.read_link(&address.ip().to_string()).map(|lease| lease.is_none())
}

/// The address that was asked for.
fn grant(dir: &Dir, address: Address, claimed: &mut Claimed<'_>) -> Result<Address> {
    let taken = || Ok(Some("is taken".to_owned()));
    let why = if is_free(dir, &address)? { claimed(address.ip()) } else { taken() }?;
    match why {
        None => Ok(address),
        Some(why) => {
            let msg = format!("the requested address {} {why}", address.ip());
            Err(Error::new(Kind::Exhausted, msg))
        }
    }
}

/// The first address behind the last one given that nobody has.
fn next(
    dir: &Dir,
    set: &RangeSet,
    last: Option<IpAddr>,
    claimed: &mut Claimed<'_>,
) -> Result<Address> {
    let mut refused = None;
    let mut refusals = 0;
    for address in set.round(last) {
        if !is_free(dir, &address)? {
            continue;
        }
        let Some(why) = claimed(address.ip())? else { return Ok(address) };
        refused = Some(format!(": {} {why}", address.ip()));
        refusals += 1;
        if refusals == MAX_CLAIMED {
            break;
        }
    }
    let subnets: Vec<_> = set.ranges().iter().map(|range| range.subnet().to_string()).collect();
    let msg = format!("no address left in {}{}", subnets.join(", "), refused.unwrap_or_default());
    let mend = "`weir pods` lists who has them, `weir reconcile` frees those of the dead; else make the range larger";
    Err(Error::new(Kind::Exhausted, msg).details(mend))
}

/// The last address given of each set; what can't be read begins from the start.
fn read_cursors(file: impl Read, sets: usize) -> Vec<Option<IpAddr>> {
    let mut text = String::new();
    let read = file.take(MAX_CURSORS).read_to_string(&mut text);
    let lines = text.lines().map(|line| line.parse().ok());
    let mut cursors: Vec<_> = if read.is_ok() { lines.collect() } else { Vec::new() };
    cursors.resize(sets, None);
    cursors
}

fn write_cursors(file: &File, cursors: &[Option<IpAddr>]) -> Result<()> {
    let line = |ip: &Option<IpAddr>| ip.map_or("\n".to_owned(), |ip| format!("{ip}\n"));
    let text: String = cursors.iter().map(line).collect();
    // What a longer text before leaves behind are lines of no set, if cutting it off fails.
    let written = file.write_all_at(text.as_bytes(), 0).and_then(|()| {
        let length = text.len() as u64;
        if file.metadata()?.len() > length { file.set_len(length) } else { Ok(()) }
    });
    written.context(Kind::Io, || "can't write the last address given".into())
}

#[cfg(test)]
mod tests;

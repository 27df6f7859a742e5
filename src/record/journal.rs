//! The journal: one record per attachment, from before its first kernel object to after its last.
//!
//! Whatever a killed call left behind, the record says where to look for it: DEL, GC and an ADD in
//! need of an address finish the work from here, whichever configuration they came with. It is
//! found by (container id, interface name) alone.
//!
//! An ADD writes it twice: before it makes anything, as one under way, and when all is made. It holds
//! the record's lock meanwhile, which ends with the process, and with an IPAM plugin that it called: a
//! record under way that nobody holds is that of an ADD that was killed. A DEL or GC holds it, too, and
//! marks it before it takes anything away: a marked record that nobody holds is of one that was killed, or
//! that failed.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use super::Record;
use crate::{
    attachment::Attachment,
    error::{Error, Kind, Result},
    state::{self, ATTACHMENTS, Dir, Lock, Share},
};

/// No record of ours comes near: the longest part is a configuration of at most 1 MiB.
const MAX_BYTES: u64 = 4 << 20;
/// A reconciliation keeps ADDs from beginning for some milliseconds; who waits this long meets a stuck
/// one.
const PATIENCE: Duration = Duration::from_secs(5);

/// The mode of a record whose attachment somebody has begun to end: nobody is to write it again.
pub(super) const ENDING: u32 = 0o400;

/// What the journal has of an attachment.
#[derive(Debug)]
pub enum Entry {
    /// Nothing.
    Absent,
    /// A record.
    Record(Box<Record>),
    /// Something that can't be read as one: of another version, cut off, or not ours.
    Unreadable(Error),
    /// A file that the kernel would not give us now, for want of memory or by an I/O error: what it says is not
    /// known, and is not lost.
    OutOfReach(Error),
}

impl Record {
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

    /// Lets the processes that the ADD starts hold the record, as it is written now, in its place: should
    /// the ADD be killed, its record is abandoned only when they, too, have ended.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn bequeath(&self) -> Result<()> {
        self.alive.bequeath()
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

/// Whether an ADD that lives holds the attachment's record, readable or not: one of another version may
/// write what this one can't read.
///
/// # Errors
/// [`Kind::Io`]: the directory can't be read.
pub fn is_held(state_dir: &Path, attachment: &Attachment) -> Result<bool> {
    let Some(dir) = state::open(state_dir, &[ATTACHMENTS])? else { return Ok(false) };
    // What can't be opened as a file has no lock.
    let opened = dir.read_open(&attachment.file_name(), MAX_BYTES).unwrap_or_default();
    Ok(opened.is_some_and(|(_, file)| !is_free(&file)))
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

/// Where the records of a state dir are: for who watches it.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join(ATTACHMENTS)
}

/// When the set of records last changed, or what one of them says; none if there never were any.
pub fn changed(state_dir: &Path) -> Option<SystemTime> {
    fs::metadata(directory(state_dir)).and_then(|dir| dir.modified()).ok()
}

/// Every attachment of the node, in no order; names that are no attachment's are passed over.
///
/// # Errors
/// [`Kind::Io`]: the directory can't be listed.
pub fn list(state_dir: &Path) -> Result<Vec<(Attachment, Entry)>> {
    let Some(dir) = state::open(state_dir, &[ATTACHMENTS])? else { return Ok(Vec::new()) };
    let entries = names(&dir)?.into_iter().map(|attachment| {
        let entry = read(&dir, &attachment);
        (attachment, entry)
    });
    Ok(entries.collect())
}

/// Some of the node's attachments, `most` at most: other ones for another `turn`, where there are more.
/// The records of all would take a call some ten milliseconds where there are a thousand.
///
/// # Errors
/// As [`list`].
pub fn some(state_dir: &Path, most: usize, turn: usize) -> Result<Vec<(Attachment, Entry)>> {
    let Some(dir) = state::open(state_dir, &[ATTACHMENTS])? else { return Ok(Vec::new()) };
    let mut attachments = names(&dir)?;
    let turn = turn % attachments.len().max(1);
    attachments.rotate_left(turn);
    attachments.truncate(most);
    let entries = attachments.into_iter().map(|attachment| {
        let entry = read(&dir, &attachment);
        (attachment, entry)
    });
    Ok(entries.collect())
}

/// What the journal has of each of these attachments, read when its turn comes.
///
/// # Errors
/// As [`find`].
pub fn each(
    state_dir: &Path,
    attachments: impl IntoIterator<Item = Attachment>,
) -> Result<impl Iterator<Item = (Attachment, Entry)>> {
    let dir = state::open(state_dir, &[ATTACHMENTS])?;
    Ok(attachments.into_iter().map(move |attachment| {
        let entry = dir.as_ref().map_or(Entry::Absent, |dir| read(dir, &attachment));
        (attachment, entry)
    }))
}

fn names(dir: &Dir) -> Result<Vec<Attachment>> {
    let names = dir.names()?;
    Ok(names.iter().filter_map(|name| Attachment::from_file_name(name)).collect())
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

/// How often a record that is replaced under the reader's eyes is read again: its ADD replaces it twice or
/// thrice.
const LOOKS: usize = 8;

fn read(dir: &Dir, attachment: &Attachment) -> Entry {
    for _ in 0..LOOKS {
        let (bytes, file) = match open(dir, attachment) {
            Ok(found) => found,
            Err(entry) => return entry,
        };
        let mut entry = decode(&bytes, attachment);
        let Entry::Record(record) = &mut entry else { return entry };
        let ending = is_ending(&file);
        record.abandoned = (record.under_way || ending) && is_free(&file);
        record.leaving = ending || !is_of_this_boot(record);
        // An ADD that writes its record again gives the old file's lock back when the new one is in its
        // place.
        if !record.abandoned || is_in_place(&file) {
            return entry;
        }
    }
    let msg = format!("the record of {attachment} changes all the time");
    Entry::Unreadable(Error::new(Kind::TryAgain, msg))
}

/// The bytes of a record, and its file, open; what there is instead, if it can't be opened and read.
pub(super) fn open(dir: &Dir, attachment: &Attachment) -> Result<(Vec<u8>, File), Entry> {
    let name = attachment.file_name();
    match dir.read_open(&name, MAX_BYTES) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(Entry::Absent),
        // A directory, a link, or what is too long is no record of ours, and won't be.
        Err(why) if dir.is_file(&name, MAX_BYTES) == Ok(false) => Err(Entry::Unreadable(why)),
        Err(why) => Err(Entry::OutOfReach(why)),
    }
}

/// What these bytes are.
pub(super) fn decode(bytes: &[u8], attachment: &Attachment) -> Entry {
    match Record::decode(bytes, attachment) {
        Ok(record) => Entry::Record(Box::new(record)),
        Err(why) => {
            let msg = format!("the record of {attachment} is unreadable");
            Entry::Unreadable(Error::new(Kind::Decode, msg).details(why))
        }
    }
}

/// Whether the file still has a name. Ask after its lock was found free, not before.
pub(super) fn is_in_place(file: &File) -> bool {
    file.metadata().is_ok_and(|file| file.nlink() > 0)
}

/// Whether the kernel objects of a record can be there. Where `/proc` doesn't tell, they may.
fn is_of_this_boot(record: &Record) -> bool {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let boot = BOOT.get_or_init(|| state::boot_id().ok());
    boot.as_ref().is_none_or(|boot| *boot == record.boot_id)
}

/// Whether somebody has begun to end the attachment of this record.
pub(super) fn is_ending(file: &File) -> bool {
    file.metadata().is_ok_and(|file| file.mode() & 0o777 == ENDING)
}

/// Whether nobody holds the lock. Asked for as one that many may have, so that those who ask at once
/// don't take each other for the holder; closing the file gives it back.
fn is_free(file: &File) -> bool {
    file.try_lock_shared().is_ok()
}

#[cfg(test)]
mod tests;

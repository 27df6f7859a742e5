//! The other end of a veth pair: the host's of one that another plugin made, and whether anybody
//! lives behind one of ours.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    os::fd::{AsRawFd, RawFd},
    os::unix::fs::MetadataExt,
    path::Path,
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidHeader, NsidMessage},
};

use super::{
    link::{self, Link},
    netlink::{Ask, Netlink},
    netns::Netns,
};
use crate::error::{Context, Error, Kind, Result};

/// Finds the link on the host whose other end is the container's interface; none where that has no
/// such end.
///
/// # Errors
/// [`Kind::Netns`] and [`Kind::Kernel`],
/// when namespace or kernel can't be asked.
pub fn host_side(netns: &Netns, ifname: &str) -> Result<Option<Link>> {
    let mut pod = netns.run(link::socket)??;
    let inside = link::by_name(&mut pod, ifname)?;
    let Some((inside, peer)) = inside.and_then(|link| Some((link.index, link.peer?))) else {
        return Ok(None);
    };
    // The index is one of the namespace that the other end is in, which need not be the host's: the
    // link of that index on the host must name the container's interface and its namespace in turn.
    let mut host = link::socket()?;
    let Some(outside) = link::by_index(&mut host, peer)? else { return Ok(None) };
    let mutual = outside.peer == Some(inside)
        && outside.peer_netns.is_some()
        && outside.peer_netns == netns_number(&mut host, netns.raw_fd())?;
    Ok(mutual.then_some(outside))
}

/// The numbers of those namespaces that a process is in: a link whose other end is in one of them
/// has somebody behind it. Of processes that end meanwhile nothing is told.
///
/// # Errors
/// [`Kind::Io`]: /proc can't be listed, or not all of it may be seen, or it shows no more than our own container's
/// processes; [`Kind::Kernel`].
pub fn inhabited(socket: &mut Netlink) -> Result<BTreeSet<i32>> {
    let (mut numbers, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let (mut known, mut hidden) = (BTreeSet::new(), Vec::new());
    let processes = fs::read_dir("/proc").context(Kind::Io, || "can't list /proc".into())?;
    for process in processes.flatten().map(|entry| entry.path()) {
        let file = match fs::File::open(process.join("ns/net")) {
            Ok(file) => file,
            Err(err) if err.kind() == ErrorKind::PermissionDenied => {
                hidden.push((process, err));
                continue;
            }
            Err(_) => continue,
        };
        if let Ok(namespace) = file.metadata()
            && seen.insert((namespace.dev(), namespace.ino()))
        {
            numbers.extend(netns_number(socket, file.as_raw_fd())?);
            known.extend(interfaces(&process).ok());
        }
    }
    for (process, err) in hidden {
        // One in a namespace that is known adds nothing, nor does one that ended.
        if interfaces(&process)
            .map_or_else(|err| err.kind() == ErrorKind::NotFound, |file| known.contains(&file))
        {
            continue;
        }
        let pid = process.file_name().unwrap_or_default().display().to_string();
        let msg = format!(
            "can't see in which namespace process {pid} is: that takes CAP_SYS_PTRACE, and no security module \
             that denies it"
        );
        return Err(Error::new(Kind::Io, msg).details(err));
    }
    // Ours is always among them: others show that we see into pods.
    if seen.len() < 2 && !sees_all_processes() {
        let msg = "no process outside of this container's network namespace is to be seen, so nobody knows who \
                   lives in others: that takes the host's process ids (hostPID)";
        return Err(Error::new(Kind::Io, msg));
    }
    Ok(numbers)
}

/// The number of the file that lists the interfaces that a process has: it may be asked for of any process, and
/// each network namespace has its own.
fn interfaces(process: &Path) -> io::Result<u64> {
    fs::metadata(process.join("net/dev")).map(|file| file.ino())
}

/// Whether all of the machine's processes have a number here.
fn sees_all_processes() -> bool {
    /// linux/proc_ns.h, `PROC_PID_INIT_INO`.
    const INITIAL: u64 = 0xEFFF_FFFC;
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == INITIAL)
}

/// The number by which the socket's namespace knows another one; none if it doesn't.
fn netns_number(socket: &mut Netlink, netns: RawFd) -> Result<Option<i32>> {
    let mut message = NsidMessage::default();
    message.header = NsidHeader { family: AddressFamily::Unspec };
    message.attributes = vec![NsidAttribute::Fd(netns.unsigned_abs())];
    let ask = Ask::new("number a namespace", RouteNetlinkMessage::GetNsId(message), 0);
    let replies = socket.exchange(vec![ask])?;
    Ok(replies.into_iter().find_map(|reply| match reply {
        RouteNetlinkMessage::NewNsId(reply) => {
            reply.attributes.iter().find_map(|attribute| match attribute {
                // net_namespace.h, NETNSA_NSID_NOT_ASSIGNED is -1.
                NsidAttribute::Id(number) if *number >= 0 => Some(*number),
                _ => None,
            })
        }
        _ => None,
    }))
}

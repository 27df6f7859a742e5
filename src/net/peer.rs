//! The other end of a veth pair: the host's of one that another plugin made, and whether anybody
//! lives behind one of ours.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    os::fd::{AsRawFd, RawFd},
    os::unix::fs::MetadataExt,
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidHeader, NsidMessage},
};

use rustix::thread::{CapabilitySet, capabilities};

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
/// [`Kind::Io`]: /proc can't be listed, or not all of it may be seen; [`Kind::Kernel`].
pub fn inhabited(socket: &mut Netlink) -> Result<BTreeSet<i32>> {
    let (mut numbers, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let processes = fs::read_dir("/proc").context(Kind::Io, || "can't list /proc".into())?;
    for process in processes.flatten() {
        let file = match fs::File::open(process.path().join("ns/net")) {
            Ok(file) => file,
            // What denies more to who may see all others, as a security module does, denies it for good.
            Err(err) if err.kind() == ErrorKind::PermissionDenied && !may_see_all() => {
                let msg = "can't see in which namespaces processes are: that takes CAP_SYS_PTRACE";
                return Err(Error::new(Kind::Io, msg).details(err));
            }
            Err(_) => continue,
        };
        if file.metadata().is_ok_and(|meta| seen.insert((meta.dev(), meta.ino()))) {
            numbers.extend(netns_number(socket, file.as_raw_fd())?);
        }
    }
    Ok(numbers)
}

/// Whether we are one to whom the namespaces of all processes are shown.
fn may_see_all() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE))
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

//! Filters on an interface whose hook somebody has in a block that is shared out (`tc qdisc add … ingress_block 7
//! clsact`): of those the kernel tells by the block, and by the interface it refuses to (`EOPNOTSUPP`).

use std::io;

use netlink_packet_core::{
    NLM_F_ECHO, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcHeader, TcMessage},
};
use netlink_sys::SocketAddr;
use nix::errno::Errno;

use super::{swap, wire::Direction};

/// linux/rtnetlink.h: `TCM_IFINDEX_MAGIC_BLOCK`, the interface of a request about a block.
const ANY_INTERFACE: i32 = -1;
/// The same: `TCA_INGRESS_BLOCK` and `TCA_EGRESS_BLOCK`, the number of a qdisc's block.
const BLOCK: [(Direction, u16); 2] = [(Direction::DIRECTION_TX, 13), (Direction::DIRECTION_RX, 14)];

/// What stands for interface and parent in a request about the block that an interface's hook of one direction is in;
/// `None` where it is in none.
///
/// # Errors
/// The kernel's.
pub fn place(ifindex: i32, direction: Direction) -> io::Result<Option<(i32, TcHandle)>> {
    Ok(number(ifindex, direction)?.map(|block| (ANY_INTERFACE, TcHandle::from(block))))
}

/// The block that an interface's hook of one direction is in.
fn number(ifindex: i32, direction: Direction) -> io::Result<Option<u32>> {
    let header = TcHeader { index: ifindex, parent: TcHandle::CLSACT, ..TcHeader::default() };
    let message = TcMessage::from_parts(header, Vec::new());
    let found = ask(RouteNetlinkMessage::GetQueueDiscipline(message))?;
    let Some(RouteNetlinkMessage::NewQueueDiscipline(found)) = found else { return Ok(None) };
    let (_, kind) = BLOCK[usize::from(direction == Direction::DIRECTION_RX)];
    Ok(found.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Other(nla) if nla.kind() == kind => {
            let mut bytes = [0; 4];
            (nla.value_len() == bytes.len()).then(|| nla.emit_value(&mut bytes))?;
            Some(u32::from_ne_bytes(bytes))
        }
        _ => None,
    }))
}

/// The answer to a request for one thing; `None`: there is no such thing.
pub(super) fn ask(message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
    let mut header = NetlinkHeader::default();
    // Linux before 6.6 sends a qdisc only to who wants to hear of changes.
    header.flags = NLM_F_REQUEST | NLM_F_ECHO;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut request = vec![0; message.buffer_len()];
    message.serialize(&mut request);
    let socket = swap::open()?;
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut answer = Vec::with_capacity(32 * 1024);
    socket.recv(&mut answer, 0)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer);
    match answer.map_err(io::Error::other)?.payload {
        NetlinkPayload::InnerMessage(found) => Ok(Some(found)),
        NetlinkPayload::Error(refusal) => {
            match refusal.code.map(|code| Errno::from_raw(-code.get())) {
                None | Some(Errno::ENOENT | Errno::EINVAL | Errno::ENODEV) => Ok(None),
                Some(errno) => Err(errno.into()),
            }
        }
        _ => Ok(None),
    }
}

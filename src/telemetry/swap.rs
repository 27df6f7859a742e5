//! Puts other programs into our filters, many in one netlink datagram: the kernel works through it
//! inside `send`, and a swap of all pods of a node is over in some milliseconds.
//!
//! A filter is replaced where it is and never made: without `NLM_F_CREATE` the kernel refuses a
//! request for one that is gone (`ENOENT`), as for a qdisc (`EINVAL`) or device (`ENODEV`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use libbpf_rs::Program;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{
        TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage,
        TcOption,
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt::ReceiveTimeout},
        time::{TimeVal, TimeValLike},
    },
};

use super::{
    clsact::{self, Filter, HANDLE},
    occupant::parent,
    wire::Direction,
};

/// Requests a datagram: their refusals, should all be, fit into a socket's buffer.
const AT_ONCE: usize = 64;
/// The kernel answers inside `send`; an answer that takes this long will never come.
const PATIENCE_SECONDS: i64 = 10;
/// linux/if_ether.h, in network order.
pub(super) const ETH_P_ALL: u16 = 0x0003_u16.to_be();

/// One filter to replace.
#[derive(Debug, Clone, Copy)]
pub struct Swap<'a> {
    /// What is to run.
    pub program: BorrowedFd<'a>,
    /// Shown by `tc`.
    pub name: &'static str,
    /// The interface.
    pub ifindex: i32,
    /// The side.
    pub direction: Direction,
    /// Which of ours.
    pub filter: Filter,
}

/// Replaces them; says for each whether it was there, or the kernel's word where it refused. The others are
/// done all the same.
pub fn filters(swaps: &[Swap<'_>]) -> Vec<io::Result<bool>> {
    let mut done = Vec::with_capacity(swaps.len());
    for chunk in swaps.chunks(AT_ONCE) {
        // Of a socket that failed an answer may come yet: each has its own.
        match open().and_then(|mut socket| exchange(&mut socket, chunk)) {
            Ok(answers) => {
                done.extend(chunk.iter().zip(answers).map(|(swap, answer)| match answer {
                    None => Ok(true),
                    Some(Errno::ENOENT | Errno::ENODEV) => Ok(false),
                    Some(Errno::EINVAL) if !swap.is_there() => Ok(false),
                    Some(errno) => Err(errno.into()),
                }))
            }
            // The kernel works through a datagram inside `send`: what of it is done only the kernel knows now.
            Err(err) => {
                done.extend(chunk.iter().map(|swap| swap.is_done().ok_or_else(|| again(&err))))
            }
        }
    }
    done
}

/// The same error once more.
fn again(err: &io::Error) -> io::Error {
    err.raw_os_error().map_or_else(|| err.kind().into(), io::Error::from_raw_os_error)
}

/// A socket whose answers are waited for in bounds.
pub(super) fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // A comfort of newer kernels: a refusal without our request echoed.
    let _ = socket.set_cap_ack(true);
    setsockopt(&socket.as_fd(), ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
    Ok(socket)
}

/// The answer to each: what it was refused with, if it was.
fn exchange(socket: &mut Socket, swaps: &[Swap<'_>]) -> io::Result<Vec<Option<Errno>>> {
    let mut datagram = Vec::new();
    for (position, swap) in swaps.iter().enumerate() {
        let sequence = u32::try_from(position).map_err(io::Error::other)?;
        // Only the last is acknowledged; a refusal comes all the same.
        let ack = if position + 1 == swaps.len() { NLM_F_ACK } else { 0 };
        append(&mut datagram, swap.message(), ack, sequence);
    }
    socket.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
    let mut answers = vec![None; swaps.len()];
    let mut received = Vec::with_capacity(32 * 1024);
    loop {
        received.clear();
        socket.recv(&mut received, 0)?;
        let mut rest = received.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(io::Error::other)?;
            let length = usize::try_from(message.header.length).map_err(io::Error::other)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            let position = usize::try_from(message.header.sequence_number);
            let (Ok(position), NetlinkPayload::Error(answer)) = (position, message.payload) else {
                continue;
            };
            if let Some(place) = answers.get_mut(position) {
                *place = answer.code.map(|code| Errno::from_raw(-code.get()));
            }
            if position + 1 == swaps.len() {
                return Ok(answers);
            }
        }
    }
}

fn append(datagram: &mut Vec<u8>, message: TcMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags | NLM_F_REQUEST | NLM_F_REPLACE;
    header.sequence_number = sequence;
    let payload = RouteNetlinkMessage::NewTrafficFilter(message);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(payload));
    message.finalize();
    let start = datagram.len();
    let end = start + message.buffer_len();
    datagram.resize(end.next_multiple_of(4), 0);
    message.serialize(&mut datagram[start..end]);
}

impl Swap<'_> {
    /// Whether there is something to replace, so that `EINVAL` is about the program.
    fn is_there(&self) -> bool {
        clsact::query(self.ifindex, self.direction, self.filter).is_ok_and(|found| found.is_some())
    }

    /// Whether the program runs, or there is nothing to replace (false); `None` where neither is so, or can be seen.
    fn is_done(&self) -> Option<bool> {
        match clsact::query(self.ifindex, self.direction, self.filter).ok()? {
            None => Some(false),
            Some(running) => (Program::id_from_fd(self.program).ok()? == running).then_some(true),
        }
    }

    /// As libbpf makes it for `bpf_tc_attach`.
    fn message(&self) -> TcMessage {
        let header = TcHeader {
            index: self.ifindex,
            handle: TcHandle::from(HANDLE),
            parent: parent(self.direction),
            info: (self.filter as u32) << 16 | u32::from(ETH_P_ALL),
            ..Default::default()
        };
        let fd = u32::try_from(self.program.as_raw_fd()).unwrap_or_default();
        let options = [
            TcFilterBpfOption::ProgFd(fd),
            TcFilterBpfOption::ProgName(self.name.to_owned()),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        let options = options.map(TcOption::Bpf).to_vec();
        let kind = TcAttribute::Kind(TcFilterBpf::KIND.to_owned());
        TcMessage::from_parts(header, vec![kind, TcAttribute::Options(options)])
    }
}

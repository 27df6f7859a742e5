//! A netlink socket that sends several requests in one datagram and waits once.
//!
//! The kernel works through a datagram's requests inside `send`, so a batch costs one system call to
//! send and, when all goes well, one to read the closing acknowledgement: that is what makes an ADD
//! cheap. Requests other than the last ask for no acknowledgement; a refusal is reported all the
//! same, with the sequence number of the request it belongs to.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
};

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr};
use nix::{errno::Errno, sys::socket::MsgFlags};

use crate::error::{Error, Kind};

/// Room for the answer to one request: no link's state comes near. Small, since the allocator gives
/// the pages of a large buffer back each time, and gets them anew.
const ANSWER_BYTES: usize = 8 * 1024;
/// The kernel fills dump datagrams up to this size when the reader offers as much.
const DUMP_BYTES: usize = 32 * 1024;
/// A dump that raced with a change is marked and must be asked for again; this often at most.
const DUMP_ATTEMPTS: u32 = 5;
/// `NLMSGERR_ATTR_MSG` of linux/netlink.h: the refusal in words.
const REFUSAL_TEXT: u16 = 1;
/// Size of `struct nlmsghdr`, and the alignment of what follows in a datagram.
const HEADER_BYTES: usize = 16;
/// linux/netlink.h: types below are acknowledgements, ends of dumps and the like.
const NLMSG_MIN_TYPE: u16 = 16;
const ALIGN: usize = 4;

/// One request of a batch, and what it does in words for an error message ("add route …").
#[derive(Debug, Clone)]
pub struct Ask<M> {
    what: String,
    message: M,
    flags: u16,
    role: Role,
    /// Whether anybody reads what is answered besides an acknowledgement.
    read: bool,
}

/// What an answer to a request means for the rest of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The request stands for itself.
    Plain,
    /// Opens or closes an nfnetlink transaction: refused only together with the whole, never
    /// acknowledged.
    Bracket,
}

impl<M> Ask<M> {
    /// A request with `flags` (`NLM_F_CREATE` and the like) besides what every request has.
    pub fn new(what: impl Into<String>, message: M, flags: u16) -> Self {
        Self { what: what.into(), message, flags, role: Role::Plain, read: true }
    }

    /// The same, asked for its effect alone: to read a link's state takes longer than to ask for it.
    #[must_use]
    pub fn unread(self) -> Self {
        Self { read: false, ..self }
    }

    /// The begin or end of an nfnetlink transaction.
    pub fn bracket(message: M) -> Self {
        let what = "open an nftables transaction".into();
        Self { what, message, flags: 0, role: Role::Bracket, read: true }
    }
}

/// The kernel's no to one request.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The request in words.
    pub what: String,
    /// The errno it was refused with.
    pub errno: Errno,
    /// The kernel's own sentence, where it gave one.
    pub text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.errno.desc())?;
        self.text.as_ref().map_or(Ok(()), |text| write!(f, " ({text})"))
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(Kind::Kernel, format!("can't {}", refusal.what)).details(refusal)
    }
}

/// An open socket of one netlink protocol, in the namespace that it was opened in.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    kernel: SocketAddr,
    sequence: u32,
    received: Vec<u8>,
}

impl Netlink {
    /// Opens a socket of a `NETLINK_*` protocol number.
    ///
    /// # Errors
    /// [`Kind::Kernel`] when the kernel lacks the protocol.
    pub fn open(protocol: isize) -> Result<Self, Error> {
        let open = || -> io::Result<Socket> {
            // Its first message binds it.
            let socket = Socket::new(protocol)?;
            // Both are comforts of newer kernels: a refusal in words, without our request echoed.
            let _ = socket.set_ext_ack(true);
            let _ = socket.set_cap_ack(true);
            Ok(socket)
        };
        let socket = open().map_err(|err| {
            Error::new(Kind::Kernel, format!("can't open a netlink socket of protocol {protocol}"))
                .details(err)
        })?;
        let received = Vec::with_capacity(ANSWER_BYTES);
        Ok(Self { socket, kernel: SocketAddr::new(0, 0), sequence: 0, received })
    }

    /// Has the kernel send what it announces to a group (`RTNLGRP_*`), for [`announced`](Self::announced).
    ///
    /// # Errors
    /// The kernel's.
    pub fn join(&mut self, group: u32) -> io::Result<()> {
        // The kernel spares the sender its own announcement, and knows it by its number: an unbound
        // socket has the kernel's, 0, and hears nothing.
        self.socket.bind_auto()?;
        self.socket.add_membership(group)
    }

    /// Reads announcements that came; says whether one is `wanted`, by its type and what follows the
    /// header.
    ///
    /// # Errors
    /// The kernel's; `ENOBUFS` when there were more than it keeps for a slow reader.
    pub fn announced(&mut self, wanted: impl Fn(u16, &[u8]) -> bool) -> io::Result<bool> {
        receive(&self.socket, &mut self.received)?;
        Ok(Packets(&self.received).any(|packet| wanted(kind(packet), &packet[HEADER_BYTES..])))
    }

    /// Sends the requests in one datagram; returns the kernel's replies other than
    /// acknowledgements, in order.
    ///
    /// # Errors
    /// The first refusal. The kernel works through the requests after it all the same (except in an
    /// nfnetlink transaction, where none takes effect).
    pub fn exchange<M>(&mut self, asks: Vec<Ask<M>>) -> Result<Vec<M>, Refusal>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.exchange_flagged(asks).map(|(replies, _)| replies)
    }

    /// Reads a whole table; `R` takes of each entry what is wanted.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange); also when the table changed under each of several readings.
    pub fn dump<M, R>(&mut self, what: &str, message: &M) -> Result<Vec<R>, Refusal>
    where
        M: NetlinkSerializable + Clone,
        R: NetlinkDeserializable,
    {
        self.received.clear();
        self.received.reserve(DUMP_BYTES);
        consistent(what, || {
            self.exchange_flagged(vec![Ask::new(what, message.clone(), NLM_F_DUMP)])
        })
    }

    /// As [`exchange`](Self::exchange), and whether what was read was consistent.
    fn exchange_flagged<M, R>(&mut self, asks: Vec<Ask<M>>) -> Result<(Vec<R>, bool), Refusal>
    where
        M: NetlinkSerializable,
        R: NetlinkDeserializable,
    {
        let first = self.sequence.wrapping_add(1);
        let Some(closing) = asks.iter().rposition(|ask| ask.role == Role::Plain) else {
            return Ok((Vec::new(), true));
        };
        let unread = Vec::new();
        let mut pending = Pending { first, closing, names: Vec::new(), unread, refusal: None };
        let mut datagram = Vec::new();
        for (position, ask) in asks.into_iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            pending.names.push((ask.what, ask.role));
            if !ask.read {
                pending.unread.push(self.sequence);
            }
            let dump = ask.flags & NLM_F_DUMP == NLM_F_DUMP;
            let ack = if position == closing && !dump { NLM_F_ACK } else { 0 };
            append(&mut datagram, ask.message, ask.flags | ack | NLM_F_REQUEST, self.sequence);
        }
        let closing_name = &pending.names[closing].0;
        self.socket
            .send_to(&datagram, &self.kernel, 0)
            .map_err(|err| io_refusal(closing_name, &err))?;
        let Self { socket, received, .. } = self;
        collect(pending, received, |received| receive(socket, received))
    }
}

/// Reads a datagram. The kernel answers inside `send`, and goes on with a dump inside `recv`: what is not
/// there will never come.
fn receive(socket: &Socket, received: &mut Vec<u8>) -> io::Result<()> {
    received.clear();
    socket.recv(received, MsgFlags::MSG_DONTWAIT.bits()).map(drop)
}

/// Reads a table again until no change came in between; `read` says what it has, and whether that was so.
fn consistent<R>(
    what: &str,
    mut read: impl FnMut() -> Result<(Vec<R>, bool), Refusal>,
) -> Result<Vec<R>, Refusal> {
    for _ in 0..DUMP_ATTEMPTS {
        let (replies, consistent) = read()?;
        if consistent {
            return Ok(replies);
        }
    }
    let text = Some("the table kept changing while it was read".into());
    Err(Refusal { what: what.into(), errno: Errno::EINTR, text })
}

/// Takes datagrams until the batch is done; what was answered, and whether it is of one state of the table.
fn collect<R: NetlinkDeserializable>(
    mut pending: Pending,
    received: &mut Vec<u8>,
    mut receive: impl FnMut(&mut Vec<u8>) -> io::Result<()>,
) -> Result<(Vec<R>, bool), Refusal> {
    let mut replies = Vec::new();
    let mut consistent = true;
    loop {
        receive(received).map_err(|err| io_refusal(&pending.names[pending.closing].0, &err))?;
        for packet in Packets(received) {
            if pending.is_unread(packet) {
                continue;
            }
            let message = NetlinkMessage::<R>::deserialize(packet).map_err(|err| Refusal {
                what: pending.names[pending.closing].0.clone(),
                errno: Errno::EBADMSG,
                text: Some(err.to_string()),
            })?;
            let (header, payload) = message.into_parts();
            let Some(position) = pending.position(&header) else { continue };
            consistent &= header.flags & NLM_F_DUMP_INTR == 0;
            let last = match payload {
                NetlinkPayload::InnerMessage(reply) => {
                    replies.push(reply);
                    false
                }
                NetlinkPayload::Error(answer) => pending.closes(position, &answer),
                NetlinkPayload::Done(done) => pending.ends(position, done.code),
                _ => false,
            };
            if last {
                return pending.finish().map(|()| (replies, consistent));
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A batch that is under way.
struct Pending {
    first: u32,
    closing: usize,
    names: Vec<(String, Role)>,
    /// The sequence numbers of requests whose replies nobody reads.
    unread: Vec<u32>,
    refusal: Option<Refusal>,
}

impl Pending {
    /// Whether it is a reply, other than an acknowledgement, to a request that wants none.
    fn is_unread(&self, packet: &[u8]) -> bool {
        let sequence = u32::from_ne_bytes([packet[8], packet[9], packet[10], packet[11]]);
        kind(packet) >= NLMSG_MIN_TYPE && self.unread.contains(&sequence)
    }

    /// Which request a reply belongs to; none for what is left over from an earlier batch.
    fn position(&self, header: &NetlinkHeader) -> Option<usize> {
        let position = usize::try_from(header.sequence_number.wrapping_sub(self.first)).ok()?;
        (position < self.names.len()).then_some(position)
    }

    /// Takes note of an acknowledgement or refusal; says whether no other will follow.
    fn closes(&mut self, position: usize, answer: &ErrorMessage) -> bool {
        let (what, role) = &self.names[position];
        if let (Some(code), None) = (answer.code, &self.refusal) {
            self.refusal = Some(Refusal {
                what: what.clone(),
                errno: Errno::from_raw(-code.get()),
                text: refusal_text(&answer.header),
            });
        }
        position == self.closing || (*role == Role::Bracket && answer.code.is_some())
    }

    /// Takes note of a dump's end, which carries an errno when it broke off.
    fn ends(&mut self, position: usize, code: i32) -> bool {
        if code < 0 && self.refusal.is_none() {
            let what = self.names[position].0.clone();
            self.refusal = Some(Refusal { what, errno: Errno::from_raw(-code), text: None });
        }
        true
    }

    fn finish(self) -> Result<(), Refusal> {
        self.refusal.map_or(Ok(()), Err)
    }
}

/// The netlink messages of one datagram; stops at the first that isn't whole.
struct Packets<'a>(&'a [u8]);

impl<'a> Iterator for Packets<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length: [u8; 4] = self.0.get(..4)?.try_into().ok()?;
        let length = usize::try_from(u32::from_ne_bytes(length)).ok()?;
        if length < HEADER_BYTES {
            return None;
        }
        let packet = self.0.get(..length)?;
        self.0 = self.0.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some(packet)
    }
}

/// The type of a message whose header is whole.
fn kind(packet: &[u8]) -> u16 {
    u16::from_ne_bytes([packet[4], packet[5]])
}

fn append<M: NetlinkSerializable>(datagram: &mut Vec<u8>, message: M, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let start = datagram.len();
    let end = start + message.buffer_len();
    datagram.resize(end.next_multiple_of(ALIGN), 0);
    message.serialize(&mut datagram[start..end]);
}

/// The sentence behind the (capped) header of the refused request, if there is one.
fn refusal_text(after_code: &[u8]) -> Option<String> {
    let attributes = after_code.get(HEADER_BYTES..)?;
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == REFUSAL_TEXT)
        .map(|text| String::from_utf8_lossy(text.value()).trim_end_matches('\0').to_owned())
}

fn io_refusal(what: &str, err: &io::Error) -> Refusal {
    let errno = err.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let text = (errno == Errno::EAGAIN).then(|| "the kernel gave no answer".into());
    Refusal { what: what.into(), errno, text }
}

#[cfg(test)]
mod tests;

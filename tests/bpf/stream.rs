//! A TCP connection as the hook sees it, in either role of the pod.

use weir::telemetry::wire::Role;

use crate::{
    frame::{self, ACK, End, FIN, RST, SYN},
    kernel::Kernel,
};

/// Sequence numbers start near the end of their space, so that every test passes the wrap.
const CLIENT_ISN: u32 = 0xffff_ff80;
const SERVER_ISN: u32 = 0xffff_fff0;

/// What a test run takes in one frame, with room for the headers.
pub const SEGMENT: usize = 3_500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

pub struct Stream<'k> {
    kernel: &'k Kernel,
    /// The pod's interface.
    ifindex: u32,
    /// The pod's role.
    role: Role,
    client: End,
    server: End,
    /// Next sequence numbers by side.
    next: [u32; 2],
}

impl<'k> Stream<'k> {
    /// A connection after its handshake.
    pub fn open(kernel: &'k Kernel, role: Role, client: End, server: End) -> Self {
        let mut stream = Self::syn(kernel, role, client, server);
        stream.accept();
        stream
    }

    /// A connection of which only the SYN was sent.
    pub fn syn(kernel: &'k Kernel, role: Role, client: End, server: End) -> Self {
        Self::syn_from(kernel, role, client, server, CLIENT_ISN)
    }

    /// The same with a number of its own.
    pub fn syn_from(kernel: &'k Kernel, role: Role, client: End, server: End, isn: u32) -> Self {
        Self::syn_at(kernel, 0, role, client, server, isn)
    }

    /// A connection after its handshake, of the pod at an interface.
    pub fn open_at(kernel: &'k Kernel, ifindex: u32, role: Role, client: End, server: End) -> Self {
        let mut stream = Self::syn_at(kernel, ifindex, role, client, server, CLIENT_ISN);
        stream.accept();
        stream
    }

    fn syn_at(
        kernel: &'k Kernel,
        ifindex: u32,
        role: Role,
        client: End,
        server: End,
        isn: u32,
    ) -> Self {
        let mut stream = Self { kernel, ifindex, role, client, server, next: [isn, SERVER_ISN] };
        stream.send_flags(Side::Client, SYN);
        stream.next[Side::Client as usize] = isn.wrapping_add(1);
        stream
    }

    /// A SYN with bytes (RFC 7413), which the stream is not moved by: they may be refused.
    pub fn syn_with(
        kernel: &'k Kernel,
        role: Role,
        client: End,
        server: End,
        payload: &[u8],
    ) -> Self {
        let next = [CLIENT_ISN.wrapping_add(1), SERVER_ISN];
        let stream = Self { kernel, ifindex: 0, role, client, server, next };
        stream.segment(Side::Client, CLIENT_ISN, SYN, payload);
        stream
    }

    /// The rest of the handshake.
    pub fn accept(&mut self) {
        self.send_flags(Side::Server, SYN | ACK);
        self.next[Side::Server as usize] = SERVER_ISN.wrapping_add(1);
        self.send_flags(Side::Client, ACK);
    }

    /// The next sequence number of `side`.
    pub fn next(&self, side: Side) -> u32 {
        self.next[side as usize]
    }

    /// A segment at any place of the stream; does not move it.
    pub fn segment(&self, side: Side, seq: u32, flags: u8, payload: &[u8]) {
        let other = if side == Side::Client { Side::Server } else { Side::Client };
        self.acknowledging(side, (seq, self.next(other)), flags, payload);
    }

    /// The same with sequence and acknowledgement number.
    pub fn acknowledging(&self, side: Side, numbers: (u32, u32), flags: u8, payload: &[u8]) {
        let (from, to) = match side {
            Side::Client => (self.client, self.server),
            Side::Server => (self.server, self.client),
        };
        let frame = frame::tcp_acknowledging(from, to, numbers, flags, payload);
        let from_pod = (self.role == Role::ROLE_CLIENT) == (side == Side::Client);
        self.kernel.pass(self.ifindex, from_pod, &frame);
    }

    /// The next bytes, in order, in as few segments as may be.
    pub fn send(&mut self, side: Side, payload: &[u8]) {
        self.send_ahead(side, 0, payload);
        self.advance(side, payload.len());
    }

    /// Bytes from a place on that is so far ahead in the stream, which is not moved.
    pub fn send_ahead(&self, side: Side, by: usize, payload: &[u8]) {
        let at = |from: usize| self.next(side).wrapping_add(u32::try_from(by + from).unwrap());
        let (first, rest) = payload.split_at(payload.len().min(SEGMENT));
        self.segment(side, at(0), ACK, first);
        for (nth, segment) in (1..).zip(rest.chunks(SEGMENT)) {
            self.segment(side, at(nth * SEGMENT), ACK, segment);
        }
    }

    /// Goes on behind bytes that were sent by [`segment`](Self::segment).
    pub fn advance(&mut self, side: Side, bytes: usize) {
        self.next[side as usize] = self.next(side).wrapping_add(u32::try_from(bytes).unwrap());
    }

    pub fn send_flags(&self, side: Side, flags: u8) {
        self.segment(side, self.next(side), flags, &[]);
    }

    pub fn fin(&mut self, side: Side) {
        self.send_flags(side, FIN | ACK);
        self.next[side as usize] = self.next(side).wrapping_add(1);
    }

    pub fn reset(&self, side: Side) {
        self.send_flags(side, RST | ACK);
    }
}

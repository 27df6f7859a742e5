//! Heads of requests that wait for their exchange to end, put together from pieces.
//!
//! A piece is joined to those before it only where its place says that nothing lies between: pieces
//! are lost when the ring is full, and are not told of segments that came out of order.

use std::num::NonZeroUsize;

use lru::LruCache;

use super::{
    head::Head,
    hello::{self, Hello},
};
use crate::telemetry::wire::{HeadPart, L7Protocol, Record};

/// Requests that wait; the one that was looked at longest ago gives way.
const WAITING: NonZeroUsize = NonZeroUsize::new(8_192).unwrap();

/// Bytes of all of them together.
const ALL: usize = 4 << 20;

/// Bytes of one; a longer head is told as far as that.
const ONE: usize = 16 << 10;

/// The connection, and the request's number on it.
type Key = (u64, u32);

/// The first bytes of a head.
#[derive(Debug, Default)]
struct First {
    bytes: Vec<u8>,
    /// The length of the TLS record that they begin in; 0: not TLS.
    record: u16,
}

#[derive(Debug)]
enum Waiting {
    /// First bytes, which may go on.
    Bytes(First),
    /// First bytes, behind which some are missing.
    Cut(First),
    /// The head is read.
    Known(Head),
}

impl Waiting {
    fn weight(&self) -> usize {
        match self {
            Self::Bytes(first) | Self::Cut(first) => first.bytes.capacity(),
            Self::Known(head) => head.weight(),
        }
    }
}

/// The heads that wait.
#[derive(Debug)]
pub struct Heads {
    waiting: LruCache<Key, Waiting>,
    weight: usize,
}

impl Heads {
    /// None.
    pub fn new() -> Self {
        Self { waiting: LruCache::new(WAITING), weight: 0 }
    }

    /// Takes a piece of HTTP/1 or of TLS.
    pub fn piece(&mut self, record: &Record, bytes: &[u8]) {
        let key = (record.conn, record.number);
        let first = u32::from(record.code) & HeadPart::HEAD_FIRST.0 != 0;
        let known = self.remove(&key);
        let place =
            if first { Place::First(record.status) } else { Place::Behind(record.duration_ns) };
        if let Some(mut joined) = join(known, place, bytes) {
            // A connection that has not shown yet what it is speaks HTTP/1, or will have no record.
            let hello = u32::from(record.protocol) == L7Protocol::L7_TLS.0;
            if let Waiting::Bytes(head) = &joined
                && !hello
                && (head.bytes.len() >= ONE || ends(&head.bytes, bytes.len()))
            {
                joined = Waiting::Known(Head::http1(&head.bytes));
            }
            self.keep(key, joined);
        }
    }

    /// Keeps a head that is read already.
    pub fn know(&mut self, conn: u64, stream: u32, head: Head) {
        // A second block of a stream is its trailers, which have no path.
        if head.path.is_some() {
            self.remove(&(conn, stream));
            self.keep((conn, stream), Waiting::Known(head));
        }
    }

    /// The head of a request that has ended, as far as it is known.
    pub fn http(&mut self, conn: u64, number: u32) -> Option<Head> {
        match self.remove(&(conn, number))? {
            Waiting::Bytes(first) | Waiting::Cut(first) => Some(Head::http1(&first.bytes)),
            Waiting::Known(head) => Some(head),
        }
    }

    /// What the client of a handshake said, as far as it is known.
    pub fn hello(&mut self, conn: u64, number: u32) -> Option<Hello> {
        match self.remove(&(conn, number))? {
            Waiting::Bytes(first) | Waiting::Cut(first) => {
                hello::parse(&hello::unframed(&first.bytes, first.record))
            }
            Waiting::Known(_) => None,
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Waiting> {
        let found = self.waiting.pop(key)?;
        self.weight -= found.weight();
        Some(found)
    }

    fn keep(&mut self, key: Key, waiting: Waiting) {
        self.weight += waiting.weight();
        if let Some((_, gone)) = self.waiting.push(key, waiting) {
            self.weight -= gone.weight();
        }
        while self.weight > ALL {
            let Some((_, gone)) = self.waiting.pop_lru() else { break };
            self.weight -= gone.weight();
        }
    }
}

/// Where in a head a piece is.
enum Place {
    /// At its beginning, in a TLS record of that length.
    First(u16),
    /// Behind so many bytes.
    Behind(u64),
}

fn join(known: Option<Waiting>, place: Place, bytes: &[u8]) -> Option<Waiting> {
    let mut head = match (known, place) {
        (_, Place::First(record)) => First { record, ..First::default() },
        (Some(Waiting::Bytes(head)), Place::Behind(before))
            if head.bytes.len() as u64 == before =>
        {
            head
        }
        (Some(Waiting::Bytes(head)), _) => return Some(Waiting::Cut(head)),
        (known, _) => return known,
    };
    head.bytes.extend_from_slice(&bytes[..bytes.len().min(ONE - head.bytes.len())]);
    Some(Waiting::Bytes(head))
}

/// Whether a head of HTTP/1 has its empty line, which the last `new` bytes completed if any did.
fn ends(head: &[u8], new: usize) -> bool {
    let recent = &head[head.len().saturating_sub(new.saturating_add(2))..];
    recent.windows(2).any(|pair| pair == b"\n\n")
        || recent.windows(3).any(|three| three == b"\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::{
        super::hello::tests::{NAMED, client_hello},
        *,
    };

    fn piece(protocol: L7Protocol, conn: u64, first: bool, before: usize) -> Record {
        Record {
            conn,
            number: 1,
            protocol: u8::try_from(protocol.0).unwrap(),
            code: u8::from(first),
            duration_ns: before as u64,
            ..Record::default()
        }
    }

    fn http1(heads: &mut Heads, conn: u64, pieces: &[(usize, &[u8])]) -> Option<Head> {
        for (before, bytes) in pieces {
            heads.piece(&piece(L7Protocol::L7_HTTP1, conn, *before == 0, *before), bytes);
        }
        heads.http(conn, 1)
    }

    const HEAD: &[u8] = b"GET /shop HTTP/1.1\r\nHost: a.example\r\nX: y\r\n\r\nbody";

    #[test]
    fn a_head_is_the_same_in_pieces_of_any_size() {
        let whole = Head::http1(HEAD);
        for size in 1..HEAD.len() {
            let pieces: Vec<_> =
                HEAD.chunks(size).enumerate().map(|(at, bytes)| (at * size, bytes)).collect();
            let mut heads = Heads::new();
            assert_eq!(http1(&mut heads, 7, &pieces), Some(whole.clone()), "{size}");
            assert_eq!((heads.weight, heads.waiting.len()), (0, 0));
        }
    }

    #[test]
    fn behind_a_missing_piece_nothing_is_joined() {
        let mut heads = Heads::new();
        let told = http1(&mut heads, 7, &[(0, &HEAD[..25]), (30, &HEAD[30..])]).unwrap();
        assert_eq!((told.path.as_deref(), told.host), (Some("/shop"), None));
        assert_eq!(http1(&mut heads, 8, &[(10, &HEAD[10..])]), None);
        assert_eq!(http1(&mut heads, 9, &[]), None);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut heads = Heads::new();
        let endless = vec![b'a'; 1_000];
        for conn in 0..20_000 {
            for at in 0..3 {
                let record = piece(L7Protocol::L7_HTTP1, conn, at == 0, at * 1_000);
                heads.piece(&record, &endless);
            }
        }
        assert!(heads.weight <= ALL && heads.waiting.len() <= WAITING.get());
        let kept: usize = heads.waiting.iter().map(|(_, waiting)| waiting.weight()).sum();
        assert_eq!(heads.weight, kept);
        assert!(heads.http(0, 1).is_none() && heads.http(19_999, 1).is_some());
        for at in 0..100 {
            heads.piece(&piece(L7Protocol::L7_HTTP1, 1, at == 0, at * 1_000), &endless);
        }
        assert!(heads.weight <= ALL);
    }

    #[test]
    fn a_hello_in_pieces_is_joined_up_to_a_hole() {
        let padding = vec![0; 1_200];
        let extensions = [&[(21, padding.as_slice())], NAMED].concat();
        let hello = client_hello(&extensions);
        let told = |pieces: &[std::ops::Range<usize>]| {
            let mut heads = Heads::new();
            for range in pieces {
                let record = piece(L7Protocol::L7_TLS, 7, range.start == 0, range.start);
                heads.piece(&record, &hello[range.clone()]);
            }
            let told = heads.hello(7, 1);
            assert_eq!(heads.weight, 0);
            told
        };
        let whole = told(&[0..1_024, 1_024..1_100, 1_100..hello.len()]).unwrap();
        assert_eq!(whole.server_name.as_deref(), Some("example.org"));
        let holed = told(&[0..100, 1_100..hello.len()]).unwrap();
        assert_eq!((holed.server_name, holed.versions), (None, vec!["1.2".into()]));
        assert_eq!(told(&[1_100..1_200, 1_200..hello.len()]), None);
    }
}

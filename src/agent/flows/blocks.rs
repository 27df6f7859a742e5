//! HTTP/2's header blocks (RFC 9113, section 4.3): decoded in the order of the connection, or not at
//! all.
//!
//! What a block means depends on every block before it. Each piece comes with the number of bytes
//! before it on its connection, so a decoder that has had them all is exact; one that lacks any, as
//! nobody listened at the time or the ring was full, would guess, and is thrown away.

use std::num::NonZeroUsize;

use loona_hpack::Decoder;
use lru::LruCache;

use super::{head::Head, heads::Heads};
use crate::telemetry::wire::{HeadPart, Record};

/// Connections that are followed; the one that was silent longest gives way.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();

/// Of a connection's table (RFC 7541, section 4.2); servers that allow more than 4,096 bytes are rare.
const TABLE: usize = 16 << 10;

/// Of a block; servers accept 8 to 16 kB.
const BLOCK: usize = 16 << 10;

struct Connection {
    decoder: Decoder<'static>,
    /// Bytes of blocks so far.
    place: u64,
    stream: u32,
    block: Vec<u8>,
}

impl Connection {
    fn new() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE);
        Self { decoder, place: 0, stream: 0, block: Vec::new() }
    }

    /// Takes a piece; `None` if the connection can't be followed any further.
    fn piece(&mut self, record: &Record, bytes: &[u8], heads: &mut Heads) -> Option<()> {
        let part = |part: HeadPart| u32::from(record.code) & part.0 != 0;
        if record.duration_ns != self.place {
            return None;
        }
        // A block whose last frame was empty ends with the next one's begin.
        if part(HeadPart::HEAD_FIRST) {
            self.end(record.conn, heads)?;
            self.stream = record.number;
        }
        self.place += bytes.len() as u64;
        self.block.extend_from_slice(bytes);
        if self.block.len() > BLOCK {
            return None;
        }
        if part(HeadPart::HEAD_LAST) { self.end(record.conn, heads) } else { Some(()) }
    }

    fn end(&mut self, conn: u64, heads: &mut Heads) -> Option<()> {
        if self.block.is_empty() {
            return Some(());
        }
        let mut head = Head::default();
        let fields =
            self.decoder.decode_with_cb(&self.block, |name, value| head.field(&name, &value));
        self.block = Vec::new();
        fields.ok()?;
        heads.know(conn, self.stream, head);
        Some(())
    }
}

/// The connections that are followed, and those that are known not to be.
pub struct Blocks {
    connections: LruCache<u64, Option<Box<Connection>>>,
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").field("connections", &self.connections.len()).finish()
    }
}

impl Blocks {
    /// None.
    pub fn new() -> Self {
        Self { connections: LruCache::new(CONNECTIONS) }
    }

    /// Takes a piece of a block; a request whose block it ends is known in `heads` from now on.
    pub fn piece(&mut self, record: &Record, bytes: &[u8], heads: &mut Heads) {
        let begun = record.duration_ns == 0;
        let connection = self
            .connections
            .get_or_insert_mut(record.conn, || begun.then(|| Box::new(Connection::new())));
        let Some(followed) = connection else { return };
        if followed.piece(record, bytes, heads).is_none() {
            *connection = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use loona_hpack::Encoder;

    use super::*;

    struct Client {
        encoder: Encoder<'static>,
        place: u64,
        blocks: Blocks,
        heads: Heads,
    }

    impl Client {
        fn new() -> Self {
            let (blocks, heads) = (Blocks::new(), Heads::new());
            Self { encoder: Encoder::new(), place: 0, blocks, heads }
        }

        fn encode(&mut self, path: &str) -> Vec<u8> {
            let fields = [(":method", "GET"), (":path", path), (":authority", "a.example")];
            let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            self.encoder.encode(fields)
        }

        /// The pieces of a block, `lost` of which (by number) does not arrive.
        fn send(&mut self, stream: u32, block: &[u8], size: usize, lost: Option<usize>) {
            let pieces = block.chunks(size).count();
            for (at, bytes) in block.chunks(size).enumerate() {
                let first = if at == 0 { HeadPart::HEAD_FIRST.0 } else { 0 };
                let last = if at + 1 == pieces { HeadPart::HEAD_LAST.0 } else { 0 };
                let record = Record {
                    conn: 9,
                    number: stream,
                    code: u8::try_from(first | last).unwrap(),
                    duration_ns: self.place,
                    ..Record::default()
                };
                self.place += bytes.len() as u64;
                if lost != Some(at) {
                    self.blocks.piece(&record, bytes, &mut self.heads);
                }
            }
        }

        fn path(&mut self, stream: u32) -> Option<String> {
            self.heads.http(9, stream)?.path
        }
    }

    #[test]
    fn paths_are_told_through_the_table_and_in_pieces_of_any_size() {
        for size in [1, 3, 1_024] {
            let mut client = Client::new();
            for stream in [1, 3, 5, 7] {
                let block = client.encode("/shop/basket");
                client.send(stream, &block, size, None);
                assert_eq!(client.path(stream).as_deref(), Some("/shop/basket"));
            }
        }
    }

    #[test]
    fn after_a_lost_piece_or_a_late_start_no_path_is_told_ever_again() {
        for late in [false, true] {
            let mut client = Client::new();
            let first = client.encode("/first");
            client.send(1, &first, 4, if late { Some(0) } else { Some(2) });
            for stream in [3, 5] {
                let block = client.encode("/first");
                client.send(stream, &block, 1_024, None);
                assert_eq!(client.path(stream), None);
            }
        }
    }

    #[test]
    fn a_block_whose_last_frame_is_empty_ends_with_the_next_one() {
        let mut client = Client::new();
        let (one, two) = (client.encode("/one"), client.encode("/two"));
        let record = |number, code: HeadPart, place| Record {
            conn: 9,
            number,
            code: u8::try_from(code.0).unwrap(),
            duration_ns: place,
            ..Record::default()
        };
        client.blocks.piece(&record(1, HeadPart::HEAD_FIRST, 0), &one, &mut client.heads);
        let place = one.len() as u64;
        client.blocks.piece(&record(3, HeadPart::HEAD_FIRST, place), &two, &mut client.heads);
        assert_eq!(client.path(1).as_deref(), Some("/one"));
    }

    #[test]
    fn no_bytes_bring_it_down_or_make_it_grow() {
        let mut seed = 1_u64;
        let mut random = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            u8::try_from(seed >> 56).unwrap()
        };
        for _ in 0..2_000 {
            let block: Vec<u8> = (0..40).map(|_| random()).collect();
            Client::new().send(1, &block, 1_024, None);
        }
        let mut client = Client::new();
        // "Let the table grow to 2^28 bytes" (RFC 7541, section 6.3).
        client.send(1, &[0x3f, 0xff, 0xff, 0xff, 0x7f, 0x82], 1_024, None);
        client.send(3, &[0x82, 0x84], 1_024, None);
        assert_eq!(client.path(3), None);
    }
}

//! Live records: what a listener is told, and that nobody is told without one.

use std::{cell::RefCell, rc::Rc, time::Duration};

use weir::telemetry::{
    records::Records,
    wire::{
        DbOperation, DbOutcome, HeadPart, HttpMethod, HttpVersion, L7Protocol, Record, RecordKind,
        Role, Stat,
    },
};

use crate::{
    frame::{self, v4, v6},
    kernel::Kernel,
    stream::{Side, Stream},
};

type Told = Rc<RefCell<Vec<(Record, Vec<u8>)>>>;

struct Listener<'k> {
    records: Records<'k>,
    told: Told,
}

impl Listener<'_> {
    fn new(kernel: &Kernel) -> Self {
        let told = Told::default();
        let sink = Rc::clone(&told);
        let records = Records::open(&kernel.bpf_dir(), move |record: &Record, bytes: &[u8]| {
            sink.borrow_mut().push((*record, bytes.to_vec()));
        });
        Self { records: records.unwrap(), told }
    }

    fn listen(&self) {
        self.records.listen(Duration::from_secs(60)).unwrap();
    }

    fn take(&self) -> Vec<(Record, Vec<u8>)> {
        while self.records.consume().unwrap() > 0 {}
        self.told.take()
    }
}

fn is(record: &Record, kind: RecordKind, protocol: L7Protocol) -> bool {
    u32::from(record.kind) == kind.0 && u32::from(record.protocol) == protocol.0
}

fn exchange(kernel: &Kernel, port: u16) {
    let mut stream = Stream::open(kernel, Role::ROLE_SERVER, v4(9, port), v4(2, 80));
    stream.send(Side::Client, b"GET /shop?q=1 HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.send(Side::Server, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn an_exchange_is_told_to_who_listens_and_only_then() {
    let kernel = Kernel::new();
    let listener = Listener::new(&kernel);
    exchange(&kernel, 40000);
    assert!(listener.take().is_empty());
    listener.listen();
    exchange(&kernel, 40001);
    let told = listener.take();
    let [(head, bytes), (ended, nothing)] = &told[..] else { panic!("{told:?}") };
    assert!(is(head, RecordKind::RECORD_HEAD, L7Protocol::L7_HTTP1));
    assert_eq!(bytes, b"GET /shop?q=1 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(is(ended, RecordKind::RECORD_EXCHANGE, L7Protocol::L7_HTTP1));
    assert_eq!((head.conn, head.number), (ended.conn, ended.number));
    assert!(nothing.is_empty());
    assert_eq!(ended.pod, kernel.attached.pod);
    assert_eq!(u32::from(ended.method), HttpMethod::HTTP_METHOD_GET.0);
    assert_eq!(u32::from(ended.version), HttpVersion::HTTP_VERSION_1_1.0);
    assert_eq!((ended.status, ended.peer_port, ended.pod_port), (404, 40001, 80));
    assert_eq!(ended.peer_addr[..4], [10, 88, 0, 9]);
    listener.records.cease().unwrap();
    exchange(&kernel, 40002);
    assert!(listener.take().is_empty());
}

#[test]
fn a_head_in_pieces_is_told_piece_by_piece() {
    let kernel = Kernel::new();
    let listener = Listener::new(&kernel);
    listener.listen();
    let head = format!("POST /{} HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n", "p".repeat(90));
    for size in [1, 7, 40, 80, 200] {
        let port = 41000 + u16::try_from(size).unwrap();
        let mut stream = Stream::open(&kernel, Role::ROLE_CLIENT, v6(2, port), v6(9, 80));
        head.as_bytes().chunks(size).for_each(|piece| stream.send(Side::Client, piece));
        stream.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
        let told = listener.take();
        let (ended, heads) = told.split_last().unwrap();
        assert!(is(&ended.0, RecordKind::RECORD_EXCHANGE, L7Protocol::L7_HTTP1));
        let bytes: Vec<u8> = heads.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), head, "pieces of {size}");
        assert_eq!(u32::from(heads[0].0.code), HeadPart::HEAD_FIRST.0);
        assert!(heads.iter().all(|(part, _)| part.number == ended.0.number));
    }
}

#[test]
fn a_look_up_is_told_with_its_question() {
    let kernel = Kernel::new();
    let listener = Listener::new(&kernel);
    listener.listen();
    let question = b"\x07example\x03org\x00\x00\x1c\x00\x01";
    let message = |flags: u16| {
        [&[0, 7][..], &flags.to_be_bytes(), &[0, 1, 0, 0, 0, 0, 0, 0], question].concat()
    };
    kernel.leave_pod(&frame::udp(v4(2, 5000), v4(9, 53), &message(0x0100)));
    kernel.enter_pod(&frame::udp(v4(9, 53), v4(2, 5000), &message(0x8183)));
    let told = listener.take();
    let [(record, bytes)] = &told[..] else { panic!("{told:?}") };
    assert!(is(record, RecordKind::RECORD_EXCHANGE, L7Protocol::L7_DNS));
    assert_eq!((record.status, record.code, record.number), (28, 3, 7));
    assert_eq!(bytes, question);

    // A refusal that does not repeat it: the type is the query's.
    let query = message(0x0100);
    kernel.leave_pod(&frame::udp(v6(2, 5000), v6(9, 53), &query));
    let refusal = [&query[..2], &[0x80, 0x05], &[0; 8]].concat();
    kernel.enter_pod(&frame::udp(v6(9, 53), v6(2, 5000), &refusal));
    let told = listener.take();
    let [(refused, nothing)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((refused.number, refused.status, refused.code), (record.number, record.status, 5));
    assert!(nothing.is_empty());
}

#[test]
fn a_request_to_a_database_is_told_without_its_values() {
    let kernel = Kernel::new();
    let listener = Listener::new(&kernel);
    listener.listen();
    let mut stream = Stream::open(&kernel, Role::ROLE_CLIENT, v4(2, 40000), v4(9, 6379));
    stream.send(Side::Client, b"*2\r\n$3\r\nGET\r\n$6\r\nsecret\r\n*1\r\n$4\r\nPING\r\n");
    stream.send(Side::Server, b"-ERR no\r\n+PONG\r\n");
    let told = listener.take();
    let seen: Vec<_> = told
        .iter()
        .filter(|(record, _)| is(record, RecordKind::RECORD_EXCHANGE, L7Protocol::L7_REDIS))
        .map(|(record, bytes)| {
            assert!(bytes.is_empty() && record.duration_ns < 10_000_000_000);
            assert_eq!((record.peer_port, record.pod_port), (6379, 40000));
            (u32::from(record.method), u32::from(record.code))
        })
        .collect();
    let expected = [
        (DbOperation::DB_GET.0, DbOutcome::DB_ERROR.0),
        (DbOperation::DB_PING.0, DbOutcome::DB_OK.0),
    ];
    assert_eq!(seen, expected);
    assert!(!told.iter().any(|(record, _)| u32::from(record.kind) == RecordKind::RECORD_HEAD.0));
}

#[test]
fn what_the_ring_has_no_room_for_is_counted() {
    let kernel = Kernel::new();
    let listener = Listener::new(&kernel);
    listener.listen();
    let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, v4(9, 40000), v4(2, 80));
    let exchanges = 6_000;
    for _ in 0..exchanges {
        stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
        stream.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
    }
    let told = listener.take();
    let stats = kernel.snapshot().stats;
    for (kind, lost) in [
        (RecordKind::RECORD_EXCHANGE, Stat::STAT_FULL_RECORDS),
        (RecordKind::RECORD_HEAD, Stat::STAT_FULL_HEADS),
    ] {
        let told = told.iter().filter(|(record, _)| u32::from(record.kind) == kind.0).count();
        let lost = usize::try_from(stats[lost.0 as usize]).unwrap();
        assert!(told > 0 && lost > 0);
        assert_eq!(told + lost, exchanges);
    }
}

#[test]
fn heads_leave_exchanges_room_in_the_ring() {
    let kernel = Kernel::new();
    let listener = Listener::new(&kernel);
    listener.listen();
    let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, v4(9, 40000), v4(2, 80));
    let told = |kind: RecordKind| {
        let is = |record: &Record| u32::from(record.kind) == kind.0;
        listener.take().iter().filter(|(record, _)| is(record)).count()
    };
    // More heads than it holds, and then the answers.
    let (at_once, times) = (50, 60);
    for _ in 0..times {
        stream.send(Side::Client, &b"GET / HTTP/1.1\r\n\r\n".repeat(at_once));
    }
    for _ in 0..times {
        stream.send(Side::Server, &b"HTTP/1.1 204 No Content\r\n\r\n".repeat(at_once));
    }
    let stats = kernel.snapshot().stats;
    assert!(stats[Stat::STAT_FULL_HEADS.0 as usize] > 1_000);
    let told = told(RecordKind::RECORD_EXCHANGE);
    let lost = usize::try_from(stats[Stat::STAT_FULL_RECORDS.0 as usize]).unwrap();
    assert_eq!(told + lost, at_once * times);
    assert!(told > 1_000, "{told}");
}

#[test]
fn header_blocks_are_told_with_their_place_so_that_a_lost_one_is_noticed() {
    let kernel = Kernel::new();
    let listener = Listener::new(&kernel);
    let frame = |kind: u8, flags: u8, stream: u8, block: &[u8]| {
        let length = u8::try_from(block.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], block].concat()
    };
    let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, v4(9, 40000), v4(2, 80));
    stream.send(Side::Client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    stream.send(Side::Client, &frame(4, 0, 0, &[]));
    stream.send(Side::Server, &frame(4, 0, 0, &[]));
    // Before anybody listens: three bytes that a decoder lacks.
    stream.send(Side::Client, &frame(1, 5, 1, &[0x82, 0x84, 0x86]));
    stream.send(Side::Server, &frame(1, 5, 1, &[0x88]));
    listener.listen();
    // A block in two frames, of which the second comes in two segments.
    stream.send(Side::Client, &frame(1, 1, 3, &[0x83]));
    let continuation = frame(9, 4, 3, &[0x84, 0x86]);
    stream.send(Side::Client, &continuation[..10]);
    stream.send(Side::Client, &continuation[10..]);
    stream.send(Side::Server, &frame(1, 5, 3, &[0x8d]));
    let told = listener.take();
    let places: Vec<_> = told[..3]
        .iter()
        .map(|(part, bytes)| (part.number, part.duration_ns, u32::from(part.code), bytes.clone()))
        .collect();
    assert_eq!(
        places,
        [
            (3, 3, HeadPart::HEAD_FIRST.0, vec![0x83]),
            (3, 4, 0, vec![0x84]),
            (3, 5, HeadPart::HEAD_LAST.0, vec![0x86]),
        ]
    );
    let (ended, _) = &told[3];
    assert!(is(ended, RecordKind::RECORD_EXCHANGE, L7Protocol::L7_HTTP2));
    assert_eq!((ended.number, ended.status), (3, 404));
}

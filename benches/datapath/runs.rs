//! One run of a program by kind of frame, in nanoseconds.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use weir::telemetry::{
    self, Choice, Identity, pin,
    sys::{Skb, test_run},
};

use crate::{
    Result,
    floor::{Floor, NOTHING},
    frame::{ACK, End, RST, SYN, tcp, tcp_acknowledging, udp, v4},
    report::{Row, Rows, row::nanos},
};

/// In a fresh network namespace loopback has index 1; a test run without a device passes it.
const LOOPBACK: u32 = 1;
/// Runs in one system call, of which the kernel tells the mean, and how many of these.
const WARM: u32 = 100_000;
const TURNS: usize = 10;
pub const SINGLE: u32 = 20_000;
/// Bytes of payload that a test run takes in a frame, which has to fit into a page with all that is around it.
const LONGEST: u32 = 3_500;

/// The connection that all frames belong to.
struct Path80 {
    enter: OwnedFd,
    leave: OwnedFd,
    client: End,
    server: End,
}

impl Path80 {
    fn open(bpf_dir: &Path) -> Result<Self> {
        let identity = Identity { pod: "bench".into(), ..Default::default() };
        let intent = telemetry::intend(Choice::Clsact);
        telemetry::attach(bpf_dir, Choice::Clsact, LOOPBACK, &identity, intent, |_| Ok(()))?;
        let program = |name| pin::program(bpf_dir, name)?.ok_or_else(|| absent(name));
        let (enter, leave) = (program("weir_to_pod")?, program("weir_from_pod")?);
        let path = Self { enter, leave, client: v4(9, 40000), server: v4(2, 80) };
        test_run(path.enter.as_fd(), &path.request(0, SYN, b""), Skb::default(), 1)?;
        let answer = tcp_acknowledging(path.server, path.client, (0, 1), SYN | ACK, b"");
        test_run(path.leave.as_fd(), &answer, Skb::default(), 1)?;
        let through = tcp_acknowledging(path.client, path.server, (1, 1), ACK, b"");
        test_run(path.enter.as_fd(), &through, Skb::default(), 1)?;
        Ok(path)
    }

    fn request(&self, seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        tcp(self.client, self.server, seq, flags, payload)
    }

    fn response(&self, seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        tcp(self.server, self.client, seq, flags, payload)
    }
}

fn absent(name: &str) -> weir::error::Error {
    weir::error::Error::new(weir::error::Kind::Telemetry, format!("{name} is not pinned"))
}

/// A request of exactly 460 bytes with the headers that a browser sends.
fn request_460() -> Vec<u8> {
    let mut head = String::from(
        "GET /index.html HTTP/1.1\r\nHost: web.example.org\r\nUser-Agent: Mozilla/5.0 (X11; Linux)\r\n\
         Accept: text/html,application/xhtml+xml\r\nAccept-Language: en\r\nAccept-Encoding: gzip\r\n\
         Connection: keep-alive\r\nCookie: ",
    );
    while head.len() < 456 {
        head.push('c');
    }
    head.push_str("\r\n\r\n");
    head.into_bytes()
}

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Type: text/plain\r\n\
    Content-Length: 5\r\nConnection: keep-alive\r\n\r\nhello";

/// The name and the number of a query, and the rest of what a DNS message about it has.
fn dns(id: u16, flags: u16) -> Vec<u8> {
    let mut message = Vec::new();
    for word in [id, flags, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    message.extend(b"\x03www\x07example\x03org\x00\x00\x01\x00\x01");
    message
}

/// Measures and tells: what runs take, and what of that is not the run loop's own.
pub fn tell(floor: &Floor, rows: &mut Rows) -> Result<()> {
    let path = Path80::open(Path::new("/sys/fs/bpf/weir-runs"))?;
    let enter = path.enter.as_fd();
    for (kind, frame, most) in [
        ("pure ACK", path.request(1, ACK, b""), Some(120.0)),
        (
            "ACK of a connection that is not tracked",
            tcp(v4(9, 4), path.server, 1, ACK, b""),
            Some(150.0),
        ),
        ("UDP of 64 bytes", udp(v4(9, 4), v4(2, 9), &[b'x'; 64]), None),
    ] {
        let row = Row::of(format!("one run, warm: {kind}"), "ns", &warm(enter, &frame)?)?;
        let net = row.median - floor.warm;
        rows.add(aimed(row.more(NOTHING, net), most))?;
    }
    let acks = path.request(1, ACK, b"");
    let acks = single(enter, (0..SINGLE).map(|_| acks.clone()))?;
    let [requests, responses] = exchanges(&path)?;
    let [bodies, long_bodies] = bodies(&path)?;
    let [queries, answers] = names(&path)?;
    let [syns, flood] = handshakes(&path)?;
    for (kind, took, most) in [
        ("pure ACK", acks, None),
        ("request of 460 bytes", requests, Some(350.0)),
        ("small response that completes it", responses, Some(600.0)),
        ("segment of a body", bodies, Some(200.0)),
        (
            "45 segments of a body in 3,500 bytes, the most that a run takes",
            long_bodies,
            Some(200.0),
        ),
        ("DNS query", queries, None),
        ("DNS response that completes it", answers, None),
        ("SYN to the pod", syns, None),
        ("SYN to the pod in a flood of them", flood, None),
    ] {
        let row = Row::of(format!("one run, single: {kind}"), "ns", &took)?;
        let net = row.median - floor.single;
        rows.add(aimed(row.more(NOTHING, net), most))?;
    }
    Ok(())
}

fn aimed(row: Row, most: Option<f64>) -> Row {
    match most {
        Some(most) => row.at_most(most),
        None => row,
    }
}

/// Nanoseconds of a run that follows others of the same frame at once, by turn.
pub fn warm(program: BorrowedFd<'_>, frame: &[u8]) -> Result<Vec<f64>> {
    (0..TURNS).map(|_| Ok(nanos(test_run(program, frame, Skb::default(), WARM)?))).collect()
}

/// Nanoseconds of runs that are a system call each, with two clock reads inside.
fn single(program: BorrowedFd<'_>, frames: impl Iterator<Item = Vec<u8>>) -> Result<Vec<f64>> {
    frames.map(|frame| Ok(nanos(test_run(program, &frame, Skb::default(), 1)?))).collect()
}

/// Requests and responses. Runs that move the stream can't be repeated by the kernel.
fn exchanges(path: &Path80) -> Result<[Vec<f64>; 2]> {
    let bytes = request_460();
    let (mut asked, mut answered) = (1u32, 1u32);
    let (mut requests, mut responses) = (Vec::new(), Vec::new());
    for _ in 0..SINGLE {
        let frame = path.request(asked, ACK, &bytes);
        requests.push(nanos(test_run(path.enter.as_fd(), &frame, Skb::default(), 1)?));
        asked = asked.wrapping_add(u32::try_from(bytes.len())?);
        let frame = path.response(answered, ACK, RESPONSE);
        responses.push(nanos(test_run(path.leave.as_fd(), &frame, Skb::default(), 1)?));
        answered = answered.wrapping_add(u32::try_from(RESPONSE.len())?);
    }
    Ok([requests, responses])
}

/// An upload behind all exchanges, as long as they are many: as on a wire, and as much as fits into the
/// frame of a test run, which is told to be as many segments as 64 KiB are. Nothing of a body is read, so
/// that no more than its length is known of one either way.
fn bodies(path: &Path80) -> Result<[Vec<f64>; 2]> {
    let mut at = 1 + SINGLE * u32::try_from(request_460().len())?;
    let head = b"POST / HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n";
    test_run(path.enter.as_fd(), &path.request(at, ACK, head), Skb::default(), 1)?;
    at += u32::try_from(head.len())?;
    let mut upload = |length: u32, skb: Skb| -> Result<Vec<f64>> {
        let bytes = vec![b'x'; usize::try_from(length)?];
        let mut took = Vec::new();
        for _ in 0..SINGLE {
            let frame = path.request(at, ACK, &bytes);
            took.push(nanos(test_run(path.enter.as_fd(), &frame, skb, 1)?));
            at = at.wrapping_add(length);
        }
        Ok(took)
    };
    let one = upload(1448, Skb::default())?;
    Ok([one, upload(LONGEST, Skb { gso_segs: 45, ..Skb::default() })?])
}

/// Queries that the pod sends, and their responses.
fn names(path: &Path80) -> Result<[Vec<f64>; 2]> {
    let (pod, server) = (v4(2, 40000), v4(9, 53));
    let (mut queries, mut answers) = (Vec::new(), Vec::new());
    for id in 0..u16::try_from(SINGLE)? {
        let query = udp(pod, server, &dns(id, 0x0100));
        queries.push(nanos(test_run(path.leave.as_fd(), &query, Skb::default(), 1)?));
        let answer = udp(server, pod, &dns(id, 0x8180));
        answers.push(nanos(test_run(path.enter.as_fd(), &answer, Skb::default(), 1)?));
    }
    Ok([queries, answers])
}

/// SYNs of handshakes that are ended at once, and those of a flood behind so many that nobody ended.
fn handshakes(path: &Path80) -> Result<[Vec<f64>; 2]> {
    let syn = |last: u8, port: u16| -> Result<f64> {
        let frame = tcp(v4(last, port), path.server, 7, SYN, b"");
        Ok(nanos(test_run(path.enter.as_fd(), &frame, Skb::default(), 1)?))
    };
    let (mut ended, mut flood) = (Vec::new(), Vec::new());
    for port in 0..u16::try_from(SINGLE)? {
        ended.push(syn(20, port)?);
        let refusal = tcp_acknowledging(path.server, v4(20, port), (0, 8), RST | ACK, b"");
        test_run(path.leave.as_fd(), &refusal, Skb::default(), 1)?;
    }
    for port in 0..u16::try_from(SINGLE)? {
        syn(21, port)?;
    }
    for port in 0..u16::try_from(SINGLE)? {
        flood.push(syn(22, port)?);
    }
    Ok([ended, flood])
}

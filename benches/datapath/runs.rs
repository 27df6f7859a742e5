//! One run of a program by kind of frame, in nanoseconds.

use std::{fmt::Write, os::fd::AsFd, os::fd::OwnedFd, path::Path, time::Duration};

use weir::telemetry::{
    self, Choice, Identity, pin,
    sys::{Skb, test_run},
};

use crate::{
    Result,
    frame::{ACK, End, SYN, tcp, v4},
};

/// In a fresh network namespace loopback has index 1; a test run without a device passes it.
const LOOPBACK: u32 = 1;
pub const WARM: u32 = 1_000_000;
pub const SINGLE: u32 = 20_000;

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
        test_run(path.leave.as_fd(), &path.response(0, SYN | ACK, b""), Skb::default(), 1)?;
        test_run(path.enter.as_fd(), &path.request(1, ACK, b""), Skb::default(), 1)?;
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

/// Measures and prints.
pub fn report() -> Result<String> {
    let path = Path80::open(Path::new("/sys/fs/bpf/weir-runs"))?;
    let warm = |frame: &[u8]| test_run(path.enter.as_fd(), frame, Skb::default(), WARM);
    let ack = warm(&path.request(1, ACK, b""))?;
    let untracked = warm(&tcp(v4(9, 4), path.server, 1, ACK, b""))?;
    let (request, response) = exchanges(&path)?;
    let single_ack = single_acks(&path)?;
    let body = bodies(&path)?;

    let mut text = String::new();
    writeln!(
        text,
        "one run of a program (BPF_PROG_TEST_RUN; the run loop's own cost is inside)\n"
    )?;
    for (kind, took) in [
        ("pure ACK, warm", ack),
        ("ACK of a connection that is not tracked, warm", untracked),
        ("pure ACK, single runs (median)", single_ack),
        ("460-byte request, single runs (median)", request),
        ("small response that completes it, likewise", response),
        ("segment of a body, likewise", body),
    ] {
        writeln!(text, "{kind:<48} {:>6} ns", took.as_nanos())?;
    }
    let net = |took: Duration| took.saturating_sub(single_ack).as_nanos() + ack.as_nanos();
    writeln!(
        text,
        "\nA single run has two clock reads inside, which the warm ACK has not: less these, the\n\
         request costs {} ns, the response {} ns and a body's segment {} ns: of a body nothing is read,\n\
         so that its length is no matter.\n",
        net(request),
        net(response),
        net(body)
    )?;
    Ok(text)
}

/// Runs that move the stream can't be repeated by the kernel: each is a system call of its own.
fn exchanges(path: &Path80) -> Result<(Duration, Duration)> {
    let bytes = request_460();
    let (mut asked, mut answered) = (1u32, 1u32);
    let (mut requests, mut responses) = (Vec::new(), Vec::new());
    for _ in 0..SINGLE {
        let frame = path.request(asked, ACK, &bytes);
        requests.push(test_run(path.enter.as_fd(), &frame, Skb::default(), 1)?);
        asked = asked.wrapping_add(u32::try_from(bytes.len())?);
        let frame = path.response(answered, ACK, RESPONSE);
        responses.push(test_run(path.leave.as_fd(), &frame, Skb::default(), 1)?);
        answered = answered.wrapping_add(u32::try_from(RESPONSE.len())?);
    }
    Ok((median(requests), median(responses)))
}

/// An upload behind all exchanges, as long as they are many.
fn bodies(path: &Path80) -> Result<Duration> {
    let mut at = 1 + SINGLE * u32::try_from(request_460().len())?;
    let head = b"POST / HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n";
    test_run(path.enter.as_fd(), &path.request(at, ACK, head), Skb::default(), 1)?;
    at += u32::try_from(head.len())?;
    let mut took = Vec::new();
    for _ in 0..SINGLE {
        let frame = path.request(at, ACK, &[b'x'; 1448]);
        took.push(test_run(path.enter.as_fd(), &frame, Skb::default(), 1)?);
        at += 1448;
    }
    Ok(median(took))
}

fn single_acks(path: &Path80) -> Result<Duration> {
    let frame = path.request(1, ACK, b"");
    let run = |_| Ok(test_run(path.enter.as_fd(), &frame, Skb::default(), 1)?);
    (0..SINGLE).map(run).collect::<Result<_>>().map(median)
}

/// Interrupts strike some runs, and would move a mean.
pub fn median(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() / 2]
}

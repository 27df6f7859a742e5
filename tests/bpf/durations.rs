//! How long exchanges are said to have taken, where no packet ends or begins them.

use std::{
    thread,
    time::{Duration, Instant},
};

use weir::telemetry::wire::{HistogramKind, Role};

use crate::{
    frame::{ACK, SYN, v4},
    http2_cases,
    kernel::Kernel,
    parallel::stay_on,
    stream::{Side, Stream},
};

const PAUSE: Duration = Duration::from_millis(300);

/// Of all exchanges together.
fn requests_took(kernel: &Kernel) -> Duration {
    let kind = HistogramKind::HISTOGRAM_HTTP_REQUEST.0;
    let snapshot = kernel.snapshot();
    let of = snapshot.histograms.iter().filter(|(key, _)| u32::from(key.kind) == kind);
    Duration::from_nanos(of.map(|(_, histogram)| histogram.sum_ns).sum())
}

#[test]
fn a_stream_that_the_end_leaves_open_took_until_the_end() {
    let kernel = Kernel::new();
    let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, v4(9, 40_000), v4(2, 80));
    let begun = Instant::now();
    stream.send(Side::Client, &http2_cases::client(&[http2_cases::get(1)]));
    stream.send(Side::Server, &http2_cases::server(&[]));
    thread::sleep(PAUSE);
    stream.reset(Side::Client);
    let ended = begun.elapsed();
    thread::sleep(PAUSE);
    kernel.maps.sweep(Duration::from_secs(60)).unwrap();
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_HTTP_REQUEST), 1);
    let took = requests_took(&kernel);
    assert!(took >= PAUSE && took <= ended, "{took:?} of {ended:?}");
}

/// RFC 7413: what a SYN brought is read when a segment without bytes ends the handshake.
#[test]
fn a_request_of_a_syn_begins_when_it_can_be_read() {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    // The one has read nothing since long when the other's packet has bytes for it.
    stay_on(1);
    let kernel = Kernel::new();
    let mut before = Stream::open(&kernel, Role::ROLE_SERVER, v4(9, 39_999), v4(2, 80));
    before.send(Side::Client, b"GET / HT");
    thread::sleep(PAUSE);
    let begun = Instant::now();
    stay_on(0);
    let mut stream =
        Stream::syn_with(&kernel, Role::ROLE_SERVER, v4(9, 40_000), v4(2, 80), REQUEST);
    stay_on(1);
    stream.advance(Side::Client, REQUEST.len());
    stream.send_flags(Side::Server, SYN | ACK);
    stream.advance(Side::Server, 1);
    stream.send_flags(Side::Client, ACK);
    stream.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
    let ended = begun.elapsed();
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_HTTP_REQUEST), 1);
    let took = requests_took(&kernel);
    assert!(took <= ended, "{took:?} of {ended:?}");
}

//! What no packet ends: the sweep gives up on it, and not before its time.

use std::time::Duration;

use weir::telemetry::wire::{CounterKind, Role, TcpResult};

use crate::{
    frame::v4,
    kernel::Kernel,
    share::{assert_balanced, elements},
    stream::{Side, Stream},
};

/// Seconds, as `sweep.h` has them.
const SYN_TIMEOUT_S: u32 = 135;
const CLOSE_TIMEOUT_S: u32 = 60;
const IDLE_TIMEOUT_S: u32 = 8000;

/// What a loaded machine may need between two lines of a test.
const SLACK: u64 = 30;

fn results(kernel: &Kernel, result: TcpResult) -> u64 {
    let is = |key: &(u8, u8, u8, u8, u16)| {
        u32::from(key.0) == CounterKind::COUNTER_TCP_CONNECTIONS.0 && u32::from(key.2) == result.0
    };
    kernel.counts().0.iter().filter(|(key, _)| is(key)).map(|(_, n)| n).sum()
}

/// Sweeps a little before the time, when the connection has to be there, and at it, when not.
fn gives_up_after(kernel: &Kernel, seconds: u32) {
    kernel.age_connections_by(u64::from(seconds) - SLACK);
    kernel.maps.sweep(Duration::from_secs(60)).unwrap();
    assert_eq!(elements(kernel, "conns"), 1, "{seconds} s are not over");
    kernel.age_connections_by(SLACK);
    kernel.maps.sweep(Duration::from_secs(60)).unwrap();
    assert_eq!(elements(kernel, "conns"), 0, "{seconds} s are over");
}

#[test]
fn the_sweep_gives_up_at_its_time_and_not_before() {
    let kernel = Kernel::new();
    for (role, client, server) in [
        (Role::ROLE_SERVER, v4(9, 40_000), v4(2, 80)),
        (Role::ROLE_CLIENT, v4(2, 40_000), v4(9, 80)),
    ] {
        let before = kernel.counts();
        Stream::syn(&kernel, role, client, server);
        gives_up_after(&kernel, SYN_TIMEOUT_S);
        let timeouts = results(&kernel, TcpResult::TCP_RESULT_TIMEOUT);

        let mut idle = Stream::open(&kernel, role, client, server);
        idle.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
        gives_up_after(&kernel, IDLE_TIMEOUT_S);
        let closed = kernel.counts().of(CounterKind::COUNTER_TCP_CLOSED);
        assert_eq!(closed, before.of(CounterKind::COUNTER_TCP_CLOSED) + 1);
        let errors = kernel.counts().of(CounterKind::COUNTER_HTTP_ERRORS);
        assert_eq!(errors, before.of(CounterKind::COUNTER_HTTP_ERRORS) + 1);
        assert_eq!(results(&kernel, TcpResult::TCP_RESULT_TIMEOUT), timeouts);

        // The other side's end came before bytes that never did.
        let mut closing = Stream::open(&kernel, role, client, server);
        closing.fin(Side::Client);
        closing.fin(Side::Server);
        assert_eq!(elements(&kernel, "conns"), 0);
        let mut half = Stream::open(&kernel, role, client, server);
        half.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
        let far = half.next(Side::Client).wrapping_add(9);
        half.segment(Side::Client, far, crate::frame::RST, &[]);
        if role == Role::ROLE_SERVER {
            gives_up_after(&kernel, CLOSE_TIMEOUT_S);
            assert_eq!(results(&kernel, TcpResult::TCP_RESULT_RESET), 1);
        } else {
            assert_eq!(elements(&kernel, "conns"), 0, "the pod's own reset ends it at once");
        }
    }
    assert_eq!(results(&kernel, TcpResult::TCP_RESULT_TIMEOUT), 2);
    assert_balanced(&kernel);
}

/// RFC 9293, 3.6: neither side's FIN acknowledges the other's.
#[test]
fn both_sides_close_at_once() {
    let kernel = Kernel::new();
    let sides = [Side::Client, Side::Server];
    for (n, role) in [(0, Role::ROLE_SERVER), (1, Role::ROLE_CLIENT)] {
        for (first, second) in [(sides[0], sides[1]), (sides[1], sides[0])] {
            let (client, server) = if role == Role::ROLE_SERVER {
                (v4(9, 40_000), v4(2, 80))
            } else {
                (v4(2, 40_000), v4(9, 80))
            };
            let mut stream = Stream::open(&kernel, role, client, server);
            stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
            stream.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
            let fin = crate::frame::FIN | crate::frame::ACK;
            stream.send_flags(first, fin);
            stream.send_flags(second, fin);
            assert_eq!(elements(&kernel, "conns"), 0, "{n}");
            stream.advance(first, 1);
            stream.advance(second, 1);
            stream.send_flags(first, crate::frame::ACK);
            stream.send_flags(second, crate::frame::ACK);
            assert_eq!(elements(&kernel, "conns"), 0, "{n}");
        }
    }
    let counts = kernel.counts();
    assert_eq!(counts.of(CounterKind::COUNTER_HTTP_REQUESTS), 4);
    assert_eq!(counts.of(CounterKind::COUNTER_HTTP_ERRORS), 0);
    assert_eq!(counts.of(CounterKind::COUNTER_TCP_CLOSED), 4);
    assert_eq!(results(&kernel, TcpResult::TCP_RESULT_RESET), 0);
    assert_balanced(&kernel);
}

//! Segments that somebody else sends in a side's name, or that come where nobody expects them: they neither
//! end nor hide a connection that goes on, and none of theirs stays.

use weir::telemetry::wire::{CounterKind, Role, Stat, TcpResult};

use crate::{
    frame::{ACK, RST, SYN, v4},
    handshake::{REQUEST, RESPONSE, assert_all_ends, ends, exchange, requests, results, syn, told},
    kernel::Kernel,
    share::{elements, stat},
    stream::{
        Side::{Client, Server},
        Stream,
    },
};

/// A pod that was asked goes on with bytes of its own, while those of the SYN wait; the numbers of these are
/// before its SYN. Both directions are given back, or nothing could ever end it.
#[test]
fn bytes_before_the_answer_prove_nothing_and_leave_nothing_owned() {
    let kernel = Kernel::new();
    for port in 20_000..20_020 {
        let (client, server) = ends(Role::ROLE_SERVER, port);
        let mut stream = Stream::syn_with(&kernel, Role::ROLE_SERVER, client, server, REQUEST);
        stream.send_flags(Server, SYN | ACK);
        stream.advance(Server, 1);
        let before = stream.next(Server).wrapping_sub(20);
        stream.acknowledging(Server, (before, stream.next(Client)), ACK, b"0123456789");
    }
    assert_all_ends(&kernel);
}

/// What the SYN had is there twice, and its first copy had no place: the pod's bytes are read in their own
/// direction, whatever else waits.
#[test]
fn the_pods_first_bytes_are_read_as_its_own() {
    let kernel = Kernel::new();
    let open = |port: u16, bytes: &[u8]| {
        let (client, server) = ends(Role::ROLE_SERVER, port);
        Stream::syn_with(&kernel, Role::ROLE_SERVER, client, server, bytes)
    };
    let others: Vec<_> = (25_000..25_008).map(|port| open(port, b"x")).collect();
    let mut stream = open(40_000, REQUEST);
    let isn = stream.next(Client).wrapping_sub(1);
    stream.advance(Client, REQUEST.len());
    stream.send_flags(Server, SYN | ACK);
    stream.advance(Server, 1);
    for other in others {
        other.reset(Client);
    }
    stream.acknowledging(Client, (isn, 0), SYN, REQUEST);
    stream.send(Server, RESPONSE);
    stream.reset(Client);
    assert_all_ends(&kernel);
}

#[test]
fn a_syn_between_answer_and_acknowledgement_hides_nothing() {
    let kernel = Kernel::new();
    for (n, role) in (0u16..).zip([Role::ROLE_SERVER, Role::ROLE_CLIENT]) {
        let mut stream = syn(&kernel, role, 40_000 + n);
        stream.send_flags(Server, SYN | ACK);
        stream.acknowledging(Client, (stream.next(Client).wrapping_add(77_777), 0), SYN, &[]);
        stream.advance(Server, 1);
        // The server answers such a one with an acknowledgement.
        stream.send_flags(Server, ACK);
        stream.send_flags(Client, ACK);
        exchange(&mut stream);
        stream.reset(Client);
        let so_many = u64::from(n) + 1;
        assert_eq!((told(&kernel), requests(&kernel)), ((so_many, 0), so_many), "{role:?}");
    }
    // Of one that has forgotten the first, the second is the connection.
    let stream = syn(&kernel, Role::ROLE_SERVER, 42_000);
    stream.send_flags(Server, SYN | ACK);
    let (client, server) = ends(Role::ROLE_SERVER, 42_000);
    let isn = stream.next(Client).wrapping_add(99_999);
    let mut again = Stream::syn_from(&kernel, Role::ROLE_SERVER, client, server, isn);
    again.accept();
    exchange(&mut again);
    again.reset(Client);
    assert_eq!((told(&kernel), requests(&kernel)), ((3, 1), 3));
    assert_all_ends(&kernel);
}

#[test]
fn a_reset_near_the_number_and_then_a_syn_end_no_connection() {
    let kernel = Kernel::new();
    let (client, server) = ends(Role::ROLE_SERVER, 40_000);
    let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, client, server);
    exchange(&mut stream);
    let next = stream.next(Client);
    stream.acknowledging(Client, (next.wrapping_add(1_000_000), 0), RST, &[]);
    stream.acknowledging(Client, (99, 0), SYN, &[]);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_TCP_CLOSED), 0);
    // The pod answers both, and goes on.
    stream.send_flags(Server, ACK);
    exchange(&mut stream);
    assert_eq!(requests(&kernel), 2);
    stream.reset(Client);
    assert_all_ends(&kernel);
    assert_eq!(told(&kernel), (1, 0));
}

#[test]
fn a_reset_of_another_handshake_ends_none() {
    let kernel = Kernel::new();
    for (n, role) in (0u16..).zip([Role::ROLE_SERVER, Role::ROLE_CLIENT]) {
        let mut stream = syn(&kernel, role, 40_000 + n);
        let isn = stream.next(Client).wrapping_sub(1);
        for numbers in [(0, isn), (0, isn.wrapping_add(2)), (0, 0), (isn, isn ^ 1 << 31)] {
            stream.acknowledging(Server, numbers, RST | ACK, &[]);
        }
        stream.acknowledging(Server, (isn.wrapping_add(1), 0), RST, &[]);
        stream.acknowledging(Client, (isn ^ 1 << 31, 0), RST, &[]);
        stream.accept();
        exchange(&mut stream);
        stream.reset(Client);
        let so_many = u64::from(n) + 1;
        assert_eq!((told(&kernel), requests(&kernel)), ((so_many, 0), so_many), "{role:?}");
    }
    // The right one does.
    let stream = syn(&kernel, Role::ROLE_CLIENT, 42_000);
    stream.acknowledging(Server, (0, stream.next(Client)), RST | ACK, &[]);
    assert_eq!(results(&kernel.counts(), TcpResult::TCP_RESULT_REFUSED), 1);
    assert_eq!(elements(&kernel, "conns"), 0);
    assert_all_ends(&kernel);
}

/// A server without memory of its first answer gives another, and the client has acknowledged the first.
#[test]
fn of_two_answers_the_first_that_counts_is_a_gap_and_not_silence() {
    let kernel = Kernel::new();
    let (client, server) = (v4(9, 40_000), v4(2, 80));
    let mut stream = Stream::syn(&kernel, Role::ROLE_SERVER, client, server);
    stream.send_flags(Server, SYN | ACK);
    let (other, acknowledged) = (stream.next(Server).wrapping_add(900_000), stream.next(Client));
    stream.acknowledging(Server, (other, acknowledged), SYN | ACK, &[]);
    stream.advance(Server, 1);
    stream.send_flags(Client, ACK);
    exchange(&mut stream);
    exchange(&mut stream);
    assert_eq!(requests(&kernel), 0);
    assert_eq!(stat(&kernel, Stat::STAT_GAP_SEQUENCE), 1);
    assert_all_ends(&kernel);
}

//! The agent's start, its end, and maps that come and go under it.

use nix::sys::signal::Signal;

use super::{http::get, node::Node};

#[test]
fn both_signals_end_it_cleanly() {
    let node = Node::new("signals");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (status, log) = node.agent().into_inner().stop(signal);
        assert_eq!(status, Some(0), "{log:#?}");
        assert!(log.contains(&"weir: agent: stopping".to_owned()), "{log:#?}");
    }
}

#[test]
fn it_listens_on_every_address_it_was_given() {
    let node = Node::new("addresses");
    let mut agent = node.start_agent(&["--listen", "127.0.0.1:9920", "--listen", "[::1]:9921"]);
    agent.wait_for("listening on http://[::1]:9921/metrics");
    assert_eq!(get("/healthz").status, 200);
    let stream = super::http::connect("[::1]:9921".parse().unwrap());
    std::io::Write::write_all(&mut &stream, b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(super::http::read(stream).unwrap().status, 200);
    assert_eq!(agent.log.iter().filter(|line| line.contains("listening")).count(), 2);
}

#[test]
fn an_address_that_cannot_be_had_is_named() {
    let node = Node::new("taken");
    let _first = node.agent();
    for (address, status) in
        [("127.0.0.1:9920", 1), ("192.0.2.1:9920", 1), ("nonsense", 2), ("127.0.0.1", 2)]
    {
        let (ended, log) = node.start_agent(&["--listen", address]).into_inner().end();
        assert_eq!(ended, Some(status), "{log:#?}");
        assert!(log.iter().any(|line| line.contains(address)), "{log:#?}");
    }
    assert_eq!(get("/healthz").status, 200);
}

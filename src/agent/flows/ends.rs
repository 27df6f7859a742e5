//! Both ends of a traced request between two pods of this node: the server's span is the child of the client's.
//!
//! ```text
//! the caller's own span, which the traceparent names
//! └─ client, what Weir saw at the caller
//!    └─ server, what Weir saw at the callee
//! ```
//!
//! Nothing in the traffic tells one end of the other, but all records of a node come to one thread. The serving
//! end sees the end of an answer first, so its span waits a moment for the asking end's, and is its child once
//! that is there to be sent: it never has a parent that nobody tells of. If none comes, as from a client that
//! is no pod of this node, whose connection is older than what could be followed, or whose port was rewritten on
//! the way, it is the child of the span that the `traceparent` names.

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use lru::LruCache;

use super::{assemble, peers::Peers};
use crate::{
    agent::otlp::queue::{Number, Traced},
    telemetry::wire::{Record, Role},
};

/// A serving end waits so long. The asking one is next in the ring, but whose addresses those of a new pod are is
/// known a second after its ADD only.
const WAIT: Duration = Duration::from_millis(1_500);

/// Serving ends that wait, and asking ends that are remembered: a client that goes away is told of before its server.
const ENDS: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();

/// Between the time of an event and that of its record, in nanoseconds, with room to spare.
const APART: u64 = 10_000_000;

/// What both ends say of a request, in the same words.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    trace_id: String,
    parent_id: String,
    /// The client's.
    port: u16,
    /// Of the request on its connection.
    number: u32,
}

#[derive(Debug)]
struct End {
    /// Attachment id.
    pod: u32,
    peer: Option<SocketAddr>,
    /// Of what was asked for, which is the same at both ends.
    words: u64,
    /// Monotonic, in nanoseconds.
    began: u64,
    ended: u64,
}

/// A server's, which waits for its client's.
#[derive(Debug)]
struct Server {
    end: End,
    traced: Traced,
    since: Instant,
}

/// A client's, whose span is on its way.
#[derive(Debug)]
struct Client {
    end: End,
    number: Number,
}

/// The ends that have no other yet. Of either sort the oldest gives way.
#[derive(Debug)]
pub struct Ends {
    servers: LruCache<Key, Server>,
    clients: LruCache<Key, Client>,
    words: RandomState,
}

impl Ends {
    /// None.
    pub fn new() -> Self {
        let (servers, clients) = (LruCache::new(ENDS), LruCache::new(ENDS));
        Self { servers, clients, words: RandomState::new() }
    }

    /// Takes one end; returns what is to be sent now, parents first.
    pub fn take(
        &mut self,
        record: &Record,
        traced: Traced,
        peers: &Peers,
        now: Instant,
    ) -> Vec<Traced> {
        let server = u32::from(record.role) == Role::ROLE_SERVER.0;
        let end = self.end(record, &traced);
        let port = if server { end.peer.map(|peer| peer.port()) } else { Some(record.pod_port) };
        let (Some(trace_id), Some(parent_id), Some(port)) =
            (traced.flow.trace_id.clone(), traced.flow.parent_id.clone(), port)
        else {
            return vec![traced];
        };
        let key = Key { trace_id, parent_id, port, number: record.number };
        if server {
            self.serve(key, Server { end, traced, since: now }, peers)
        } else {
            self.ask(key, Client { end, number: traced.number }, traced, peers)
        }
    }

    /// What has waited long enough; it may be that its client's end was not known to be that.
    pub fn due(&mut self, peers: &Peers, now: Instant) -> Vec<Traced> {
        let mut due = Vec::new();
        while let Some((_, server)) = self.servers.peek_lru()
            && now.saturating_duration_since(server.since) >= WAIT
            && let Some((key, mut server)) = self.servers.pop_lru()
        {
            server.traced.caller = self.client_of(&key, &server.end, peers);
            due.push(server.traced);
        }
        due
    }

    /// All that waits.
    pub fn rest(&mut self) -> Vec<Traced> {
        std::iter::from_fn(|| self.servers.pop_lru()).map(|(_, server)| server.traced).collect()
    }

    fn serve(&mut self, key: Key, mut server: Server, peers: &Peers) -> Vec<Traced> {
        server.traced.caller = self.client_of(&key, &server.end, peers);
        if server.traced.caller.is_some() {
            return vec![server.traced];
        }
        // Another that waits under the same key, or the oldest.
        self.servers.push(key, server).map(|(_, gone)| gone.traced).into_iter().collect()
    }

    fn ask(&mut self, key: Key, client: Client, traced: Traced, peers: &Peers) -> Vec<Traced> {
        let waits = self.servers.peek(&key);
        let its = waits.is_some_and(|server| asked(&client.end, &server.end, peers));
        if its && let Some(mut server) = self.servers.pop(&key) {
            server.traced.caller = Some(client.number);
            return vec![traced, server.traced];
        }
        self.clients.push(key, client);
        vec![traced]
    }

    /// The client of a serving end, if it is known; it is nobody else's then.
    fn client_of(&mut self, key: &Key, server: &End, peers: &Peers) -> Option<Number> {
        let known = self.clients.peek(key)?;
        if !asked(&known.end, server, peers) {
            return None;
        }
        self.clients.pop(key).map(|client| client.number)
    }

    fn end(&self, record: &Record, traced: &Traced) -> End {
        let flow = &traced.flow;
        let words = (&flow.method, &flow.version, &flow.path, &flow.host);
        End {
            pod: record.pod,
            peer: assemble::peer(record),
            words: self.words.hash_one(words),
            began: record.at_ns.saturating_sub(record.duration_ns),
            ended: record.at_ns,
        }
    }
}

/// Whether it was this client that asked this server, of those whose request has the same key: in the same words, from an
/// address of its pod, while it waited for an answer, and no other pod.
fn asked(client: &End, server: &End, peers: &Peers) -> bool {
    let its = server.peer.map(|peer| peer.ip().to_canonical());
    let mut addresses = peers.addresses(client.pod).iter().map(|address| address.to_canonical());
    // The address of a service is no pod's.
    let other = client.peer.and_then(|peer| peers.of(peer.ip()));
    client.words == server.words
        && client.began <= server.began.saturating_add(APART)
        && server.began <= client.ended.saturating_add(APART)
        && addresses.any(|address| Some(address) == its)
        && other.is_none_or(|other| other.attachment == Some(server.pod))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use super::*;
    use crate::{agent::flows::flow::Flow, telemetry::wire::Family};

    const SHOP: u32 = 7;
    const CART: u32 = 8;
    const SERVICE: [u8; 4] = [10, 96, 0, 1];
    const SHOP_AT: [u8; 4] = [10, 88, 0, 7];
    const CART_AT: [u8; 4] = [10, 88, 0, 8];
    const MILLISECOND: u64 = 1_000_000;

    fn peers() -> Peers {
        Peers::with(&[
            ("", "shop", Some(SHOP), "10.88.0.7"),
            ("", "cart", Some(CART), "10.88.0.8"),
            ("", "other", Some(9), "10.88.0.9"),
        ])
    }

    /// One end of request 1 from port 4000 to port 80, which took from 100 ms to 120 ms.
    fn end(role: Role, pod: u32, peer: [u8; 4]) -> Record {
        let (pod_port, peer_port) =
            if role == Role::ROLE_SERVER { (80, 4_000) } else { (4_000, 80) };
        let mut record = Record {
            role: u8::try_from(role.0).unwrap(),
            pod,
            conn: pod.into(),
            number: 1,
            pod_port,
            peer_port,
            family: u8::try_from(Family::FAMILY_IPV4.0).unwrap(),
            at_ns: 120 * MILLISECOND,
            duration_ns: 20 * MILLISECOND,
            ..Record::default()
        };
        record.peer_addr[..4].copy_from_slice(&peer);
        record
    }

    fn client(peer: [u8; 4]) -> Record {
        end(Role::ROLE_CLIENT, SHOP, peer)
    }

    fn server() -> Record {
        end(Role::ROLE_SERVER, CART, SHOP_AT)
    }

    fn traced(record: &Record, path: &str) -> Traced {
        let flow = Flow {
            trace_id: Some("0af7651916cd43dd8448eb211c80319c".into()),
            parent_id: Some("b7ad6b7169203331".into()),
            path: Some(path.into()),
            ..Flow::default()
        };
        let flow = Arc::new(flow);
        let (end, duration) = (SystemTime::UNIX_EPOCH, Duration::ZERO);
        let number = (record.conn, record.number, record.pod);
        Traced { flow, end, duration, number, caller: None }
    }

    /// Whose each span is, and the number of its parent if that is one of ours.
    fn told(sent: Vec<Traced>) -> Vec<(u32, Option<u32>)> {
        sent.iter().map(|it| (it.number.2, it.caller.map(|(.., pod)| pod))).collect()
    }

    fn take(ends: &mut Ends, record: &Record) -> Vec<(u32, Option<u32>)> {
        told(ends.take(record, traced(record, "/a"), &peers(), Instant::now()))
    }

    #[test]
    fn a_server_waits_for_its_client_and_is_its_child() {
        for asked in [CART_AT, SERVICE] {
            let mut ends = Ends::new();
            assert_eq!(take(&mut ends, &server()), []);
            assert_eq!(take(&mut ends, &client(asked)), [(SHOP, None), (CART, Some(SHOP))]);
            assert_eq!((ends.servers.len(), ends.clients.len()), (0, 0));
        }
    }

    #[test]
    fn a_client_that_goes_away_is_told_of_first_and_is_the_parent_once() {
        let mut ends = Ends::new();
        assert_eq!(take(&mut ends, &client(CART_AT)), [(SHOP, None)]);
        assert_eq!(take(&mut ends, &server()), [(CART, Some(SHOP))]);
        assert_eq!(take(&mut ends, &server()), []);
        assert_eq!(told(ends.rest()), [(CART, None)]);
    }

    #[test]
    fn who_did_not_ask_is_no_parent() {
        let other_pod = end(Role::ROLE_CLIENT, 9, CART_AT);
        let other_server = client([10, 88, 0, 9]);
        let (mut port, mut number) = (client(CART_AT), client(CART_AT));
        (port.pod_port, number.number) = (4_001, 2);
        let (mut before, mut after) = (client(CART_AT), client(CART_AT));
        // Over before the server began, or begun after that.
        (before.at_ns, before.duration_ns) = (100 * MILLISECOND - APART - 1, 0);
        (after.at_ns, after.duration_ns) = (190 * MILLISECOND, 80 * MILLISECOND - 1);
        for client in [other_pod, other_server, port, number, before, after] {
            for server_first in [true, false] {
                let mut ends = Ends::new();
                let both = if server_first { [server(), client] } else { [client, server()] };
                let sent: Vec<_> = both.iter().flat_map(|it| take(&mut ends, it)).collect();
                assert_eq!(sent, [(client.pod, None)], "{client:?}");
                assert_eq!(told(ends.rest()), [(CART, None)], "{client:?}");
            }
        }
        let mut ends = Ends::new();
        take(&mut ends, &server());
        let elsewhere = traced(&client(CART_AT), "/b");
        let sent = ends.take(&client(CART_AT), elsewhere, &peers(), Instant::now());
        assert_eq!((told(sent), told(ends.rest())), (vec![(SHOP, None)], vec![(CART, None)]));
    }

    #[test]
    fn whose_client_does_not_come_waits_no_longer_than_that() {
        let (mut ends, begun) = (Ends::new(), Instant::now());
        let from_outside = end(Role::ROLE_SERVER, CART, [192, 0, 2, 1]);
        ends.take(&from_outside, traced(&from_outside, "/a"), &peers(), begun);
        let nearly = begun + WAIT - Duration::from_millis(1);
        assert_eq!(told(ends.due(&peers(), nearly)), []);
        assert_eq!(told(ends.due(&peers(), begun + WAIT)), [(CART, None)]);
        assert_eq!(told(ends.due(&peers(), begun + WAIT)), []);
    }

    #[test]
    fn the_address_of_a_new_pod_is_known_in_time() {
        let (mut ends, begun) = (Ends::new(), Instant::now());
        let nobody = Peers::default();
        assert_eq!(told(ends.take(&server(), traced(&server(), "/a"), &nobody, begun)), []);
        let client = client(CART_AT);
        let sent = ends.take(&client, traced(&client, "/a"), &nobody, begun);
        assert_eq!(told(sent), [(SHOP, None)]);
        assert_eq!(told(ends.due(&peers(), begun + WAIT)), [(CART, Some(SHOP))]);
    }

    #[test]
    fn no_more_wait_than_there_is_room_for_and_none_is_dropped() {
        let mut ends = Ends::new();
        let mut sent = 0;
        for number in 0..3_000 {
            let record = Record { number, ..server() };
            sent += ends.take(&record, traced(&record, "/a"), &peers(), Instant::now()).len();
            let record = Record { pod: 9, number, ..client(CART_AT) };
            sent += ends.take(&record, traced(&record, "/a"), &peers(), Instant::now()).len();
        }
        assert_eq!((ends.servers.len(), ends.clients.len()), (ENDS.get(), ENDS.get()));
        assert_eq!(sent + ends.rest().len(), 6_000);
    }
}

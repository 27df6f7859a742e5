//! Short connections, one after another, and how much of them a swap to another layout may lose.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{exchanges::ask, node::Space};

/// A client's connection, with the requests that were answered on it.
pub struct Connection {
    pub begun: Instant,
    pub ended: Instant,
    pub asked: u64,
}

/// A call of `weir reload`, and how long its swap took, somewhere within.
pub struct Reload {
    pub begun: Instant,
    pub ended: Instant,
    pub swap: Duration,
}

impl Reload {
    /// The requests of the connections that were open somewhen in the swap: one whose first packets are
    /// seen by the programs of both layouts is followed by neither. Where in the call the swap was isn't
    /// known, so the worst place is taken: a place is as bad further on, until a connection ends at its begin
    /// or the call does at its end.
    pub fn may_lose(&self, connections: &[Connection]) -> u64 {
        let within = |at: &Instant| (self.begun..=self.ended).contains(at);
        let places = connections.iter().map(|connection| connection.ended).filter(within);
        let open = |from: Instant| {
            let until = from + self.swap;
            connections.iter().filter(move |one| one.begun <= until && one.ended >= from)
        };
        places
            .chain([self.ended - self.swap])
            .map(|from| open(from).map(|one| one.asked).sum())
            .max()
            .unwrap()
    }
}

/// One client for each address that asks on one short connection after another while there is somebody `busy`.
pub fn ask_on<'scope>(
    client: &'scope Space,
    addresses: &[SocketAddr],
    scope: &'scope thread::Scope<'scope, '_>,
    busy: &'scope AtomicBool,
) -> Vec<thread::ScopedJoinHandle<'scope, Vec<Connection>>> {
    let one = move |address| {
        let mut connections = Vec::new();
        while !busy.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let asked = ask(client, address, busy, 5);
            connections.push(Connection { begun, ended: Instant::now(), asked });
        }
        connections
    };
    addresses.iter().map(|&address| scope.spawn(move || one(address))).collect()
}

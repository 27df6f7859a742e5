//! A client and a server that keep count, while something is done to the programs that count them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use weir::telemetry::{
    reader::Snapshot,
    wire::{CounterKind, Role},
};

use crate::node::Space;

const REQUEST: &[u8] = b"GET /some/thing HTTP/1.1\r\nHost: pod\r\nAccept: */*\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
/// Clients that ask at once.
pub const CONNECTIONS: u16 = 8;

/// Says that it is over when dropped, so that a test that fails ends all the same.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Serves as many connections as come until it is told that it is over, and their ends.
pub fn serve<'scope>(
    server: &Space,
    address: SocketAddr,
    scope: &'scope thread::Scope<'scope, '_>,
    over: &'scope AtomicBool,
) {
    let listener = server.run(|| TcpListener::bind(address).unwrap());
    listener.set_nonblocking(true).unwrap();
    scope.spawn(move || {
        while !over.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => drop(scope.spawn(move || answer(stream))),
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    });
}

fn answer(stream: TcpStream) {
    stream.set_nonblocking(false).unwrap();
    let mut asked = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    while asked.read_line(&mut line).unwrap() > 0 {
        if line == "\r\n" {
            (&stream).write_all(RESPONSE).unwrap();
        }
        line.clear();
    }
}

/// One connection that asks until it is told that it is over, `many` times at most; says how often.
pub fn ask(client: &Space, address: SocketAddr, over: &AtomicBool, many: u64) -> u64 {
    client.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut asked = 0;
        let mut response = vec![0; RESPONSE.len()];
        while asked < many && !over.load(Ordering::Relaxed) {
            stream.write_all(REQUEST).unwrap();
            stream.read_exact(&mut response).unwrap();
            assert_eq!(response, RESPONSE);
            asked += 1;
        }
        asked
    })
}

/// Requests of GET by HTTP/1.1 with 200, by role.
pub fn requests(snapshot: &Snapshot) -> [u64; 2] {
    [Role::ROLE_SERVER, Role::ROLE_CLIENT].map(|role| {
        let of = |kind: u8, by: u8, status: u16| {
            u32::from(kind) == CounterKind::COUNTER_HTTP_REQUESTS.0
                && u32::from(by) == role.0
                && status == 200
        };
        let all = snapshot.counters.iter();
        all.filter(|(key, _)| of(key.kind, key.role, key.c)).map(|(_, n)| n).sum()
    })
}

//! An HTTP client that sends what it is told, right or wrong.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use super::node::{Agent, PATIENCE};

/// An answer, taken apart.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Opens a connection that gives up after [`PATIENCE`].
pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends these bytes and reads until the other side closes.
pub fn send(bytes: impl AsRef<[u8]>) -> Option<Answer> {
    let mut stream = connect(Agent::address());
    // A server that has heard enough closes while we still send.
    let _ = stream.write_all(bytes.as_ref());
    read(stream)
}

/// Reads an answer; `None` for a connection that was closed without one.
pub fn read(mut stream: TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    if bytes.is_empty() {
        // Closed or reset, but never silent for PATIENCE.
        let timed_out = |err: &std::io::Error| err.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!ended.as_ref().is_err_and(timed_out), "neither an answer nor an end");
        return None;
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// GETs a path of the agent.
pub fn get(path: &str) -> Answer {
    get_from(Agent::address(), path)
}

/// GETs a path of any server.
pub fn get_from(server: SocketAddr, path: &str) -> Answer {
    let mut stream = connect(server);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n").unwrap();
    read(stream).unwrap()
}

/// GETs the page as OpenMetrics.
pub fn get_openmetrics() -> Answer {
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    send(format!("GET /metrics HTTP/1.1\r\nHost: node\r\nAccept: {accept}\r\n\r\n")).unwrap()
}

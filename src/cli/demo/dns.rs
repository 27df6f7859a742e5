//! The demo's DNS over UDP (RFC 1035): a responder that knows a handful of names, and the look-ups.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use super::http::{PATIENCE, invalid};
use crate::{error::Result, net::netns::Netns};

/// Exchanges by query type and return code, both as on the wire.
pub type Tally = BTreeMap<(u16, u8), u64>;

const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const HTTPS: u16 = 65;

const NOERROR: u8 = 0;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const REFUSED: u8 = 5;

/// Name and type; asked in this order.
const LOOKUPS: [(&str, u16); 10] = [
    ("web.demo", A),
    ("web.demo", AAAA),
    ("a.rather.long.name.below.web.demo", A),
    ("web.demo", TXT),
    ("missing.demo", A),
    ("missing.demo", AAAA),
    ("broken.demo", A),
    ("2.0.88.10.in-addr.arpa", PTR),
    ("web.demo", HTTPS),
    ("elsewhere.example", A),
];
const ROUNDS: usize = 5;

/// A question, and the bytes it has in a message.
struct Question<'a> {
    name: String,
    qtype: u16,
    wire: &'a [u8],
}

/// The responder's own count.
#[derive(Debug, Clone, Default)]
pub struct Served(Arc<Mutex<Tally>>);

impl Served {
    /// What was answered until now.
    pub fn tally(&self) -> Tally {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers whatever arrives at `socket`, for as long as the process lives.
pub fn serve(socket: UdpSocket, served: Served) {
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, client)) = socket.recv_from(&mut query) {
            let Some(question) = question(&query[..len]) else { continue };
            let rcode = rcode(&question.name);
            let mut tally = served.0.lock().unwrap_or_else(PoisonError::into_inner);
            *tally.entry((question.qtype, rcode)).or_default() += 1;
            drop(tally);
            let response = response(&query[..len], &question, rcode);
            // An unanswered client says so itself.
            let _ = socket.send_to(&response, client);
        }
    });
}

fn rcode(name: &str) -> u8 {
    match name {
        "broken.demo" => SERVFAIL,
        "missing.demo" => NXDOMAIN,
        _ if name.ends_with(".demo") || name.ends_with(".arpa") => NOERROR,
        _ => REFUSED,
    }
}

/// Asks `server` everything from inside `pod`; returns what came back.
///
/// # Errors
/// The first query that gets no answer, or one that isn't to it.
pub fn run(pod: &Netns, server: SocketAddr) -> Result<Tally> {
    lookups(pod, server).map_err(|err| super::failed("DNS", server, &err))
}

fn lookups(pod: &Netns, server: SocketAddr) -> io::Result<Tally> {
    let any: &str = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = pod.run(|| UdpSocket::bind(any)).map_err(io::Error::other)??;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut tally = Tally::new();
    for (id, (name, qtype)) in (1_u16..).zip(LOOKUPS.iter().cycle().take(ROUNDS * LOOKUPS.len())) {
        socket.send(&query(id, name, *qtype))?;
        let mut response = [0; 512];
        let len = socket.recv(&mut response)?;
        let response = response.get(..len.max(12)).unwrap_or_default();
        if response.get(..2) != Some(&id.to_be_bytes()) {
            return Err(invalid("a response to another query"));
        }
        *tally.entry((*qtype, response[3] & 0xf)).or_default() += 1;
    }
    Ok(tally)
}

/// A recursive query for one name in class IN.
fn query(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        // The names above have no label near the limit of 63 bytes.
        message.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend(qtype.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// The first question of a message; none where it is cut or compressed.
fn question(message: &[u8]) -> Option<Question<'_>> {
    let mut labels = Vec::new();
    let mut at = 12;
    while let len @ 1..=63 = usize::from(*message.get(at)?) {
        labels.push(std::str::from_utf8(message.get(at + 1..=at + len)?).ok()?);
        at += len + 1;
    }
    let qtype = u16::from_be_bytes(message.get(at + 1..at + 3)?.try_into().ok()?);
    Some(Question { name: labels.join("."), qtype, wire: message.get(12..at + 5)? })
}

/// The question again, and one record where there is an answer of that type.
fn response(query: &[u8], question: &Question<'_>, rcode: u8) -> Vec<u8> {
    let data: &[u8] = match question.qtype {
        A => &[10, 88, 0, 2],
        AAAA => &[0xfd, 0, 0, 0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
        TXT => b"\x09weir demo",
        PTR => b"\x03web\x04demo\0",
        _ => &[],
    };
    let answers = u8::from(rcode == NOERROR && !data.is_empty());
    let mut message = query.get(..2).unwrap_or_default().to_vec();
    message.extend([0x81, 0x80 | rcode, 0, 1, 0, answers, 0, 0, 0, 0]);
    message.extend_from_slice(question.wire);
    if answers > 0 {
        // A pointer to the question's name, its type and class, 60 seconds to live, the data.
        message.extend([0xc0, 12]);
        message.extend(question.qtype.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).unwrap_or(u8::MAX)]);
        message.extend_from_slice(data);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_understood_and_answered() {
        let sent = query(0x1234, "web.demo", A);
        let asked = question(&sent).unwrap();
        assert_eq!((asked.name.as_str(), asked.qtype), ("web.demo", A));
        let answer = response(&sent, &asked, NOERROR);
        assert_eq!(answer[..4], [0x12, 0x34, 0x81, 0x80]);
        assert_eq!(answer[answer.len() - 4..], [10, 88, 0, 2]);
    }

    #[test]
    fn a_cut_query_has_no_question() {
        let sent = query(1, "web.demo", A);
        assert!((0..sent.len()).all(|len| question(&sent[..len]).is_none()));
    }
}

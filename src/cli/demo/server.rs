//! The demo's HTTP server: answers by path and keeps its own count of what it served.

use std::{
    io,
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use super::http::{Body, Connection, Head, Tally, invalid};

/// What a path is answered with, and after how long.
struct Answer {
    status: u16,
    body: Body,
    after: Duration,
}

/// The count that all of a server's threads add to.
#[derive(Debug, Clone, Default)]
pub struct Served(Arc<Mutex<Tally>>);

impl Served {
    /// What was served until now.
    pub fn tally(&self) -> Tally {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, method: &str, protocol: &'static str, status: u16) {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *tally.entry((method.to_owned(), protocol, status)).or_default() += 1;
    }
}

/// Serves every connection of `listener`, a thread each, for as long as the process lives.
pub fn serve(listener: TcpListener, served: Served) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let served = served.clone();
            // A client that misbehaves shows in its own tally, which the report compares.
            thread::spawn(move || converse(stream, &served));
        }
    });
}

fn converse(stream: TcpStream, served: &Served) -> io::Result<()> {
    let mut connection = Connection::new(stream)?;
    while let Some(request) = connection.head()? {
        connection.body(&request, Body::None)?;
        let (method, path, protocol) = request_line(&request)?;
        let answer = answer(path);
        thread::sleep(answer.after);
        // Counted before it is sent: a client that has the response may ask for the count at once.
        served.add(method, protocol, answer.status);
        connection.send(&response(method, protocol, &answer))?;
        let closes =
            request.closes() || protocol == "1.0" || matches!(answer.body, Body::UntilClose(_));
        if closes {
            break;
        }
    }
    Ok(())
}

fn request_line(request: &Head) -> io::Result<(&str, &str, &'static str)> {
    let mut words = request.start.split(' ');
    let (method, path, version) = (words.next(), words.next(), words.next());
    let protocol = match version {
        Some("HTTP/1.1") => "1.1",
        Some("HTTP/1.0") => "1.0",
        _ => return Err(invalid("a request line of another protocol")),
    };
    method.zip(path).map(|(m, p)| (m, p, protocol)).ok_or_else(|| invalid("half a request line"))
}

fn answer(path: &str) -> Answer {
    let (status, body) = match path {
        "/" => (200, Body::Sized(1200)),
        "/large" => (200, Body::Sized(100_000)),
        "/stream" => (200, Body::Chunked(12_000)),
        "/slow" => (200, Body::Sized(10)),
        "/until-close" => (200, Body::UntilClose(3000)),
        "/created" => (201, Body::Sized(20)),
        "/empty" => (204, Body::None),
        "/moved" => (301, Body::Sized(0)),
        "/broken" => (500, Body::Sized(40)),
        _ => (404, Body::Sized(9)),
    };
    let after = Duration::from_millis(if path == "/slow" { 20 } else { 0 });
    Answer { status, body, after }
}

/// Head and body in one piece. A response to HEAD has the head of a GET's (RFC 9110, 9.3.2).
fn response(method: &str, protocol: &str, answer: &Answer) -> Vec<u8> {
    let Answer { status, body, .. } = *answer;
    let location = if status == 301 { "Location: /\r\n" } else { "" };
    let field = body.field();
    let mut wire =
        format!("HTTP/{protocol} {status} As asked\r\nServer: weir-demo\r\n{location}{field}\r\n")
            .into_bytes();
    if method != "HEAD" {
        wire.extend(body.bytes());
    }
    wire
}

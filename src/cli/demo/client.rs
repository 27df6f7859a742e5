//! The demo's HTTP client: the exchanges, in the ways that connections are really used.

use std::{io, net::SocketAddr, net::TcpStream};

use super::http::{Body, Connection, PATIENCE, Tally, invalid};
use crate::{error::Result, net::netns::Netns};

/// One request.
#[derive(Debug, Clone, Copy)]
struct Ask {
    method: &'static str,
    path: &'static str,
    protocol: &'static str,
    body: Body,
    close: bool,
}

const fn ask(method: &'static str, path: &'static str, body: Body) -> Ask {
    Ask { method, path, protocol: "1.1", body, close: false }
}

/// Every method and status that the server knows, and each way to end a body.
const MIX: [Ask; 16] = [
    ask("GET", "/", Body::None),
    ask("HEAD", "/", Body::None),
    ask("GET", "/stream", Body::None),
    ask("POST", "/created", Body::Sized(700)),
    ask("GET", "/missing", Body::None),
    ask("PUT", "/empty", Body::Chunked(2500)),
    ask("GET", "/", Body::None),
    ask("DELETE", "/empty", Body::None),
    ask("GET", "/moved", Body::None),
    ask("PATCH", "/", Body::Sized(64)),
    ask("HEAD", "/large", Body::None),
    ask("OPTIONS", "/empty", Body::None),
    ask("GET", "/broken", Body::None),
    // No method that anyone registered: counted as `_OTHER`.
    ask("BREW", "/missing", Body::Sized(11)),
    ask("POST", "/created", Body::Sized(0)),
    ask("GET", "/large", Body::None),
];

/// Sends all exchanges from inside `pod` to `server`; returns what came back.
///
/// # Errors
/// The first connection or response that isn't as it should be.
pub fn run(pod: &Netns, server: SocketAddr) -> Result<Tally> {
    let mut client = Client { pod, server, tally: Tally::new() };
    client.all().map_err(|err| super::failed("HTTP", server, &err))?;
    Ok(client.tally)
}

struct Client<'a> {
    pod: &'a Netns,
    server: SocketAddr,
    tally: Tally,
}

impl Client<'_> {
    fn all(&mut self) -> io::Result<()> {
        self.keep_alive(&MIX.repeat(5))?;
        self.pipelined(&MIX.repeat(2))?;
        for one in MIX {
            self.keep_alive(&[Ask { close: true, ..one }])?;
        }
        for _ in 0..4 {
            self.keep_alive(&[Ask { protocol: "1.0", ..MIX[0] }])?;
            self.keep_alive(&[ask("GET", "/until-close", Body::None)])?;
        }
        self.keep_alive(&[ask("GET", "/slow", Body::None); 5])
    }

    /// One connection, the next request after each response.
    fn keep_alive(&mut self, asks: &[Ask]) -> io::Result<()> {
        let mut connection = self.connect()?;
        for ask in asks {
            connection.send(head(ask).as_bytes())?;
            connection.send(&ask.body.bytes())?;
            self.response(&mut connection, ask)?;
        }
        Ok(())
    }

    /// One connection, all requests at once in one write.
    fn pipelined(&mut self, asks: &[Ask]) -> io::Result<()> {
        let mut connection = self.connect()?;
        let requests = asks.iter().flat_map(|ask| [head(ask).into_bytes(), ask.body.bytes()]);
        connection.send(&requests.flatten().collect::<Vec<u8>>())?;
        asks.iter().try_for_each(|ask| self.response(&mut connection, ask))
    }

    fn connect(&self) -> io::Result<Connection> {
        // A socket belongs to the namespace it was made in, wherever it is used.
        let connecting = self.pod.run(|| TcpStream::connect_timeout(&self.server, PATIENCE));
        Connection::new(connecting.map_err(io::Error::other)??)
    }

    fn response(&mut self, connection: &mut Connection, ask: &Ask) -> io::Result<()> {
        let response = connection.head()?.ok_or_else(|| invalid("closed without a response"))?;
        let status = response.start.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status: u16 = status.ok_or_else(|| invalid("a status line without a status"))?;
        if ask.method != "HEAD" && status != 204 {
            connection.body(&response, Body::UntilClose(0))?;
        }
        *self.tally.entry((ask.method.to_owned(), ask.protocol, status)).or_default() += 1;
        Ok(())
    }
}

fn head(ask: &Ask) -> String {
    let Ask { method, path, protocol, body, close } = ask;
    let close = if *close { "Connection: close\r\n" } else { "" };
    let field = body.field();
    format!(
        "{method} {path} HTTP/{protocol}\r\nHost: web.demo\r\nUser-Agent: weir-demo\r\n{close}{field}\r\n"
    )
}

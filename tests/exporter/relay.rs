//! What lies between a browser and the agent: it breaks when the test says so.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::node::Agent;

/// Where it listens.
const ADDRESS: &str = "127.0.0.1:9921";

/// An answer in place of the agent's.
#[derive(Clone)]
struct Own {
    path: &'static str,
    status: u16,
    body: &'static str,
}

#[derive(Default)]
struct State {
    own: Option<Own>,
    away: bool,
    open: Vec<TcpStream>,
}

/// A relay to [`Agent::address`]; as long as the test lives.
#[derive(Clone, Default)]
pub struct Relay(Arc<Mutex<State>>);

impl Relay {
    /// Listens in the calling thread's namespaces.
    pub fn new() -> Self {
        let relay = Self::default();
        let listener = TcpListener::bind(ADDRESS).unwrap();
        let served = relay.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let relay = served.clone();
                // What breaks a connection is no matter of the relay's.
                thread::spawn(move || drop(relay.serve(stream)));
            }
        });
        relay
    }

    /// The page through it.
    pub fn url() -> String {
        format!("http://{ADDRESS}/")
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        for stream in self.0.lock().unwrap().open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether new connections end without an answer.
    pub fn away(&self, away: bool) {
        self.0.lock().unwrap().away = away;
    }

    /// Answers what is asked for by this path itself.
    pub fn answer(&self, path: &'static str, status: u16, body: &'static str) {
        self.0.lock().unwrap().own = Some(Own { path, status, body });
    }

    /// Leaves every answer to the agent again.
    pub fn mend(&self) {
        self.0.lock().unwrap().own = None;
    }

    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let (own, away) = {
            let state = self.0.lock().unwrap();
            (state.own.clone(), state.away)
        };
        if away {
            return Ok(());
        }
        let asked = String::from_utf8_lossy(&head).into_owned();
        if let Some(Own { status, body, .. }) =
            own.filter(|own| asked.starts_with(&format!("GET {}", own.path)))
        {
            let length = body.len();
            return write!(
                client,
                "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
        let address: SocketAddr = Agent::address();
        let mut agent = TcpStream::connect(address)?;
        self.0.lock().unwrap().open.extend([client.try_clone()?, agent.try_clone()?]);
        agent.write_all(&head)?;
        let (mut from, to) = (client.try_clone()?, agent.try_clone()?);
        // A browser that goes away is told to the agent.
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut &to);
            let _ = to.shutdown(Shutdown::Both);
        });
        let _ = std::io::copy(&mut agent, &mut client);
        client.shutdown(Shutdown::Both)
    }
}

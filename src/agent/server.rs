//! The HTTP server, and its bounds.
//!
//! One request a connection: a scrape every few seconds gains nothing from keeping one open, and
//! every bound becomes simple. A connection has a deadline for its head and one for all of it. When
//! all places are taken, a newcomer gets that of the oldest connection, of those that have not asked
//! for anything if there are any: so neither ten thousand idle clients nor any number that don't read
//! their answers keep a scraper out, who asks at once and reads at once.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use http_body_util::Either;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{
    log,
    routes::{self, Sources},
};
use crate::error::{Context, Kind, Result};

/// Connections at a time, per address: a few scrapers, and room for the slow.
const CONNECTIONS: usize = 128;

/// Connections that wait to be accepted. One more costs its client a second, for its SYN is dropped: with
/// 128, what most listeners have, a crowd of clients that only connect would keep scrapers waiting.
const BACKLOG: u32 = 1024;

/// For the request line and all headers to be there.
const HEAD: Duration = Duration::from_secs(5);

/// From being accepted to the last byte of the answer.
const WHOLE: Duration = Duration::from_secs(30);

/// Request line and headers together; more is answered with 431.
const HEAD_BYTES: usize = 16 * 1024;

/// Headers of a request; more is answered with 431.
const HEADERS: usize = 64;

/// For answers that are under way when the agent is told to stop.
const PARTING: Duration = Duration::from_secs(2);

/// Binds an address; clients are accepted by [`serve`], and wait until then.
///
/// # Errors
/// `Kind::Io` naming the address.
pub fn bind(address: SocketAddr) -> Result<TcpListener> {
    listen(address).context(Kind::Io, || {
        format!("can't listen on {address}; choose another address with --listen")
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` is done, then gives answers that are under way a moment.
pub async fn serve(listener: TcpListener, sources: Arc<Sources>, stop: impl Future<Output = ()>) {
    let mut connections = Connections::default();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.add(stream, &sources),
                Err(err) => cope(&err).await,
            },
            Some(_) = connections.running.join_next() => {}
        }
    }
    drop(listener);
    connections.part().await;
}

/// A connection that broke before it was accepted is of no interest; for want of file descriptors
/// (EMFILE, ENFILE) accepting again at once would spin.
async fn cope(err: &io::Error) {
    if err.kind() != io::ErrorKind::ConnectionAborted {
        log::say(format_args!("agent: can't accept a connection: {err}"));
        sleep(Duration::from_secs(1)).await;
    }
}

#[derive(Default)]
struct Connections {
    running: JoinSet<()>,
    /// Oldest first.
    places: VecDeque<(AbortHandle, Arc<Stage>)>,
}

/// How far a connection is.
#[derive(Debug, Default)]
struct Stage(AtomicU8);

impl Stage {
    const ASKED: u8 = 1;
    const STREAMING: u8 = 2;

    fn reach(&self, stage: u8) {
        self.0.store(stage, Relaxed);
    }

    fn silent(&self) -> bool {
        self.0.load(Relaxed) < Self::ASKED
    }

    fn streaming(&self) -> bool {
        self.0.load(Relaxed) == Self::STREAMING
    }
}

impl Connections {
    fn add(&mut self, stream: TcpStream, sources: &Arc<Sources>) {
        self.places.retain(|(connection, _)| !connection.is_finished());
        if self.places.len() >= CONNECTIONS {
            self.evict();
        }
        let stage = Arc::new(Stage::default());
        let connection = connection(stream, Arc::clone(sources), Arc::clone(&stage));
        self.places.push_back((self.running.spawn(connection), stage));
    }

    /// Ends the oldest connection, rather one that has not asked for anything yet.
    fn evict(&mut self) {
        let silent = self.places.iter().position(|(_, stage)| stage.silent());
        let ending = || self.places.iter().position(|(_, stage)| !stage.streaming());
        let place = silent.or_else(ending).unwrap_or(0);
        if let Some((connection, _)) = self.places.remove(place) {
            connection.abort();
        }
    }

    /// Ends those that have not asked for anything, and gives the others a moment.
    async fn part(mut self) {
        for (connection, _) in self.places.iter().filter(|(_, stage)| stage.silent()) {
            connection.abort();
        }
        let _ = timeout(PARTING, async { while self.running.join_next().await.is_some() {} }).await;
    }
}

async fn connection(stream: TcpStream, sources: Arc<Sources>, stage: Arc<Stage>) {
    let service = service_fn(|request| {
        stage.reach(Stage::ASKED);
        let (sources, stage) = (Arc::clone(&sources), Arc::clone(&stage));
        async move {
            let answer = routes::answer(&request, &sources).await;
            if matches!(answer.body(), Either::Right(_)) {
                stage.reach(Stage::STREAMING);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let deadline = async {
        sleep(WHOLE).await;
        if stage.streaming() {
            std::future::pending::<()>().await;
        }
    };
    // What goes wrong with a client is the client's affair: nothing of it is worth a line of log.
    tokio::select! { _ = http => {}, () = deadline => {} }
}

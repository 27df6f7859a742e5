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
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{log, routes, totals::Totals};
use crate::error::{Context, Kind, Result};

/// Connections at a time, per address: a few scrapers, and room for the slow.
const CONNECTIONS: usize = 128;

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

/// Binds an address and says so.
///
/// # Errors
/// `Kind::Io` naming the address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await.context(Kind::Io, || {
        format!("can't listen on {address}; choose another address with --listen")
    })?;
    let address = listener.local_addr().unwrap_or(address);
    log::say(format_args!("agent: listening on http://{address}/metrics"));
    Ok(listener)
}

/// Serves until `stop` is done, then gives answers that are under way a moment.
pub async fn serve(listener: TcpListener, totals: Arc<Totals>, stop: impl Future<Output = ()>) {
    let mut connections = Connections::default();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.add(stream, &totals),
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
    /// Oldest first; with whether its request has come.
    places: VecDeque<(AbortHandle, Arc<AtomicBool>)>,
}

impl Connections {
    fn add(&mut self, stream: TcpStream, totals: &Arc<Totals>) {
        self.places.retain(|(connection, _)| !connection.is_finished());
        if self.places.len() >= CONNECTIONS {
            self.evict();
        }
        let asked = Arc::new(AtomicBool::new(false));
        let connection = connection(stream, Arc::clone(totals), Arc::clone(&asked));
        self.places.push_back((self.running.spawn(connection), asked));
    }

    /// Ends the oldest connection, rather one that has not asked for anything yet.
    fn evict(&mut self) {
        let silent = self.places.iter().position(|(_, asked)| !asked.load(Relaxed));
        if let Some((connection, _)) = self.places.remove(silent.unwrap_or(0)) {
            connection.abort();
        }
    }

    /// Ends those that have not asked for anything, and gives the others a moment.
    async fn part(mut self) {
        for (connection, _) in self.places.iter().filter(|(_, asked)| !asked.load(Relaxed)) {
            connection.abort();
        }
        let _ = timeout(PARTING, async { while self.running.join_next().await.is_some() {} }).await;
    }
}

async fn connection(stream: TcpStream, totals: Arc<Totals>, asked: Arc<AtomicBool>) {
    let service = service_fn(|request| {
        asked.store(true, Relaxed);
        let totals = Arc::clone(&totals);
        async move { Ok::<_, Infallible>(routes::answer(&request, &totals).await) }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // What goes wrong with a client is the client's affair: nothing of it is worth a line of log.
    let _ = timeout(WHOLE, http).await;
}

//! Live flows: each exchange as it ends, for whoever listens.
//!
//! ```text
//! ring > listener (a thread) > assemble (joins heads to exchanges) > queue of each client > routes
//!                            > services (adds them up by pair of pods)
//!                            > ends (who of a trace asked whom) > spans
//! ```
//!
//! They refine nothing that is counted. Whatever has no room, in the ring or for a client, is left
//! out, and the client is told how much that was.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use hyper::body::Bytes;

use super::{exemplar::Exemplars, otlp::queue::Spans, server_names::ServerNames};
use crate::error::{Context, Error, Kind, Result};

pub(crate) mod assemble;
mod blocks;
mod client;
mod ends;
pub mod filter;
pub mod flow;
mod head;
mod heads;
mod hello;
pub mod id;
mod kept;
mod listener;
mod peers;
mod question;
mod queue;
mod services;
mod trace;

use client::{Client, Wanted};
use filter::Filter;
use id::Id;
use kept::Kept;
pub use queue::Events;
use queue::{Queue, event};
use services::Map;

/// Clients at a time.
pub const CLIENTS: usize = 16;

/// What is made of live records besides telling clients of them.
#[derive(Debug, Clone, Default)]
pub struct Finds {
    /// Requests of sampled traces, by bucket.
    pub exemplars: Arc<Exemplars>,
    /// Where the requests of sampled traces go, with or without a client.
    pub spans: Option<Arc<Spans>>,
    /// Where TLS handshakes are counted by name, with or without a client.
    pub names: Option<Arc<ServerNames>>,
}

impl Finds {
    /// Whether records are wanted without a client.
    fn always(&self) -> bool {
        self.spans.is_some() || self.names.is_some()
    }
}

#[derive(Debug, Default)]
struct Clients {
    listening: Vec<Client>,
    closed: bool,
}

/// Where the thread and the connections meet.
#[derive(Debug, Default)]
struct Hub {
    clients: Mutex<Clients>,
    finds: Finds,
    changed: Condvar,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a client to be there; false once the hub is closed.
    fn wait_for_client(&self) -> bool {
        let idle = |clients: &mut Clients| {
            clients.listening.is_empty() && !self.finds.always() && !clients.closed
        };
        let clients = self.changed.wait_while(self.lock(), idle);
        !clients.unwrap_or_else(PoisonError::into_inner).closed
    }

    /// Waits for `time`; false if no client is left, or the hub is closed.
    fn wait(&self, time: Duration) -> bool {
        let open = |clients: &mut Clients| !clients.closed;
        let waited = self.changed.wait_timeout_while(self.lock(), time, open);
        let (mut clients, _) = waited.unwrap_or_else(PoisonError::into_inner);
        clients.listening.retain(|client| {
            let there = !client.queue.abandoned();
            if !there {
                client.queue.close();
            }
            there
        });
        !clients.closed && (self.finds.always() || !clients.listening.is_empty())
    }

    /// Gives each client the records that it wants, written once for all of them; the first one's id is `first`.
    fn give(&self, flows: &[Kept], first: Id) {
        let clients = self.lock();
        for (at, kept) in flows.iter().enumerate() {
            let wants = |client: &&Client| client.wants_now(&kept.flow);
            for client in clients.listening.iter().filter(wants) {
                client.queue.push(kept.written(first.plus(at)));
            }
        }
        clients.listening.iter().for_each(|client| client.queue.wake());
    }

    fn wants_services(&self) -> bool {
        self.lock().listening.iter().any(Client::wants_services)
    }

    /// Tells who talks to whom to those who want to know.
    fn tell(&self, map: &Map) {
        let written = Bytes::from(event(None, map));
        for client in self.lock().listening.iter().filter(|client| client.wants_services()) {
            client.queue.push(written.clone());
            client.queue.wake();
        }
    }

    fn for_each(&self, act: impl Fn(&Queue)) {
        for client in &self.lock().listening {
            act(&client.queue);
            client.queue.wake();
        }
    }

    /// Gives those who came lately more of what is kept.
    fn attend(&self, kept: &VecDeque<Kept>, oldest: Id) {
        self.lock().listening.iter_mut().for_each(|client| client.attend(kept, oldest));
    }

    /// Lets go of records that are kept no longer, whoever has not had them yet; the first one's id is `oldest`.
    fn part_with<'a>(&self, gone: impl Iterator<Item = &'a Kept> + Clone, oldest: Id) {
        for client in &mut self.lock().listening {
            client.part_with(gone.clone(), oldest);
        }
    }
}

/// The handle of the thread. Dropping it ends the thread and every client's answer.
#[derive(Debug)]
pub struct Flows(Arc<Hub>);

impl Flows {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Kind::Kernel` if no thread can be had.
    pub fn start(
        state_dir: PathBuf,
        bpf_dir: PathBuf,
        finds: Finds,
    ) -> Result<(Self, JoinHandle<()>)> {
        let hub = Arc::new(Hub { finds, ..Hub::default() });
        let listener_hub = Arc::clone(&hub);
        let thread = std::thread::Builder::new()
            .name("flows".into())
            .spawn(move || listener::Listener::new(listener_hub, state_dir, bpf_dir).run())
            .context(Kind::Kernel, || "can't start the thread that reads live records".into())?;
        Ok((Self(hub), thread))
    }

    /// Adds a listener.
    ///
    /// # Errors
    /// `Kind::TryAgain`: there are as many as there may be.
    pub fn listen(&self, filter: Filter) -> Result<Events> {
        let since = filter.since.unwrap_or_default();
        self.add(Wanted::Flows(filter), since)
    }

    /// Adds one who is told once a second who talked to whom in the last ten.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    pub fn services(&self) -> Result<Events> {
        self.add(Wanted::Services, Duration::ZERO)
    }

    fn add(&self, wanted: Wanted, since: Duration) -> Result<Events> {
        let mut clients = self.0.lock();
        clients.listening.retain(|client| !client.queue.abandoned());
        if clients.listening.len() >= CLIENTS || clients.closed {
            return Err(Error::new(
                Kind::TryAgain,
                format!(
                    "{CLIENTS} clients are listening already: close a page, a weir observe or a weir top"
                ),
            ));
        }
        let (queue, events) = Queue::new();
        clients.listening.push(Client::new(wanted, queue, since));
        drop(clients);
        self.0.changed.notify_all();
        Ok(events)
    }

    /// Ends every answer and the thread.
    pub fn close(&self) {
        let mut clients = self.0.lock();
        clients.closed = true;
        clients.listening.iter().for_each(|client| client.queue.close());
        drop(clients);
        self.0.changed.notify_all();
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.close();
    }
}

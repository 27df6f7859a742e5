//! What waits for a client: bounded, and honest about what it had no room for.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::Write,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use hyper::body::{Body, Bytes, Frame};
use serde::Serialize;

use super::{
    flow::{Flow, Lost, Word},
    id::Id,
};

/// Bytes that wait for one client.
const ROOM: usize = 1 << 20;

/// Bytes that are handed over at a time.
const FRAME: usize = 64 << 10;

/// Between two words of records of which nobody knows whether they are wanted: all of a connection may be such.
const SPARINGLY: Duration = Duration::from_secs(1);

/// A client that has read nothing for so long while something waits for it loses its place.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Waiting {
    events: VecDeque<Bytes>,
    bytes: usize,
    /// Not given, behind what waits.
    lost: u64,
    /// Never had, at some place in what waits or behind it.
    missed: u64,
    /// Likewise, and it is not known whether they were wanted; and when that was said last.
    untold: u64,
    untold_at: Option<Instant>,
    taken: Instant,
    closed: bool,
    gone: bool,
}

/// Events for one client, shared by the thread that fills it and the connection that empties it.
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    reader: AtomicWaker,
}

impl Queue {
    /// An empty one, and the body of the answer that empties it.
    pub fn new() -> (Arc<Self>, Events) {
        let waiting = Waiting {
            events: VecDeque::new(),
            bytes: 0,
            lost: 0,
            missed: 0,
            untold: 0,
            untold_at: None,
            taken: Instant::now(),
            closed: false,
            gone: false,
        };
        let queue = Arc::new(Self { waiting: Mutex::new(waiting), reader: AtomicWaker::new() });
        (Arc::clone(&queue), Events(queue))
    }

    /// Adds an event, or counts it as lost. The reader is not woken: see [`wake`](Self::wake).
    pub fn push(&self, event: Bytes) {
        let mut waiting = self.lock();
        if waiting.lost > 0 || waiting.bytes + event.len() > ROOM {
            waiting.lost += 1;
        } else {
            waiting.add(event);
        }
    }

    /// Whether there is room for a record that is kept, and for what comes meanwhile.
    pub fn has_room_for_the_past(&self) -> bool {
        let waiting = self.lock();
        waiting.lost == 0 && waiting.bytes <= ROOM / 2
    }

    /// Counts records as lost for the client.
    pub fn lose(&self, records: u64) {
        self.lock().lost += records;
    }

    /// Adds a comment, or leaves it out where there is no room for it.
    pub fn remark(&self, comment: &'static [u8]) {
        let mut waiting = self.lock();
        if waiting.lost == 0 && waiting.bytes + comment.len() <= ROOM {
            waiting.add(Bytes::from_static(comment));
        }
    }

    /// Tells of records that the ring had no room for, as soon as there is some here.
    pub fn miss(&self, records: u64) {
        self.lock().missed += records;
    }

    /// Tells of a record of which it is not known whether the client wants it, once a second at most.
    pub fn leave_untold(&self) {
        self.lock().untold += 1;
    }

    /// Has the client look for what was added.
    pub fn wake(&self) {
        self.reader.wake();
    }

    /// Ends the answer once it is read.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake();
    }

    /// Whether nobody reads it any more.
    pub fn abandoned(&self) -> bool {
        let waiting = self.lock();
        waiting.gone || (waiting.bytes > 0 && waiting.taken.elapsed() > PATIENCE)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn add(&mut self, event: Bytes) {
        if self.bytes == 0 {
            self.taken = Instant::now();
        }
        self.bytes += event.len();
        self.events.push_back(event);
    }

    /// What is handed over next: as many events as fit into a frame, or one that does not.
    fn take(&mut self) -> Option<Vec<u8>> {
        let mut frame = Vec::with_capacity(self.bytes.min(FRAME));
        while let Some(event) = self.events.front()
            && (frame.is_empty() || frame.len() + event.len() <= FRAME)
        {
            frame.extend_from_slice(event);
            self.events.pop_front();
        }
        self.bytes -= frame.len();
        self.taken = Instant::now();
        if self.missed > 0 {
            frame.extend_from_slice(&lost(std::mem::take(&mut self.missed), "ring"));
        }
        if self.untold > 0 && self.untold_at.is_none_or(|at| at.elapsed() > SPARINGLY) {
            self.untold_at = Some(Instant::now());
            frame.extend_from_slice(&lost(std::mem::take(&mut self.untold), "head"));
        }
        if self.events.is_empty() && self.lost > 0 {
            frame.extend_from_slice(&lost(std::mem::take(&mut self.lost), "client"));
        }
        (!frame.is_empty()).then_some(frame)
    }
}

/// An event (HTML standard, section 9.2.6), with a name unless it is a record.
pub fn event(name: Option<&str>, data: &impl Serialize) -> Vec<u8> {
    let mut event = Vec::with_capacity(384);
    if let Some(name) = name {
        // Writing plain data to memory fails never.
        let _ = writeln!(event, "event: {name}");
    }
    put(&mut event, data);
    event
}

/// The event that tells of a record.
pub fn record(id: Id, flow: &Flow) -> Vec<u8> {
    let mut event = Vec::with_capacity(448);
    let _ = writeln!(event, "id: {id}");
    put(&mut event, flow);
    event
}

/// The data of an event, and its end.
fn put(event: &mut Vec<u8>, data: &impl Serialize) {
    event.extend_from_slice(b"data: ");
    // JSON has no line end outside of its texts.
    let _ = serde_json::to_writer(&mut *event, data);
    event.extend_from_slice(b"\n\n");
}

/// The event that tells of records that were not given.
fn lost(records: u64, place: &'static str) -> Vec<u8> {
    event(Some("lost"), &Lost { records, place: Word::Borrowed(place) })
}

/// The body of a listener's answer.
#[derive(Debug)]
pub struct Events(Arc<Queue>);

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.reader.register(context.waker());
        let mut waiting = self.0.lock();
        match waiting.take() {
            Some(frame) => Poll::Ready(Some(Ok(Frame::data(frame.into())))),
            None if waiting.closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.0.lock().gone = true;
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What waits at the front.
    pub fn read(events: &mut Events) -> Option<String> {
        let mut context = Context::from_waker(futures_util::task::noop_waker_ref());
        match Pin::new(events).poll_frame(&mut context) {
            Poll::Ready(Some(Ok(frame))) => {
                Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
            }
            _ => None,
        }
    }

    #[test]
    fn what_has_no_room_is_told_behind_what_had() {
        let (queue, mut events) = Queue::new();
        let event = Bytes::from(vec![b'x'; 1_000]);
        for _ in 0..1_100 {
            queue.push(event.clone());
        }
        let mut given = 0;
        let mut last = String::new();
        while let Some(frame) = read(&mut events) {
            given += frame.matches(['x']).count() / 1_000;
            last = frame;
        }
        assert!(given < 1_100 && given > 1_000);
        let expected = format!(
            "event: lost\ndata: {{\"records\":{},\"where\":\"client\"}}\n\n",
            1_100 - given
        );
        assert!(last.ends_with(&expected), "{expected}");
        queue.push(Bytes::from_static(b"again"));
        queue.miss(2);
        queue.miss(3);
        let expected = "againevent: lost\ndata: {\"records\":5,\"where\":\"ring\"}\n\n";
        assert_eq!(read(&mut events).as_deref(), Some(expected));
        assert_eq!(read(&mut events), None);
        queue.leave_untold();
        let expected = "event: lost\ndata: {\"records\":1,\"where\":\"head\"}\n\n";
        assert_eq!(read(&mut events).as_deref(), Some(expected));
        assert_eq!(read(&mut events), None);
    }

    #[test]
    fn a_reader_that_went_away_is_noticed() {
        let (queue, events) = Queue::new();
        assert!(!queue.abandoned());
        drop(events);
        assert!(queue.abandoned());
    }
}

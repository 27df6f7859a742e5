//! Requests that wait to be sent as spans: bounded, and counted where they are not.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::Notify;

use crate::agent::flows::flow::Flow;

/// Requests that wait; some 5 MB. When there are more, the oldest give way: after an outage the last
/// minute is worth more than the first one.
const ROOM: usize = 4_096;

/// So many are sent at a time, and as soon as they are there.
pub const BATCH: usize = 512;

/// What tells one end of a request from all others of its trace: connection, request, attachment.
pub type Number = (u64, u32, u32);

/// A request of a sampled trace, once it has ended.
#[derive(Debug, Clone)]
pub struct Traced {
    /// What it was.
    pub flow: Arc<Flow>,
    /// When it ended.
    pub end: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// Tells it from all others of its trace.
    pub number: Number,
    /// The client's end of it, whose span is sent before this one; if none is known, the `traceparent` names the parent.
    pub caller: Option<Number>,
}

/// What became of spans, since the agent's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// The receiver took them.
    pub sent: u64,
    /// There was no room for them while the receiver was away or slow.
    pub overrun: u64,
    /// The receiver wants none of them.
    pub refused: u64,
}

/// Filled by the thread that reads live records, emptied by the one that sends.
#[derive(Debug, Default)]
pub struct Spans {
    waiting: Mutex<VecDeque<Traced>>,
    filled: Notify,
    sent: AtomicU64,
    overrun: AtomicU64,
    refused: AtomicU64,
}

impl Spans {
    /// Adds one; the oldest is given up if there is no room.
    pub fn push(&self, traced: Traced) {
        let mut waiting = self.lock();
        if waiting.len() >= ROOM {
            waiting.pop_front();
            self.overrun.fetch_add(1, Relaxed);
        }
        waiting.push_back(traced);
        if waiting.len() == BATCH {
            self.filled.notify_one();
        }
    }

    /// Waits until there is a batch.
    pub async fn batch(&self) {
        self.filled.notified().await;
    }

    /// The oldest, at most [`BATCH`] of them.
    pub fn take(&self) -> Vec<Traced> {
        let mut waiting = self.lock();
        let count = waiting.len().min(BATCH);
        waiting.drain(..count).collect()
    }

    /// Puts a batch that could not be sent before all others, as far as there is still room.
    pub fn put_back(&self, batch: Vec<Traced>) {
        let mut waiting = self.lock();
        let surplus = (waiting.len() + batch.len()).saturating_sub(ROOM);
        self.overrun.fetch_add(surplus as u64, Relaxed);
        for traced in batch.into_iter().skip(surplus).rev() {
            waiting.push_front(traced);
        }
    }

    /// Counts what the receiver said of a batch.
    pub fn note(&self, sent: u64, refused: u64) {
        self.sent.fetch_add(sent, Relaxed);
        self.refused.fetch_add(refused, Relaxed);
    }

    /// What became of all so far.
    pub fn counts(&self) -> Counts {
        let [sent, overrun, refused] =
            [&self.sent, &self.overrun, &self.refused].map(|count| count.load(Relaxed));
        Counts { sent, overrun, refused }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Traced>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traced(number: u32) -> Traced {
        let (flow, end) = (Arc::default(), SystemTime::UNIX_EPOCH);
        Traced { flow, end, duration: Duration::ZERO, number: (0, 0, number), caller: None }
    }

    fn numbers(batch: &[Traced]) -> Vec<u32> {
        batch.iter().map(|traced| traced.number.2).collect()
    }

    #[test]
    fn the_oldest_give_way_and_are_counted() {
        let spans = Spans::default();
        let room = u32::try_from(ROOM).unwrap();
        (0..room + 3).for_each(|number| spans.push(traced(number)));
        assert_eq!(spans.counts(), Counts { overrun: 3, ..Counts::default() });
        assert_eq!(numbers(&spans.take())[..2], [3, 4]);
    }

    #[test]
    fn what_could_not_be_sent_comes_first_again() {
        let spans = Spans::default();
        (0..600).for_each(|number| spans.push(traced(number)));
        let batch = spans.take();
        assert_eq!(batch.len(), BATCH);
        spans.put_back(batch);
        assert_eq!(numbers(&spans.take())[..3], [0, 1, 2]);
    }

    #[test]
    fn of_a_batch_that_is_put_back_the_oldest_give_way_too() {
        let spans = Spans::default();
        (0..512).for_each(|number| spans.push(traced(number)));
        let batch = spans.take();
        let room = u32::try_from(ROOM).unwrap();
        (512..512 + room - 2).for_each(|number| spans.push(traced(number)));
        spans.put_back(batch);
        assert_eq!(spans.counts().overrun, 510);
        assert_eq!(numbers(&spans.take())[..3], [510, 511, 512]);
    }
}

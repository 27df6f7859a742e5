//! When what is sent, and what is done with what could not be.

use std::{hash::RandomState, sync::Arc, time::Duration};

use hyper::body::Bytes;
use prost::Message;
use tokio::{
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout},
};

use super::{
    Options,
    client::{Client, Outcome, Signal},
    queue::{Spans, Traced},
    span,
};
use crate::agent::{
    log::{Said, say},
    routes::Sources,
};

/// Spans that are less than a batch wait so long for others.
const PAUSE: Duration = Duration::from_secs(1);

/// Between two tries while the receiver is away, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// For which a receiver is left alone because it wants that (`Retry-After`), at most.
const LONGEST_WISH: Duration = Duration::from_secs(300);

/// For the last batch, when the agent is told to stop.
const PARTING: Duration = Duration::from_secs(2);

/// Sends until it is told to stop.
#[derive(Debug)]
pub struct Exporter {
    options: Options,
    client: Client,
    spans: Arc<Spans>,
    /// Spans on their way.
    batch: Vec<Traced>,
    ids: RandomState,
    pause: Duration,
    /// When spans are sent although they are less than a batch.
    next: Instant,
    /// Until then the receiver wants nothing.
    not_before: Instant,
    /// Whether it can be reached.
    reach: Said,
    /// Whether it refuses, by [`Signal`]: a receiver of traces alone has no service for metrics.
    refusals: [Said; 2],
}

impl Exporter {
    /// Of the spans that come into `spans`.
    pub fn new(options: Options, spans: Arc<Spans>) -> Self {
        let client = Client::new(options.endpoint.clone());
        let (ids, pause) = (RandomState::new(), PAUSE);
        let (batch, next, not_before) = (Vec::new(), Instant::now(), Instant::now());
        let (reach, refusals) = Default::default();
        Self { options, client, spans, batch, ids, pause, next, not_before, reach, refusals }
    }

    /// Sends spans as they come and the metrics of `sources` at an interval, until `stopped`.
    pub async fn run(mut self, sources: Arc<Sources>, mut stopped: watch::Receiver<()>) {
        let first = Instant::now() + self.options.interval.min(PAUSE);
        let mut metrics = interval_at(first, self.options.interval);
        metrics.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The sender gone means the same as a message: stop. Whatever is under way is given up for it, and
        // its spans are in the last batches.
        tokio::select! {
            _ = stopped.changed() => {}
            () = self.work(&sources, &mut metrics) => {}
        }
        let _ = timeout(PARTING, self.send_spans()).await;
    }

    async fn work(&mut self, sources: &Sources, metrics: &mut Interval) {
        let spans = Arc::clone(&self.spans);
        loop {
            let well = self.pause == PAUSE;
            tokio::select! {
                _ = metrics.tick() => {
                    if Instant::now() >= self.not_before {
                        self.send_metrics(sources).await;
                    }
                }
                () = spans.batch(), if well => self.send_spans().await,
                () = sleep_until(self.next.max(self.not_before)) => self.send_spans().await,
            }
        }
    }

    /// Sends all that wait, a batch at a time, as long as that goes well.
    async fn send_spans(&mut self) {
        self.send_batches().await;
        self.next = Instant::now() + self.pause;
    }

    async fn send_batches(&mut self) {
        loop {
            if self.batch.is_empty() {
                self.batch = self.spans.take();
            }
            if self.batch.is_empty() {
                return;
            }
            let request = span::request(&self.batch, &self.ids).encode_to_vec();
            let outcome = self.client.send(Signal::Traces, request).await;
            self.note(Signal::Traces, &outcome);
            let batch = std::mem::take(&mut self.batch);
            let count = batch.len() as u64;
            match outcome {
                Outcome::Taken(rejected) => {
                    let rejected = rejected.min(count);
                    self.spans.note(count - rejected, rejected);
                }
                Outcome::Refused(_) => self.spans.note(0, count),
                Outcome::Later(..) => {
                    self.spans.put_back(batch);
                    return;
                }
            }
        }
    }

    /// Sends a page's worth of metrics. They are cumulative: what can't be sent is left out.
    async fn send_metrics(&mut self, sources: &Sources) {
        let Ok(mut requests) = sources.totals.otlp().await else { return };
        while let Some(request) = next(&mut requests) {
            let outcome = self.client.send(Signal::Metrics, request.to_vec()).await;
            self.note(Signal::Metrics, &outcome);
            if !matches!(outcome, Outcome::Taken(_)) {
                return;
            }
        }
    }

    /// Logs what changed, and decides how soon to try again.
    fn note(&mut self, signal: Signal, outcome: &Outcome) {
        let url = &self.options.endpoint.url;
        let (which, what) = match signal {
            Signal::Traces => (0, "spans"),
            Signal::Metrics => (1, "metrics"),
        };
        match outcome {
            Outcome::Taken(_) => {
                self.pause = PAUSE;
                self.next = self.next.min(Instant::now() + PAUSE);
                self.reach.say(format!("sending to {url}"));
                if self.refusals[which].forget() {
                    say(format_args!("agent: {url} takes {what} again"));
                }
            }
            Outcome::Refused(why) => {
                self.pause = PAUSE;
                self.refusals[which].say(format!("{url} refuses {what}: {why}"));
            }
            Outcome::Later(why, after) => {
                if let Some(after) = after {
                    self.not_before = Instant::now() + (*after).min(LONGEST_WISH);
                }
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                // Who comes back refuses anew.
                self.refusals = Default::default();
                // The reason may change with each try; that it is away is said once.
                self.reach.say_once(url, format!("can't send to {url}, trying again: {why}"));
            }
        }
    }
}

/// The next of the requests that have their length before them.
fn next(requests: &mut Bytes) -> Option<Bytes> {
    let length = prost::decode_length_delimiter(&mut *requests).ok()?;
    (length > 0 && length <= requests.len()).then(|| requests.split_to(length))
}

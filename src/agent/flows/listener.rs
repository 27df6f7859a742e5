//! The thread that owns the ring of live records, while somebody listens.
//!
//! The programs in the kernel tell nothing unless they are asked to, and are asked anew every
//! second: without a client no request pays for this, nor does this thread wake up.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Hub,
    assemble::{self, Assembly, rfc3339},
    ends::Ends,
    flow::Flow,
    id::Id,
    kept::Kept,
    peers::Peers,
    services::Services,
};
use crate::{
    agent::{exemplar::Exemplar, log, otlp::queue::Traced},
    error::Result,
    telemetry::{
        records::{Records, monotonic},
        wire::{HistogramKind, Record},
    },
};

/// Between two looks into the ring. It holds some 1,700 requests with their heads, or 29,000
/// records without.
const SWEEP: Duration = Duration::from_millis(20);

/// The same while there is much: traffic in bursts fills the ring faster than its average would.
const BUSY_SWEEP: Duration = Duration::from_millis(2);

/// So many elements in a sweep are much.
const MUCH: usize = 200;

/// Between two wishes for more records.
const RENEW: Duration = Duration::from_secs(1);

/// How long a wish stands: past a moment in which this thread gets no CPU.
const WISH: Duration = Duration::from_secs(5);

/// A word to a client who has had none, so that one that has gone is noticed.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// Records that are kept for listeners who come later, …
const KEPT: usize = 4_096;

/// … unless they take more bytes than this, as pods may choose long texts.
const KEPT_BYTES: usize = 24 << 20;

/// Names of pods that are remembered; ids are never used again, so that they don't change.
const NAMES: usize = 4_096;

/// What the ring's sink fills.
struct Inbox {
    assembly: Assembly,
    /// Monotonic: older ones were meant for a listener before this one.
    not_before: u64,
    flows: Vec<(Record, Flow)>,
}

/// The thread's state.
pub struct Listener {
    hub: Arc<Hub>,
    bpf_dir: PathBuf,
    names: HashMap<u32, (String, String)>,
    peers: Peers,
    services: Services,
    ends: Ends,
    kept: VecDeque<Kept>,
    /// What all of them take.
    weight: usize,
    /// Of the oldest that is kept, or if none is, of the next.
    oldest: Id,
    said: String,
}

impl Listener {
    /// For the clients of `hub`.
    pub fn new(hub: Arc<Hub>, state_dir: PathBuf, bpf_dir: PathBuf) -> Self {
        let (names, kept, said) = (HashMap::new(), VecDeque::new(), String::new());
        let (peers, services, ends) = (Peers::new(state_dir), Services::new(), Ends::new());
        let oldest = Id::first(SystemTime::now());
        Self { hub, bpf_dir, names, peers, services, ends, kept, weight: 0, oldest, said }
    }

    /// Listens whenever there is a client, until the hub is closed.
    pub fn run(mut self) {
        while self.hub.wait_for_client() {
            let inbox = Inbox {
                assembly: Assembly::new(),
                not_before: monotonic().unwrap_or_default(),
                flows: Vec::new(),
            };
            self.attend(&Rc::new(RefCell::new(inbox)));
        }
    }

    /// Listens until the last client has gone.
    fn attend(&mut self, inbox: &Rc<RefCell<Inbox>>) {
        let mut ring: Option<(Records<'static>, u64)> = None;
        let (mut renew, mut sign) = (Instant::now(), Instant::now() + SIGN_OF_LIFE);
        let mut busy = false;
        while self.hub.wait(if busy { BUSY_SWEEP } else { SWEEP }) {
            let now = Instant::now();
            let mut done = Ok(());
            if now >= renew {
                renew = now + RENEW;
                done = self.renew(&mut ring, inbox);
                // Without the journal peers have no names; the other thread says what is wrong with it.
                let _ = self.peers.refresh();
                self.map(now);
            }
            if let (Ok(()), Some((records, lost))) = (&done, &mut ring) {
                self.hub.attend(&self.kept, self.oldest);
                done = self.sweep(records, lost, inbox).map(|found| busy = found > MUCH);
            }
            if done.is_err() {
                ring = None;
            }
            let due = self.ends.due(&self.peers, now);
            self.send(due);
            // Between two tries that failed all is as it was.
            if ring.is_some() || done.is_err() {
                self.say(&done);
            }
            if now >= sign {
                sign = now + SIGN_OF_LIFE;
                self.hub.for_each(|queue| queue.remark(b":\n\n"));
            }
        }
        if let Some((records, _)) = ring {
            // The wish would end by itself.
            let _ = records.cease();
        }
        let rest = self.ends.rest();
        self.send(rest);
    }

    /// Tells who talked to whom, if somebody wants to know.
    fn map(&mut self, now: Instant) {
        if self.hub.wants_services() {
            self.hub.tell(&self.services.map(now));
            self.services.tick(now);
        } else {
            self.services.clear();
        }
    }

    /// Opens what is pinned now, whoever removed or replaced it meanwhile, and asks for records.
    fn renew(
        &self,
        ring: &mut Option<(Records<'static>, u64)>,
        inbox: &Rc<RefCell<Inbox>>,
    ) -> Result<()> {
        let sink = Rc::clone(inbox);
        let records = Records::open(&self.bpf_dir, move |record: &Record, bytes: &[u8]| {
            sink.borrow_mut().take(record, bytes);
        })?;
        records.listen(WISH)?;
        let before = match ring.take() {
            // Of another load the count begins anew.
            Some((_, before)) => before.min(records.lost()?),
            None => records.lost()?,
        };
        *ring = Some((records, before));
        Ok(())
    }

    /// Gives every client what is in the ring, and says how much was not; returns how many elements there were.
    fn sweep(
        &mut self,
        records: &Records<'_>,
        before: &mut u64,
        inbox: &Rc<RefCell<Inbox>>,
    ) -> Result<usize> {
        let found = records.consume()?;
        let total = records.lost()?;
        let flows = std::mem::take(&mut inbox.borrow_mut().flows);
        let (now, monotonic) = (SystemTime::now(), monotonic()?);
        let mut wanted = Vec::with_capacity(flows.len());
        for (record, mut flow) in flows {
            let ago = Duration::from_nanos(monotonic.saturating_sub(record.at_ns));
            let time = now.checked_sub(ago).unwrap_or(now);
            flow.time = rfc3339(time);
            // A record without a name is worth more than none.
            (flow.namespace, flow.pod) = self.name(records, record.pod).unwrap_or_default();
            let peer = assemble::peer(&record);
            if let Some(known) = peer.and_then(|peer| self.peers.of(peer.ip())) {
                flow.peer_namespace = Some(known.namespace.clone());
                flow.peer_pod = Some(known.pod.clone());
            }
            self.services.take(&flow, record.pod, peer, &self.peers);
            if let Some(names) = self.hub.finds.names.as_ref().filter(|_| flow.protocol == "tls") {
                let name = flow.server_name.as_deref();
                names.count(record.pod, record.role, name, Instant::now());
            }
            let flow = Arc::new(flow);
            if flow.sampled {
                self.exemplify(&record, &flow, time);
                self.trace(&record, &flow, time);
            }
            wanted.push(Kept::new(time, flow));
        }
        self.hub.give(&wanted, self.oldest.plus(self.kept.len()));
        if total > *before {
            let missed = total - *before;
            self.hub.for_each(|queue| queue.miss(missed));
            *before = total;
        }
        self.keep(wanted);
        Ok(found)
    }

    /// Keeps a traced request as the exemplar of the buckets that the kernel counted it in.
    fn exemplify(&self, record: &Record, flow: &Flow, time: SystemTime) {
        let Some(trace_id) = &flow.trace_id else { return };
        if flow.status.is_none() || flow.error.is_some() {
            return;
        }
        let at = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let duration_ns = record.duration_ns;
        let exemplar = Exemplar { trace_id: trace_id.clone(), duration_ns, at };
        if flow.grpc_status.is_some() {
            let of = (record.pod, record.role, 0);
            self.hub.finds.exemplars.put(
                HistogramKind::HISTOGRAM_GRPC_REQUEST,
                of,
                exemplar.clone(),
            );
        }
        let of = (record.pod, record.role, record.method);
        self.hub.finds.exemplars.put(HistogramKind::HISTOGRAM_HTTP_REQUEST, of, exemplar);
    }

    /// Has a request sent as a span, if there is a receiver, once it is known whose child it is.
    fn trace(&mut self, record: &Record, flow: &Arc<Flow>, end: SystemTime) {
        if self.hub.finds.spans.is_some() {
            let duration = Duration::from_nanos(record.duration_ns);
            let number = (record.conn, record.number, record.pod);
            let traced = Traced { flow: Arc::clone(flow), end, duration, number, caller: None };
            let known = self.ends.take(record, traced, &self.peers, Instant::now());
            self.send(known);
        }
    }

    /// Hands spans over to be sent.
    fn send(&self, known: Vec<Traced>) {
        if let Some(spans) = &self.hub.finds.spans {
            known.into_iter().for_each(|traced| spans.push(traced));
        }
    }

    fn name(&mut self, records: &Records<'_>, pod: u32) -> Result<(String, String)> {
        if let Some(known) = self.names.get(&pod) {
            return Ok(known.clone());
        }
        let name = records.pod(pod)?.unwrap_or_default();
        if self.names.len() >= NAMES {
            self.names.clear();
        }
        self.names.insert(pod, name.clone());
        Ok(name)
    }

    fn keep(&mut self, flows: Vec<Kept>) {
        let surplus = (self.kept.len() + flows.len()).saturating_sub(KEPT);
        self.weight += flows.iter().map(Kept::weight).sum::<usize>();
        let mut over = 0;
        for kept in self.kept.iter().chain(&flows) {
            if over >= surplus && self.weight <= KEPT_BYTES {
                break;
            }
            self.weight -= kept.weight();
            over += 1;
        }
        if over > 0 {
            self.hub.part_with(self.kept.iter().chain(&flows).take(over), self.oldest);
        }
        self.oldest = self.oldest.plus(over);
        let of_kept = over.min(self.kept.len());
        self.kept.drain(..of_kept);
        self.kept.extend(flows.into_iter().skip(over - of_kept));
    }

    /// Logs what changed.
    fn say(&mut self, done: &Result<()>) {
        let line = match done {
            Ok(()) => String::new(),
            Err(err) => format!("no live records, looking again every second: {err}"),
        };
        if line != self.said {
            if !line.is_empty() {
                log::say(format_args!("agent: {line}"));
            }
            self.said = line;
        }
    }
}

impl Inbox {
    fn take(&mut self, record: &Record, bytes: &[u8]) {
        if record.at_ns < self.not_before {
            return;
        }
        if let Some(flow) = self.assembly.take(record, bytes) {
            self.flows.push((*record, flow));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_long_records_fewer_are_kept() {
        let mut listener = Listener::new(Arc::default(), PathBuf::new(), PathBuf::new());
        let long = || {
            let path = Some("p".repeat(1_024));
            let alpn = vec!["a".repeat(255); 8];
            let flow = Flow { path: path.clone(), host: path, alpn, ..Flow::default() };
            Kept::new(SystemTime::UNIX_EPOCH, Arc::new(flow))
        };
        for _ in 0..40 {
            listener.keep((0..300).map(|_| long()).collect());
            assert_eq!(listener.weight, listener.kept.iter().map(Kept::weight).sum::<usize>());
            assert!(listener.weight <= KEPT_BYTES, "{}", listener.weight);
        }
        assert!((2_000..KEPT).contains(&listener.kept.len()), "{}", listener.kept.len());
        listener.keep(
            (0..2 * KEPT).map(|_| Kept::new(SystemTime::UNIX_EPOCH, Arc::default())).collect(),
        );
        assert_eq!(listener.kept.len(), KEPT);
    }

    #[test]
    fn the_oldest_record_that_is_kept_has_its_number_however_many_come_at_once() {
        let mut listener = Listener::new(Arc::default(), PathBuf::new(), PathBuf::new());
        let begun = listener.oldest;
        let mut told = 0;
        for come in [0, 3, KEPT - 3, 1, 2 * KEPT, KEPT + 1, 5] {
            let numbered = |at: usize| {
                let flow = Flow { time: (told + at).to_string(), ..Flow::default() };
                Kept::new(SystemTime::UNIX_EPOCH, Arc::new(flow))
            };
            listener.keep((0..come).map(numbered).collect());
            told += come;
            assert_eq!(listener.kept.len(), told.min(KEPT));
            for (at, kept) in listener.kept.iter().enumerate() {
                let id = begun.plus(kept.flow.time.parse().unwrap());
                assert_eq!(listener.oldest.plus(at), id, "{come} more");
            }
        }
    }
}

//! The thread that owns the maps: it reads them when someone asks and sweeps them in between.
//!
//! The maps may not exist yet (no pod was ever attached), vanish (`weir uninstall`) or be replaced
//! (another schema): the thread keeps looking, says once what changed, and serves its own numbers
//! meanwhile. It is a thread of its own, so that neither a big map nor a slow sweep keeps the server
//! from answering.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hyper::body::Bytes;
use tokio::sync::{oneshot, watch};

use super::{
    audit::Audit,
    cached::Cached,
    due::{self, Due, due},
    exposition::Form,
    families::Flavor,
    flows::Finds,
    journal::Journal,
    keeper::Keeper,
    log::{self, Said},
    overview::History,
    reading::Own,
    roster::{self, State},
    takeover::{Standing, Takeover},
};
use crate::{
    error::{Context, Error, Kind, Result},
    telemetry::{
        self, Census, Still,
        reader::{Maps, Snapshot},
        whole,
    },
};

/// A pod's series keep their last value for this long after DEL, so that a last scrape sees it.
pub const GRACE: Duration = Duration::from_secs(60);

/// Between two sweeps. A query counts as unanswered after 5 s, give or take this.
const SWEEP: Duration = Duration::from_secs(1);

/// Scrapes that are closer together get the same page.
const CACHE: Duration = Duration::from_secs(1);

/// A page takes tens of milliseconds; who waits longer is told so.
const PATIENCE: Duration = Duration::from_secs(10);

/// Without a sweep for so long the maps no longer count as fresh.
const STALE: Duration = Duration::from_secs(5);

/// Requests that may wait for the thread: more than there are connections to several addresses, as all
/// that wait get one page.
const QUEUE: usize = 1_024;

/// Pages of one reading that are kept. There are many sorts of them, and each may be of megabytes.
const PAGES: usize = 3;

/// A sort of metrics page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// How it is written.
    pub form: Form,
    /// Which names it has.
    pub flavor: Flavor,
    /// Whether it is compressed.
    pub gzip: bool,
}

/// What is made of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The metrics page.
    Page(Page),
    /// The pods with their rates, as JSON.
    Pods,
    /// All metrics as OTLP.
    Otlp,
}

struct Request {
    wanted: Wanted,
    reply: oneshot::Sender<Bytes>,
}

/// When the maps were last in order, or why they are not.
#[derive(Debug, Clone)]
struct Health {
    at: Instant,
    state: std::result::Result<(), String>,
}

/// The handle of the thread.
#[derive(Debug)]
pub struct Totals {
    requests: SyncSender<Request>,
    health: watch::Receiver<Health>,
}

impl Totals {
    /// Starts the thread; it ends when the handle is dropped.
    ///
    /// # Errors
    /// `Kind::Kernel` if no thread can be had.
    pub fn start(
        node: Arc<str>,
        state_dir: PathBuf,
        bpf_dir: PathBuf,
        finds: Finds,
        keeper: Keeper,
    ) -> Result<(Self, JoinHandle<()>)> {
        let (requests, asked) = sync_channel(QUEUE);
        let starting = Err("the maps have not been looked at yet".to_owned());
        let (publish, health) = watch::channel(Health { at: Instant::now(), state: starting });
        let worker = Worker {
            node,
            journal: Journal::new(state_dir),
            bpf_dir,
            maps: None,
            last: None,
            maps_said: Said::default(),
            due: Vec::new(),
            due_said: BTreeSet::new(),
            journal_said: Said::default(),
            takeover: Takeover::default(),
            census: None,
            audit: Audit::default(),
            overflow: BTreeMap::new(),
            finds,
            keeper,
            cached: None,
            history: History::default(),
            publish,
        };
        let thread = std::thread::Builder::new()
            .name("totals".into())
            .spawn(move || worker.run(&asked))
            .context(Kind::Kernel, || "can't start the thread that reads the maps".into())?;
        Ok((Self { requests, health }, thread))
    }

    /// The metrics page, no older than a second.
    ///
    /// # Errors
    /// `Kind::TryAgain`: too many are asking, or reading takes too long.
    pub async fn page(&self, page: Page) -> Result<Bytes> {
        self.ask(Wanted::Page(page)).await
    }

    /// An [`Overview`](super::overview::Overview) in JSON, no older than a second.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    pub async fn pods(&self) -> Result<Bytes> {
        self.ask(Wanted::Pods).await
    }

    /// All metrics as OTLP's requests, each with its length before it.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    pub async fn otlp(&self) -> Result<Bytes> {
        self.ask(Wanted::Otlp).await
    }

    async fn ask(&self, wanted: Wanted) -> Result<Bytes> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(Request { wanted, reply }).map_err(|err| {
            Error::new(
                Kind::TryAgain,
                match err {
                    TrySendError::Full(_) => "too many scrapes at once",
                    TrySendError::Disconnected(_) => "the agent is stopping",
                },
            )
        })?;
        tokio::time::timeout(PATIENCE, answer)
            .await
            .context(Kind::TryAgain, || format!("reading the maps takes over {PATIENCE:?}"))?
            .context(Kind::TryAgain, || "the agent is stopping".into())
    }

    /// Whether the maps are open and were swept lately, and have the totals of every living pod that is
    /// counted.
    ///
    /// # Errors
    /// `Kind::Telemetry` with the reason.
    pub fn ready(&self) -> Result<()> {
        let health = self.health.borrow();
        let since = health.at.elapsed();
        match &health.state {
            Err(reason) => Err(Error::new(Kind::Telemetry, reason.clone())),
            Ok(()) if since > STALE => Err(Error::new(
                Kind::Telemetry,
                format!("the maps were last swept {} s ago", since.as_secs()),
            )),
            Ok(()) => Ok(()),
        }
    }
}

struct Worker {
    node: Arc<str>,
    journal: Journal,
    bpf_dir: PathBuf,
    maps: Option<Maps>,
    /// The totals that were read last.
    last: Option<Arc<Snapshot>>,
    maps_said: Said,
    /// What is due, as far as could be told last.
    due: Vec<Due>,
    /// The states of pods for which that was said.
    due_said: BTreeSet<&'static str>,
    journal_said: Said,
    takeover: Takeover,
    /// Who was counted when that could be told last; `None`: the pins can't be read.
    census: Option<Census>,
    audit: Audit,
    /// Label sets folded so far, by family.
    overflow: BTreeMap<&'static str, u64>,
    finds: Finds,
    keeper: Keeper,
    cached: Option<Cached>,
    history: History,
    publish: watch::Sender<Health>,
}

impl Worker {
    fn run(mut self, asked: &Receiver<Request>) {
        let mut sweep = Instant::now();
        loop {
            if Instant::now() >= sweep {
                self.tend();
                sweep = Instant::now() + SWEEP;
            }
            match asked.recv_timeout(sweep.saturating_duration_since(Instant::now())) {
                Ok(Request { wanted, reply }) => {
                    // A client that went away in the meantime is no concern.
                    let _ = reply.send(self.make(wanted));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Sweeps the maps, and publishes how that went.
    ///
    /// They are opened anew each time: that is a few system calls, and what is read is always what
    /// is pinned now, whoever removed or replaced it meanwhile. After a failure they have to be
    /// readable as well: else the agent would be ready until someone asks.
    fn tend(&mut self) {
        if self.cached.as_ref().is_some_and(|cached| cached.taken.elapsed() >= CACHE) {
            self.cached = None;
        }
        self.read_records();
        if !self.keeper.keep() {
            // They are another agent's to sweep, and this one is about to end.
            return;
        }
        let swept = Maps::open(&self.bpf_dir).and_then(|maps| {
            maps.sweep(GRACE)?;
            if self.maps.is_none() {
                maps.snapshot()?;
            }
            self.maps = Some(maps);
            Ok(())
        });
        let torn = whole::torn(&self.bpf_dir).unwrap_or_default();
        let swept = match swept {
            Err(err) if !torn.is_empty() => {
                // Whoever seems lost by that is not.
                self.due.clear();
                return self.note(&Standing::Failed(err));
            }
            swept => swept,
        };
        match telemetry::census_at_once(&self.bpf_dir) {
            // A reload has the pins, or has just taken the maps away: the next sweep tells.
            Ok(Census { here: None, .. }) if swept.is_ok() => return,
            Err(err) if err.kind() == Kind::TryAgain && swept.is_err() => return,
            Err(err) if err.kind() == Kind::TryAgain => {}
            census => {
                self.take_census(census);
                let (records, census) = (self.journal.known(), self.census.as_ref());
                self.due = due(&roster::join(records, census, &BTreeMap::new()));
                self.due.extend(due::torn(&self.bpf_dir, &torn));
                self.due.extend(census.and_then(|census| due::unfinished(&census.unfinished)));
            }
        }
        let lost = self.due.iter().any(|due| due.state == State::Lost.word());
        let standing = self.takeover.judge(swept, self.census.as_ref(), lost, &self.bpf_dir);
        self.note(&standing);
    }

    /// Reads the records again if they have changed.
    fn read_records(&mut self) {
        if let Err(err) = self.journal.records() {
            self.journal_said.say(format!("can't tell which pods are not counted: {err}"));
        }
    }

    /// While a reload has the pins what was known before stands.
    fn take_census(&mut self, taken: Result<Census>) {
        match taken {
            Ok(census) => self.census = Some(census),
            Err(err) if err.kind() == Kind::TryAgain => {}
            Err(_) => self.census = None,
        }
    }

    /// Logs what changed, and publishes it. Maps that failed are not read before the next sweep.
    fn note(&mut self, standing: &Standing) {
        let due = &self.due[..];
        let shown = self.bpf_dir.display();
        let none = "no totals to show, looking again every second";
        let (line, due, reason) = match standing {
            Standing::Read => (format!("reading the maps under {shown}"), due, None),
            Standing::Absent(_) if !due.is_empty() => {
                (format!("{none}: no maps of this version in {shown}"), due, None)
            }
            Standing::Absent(err) | Standing::Failed(err) | Standing::TakenOver(err) => {
                (format!("{none}: {err}"), &[][..], Some(err.to_string()))
            }
        };
        if !matches!(standing, Standing::Read) {
            self.maps = None;
        }
        self.maps_said.say(line);
        self.due_said.retain(|state| due.iter().any(|due| due.state == *state));
        for due in due {
            // Which pods they are changes with each that ends.
            if self.due_said.insert(due.state) {
                log::say(format_args!("agent: {due}"));
            }
        }
        let reasons: Vec<_> = reason.into_iter().chain(due.iter().map(Due::to_string)).collect();
        let state = if reasons.is_empty() { Ok(()) } else { Err(reasons.join("\n")) };
        self.publish.send_replace(Health { at: Instant::now(), state });
    }

    /// What is wanted, of the reading of a moment ago or of a new one. A pod whose ADD has returned is in it.
    fn make(&mut self, wanted: Wanted) -> Bytes {
        if self.journal.has_news() {
            self.cached = None;
            // The node's first ADD has made them.
            if self.maps.is_none() {
                self.tend();
            }
        }
        let fresh = self.cached.take().filter(|cached| cached.taken.elapsed() < CACHE);
        let mut cached = fresh.unwrap_or_else(|| self.read());
        let made = cached.made.iter().find(|(made, _)| *made == wanted);
        let made = made.map(|(_, made)| made.clone()).unwrap_or_else(|| {
            let made = match wanted {
                Wanted::Pods => cached.pods(&mut self.history),
                Wanted::Otlp => cached.otlp(),
                Wanted::Page(page) => {
                    let (page, own) = cached.page(page, &self.finds.exemplars);
                    for (family, folded) in own.overflow {
                        let known = self.overflow.entry(family).or_default();
                        *known = folded.max(*known);
                    }
                    page
                }
            };
            if cached.made.len() >= PAGES {
                cached.made.remove(0);
            }
            cached.made.push((wanted, made.clone()));
            made
        });
        self.cached = Some(cached);
        made
    }

    /// The totals, where nobody carries them from one layout's maps to another's meanwhile. Else half of them may be in
    /// either, and what was read before stands.
    fn totals(&mut self, still: &Result<Still>) -> Option<Arc<Snapshot>> {
        let maps = self.maps.as_ref()?;
        match still {
            Err(err) if err.kind() == Kind::TryAgain => return self.last.take(),
            // A reload has carried them away: these maps are open here alone.
            Ok(still) if still.census.here.is_none() => return None,
            _ => {}
        }
        match maps.snapshot() {
            Ok(snapshot) => Some(Arc::new(snapshot)),
            Err(err) => {
                self.note(&Standing::Failed(err));
                None
            }
        }
    }

    fn read(&mut self) -> Cached {
        let taken = Instant::now();
        self.read_records();
        let still = telemetry::hold_still(&self.bpf_dir);
        self.last = self.totals(&still);
        self.take_census(still.map(|still| still.census));
        let snapshot = self.last.clone();
        let of_pods = snapshot.as_ref().map(|snapshot| &snapshot.pods);
        // One that came after the reading has a higher id than all that are in it.
        let gone = |id: u32| {
            of_pods.is_some_and(|pods| {
                !pods.contains_key(&id) && pods.last_key_value().is_some_and(|(last, _)| id < *last)
            })
        };
        let server_names =
            self.finds.names.as_ref().map(|names| names.tell(gone)).unwrap_or_default();
        let own = Own {
            node: Arc::clone(&self.node),
            server_names,
            maps_open: snapshot.is_some(),
            read_ns: u64::try_from(taken.elapsed().as_nanos()).unwrap_or(u64::MAX),
            overflow: self.overflow.clone(),
            spans: self.finds.spans.as_ref().map(|spans| spans.counts()),
            seen: self.journal.seen(),
            ..Own::default()
        };
        let nobody = BTreeMap::new();
        if let (Some(census), Some(pods)) = (&mut self.census, of_pods) {
            // The same, unless a reload has kept the census away.
            census.here = Some(pods.iter().map(|(id, pod)| (*id, pod.deleted)).collect());
        }
        // Who is counted by maps that can't be read is not shown as counted.
        let shown = |census: &&Census| of_pods.is_some() || census.here.is_none();
        let census = self.census.as_ref().filter(shown);
        let mut members = roster::join(self.journal.known(), census, of_pods.unwrap_or(&nobody));
        roster::mark_disconnected(&mut members, telemetry::name_of, telemetry::alias_of);
        self.audit.run(&mut members, |ifindex, attached| {
            telemetry::verify_at_once(&self.bpf_dir, ifindex, attached)
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let snapshot = snapshot.unwrap_or_default();
        Cached { taken, now, snapshot, members, own, made: Vec::new() }
    }
}

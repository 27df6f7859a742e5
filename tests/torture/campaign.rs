//! The campaign: round after round, each judged at its end.

use std::{
    collections::BTreeSet,
    env,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    chores,
    dice::Dice,
    ground::{Ground, PATIENCE},
    http::{ask, connect},
    page::{Page, Watch},
    place::Place,
    plan::Round,
    pod::Pod,
    sight::Bare,
    traffic::Traffic,
};

/// How large, how long, and by which chance.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub seed: u64,
    pub first: u64,
    pub time: Duration,
    pub places: usize,
    /// Of them, those whose pods live all the time.
    pub steady: usize,
}

/// How many calls are under way at a time.
const WORKERS: usize = 4;
/// Between two looks at the page while a round runs.
const APART: Duration = Duration::from_millis(300);

/// Runs rounds until the time is over; `at_round` is the one that runs.
pub fn run(bounds: Bounds, at_round: &AtomicU64) {
    let begun = Instant::now();
    let ground = Ground::new();
    let bare = Bare::of(&ground);
    let mut places: Vec<_> = (0..bounds.places).map(Place::new).collect();
    begin_steady(&ground, bounds, &mut places);
    let bare = bare.with_pins(&ground);
    ground.start_agent();
    let steady: Vec<_> = places.iter().filter_map(|place| place.pod.as_ref()).collect();
    let traffic = Traffic::between(&steady, bounds.seed);
    let watch = Mutex::new(Watch::default());
    let mut number = bounds.first;
    loop {
        at_round.store(number, SeqCst);
        let at = Instant::now();
        let round = Round::draw(bounds.seed, number, bounds.places, bounds.steady);
        play(&ground, number, &round, &mut places, &watch);
        chores::finish(&ground, &round);
        places.iter_mut().for_each(Place::bury);
        let living: Vec<_> = places.iter().filter_map(|place| place.pod.as_ref()).collect();
        judge(&ground, &bare, &living);
        let mut dice = Dice::of(bounds.seed, number, u64::MAX - 1);
        reach(&ground, &living, &mut dice);
        // First: what had no answer is counted as such, rightly.
        traffic.assert_well();
        traffic.paused(|| count(&ground, &living, &watch));
        traffic.assert_well();
        tell(&ground, number, living.len(), at.elapsed());
        number += 1;
        if begun.elapsed() >= bounds.time {
            break;
        }
    }
    sum_up(&ground, &places, &watch, number - bounds.first);
}

fn begin_steady(ground: &Ground, bounds: Bounds, places: &mut [Place]) {
    let round = Round::draw(bounds.seed, bounds.first, bounds.steady, bounds.steady);
    for (place, mut script) in places.iter_mut().zip(round.scripts) {
        script.steps.clear();
        place.perform(ground, bounds.first, &script);
    }
}

/// All scripts, some at a time, with the chores and a scraper beside them.
fn play(ground: &Ground, number: u64, round: &Round, places: &mut [Place], watch: &Mutex<Watch>) {
    want(ground, number, places);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut hands: Vec<Vec<_>> = (0..WORKERS).map(|_| Vec::new()).collect();
        for (at, pair) in places.iter_mut().zip(&round.scripts).enumerate() {
            hands[at % WORKERS].push(pair);
        }
        let mut workers: Vec<_> = hands
            .into_iter()
            .map(|pairs| {
                scope.spawn(move || {
                    for (place, script) in pairs {
                        place.perform(ground, number, script);
                    }
                })
            })
            .collect();
        workers.push(scope.spawn(|| chores::perform(ground, &round.chores)));
        let scraper = scope.spawn(|| {
            while !over.load(SeqCst) {
                // The agent may be dead just now.
                if let Ok(text) = ground.get("/metrics") {
                    watch.lock().unwrap().see(&Page::read(&text));
                }
                thread::sleep(APART);
            }
        });
        let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        over.store(true, SeqCst);
        scraper.join().unwrap();
        for end in ends {
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// A GC of the round lists whoever lives or may come to live in it: a runtime knows of its calls.
fn want(ground: &Ground, number: u64, places: &[Place]) {
    let living =
        places.iter().filter_map(|place| place.pod.as_ref()).map(|pod| pod.id().to_owned());
    let coming = (0..places.len())
        .flat_map(|place| (1..=Place::LIVES).map(move |life| Place::id(place, number, life)));
    *ground.wanted.lock().unwrap() = living.chain(coming).collect();
}

/// The kernel takes a lost namespace down behind everybody's back: what is wrong may be right in a
/// moment, and has to be.
fn judge(ground: &Ground, bare: &Bare, living: &[&Pod]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let differences = bare.differences(ground, living);
        if differences.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "after the round: {differences:#?}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// From the node to every pod by both families, and to every pod from another one.
fn reach(ground: &Ground, living: &[&Pod], dice: &mut Dice) {
    for pod in living {
        for ip in pod.ips() {
            let asked = Default::default();
            let reached = ground.host.node.run(|| ask(&mut connect(ip)?, dice, &asked));
            reached.unwrap_or_else(|why| panic!("node to {} at {ip}: {why}", pod.id()));
        }
        // What a pod says to itself passes no interface of the node.
        let others: Vec<_> = living.iter().filter(|other| other.id() != pod.id()).collect();
        let (from, ip) = (dice.pick(&others), dice.pick(&pod.ips()));
        let reached = from.container.space.run(|| ask(&mut connect(ip)?, dice, &from.asked));
        reached.unwrap_or_else(|why| panic!("{} to {} at {ip}: {why}", from.id(), pod.id()));
    }
}

/// What the page says of each pod's requests is what its ends have counted.
fn count(ground: &Ground, living: &[&Pod], watch: &Mutex<Watch>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let page = Page::read(&ground.get("/metrics").unwrap());
        watch.lock().unwrap().see(&page);
        let mut wrong = BTreeSet::new();
        for pod in living {
            let both = [("server", pod.server.served.read()), ("client", pod.asked.read())];
            for (role, own) in both {
                let shown = page.requests(pod, role);
                if shown != own {
                    let id = pod.id();
                    let differ =
                        |(key, number): &(&(String, u16), &u64)| own.get(key) != Some(*number);
                    let more: Vec<_> = shown.iter().filter(differ).collect();
                    let differ =
                        |(key, number): &(&(String, u16), &u64)| shown.get(key) != Some(*number);
                    let less: Vec<_> = own.iter().filter(differ).collect();
                    let besides = page.besides(pod);
                    wrong
                        .insert(format!("{id} as {role}: {more:?}, its own {less:?}, {besides:?}"));
                }
            }
        }
        if wrong.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "counts: {wrong:#?}");
        thread::sleep(Duration::from_millis(200));
    }
}

fn tell(ground: &Ground, number: u64, living: usize, took: Duration) {
    let calls = ground.calls.load(SeqCst);
    eprintln!(
        "torture: round {number} in {took:.1?}: {living} pods live, {calls} calls so far, all right"
    );
}

fn sum_up(ground: &Ground, places: &[Place], watch: &Mutex<Watch>, rounds: u64) {
    let total = |counts: crate::http::Counts| counts.values().sum::<u64>();
    let pods = places.iter().filter_map(|place| place.pod.as_ref());
    let served: u64 = pods.map(|pod| total(pod.server.served.read())).sum();
    let (calls, refused) = (ground.calls.load(SeqCst), ground.refused.load(SeqCst));
    let pages = watch.lock().unwrap().pages;
    eprintln!(
        "torture: {rounds} rounds, {calls} calls, {refused} ADDs refused, {pages} pages read"
    );
    eprintln!("torture: {served} requests served by those that live, all counted");
    for (map, entries) in Page::read(&ground.get("/metrics").unwrap()).entries() {
        eprintln!("torture: {entries:6} elements of the map {map}");
    }
    for (what, times) in ground.done() {
        eprintln!("torture: {times:6} {what}");
    }
}

/// Says how to have a failure again, and what the round had in mind.
struct Again<'a> {
    bounds: Bounds,
    round: &'a AtomicU64,
}

impl Drop for Again<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let (seed, round) = (self.bounds.seed, self.round.load(SeqCst));
            eprintln!(
                "torture: again: WEIR_TORTURE_SEED={seed} WEIR_TORTURE_ROUND={round} make torture"
            );
            let drawn = Round::draw(seed, round, self.bounds.places, self.bounds.steady);
            for script in drawn.scripts {
                eprintln!("torture: {script:?}");
            }
            eprintln!("torture: {:?}, ends with {:?}", drawn.chores, drawn.ends);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn after_every_round_there_is_what_the_living_need_and_nothing_else() {
    let long = env::var_os("WEIR_TORTURE").is_some_and(|value| value == "1");
    let (seconds, places, steady) = if long { (600, 100, 8) } else { (20, 16, 4) };
    let drawn = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_secs()
    };
    let bounds = Bounds {
        seed: number("WEIR_TORTURE_SEED").unwrap_or_else(|| if long { drawn() } else { 1 }),
        first: number("WEIR_TORTURE_ROUND").unwrap_or(0),
        time: Duration::from_secs(number("WEIR_TORTURE_SECONDS").unwrap_or(seconds)),
        places: number("WEIR_TORTURE_PODS").map_or(places, |pods| usize::try_from(pods).unwrap()),
        steady,
    };
    let Bounds { seed, first, .. } = bounds;
    eprintln!("torture: seed {seed} from round {first}, {:?}", bounds.time);
    let round = AtomicU64::new(first);
    let _again = Again { bounds, round: &round };
    run(bounds, &round);
}

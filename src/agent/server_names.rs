//! The names that TLS clients asked for, counted per pod and role if the agent is told to.
//!
//! A name is whatever a client sends, so each pod and role has so many places and no more: the first
//! names that come have them, and all others are one. A place that nobody asked for in an hour goes to
//! the next newcomer, and what was counted in it to those others, so that sums stay right. What has a
//! place is counted exactly from there on; who floods fills the places of one pod and role alone, and
//! a time series database gets no more than so many new series an hour.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Places may be given away after so much time without a handshake.
const IDLE: Duration = Duration::from_secs(3_600);

/// Pods and roles that are told apart, twice as many as there may be pods: beyond, the oldest
/// attachment gives way. With 50 places each of 253 bytes no more than 40 MB, and some 1.5 MB with ten
/// places and 250 pods.
const SIDES: usize = 2_048;

/// The longest name (RFC 1035, section 2.3.4, as text).
const LONGEST: usize = 253;

/// An attachment's id, and a [`Role`](crate::telemetry::wire::Role).
type Side = (u32, u8);

/// Handshakes of one name.
#[derive(Debug)]
struct Place {
    count: u64,
    last: Instant,
}

/// Handshakes of one pod in one role.
#[derive(Debug, Default)]
struct Names {
    places: HashMap<String, Place>,
    /// Those of no name in `places`.
    others: u64,
}

/// The counts, shared by the thread that sees handshakes and the one that writes pages.
#[derive(Debug)]
pub struct ServerNames {
    places: usize,
    sides: Mutex<BTreeMap<Side, Names>>,
}

/// The counts at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The names, sorted.
    pub names: Vec<String>,
    /// Attachment, role, index into `names` (`None`: all others), handshakes.
    pub counts: Vec<(u32, u8, Option<u32>, u64)>,
}

impl ServerNames {
    /// None yet; `places` for each pod and role.
    pub fn new(places: usize) -> Self {
        Self { places, sides: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Side, Names>> {
        self.sides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a handshake of an attachment in a role, in which the client asked for `name`.
    pub fn count(&self, pod: u32, role: u8, name: Option<&str>, now: Instant) {
        let mut sides = self.lock();
        if sides.len() >= SIDES && !sides.contains_key(&(pod, role)) {
            sides.pop_first();
        }
        let names = sides.entry((pod, role)).or_default();
        match name.and_then(host_name) {
            Some(name) => names.count(name, self.places, now),
            None => names.others += 1,
        }
    }

    /// The counts, after forgetting attachments that are `gone`.
    pub fn tell(&self, gone: impl Fn(u32) -> bool) -> Told {
        let mut sides = self.lock();
        sides.retain(|(pod, _), _| !gone(*pod));
        let all = sides.values().flat_map(|names| names.places.keys().cloned());
        let names: Vec<String> = all.collect::<BTreeSet<_>>().into_iter().collect();
        let mut counts = Vec::new();
        for ((pod, role), of_side) in sides.iter() {
            counts.push((*pod, *role, None, of_side.others));
            for (name, place) in &of_side.places {
                let at = names.binary_search(name).ok().and_then(|at| u32::try_from(at).ok());
                counts.push((*pod, *role, at, place.count));
            }
        }
        Told { names, counts }
    }
}

impl Names {
    fn count(&mut self, name: String, places: usize, now: Instant) {
        if let Some(place) = self.places.get_mut(&name) {
            place.count += 1;
            place.last = now;
            return;
        }
        if self.places.len() >= places {
            self.free_idle(now);
        }
        if self.places.len() < places {
            self.places.insert(name, Place { count: 1, last: now });
        } else {
            self.others += 1;
        }
    }

    /// Frees the place that was asked for longest ago, if that is long enough.
    fn free_idle(&mut self, now: Instant) {
        let longest = self.places.iter().min_by_key(|(_, place)| place.last);
        let Some((name, place)) = longest else { return };
        if now.saturating_duration_since(place.last) >= IDLE {
            self.others += place.count;
            let name = name.clone();
            self.places.remove(&name);
        }
    }
}

/// A host's name in lower case, as no case is told apart (RFC 6066, section 3); `None` for what is none.
/// What it has left needs no escaping anywhere, and is never one of our own words.
fn host_name(name: &str) -> Option<String> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric();
    let valid = name.len() <= LONGEST
        && name.bytes().next().is_some_and(letter)
        && name.bytes().all(|byte| letter(byte) || matches!(byte, b'.' | b'-' | b'_'));
    valid.then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of attachment 1 as a server, `count name`.
    fn told(names: &ServerNames) -> Vec<String> {
        let told = names.tell(|_| false);
        let own = told.counts.iter().filter(|(pod, role, ..)| (*pod, *role) == (1, 1));
        let mut lines: Vec<_> = own
            .map(|(.., name, count)| {
                let name = name.map_or("-", |at| &told.names[at as usize]);
                format!("{count} {name}")
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn the_first_names_have_the_places_and_the_others_are_one() {
        let (names, now) = (ServerNames::new(2), Instant::now());
        for name in ["a.test", "B.test", "c.test", "b.TEST", "d.test", "a.test"] {
            names.count(1, 1, Some(name), now);
        }
        names.count(1, 1, None, now);
        names.count(1, 2, Some("c.test"), now);
        names.count(2, 1, Some("c.test"), now);
        assert_eq!(told(&names), ["2 a.test", "2 b.test", "3 -"]);
    }

    #[test]
    fn a_place_is_given_away_after_an_hour_and_no_handshake_is_lost() {
        let (names, start) = (ServerNames::new(2), Instant::now());
        names.count(1, 1, Some("old.test"), start);
        names.count(1, 1, Some("old.test"), start);
        names.count(1, 1, Some("busy.test"), start + IDLE / 2);
        names.count(1, 1, Some("new.test"), start + IDLE - Duration::from_secs(1));
        assert_eq!(told(&names), ["1 -", "1 busy.test", "2 old.test"]);
        names.count(1, 1, Some("new.test"), start + IDLE);
        names.count(1, 1, Some("old.test"), start + IDLE);
        assert_eq!(told(&names), ["1 busy.test", "1 new.test", "4 -"]);
    }

    #[test]
    fn what_is_no_host_name_has_no_place() {
        let (names, now) = (ServerNames::new(10), Instant::now());
        let long = "a".repeat(254);
        let hostile = ["", ".", "__other__", "-a", "a b", "a\"}", "a\\n", "a\\xff", "ä", &long];
        for name in hostile {
            names.count(1, 1, Some(name), now);
        }
        names.count(1, 1, Some(&long[1..]), now);
        assert_eq!(told(&names), [format!("1 {}", &long[1..]), "10 -".into()]);
    }

    #[test]
    fn there_are_never_more_than_so_many_and_the_gone_are_forgotten() {
        let (names, now) = (ServerNames::new(3), Instant::now());
        for pod in 0..3_000 {
            for name in 0..5 {
                names.count(pod, 1, Some(&format!("{name}.{pod}")), now);
            }
        }
        let counts = names.tell(|_| false).counts;
        assert_eq!(counts.len(), SIDES * 4);
        assert!(counts.iter().all(|(pod, ..)| *pod >= 3_000 - 2_048));
        let counts = names.tell(|pod| pod != 2_999).counts;
        assert_eq!(counts.iter().map(|(.., count)| count).sum::<u64>(), 5);
    }
}

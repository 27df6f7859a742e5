//! A listener as the thread knows it: what it wants, and how far it has been told.
//!
//! What was recorded before it came is more than its queue holds. It gets that as it reads, and what comes
//! meanwhile behind it; once it has all that is kept it is told of each record as it comes.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    filter::{Filter, Verdict},
    flow::{Flow, Lost},
    id::Id,
    kept::Kept,
    queue::{Queue, event},
};

/// What a client is told.
#[derive(Debug)]
pub enum Wanted {
    /// Each exchange that the filter lets through.
    Flows(Filter),
    /// Who talks to whom, once a second.
    Services,
}

/// How far a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The thread has not seen it yet.
    New,
    /// Of what is kept, it has still to be told of this one and all behind it.
    Behind(Id),
    /// It is told of each record as it comes.
    Live,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    wanted: Wanted,
    /// What waits for it.
    pub queue: Arc<Queue>,
    /// It wants what was recorded from here on.
    from: SystemTime,
    stage: Stage,
}

impl Client {
    /// One that has just come, and wants what was recorded since so long ago.
    pub fn new(wanted: Wanted, queue: Arc<Queue>, since: Duration) -> Self {
        let from = SystemTime::now().checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH);
        Self { wanted, queue, from, stage: Stage::New }
    }

    /// Whether it is to be told of this record, which has just come. One of which nobody knows is counted for it.
    pub fn wants_now(&self, flow: &Flow) -> bool {
        self.stage == Stage::Live && self.judge(flow) == Verdict::Wanted
    }

    /// Whether it is told who talks to whom.
    pub fn wants_services(&self) -> bool {
        matches!(self.wanted, Wanted::Services)
    }

    /// Tells one who is new that records will come and how many had to make room since it was here, and each
    /// as much of what it wants of the records that are kept as there is room for; the oldest's id is `oldest`.
    pub fn attend(&mut self, kept: &VecDeque<Kept>, oldest: Id) {
        if self.stage == Stage::New {
            self.queue.remark(b": listening\n\n");
            let gone = self.behind(oldest).map_or(0, |behind| behind - 1);
            if let Some(records) = u64::try_from(gone).ok().filter(|records| *records > 0) {
                let lost = Lost { records, place: "away".into() };
                self.queue.push(event(Some("lost"), &lost).into());
            }
            self.stage = Stage::Behind(oldest);
        }
        if let Stage::Behind(next) = self.stage {
            self.stage = self.catch_up(next, kept, oldest);
            self.queue.wake();
        }
    }

    /// Counts what it has not been told of yet, of records that are kept no longer; the first one's id is `oldest`.
    pub fn part_with<'a>(&mut self, gone: impl Iterator<Item = &'a Kept>, oldest: Id) {
        let Stage::Behind(next) = self.stage else { return };
        let mut lost = 0;
        for (at, kept) in gone.enumerate() {
            let id = oldest.plus(at);
            if id.since(next).is_some_and(|behind| behind >= 0) {
                lost += u64::from(
                    self.lacks(id, kept.time) && self.judge(&kept.flow) == Verdict::Wanted,
                );
                self.stage = Stage::Behind(id.plus(1));
            }
        }
        self.queue.lose(lost);
    }

    fn catch_up(&self, next: Id, kept: &VecDeque<Kept>, oldest: Id) -> Stage {
        let told = next.since(oldest).and_then(|behind| usize::try_from(behind).ok());
        for (at, kept) in kept.iter().enumerate().skip(told.unwrap_or_default()) {
            let id = oldest.plus(at);
            if self.lacks(id, kept.time) && self.judge(&kept.flow) == Verdict::Wanted {
                if !self.queue.has_room_for_the_past() {
                    return Stage::Behind(id);
                }
                self.queue.push(kept.written(id));
            }
        }
        Stage::Live
    }

    /// What its filter says of a record; that it wanted one which nobody can tell is counted for it.
    fn judge(&self, flow: &Flow) -> Verdict {
        let Wanted::Flows(filter) = &self.wanted else { return Verdict::Unwanted };
        let verdict = filter.judge(flow);
        if verdict == Verdict::Untold {
            self.queue.leave_untold();
        }
        verdict
    }

    /// Whether a record that is kept is behind what it has had when it was here, or of the time that it asked for.
    fn lacks(&self, id: Id, time: SystemTime) -> bool {
        self.behind(id).map_or(time >= self.from, |behind| behind > 0)
    }

    /// How many records there were from the last that it has had to this one; none of one who begins anew.
    fn behind(&self, id: Id) -> Option<i64> {
        match &self.wanted {
            Wanted::Flows(filter) => id.since(filter.after?),
            Wanted::Services => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::queue::tests::read, *};

    /// A record of some 600 bytes.
    fn flow(number: usize) -> Kept {
        let path = Some(format!("/{number}/{}", "p".repeat(500)));
        Kept::new(SystemTime::now(), Arc::new(Flow { path, ..Flow::default() }))
    }

    fn numbers(text: &str) -> Vec<usize> {
        let paths = text.split("\"path\":\"/").skip(1);
        paths.map(|path| path.split('/').next().unwrap().parse().unwrap()).collect()
    }

    fn client() -> (Client, super::super::queue::Events) {
        let (queue, events) = Queue::new();
        let filter = Filter { since: Some(Duration::from_secs(60)), ..Filter::default() };
        (Client::new(Wanted::Flows(filter), queue, Duration::from_secs(60)), events)
    }

    #[test]
    fn who_reads_has_all_of_the_past_before_what_comes() {
        let oldest = Id::first(SystemTime::UNIX_EPOCH);
        let mut kept: VecDeque<_> = (0..4_096).map(flow).collect();
        let (mut client, mut events) = client();
        let mut told = Vec::new();
        let mut turns = 0;
        while told.len() < 4_100 {
            client.attend(&kept, oldest);
            let one = flow(kept.len());
            if client.wants_now(&one.flow) {
                client.queue.push(one.written(oldest.plus(kept.len())));
            }
            if kept.len() < 4_100 {
                kept.push_back(one);
            }
            while let Some(text) = read(&mut events) {
                assert!(!text.contains("event: lost"));
                told.extend(numbers(&text));
            }
            turns += 1;
        }
        assert!((4..20).contains(&turns), "{turns}");
        assert!(told.iter().copied().take(4_100).eq(0..4_100));
        assert_eq!(client.stage, Stage::Live);
    }

    #[test]
    fn what_is_kept_no_longer_is_counted_for_who_has_not_read_so_far() {
        let oldest = Id::first(SystemTime::UNIX_EPOCH);
        let kept: VecDeque<_> = (0..4_096).map(flow).collect();
        let (mut client, mut events) = client();
        client.attend(&kept, oldest);
        let Stage::Behind(next) = client.stage else { panic!("{client:?}") };
        let told = usize::try_from(next.since(oldest).unwrap()).unwrap();
        // The half that leaves room for what comes.
        assert!((700..1_100).contains(&told), "{told}");
        client.part_with(kept.iter().take(2_000), oldest);
        assert_eq!(client.stage, Stage::Behind(oldest.plus(2_000)));
        // Nobody has read yet: what went is said before anything else.
        client.attend(&kept.iter().skip(2_000).cloned().collect(), oldest.plus(2_000));
        let mut text = String::new();
        while let Some(more) = read(&mut events) {
            text += &more;
        }
        assert!(numbers(&text).into_iter().eq(0..told));
        let lost = format!("{{\"records\":{},\"where\":\"client\"}}\n\n", 2_000 - told);
        assert!(text.ends_with(&lost), "{lost}");
        client.attend(&kept.iter().skip(2_000).cloned().collect(), oldest.plus(2_000));
        assert_eq!(numbers(&read(&mut events).unwrap())[0], 2_000);
    }
}

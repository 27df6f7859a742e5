//! A reading of the maps, and the pages that are made of it: whoever asks within the same second gets the same.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::body::Bytes;

use super::{
    exemplar::Exemplars,
    exposition::{self, Form},
    families::Flavor,
    otlp,
    overview::History,
    reading::{Own, Reading},
    roster::Member,
    series::collect,
    totals::{GRACE, Page, Wanted},
};
use crate::telemetry::reader::Snapshot;

/// A reading, and the pages that were made of it so far.
pub struct Cached {
    pub taken: Instant,
    pub now: Duration,
    pub snapshot: Arc<Snapshot>,
    pub members: Vec<Member>,
    pub own: Own,
    pub made: Vec<(Wanted, Bytes)>,
}

impl Cached {
    /// A page, and what had to be folded for it, which is the same for every form.
    pub fn page(&self, Page { form, flavor, gzip }: Page, exemplars: &Exemplars) -> (Bytes, Own) {
        let (snapshot, members, now) = (&*self.snapshot, self.members.as_slice(), self.now);
        let exemplars = if form == Form::Classic { Vec::new() } else { exemplars.all() };
        let own = Own { flavor, exemplars, ..self.own.clone() };
        let mut reading = Reading { snapshot, members, now, own };
        (exposition::write(&collect(&mut reading, GRACE), form, gzip), reading.own)
    }

    /// All metrics, in the form of OTLP.
    pub fn otlp(&self) -> Bytes {
        let (snapshot, members, now) = (&*self.snapshot, self.members.as_slice(), self.now);
        let own = Own { flavor: Flavor::Otel, ..self.own.clone() };
        let mut reading = Reading { snapshot, members, now, own };
        let page = collect(&mut reading, GRACE);
        otlp::metrics::write(&page, now, &reading.own.node).into()
    }

    /// An [`Overview`](super::overview::Overview), as JSON.
    pub fn pods(&self, history: &mut History) -> Bytes {
        let (snapshot, members, now) = (&*self.snapshot, self.members.as_slice(), self.now);
        let reading = Reading { snapshot, members, now, own: self.own.clone() };
        // Plain data is always written.
        serde_json::to_vec(&history.overview(&reading, self.taken, GRACE))
            .unwrap_or_default()
            .into()
    }
}

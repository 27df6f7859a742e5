//! Exemplars: for a histogram's bucket, the trace of one request that is counted in it.
//!
//! They come from live records, so there are new ones only while somebody listens (a client of
//! `/api/flows`, or `--otlp-endpoint`), and only of requests whose caller sampled its trace: of others
//! there is nothing to look up. A trace id is what a pod sent; it is a valid one or none at all.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lru::LruCache;

use crate::telemetry::{
    histogram::CLASSIC_NS,
    wire::{HistogramKey, HistogramKind},
};

/// Exemplars that are kept; the one that was replaced longest ago gives way.
const KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(2_047);

/// A request of a histogram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exemplar {
    /// 32 lower-case hexadecimal digits.
    pub trace_id: String,
    /// How long it took, in nanoseconds.
    pub duration_ns: u64,
    /// When it ended, since the Unix epoch.
    pub at: Duration,
}

/// Which histogram of the kernel's, and which classic bucket of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Attachment id.
    pub pod: u32,
    /// A [`HistogramKind`].
    pub kind: u8,
    /// A [`Role`](crate::telemetry::wire::Role).
    pub role: u8,
    /// As [`HistogramKey::a`].
    pub a: u8,
    /// Index into [`CLASSIC_NS`], or one more for what is above all.
    pub bucket: usize,
}

impl Place {
    /// The histogram's key.
    pub fn key(&self) -> HistogramKey {
        HistogramKey { pod: self.pod, kind: self.kind, role: self.role, a: self.a, zero: 0 }
    }
}

/// The last exemplar of each bucket, shared by the thread that sees requests and the one that writes
/// pages.
#[derive(Debug)]
pub struct Exemplars(Mutex<LruCache<Place, Exemplar>>);

impl Default for Exemplars {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(KEPT)))
    }
}

impl Exemplars {
    /// Keeps one for its bucket of the histogram.
    pub fn put(&self, kind: HistogramKind, (pod, role, a): (u32, u8, u8), exemplar: Exemplar) {
        let Ok(kind) = u8::try_from(kind.0) else { return };
        let bucket = CLASSIC_NS.partition_point(|bound| *bound < exemplar.duration_ns);
        let place = Place { pod, kind, role, a, bucket };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(place, exemplar);
    }

    /// All that there are.
    pub fn all(&self) -> Vec<(Place, Exemplar)> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|(place, exemplar)| (*place, exemplar.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exemplar(duration_ns: u64) -> Exemplar {
        Exemplar { trace_id: "1".repeat(32), duration_ns, at: Duration::from_secs(9) }
    }

    #[test]
    fn a_bucket_keeps_its_last_and_includes_its_bound() {
        let exemplars = Exemplars::default();
        for duration in [4_000_000, 5_000_000, 5_000_001, 11_000_000_000] {
            let kind = HistogramKind::HISTOGRAM_HTTP_REQUEST;
            exemplars.put(kind, (7, 1, 2), exemplar(duration));
        }
        let mut all = exemplars.all();
        all.sort_by_key(|(place, _)| place.bucket);
        let told: Vec<_> = all.iter().map(|(place, it)| (place.bucket, it.duration_ns)).collect();
        assert_eq!(told, [(0, 5_000_000), (1, 5_000_001), (14, 11_000_000_000)]);
        assert_eq!((all[0].0.key().pod, all[0].0.key().a), (7, 2));
    }

    #[test]
    fn there_are_never_more_than_so_many() {
        let exemplars = Exemplars::default();
        for pod in 0..10_000 {
            exemplars.put(HistogramKind::HISTOGRAM_GRPC_REQUEST, (pod, 1, 0), exemplar(1));
        }
        assert_eq!(exemplars.all().len(), KEPT.get());
    }
}

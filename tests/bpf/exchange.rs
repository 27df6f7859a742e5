//! What both sides of a connection send, and what that amounts to.

use weir::telemetry::wire::{
    CounterKind, DbOperation, DbOutcome, HistogramKind, HttpError, HttpMethod, HttpVersion,
    L7Protocol, Role,
};

use crate::{kernel::Counts, stream::Side};

/// The bytes of a connection, and what they add to the counters in either role of the pod.
#[derive(Clone)]
pub struct Exchange {
    pub name: &'static str,
    /// Who says what, in this order; each turn in any number of segments.
    pub turns: Vec<(Side, Vec<u8>)>,
    /// Counter, its a, b and c, and how much.
    counted: Vec<(CounterKind, u32, u32, u16, u64)>,
    /// The server's; 80 unless it matters.
    pub port: u16,
    /// Requests have no answer, so that who ends the connection first is told in their error.
    pub left_open: bool,
    /// Observations by kind of histogram.
    pub observed: Vec<(HistogramKind, u64)>,
}

impl Exchange {
    pub fn new(
        name: &'static str,
        requests: impl Into<Vec<u8>>,
        responses: impl Into<Vec<u8>>,
        protocol: L7Protocol,
    ) -> Self {
        let turns = [(Side::Client, requests.into()), (Side::Server, responses.into())];
        Self::of(name, turns, protocol)
    }

    /// The same of more turns than two.
    pub fn of(
        name: &'static str,
        turns: impl Into<Vec<(Side, Vec<u8>)>>,
        protocol: L7Protocol,
    ) -> Self {
        let turns = turns.into();
        let (counted, observed) = (Vec::new(), Vec::new());
        Self { name, turns, counted, port: 80, left_open: false, observed }.count(
            CounterKind::COUNTER_L7_CONNECTIONS,
            protocol.0,
            0,
            0,
            1,
        )
    }

    pub fn left_open(self) -> Self {
        Self { left_open: true, ..self }
    }

    pub fn count(mut self, kind: CounterKind, a: u32, b: u32, c: u16, n: u64) -> Self {
        self.counted.push((kind, a, b, c, n));
        self
    }

    pub fn observe(mut self, kind: HistogramKind, n: u64) -> Self {
        self.observed.push((kind, n));
        self
    }

    /// An HTTP request that was answered, or ended, with `status`.
    pub fn request(self, method: HttpMethod, version: HttpVersion, status: u16) -> Self {
        self.count(CounterKind::COUNTER_HTTP_REQUESTS, method.0, version.0, status, 1)
            .observe(HistogramKind::HISTOGRAM_HTTP_REQUEST, 1)
    }

    /// Requests to a database that were answered so.
    pub fn asked(
        self,
        system: L7Protocol,
        operation: DbOperation,
        outcome: DbOutcome,
        n: u64,
    ) -> Self {
        let outcome = u16::try_from(outcome.0).unwrap();
        self.count(CounterKind::COUNTER_DB_REQUESTS, system.0, operation.0, outcome, n)
            .observe(HistogramKind::HISTOGRAM_DB_REQUEST, n)
    }

    /// The error of one whose status tells of a failure already.
    pub fn error_beside_status(self, error: HttpError) -> Self {
        self.count(CounterKind::COUNTER_HTTP_ERRORS, error.0, 1, 0, 1)
    }

    pub fn error(self, error: HttpError) -> Self {
        self.count(CounterKind::COUNTER_HTTP_ERRORS, error.0, 0, 0, 1)
    }

    /// The bytes of all bodies.
    pub fn bodies(self, requests: u64, responses: u64) -> Self {
        self.count(CounterKind::COUNTER_HTTP_REQUEST_BODY, 0, 0, 0, requests).count(
            CounterKind::COUNTER_HTTP_RESPONSE_BODY,
            0,
            0,
            0,
            responses,
        )
    }

    /// Whether its connection is taken for this.
    pub fn is(&self, protocol: L7Protocol) -> bool {
        let taken = |kind| kind == CounterKind::COUNTER_L7_CONNECTIONS;
        self.counted.iter().any(|count| taken(count.0) && count.1 == protocol.0)
    }

    /// The same of other segments.
    pub fn played(&self, turns: impl IntoIterator<Item = (Side, Vec<u8>)>) -> Self {
        Self { turns: turns.into_iter().collect(), ..self.clone() }
    }

    pub fn expected(&self, role: Role) -> Counts {
        let role = u8::try_from(role.0).unwrap();
        let mut counts = Counts::default();
        for &(kind, a, b, c, n) in self.counted.iter().filter(|count| count.4 > 0) {
            counts.add(kind, role, a, b, c, n);
        }
        counts
    }
}

/// An HTTP/1 exchange: method, version and status of each request, and the bytes of the bodies.
pub fn http1(
    name: &'static str,
    requests: impl Into<Vec<u8>>,
    responses: impl Into<Vec<u8>>,
    counted: &[(HttpMethod, HttpVersion, u16)],
    (request_body, response_body): (u64, u64),
) -> Exchange {
    let exchange = Exchange::new(name, requests, responses, L7Protocol::L7_HTTP1)
        .bodies(request_body, response_body);
    counted.iter().fold(exchange, |exchange, &(method, version, status)| {
        exchange.request(method, version, status)
    })
}

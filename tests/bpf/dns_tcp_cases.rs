//! DNS over TCP, with what is to be counted of it.

use weir::telemetry::wire::{CounterKind, HistogramKind, L7Protocol, Transport};

use crate::exchange::Exchange;

const PORT: u16 = 53;
const NXDOMAIN: u16 = 3;

pub fn exchanges() -> Vec<Exchange> {
    vec![answered(), refused()]
}

fn answered() -> Exchange {
    let queries = [
        message(1, 0x0100, &["example", "org"], 1, &[]),
        message(2, 0x0120, &[&"l".repeat(63), "example"], 28, &[0; 11]),
        message(3, 0x0100, &[], 252, &[]),
        // A notification, which is no look-up.
        message(4, 0x2400, &["example", "org"], 6, &[]),
    ];
    let responses = [
        message(3, 0x8180, &[], 252, &[8; 900]),
        message(1, 0x8180, &["example", "org"], 1, &[7; 16]),
        message(4, 0xa400, &["example", "org"], 6, &[]),
        message(2, 0x8180 | NXDOMAIN, &[&"l".repeat(63), "example"], 28, &[]),
    ];
    let (queries, responses) = (queries.concat(), responses.concat());
    let mut exchange = Exchange::new("dns over tcp", queries, responses, L7Protocol::L7_DNS)
        .observe(HistogramKind::HISTOGRAM_DNS_LOOKUP, 3);
    exchange.port = PORT;
    let tcp = Transport::TRANSPORT_TCP.0;
    // Type 252, a transfer, is none of those that are told apart.
    [(1, 0), (28, NXDOMAIN), (0, 0)].into_iter().fold(exchange, |exchange, (qtype, rcode)| {
        exchange.count(CounterKind::COUNTER_DNS_QUERIES, 0, tcp, qtype, 1).count(
            CounterKind::COUNTER_DNS_RESPONSES,
            rcode.into(),
            tcp,
            qtype,
            1,
        )
    })
}

/// Refusals that don't repeat the question (RFC 9619, 3), with an OPT and without; one comes again, and
/// one is of no query.
fn refused() -> Exchange {
    const FORMERR: u16 = 1;
    const REFUSED: u16 = 5;
    let queries =
        [(1, 1), (2, 28), (3, 16)].map(|(id, qtype)| message(id, 0x0100, &["org"], qtype, &[]));
    let refusal = |id: u16, rcode: u16, more: &[u8]| {
        let words = [
            u16::try_from(12 + more.len()).unwrap(),
            id,
            0x8080 | rcode,
            0,
            0,
            0,
            u16::from(!more.is_empty()),
        ];
        [words.map(u16::to_be_bytes).concat(), more.to_vec()].concat()
    };
    let opt = [0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0];
    let responses = [
        refusal(2, REFUSED, &opt),
        refusal(2, REFUSED, &opt),
        refusal(1, FORMERR, &[]),
        refusal(4, FORMERR, &[]),
        message(3, 0x8180, &["org"], 16, &[3; 20]),
    ];
    let mut exchange = Exchange::new(
        "dns over tcp: refused",
        queries.concat(),
        responses.concat(),
        L7Protocol::L7_DNS,
    )
    .observe(HistogramKind::HISTOGRAM_DNS_LOOKUP, 3)
    .count(CounterKind::COUNTER_DNS_UNMATCHED, 0, Transport::TRANSPORT_TCP.0, 0, 2);
    exchange.port = PORT;
    [(1, FORMERR), (28, REFUSED), (16, 0)].into_iter().fold(exchange, |exchange, (qtype, rcode)| {
        let tcp = Transport::TRANSPORT_TCP.0;
        exchange.count(CounterKind::COUNTER_DNS_QUERIES, 0, tcp, qtype, 1).count(
            CounterKind::COUNTER_DNS_RESPONSES,
            rcode.into(),
            tcp,
            qtype,
            1,
        )
    })
}

/// A message behind its length; `more` stands for the sections behind the question.
fn message(id: u16, flags: u16, name: &[&str], qtype: u16, more: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [id, flags, 1, 0, 0, u16::from(!more.is_empty())] {
        bytes.extend(word.to_be_bytes());
    }
    for label in name {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(qtype.to_be_bytes());
    bytes.extend(1u16.to_be_bytes());
    bytes.extend(more);
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
}

//! DNS over UDP.

use weir::telemetry::wire::{CounterKind, HistogramKind, Role};

use crate::{
    frame::{self, v4, v6},
    kernel::{Counts, Kernel},
};

const A: u16 = 1;
const AAAA: u16 = 28;
const NXDOMAIN: u16 = 3;

pub fn message(id: u16, flags: u16, name: &[&str], qtype: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [id, flags, 1, 0, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    for label in name {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(qtype.to_be_bytes());
    bytes.extend(1u16.to_be_bytes());
    bytes
}

#[test]
fn queries_and_responses_by_type_and_code_in_both_roles() {
    let kernel = Kernel::new();
    let mut expected = Counts::default();
    for (role, n) in [(Role::ROLE_CLIENT, 3u16), (Role::ROLE_SERVER, 2)] {
        for id in 0..n {
            for (qtype, rcode) in [(A, 0), (AAAA, NXDOMAIN)] {
                let (asks, serves) = (v4(2, 5000 + id), v4(9, 53));
                let query =
                    frame::udp(asks, serves, &message(id, 0x0100, &["example", "org"], qtype));
                let response = frame::udp(
                    serves,
                    asks,
                    &message(id, 0x8180 | rcode, &["example", "org"], qtype),
                );
                if role == Role::ROLE_CLIENT {
                    kernel.leave_pod(&query);
                    kernel.enter_pod(&response);
                } else {
                    kernel.enter_pod(&query);
                    kernel.leave_pod(&response);
                }
                let role = u8::try_from(role.0).unwrap();
                expected.add(CounterKind::COUNTER_DNS_QUERIES, role, 0, 0, qtype, 1);
                expected.add(CounterKind::COUNTER_DNS_RESPONSES, role, rcode.into(), 0, qtype, 1);
            }
        }
    }
    assert_eq!(kernel.counts(), expected);
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_DNS_LOOKUP), 10);
}

#[test]
fn a_query_sent_again_is_two_queries_and_one_look_up() {
    let kernel = Kernel::new();
    let query = frame::udp(v6(2, 5000), v6(9, 53), &message(7, 0x0100, &["a"], A));
    let response = frame::udp(v6(9, 53), v6(2, 5000), &message(7, 0x8180, &["a"], A));
    kernel.leave_pod(&query);
    kernel.leave_pod(&query);
    kernel.enter_pod(&response);
    kernel.enter_pod(&response);
    let counts = kernel.counts();
    assert_eq!(counts.of(CounterKind::COUNTER_DNS_QUERIES), 2);
    assert_eq!(counts.of(CounterKind::COUNTER_DNS_RESPONSES), 1);
    assert_eq!(counts.of(CounterKind::COUNTER_DNS_UNMATCHED), 1);
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_DNS_LOOKUP), 1);
}

#[test]
fn every_cut_of_a_query_is_malformed_and_the_longest_name_is_not() {
    let kernel = Kernel::new();
    let whole = message(7, 0x0100, &["example", "org"], A);
    for cut in 0..whole.len() {
        kernel.leave_pod(&frame::udp(v4(2, 5000), v4(9, 53), &whole[..cut]));
    }
    let counts = kernel.counts();
    assert_eq!(counts.of(CounterKind::COUNTER_DNS_MALFORMED), whole.len() as u64);
    assert_eq!(counts.of(CounterKind::COUNTER_DNS_QUERIES), 0);

    // 253 characters: three labels of 63 and one of 61 make the 255 bytes of RFC 1035, 2.3.4.
    let (long, last) = ("x".repeat(63), "y".repeat(61));
    let name = message(8, 0x0100, &[&long, &long, &long, &last], AAAA);
    kernel.leave_pod(&frame::udp(v4(2, 5000), v4(9, 53), &name));
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_DNS_QUERIES), 1);
    let too_long = message(9, 0x0100, &[&long, &long, &long, &long], AAAA);
    kernel.leave_pod(&frame::udp(v4(2, 5000), v4(9, 53), &too_long));
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_DNS_QUERIES), 1);
}

#[test]
fn a_table_full_of_the_unanswered_makes_room_without_an_agent() {
    let kernel = Kernel::new();
    let ask = |port: u16, id: u16| {
        let query = message(id, 0x0100, &["a"], A);
        kernel.leave_pod(&frame::udp(v4(2, port), v4(9, 53), &query));
    };
    let capacity =
        kernel.snapshot().maps.iter().find(|m| m.name == "dns_pending").unwrap().capacity;
    for id in 0..u16::try_from(capacity).unwrap() {
        ask(5000, id);
    }
    // DNS_TIMEOUT_S of wire.h, and what the fill itself took.
    std::thread::sleep(std::time::Duration::from_secs(6));
    // The query that finds no place makes the room for the next.
    ask(5002, 1);
    ask(5001, 1);
    let response = message(1, 0x8180, &["a"], A);
    kernel.enter_pod(&frame::udp(v4(9, 53), v4(2, 5001), &response));
    let counts = kernel.counts();
    assert_eq!(counts.of(CounterKind::COUNTER_DNS_RESPONSES), 1);
    assert_eq!(counts.of(CounterKind::COUNTER_DNS_UNMATCHED), 0);
    assert!(counts.of(CounterKind::COUNTER_DNS_TIMEOUTS) > 0);
}

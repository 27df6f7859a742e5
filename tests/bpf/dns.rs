//! DNS over UDP.

use std::time::Duration;

use weir::telemetry::wire::{CounterKind, HistogramKind, L7Protocol, Role, Stat, Transport};

use crate::{
    frame::{self, v4, v6},
    kernel::{Counts, Kernel},
    share::{assert_balanced, elements, stat},
    stream::{Side, Stream},
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

/// A resolver may ask from the port that it answers at.
#[test]
fn between_two_servers_the_message_says_who_asks() {
    let kernel = Kernel::new();
    let (here, there) = (v4(2, 53), v4(9, 53));
    let mut expected = Counts::default();
    for (id, role) in [(1, Role::ROLE_CLIENT), (2, Role::ROLE_SERVER)] {
        let (asks, serves) = if role == Role::ROLE_CLIENT { (here, there) } else { (there, here) };
        let query = frame::udp(asks, serves, &message(id, 0x0100, &["a"], A));
        let response = frame::udp(serves, asks, &message(id, 0x8180, &["a"], A));
        kernel.pass(0, role == Role::ROLE_CLIENT, &query);
        kernel.pass(0, role == Role::ROLE_SERVER, &response);
        let role = u8::try_from(role.0).unwrap();
        expected.add(CounterKind::COUNTER_DNS_QUERIES, role, 0, 0, A, 1);
        expected.add(CounterKind::COUNTER_DNS_RESPONSES, role, 0, 0, A, 1);
    }
    assert_eq!(kernel.counts(), expected);
}

/// Each chooses its ids by itself, so that both may have the same under way.
#[test]
fn two_servers_that_ask_each_other_with_one_id_are_two_look_ups() {
    let kernel = Kernel::new();
    let (here, there) = (v4(2, 53), v4(9, 53));
    let query = message(7, 0x0100, &["a"], A);
    kernel.leave_pod(&frame::udp(here, there, &query));
    kernel.enter_pod(&frame::udp(there, here, &query));
    assert_eq!(elements(&kernel, "dns_pending"), 2);
    kernel.leave_pod(&frame::udp(here, there, &message(7, 0x8183, &["a"], A)));
    kernel.enter_pod(&frame::udp(there, here, &message(7, 0x8180, &["a"], A)));
    let mut expected = Counts::default();
    for (role, rcode) in [(Role::ROLE_CLIENT, 0), (Role::ROLE_SERVER, 3)] {
        let role = u8::try_from(role.0).unwrap();
        expected.add(CounterKind::COUNTER_DNS_QUERIES, role, 0, 0, A, 1);
        expected.add(CounterKind::COUNTER_DNS_RESPONSES, role, rcode, 0, A, 1);
    }
    assert_eq!(kernel.counts(), expected);
    assert_balanced(&kernel);
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
    // DNS_TIMEOUT_S of sweep.h, and what the fill itself took.
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

/// A response that refuses without repeating the question; `more` stands for what is behind the header.
fn refusal(id: u16, rcode: u16, more: &[u8]) -> Vec<u8> {
    let counts = [id, 0x8080 | rcode, 0, 0, 0, u16::from(!more.is_empty())];
    counts.into_iter().flat_map(u16::to_be_bytes).chain(more.iter().copied()).collect()
}

/// RFC 6891's record without options.
const OPT: [u8; 11] = [0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0];

/// Both ends of a look-up: who asks, and who is asked, at the pod that has this role.
struct Ends<'k> {
    kernel: &'k Kernel,
    role: Role,
    asks: frame::End,
    serves: frame::End,
}

impl Ends<'_> {
    fn ask(&self, id: u16, qtype: u16) {
        let query = message(id, 0x0100, &["example", "org"], qtype);
        let client = self.role == Role::ROLE_CLIENT;
        self.kernel.pass(0, client, &frame::udp(self.asks, self.serves, &query));
    }

    fn answer(&self, message: &[u8]) {
        let client = self.role == Role::ROLE_CLIENT;
        self.kernel.pass(0, !client, &frame::udp(self.serves, self.asks, message));
    }
}

fn both_roles(kernel: &Kernel) -> [Ends<'_>; 2] {
    let ends = |role, asks, serves| Ends { kernel, role, asks, serves };
    [
        ends(Role::ROLE_CLIENT, v4(2, 5000), v4(9, 53)),
        ends(Role::ROLE_SERVER, v6(9, 5000), v6(2, 53)),
    ]
}

/// RFC 9619, 3: who can't make sense of a query, or wants none, need not say of which it was.
#[test]
fn a_refusal_without_the_question_is_the_answer_to_the_query_of_its_id() {
    const CODES: [u16; 6] = [0, 1, 2, 4, 5, 9];
    let kernel = Kernel::new();
    let mut expected = Counts::default();
    for ends in both_roles(&kernel) {
        let role = u8::try_from(ends.role.0).unwrap();
        for (id, rcode) in (7..).zip(CODES) {
            for (qtype, more) in [(A, &[][..]), (AAAA, &OPT)] {
                ends.ask(id, qtype);
                ends.answer(&refusal(id, rcode, more));
                expected.add(CounterKind::COUNTER_DNS_QUERIES, role, 0, 0, qtype, 1);
                expected.add(CounterKind::COUNTER_DNS_RESPONSES, role, rcode.into(), 0, qtype, 1);
                assert_eq!(elements(&kernel, "dns_pending"), 0);
            }
        }
    }
    assert_eq!(kernel.counts(), expected);
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_DNS_LOOKUP), 24);
    assert_balanced(&kernel);
}

/// It takes the ends and the id, as with any answer; and one is enough.
#[test]
fn a_refusal_from_elsewhere_or_of_another_id_or_too_late_answers_nothing() {
    let kernel = Kernel::new();
    let mut expected = Counts::default();
    for ends in both_roles(&kernel) {
        let role = u8::try_from(ends.role.0).unwrap();
        let other = |asks, serves| Ends { kernel: &kernel, role: ends.role, asks, serves };
        let (asks, serves) = (ends.asks, ends.serves);
        let port = frame::End { port: asks.port + 1, ..asks };
        let stranger = if asks.addr.is_ipv4() { v4(8, 53) } else { v6(8, 5000) };
        let from_elsewhere =
            if ends.role == Role::ROLE_CLIENT { (asks, stranger) } else { (stranger, serves) };
        ends.ask(7, A);
        ends.answer(&refusal(8, 5, &[]));
        other(port, serves).answer(&refusal(7, 5, &[]));
        other(from_elsewhere.0, from_elsewhere.1).answer(&refusal(7, 5, &[]));
        assert_eq!(elements(&kernel, "dns_pending"), 1);
        ends.answer(&refusal(7, 5, &[]));
        assert_eq!(elements(&kernel, "dns_pending"), 0);
        // Again, and what it was taken for.
        ends.answer(&refusal(7, 5, &[]));
        ends.answer(&message(7, 0x8180, &["example", "org"], A));
        expected.add(CounterKind::COUNTER_DNS_QUERIES, role, 0, 0, A, 1);
        expected.add(CounterKind::COUNTER_DNS_RESPONSES, role, 5, 0, A, 1);
        expected.add(CounterKind::COUNTER_DNS_UNMATCHED, role, 0, 0, 0, 5);
        // Only a response may do without: neither a query, nor one with more questions than one.
        let query = |mut message: Vec<u8>, questions: u8| {
            message[2] = 1;
            message[5] = questions;
            message
        };
        let client = ends.role == Role::ROLE_CLIENT;
        for bytes in [query(refusal(7, 0, &[]), 0), query(message(7, 0, &["a"], A), 2)] {
            kernel.pass(0, client, &frame::udp(asks, serves, &bytes));
        }
        let mut two = message(7, 0x8180, &["a"], A);
        two[5] = 2;
        ends.answer(&two);
        ends.answer(&refusal(7, 5, &[])[..11]);
        expected.add(CounterKind::COUNTER_DNS_MALFORMED, role, 0, 0, 0, 4);
    }
    assert_eq!(kernel.counts(), expected);
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_DNS_LOOKUP), 2);
    assert_balanced(&kernel);
}

/// Nothing forbids a client to ask two questions under one id: each has its answer.
#[test]
fn two_questions_of_one_id_have_two_answers() {
    let kernel = Kernel::new();
    let mut expected = Counts::default();
    let answer = |qtype| message(7, 0x8180, &["example", "org"], qtype);
    for ends in both_roles(&kernel) {
        let role = u8::try_from(ends.role.0).unwrap();
        let mut answered = |qtype, rcode, n| {
            expected.add(CounterKind::COUNTER_DNS_RESPONSES, role, rcode, 0, qtype, n);
        };
        for (first, second) in [(A, AAAA), (AAAA, A)] {
            // In either order, with a query that comes again when the first was answered.
            ends.ask(7, first);
            ends.ask(7, second);
            ends.ask(7, second);
            assert_eq!(elements(&kernel, "dns_pending"), 2);
            ends.answer(&answer(first));
            ends.ask(7, second);
            assert_eq!(elements(&kernel, "dns_pending"), 1);
            ends.answer(&answer(second));
            ends.ask(7, second);
            ends.ask(7, first);
            ends.answer(&answer(first));
            ends.answer(&refusal(7, 5, &[]));
            assert_eq!(elements(&kernel, "dns_pending"), 0);
            answered(first, 0, 2);
            answered(second, 0, 1);
            answered(second, 5, 1);
        }
        expected.add(CounterKind::COUNTER_DNS_QUERIES, role, 0, 0, A, 6);
        expected.add(CounterKind::COUNTER_DNS_QUERIES, role, 0, 0, AAAA, 6);
        // A third at once has no place, which is told of.
        ends.ask(7, A);
        ends.ask(7, AAAA);
        let before = stat(&kernel, Stat::STAT_FULL_DNS);
        ends.ask(7, 16);
        assert_eq!(stat(&kernel, Stat::STAT_FULL_DNS), before + 1);
        [A, AAAA, 16].into_iter().for_each(|qtype| ends.answer(&answer(qtype)));
        for qtype in [A, AAAA, 16] {
            expected.add(CounterKind::COUNTER_DNS_QUERIES, role, 0, 0, qtype, 1);
        }
        expected.add(CounterKind::COUNTER_DNS_RESPONSES, role, 0, 0, A, 1);
        expected.add(CounterKind::COUNTER_DNS_RESPONSES, role, 0, 0, AAAA, 1);
        expected.add(CounterKind::COUNTER_DNS_UNMATCHED, role, 0, 0, 0, 1);
    }
    assert_eq!(kernel.counts(), expected);
    assert_balanced(&kernel);
}

/// Which of two a refusal without the question means it doesn't say; the one that is left may be either.
#[test]
fn of_two_questions_of_one_id_a_refusal_without_one_is_neithers() {
    let kernel = Kernel::new();
    let mut expected = Counts::default();
    let answer = |qtype| message(7, 0x8180, &["example", "org"], qtype);
    for ends in both_roles(&kernel) {
        let role = u8::try_from(ends.role.0).unwrap();
        let mut add = |kind, rcode: u32, qtype, n| expected.add(kind, role, rcode, 0, qtype, n);
        for (first, second) in [(A, AAAA), (AAAA, A)] {
            let ask_both = || [first, second].into_iter().for_each(|qtype| ends.ask(7, qtype));
            // The second is refused so, too.
            ask_both();
            ends.answer(&refusal(7, 5, &[]));
            assert_eq!(elements(&kernel, "dns_pending"), 1);
            ends.answer(&refusal(7, 2, &[]));
            assert_eq!(elements(&kernel, "dns_pending"), 0);
            // It has an answer, whichever it is.
            for answered in [first, second] {
                ask_both();
                ends.answer(&refusal(7, 5, &[]));
                ends.answer(&answer(answered));
                assert_eq!(elements(&kernel, "dns_pending"), 0);
                add(CounterKind::COUNTER_DNS_RESPONSES, 0, answered, 1);
            }
            // It is asked again, and still one.
            ask_both();
            ends.answer(&refusal(7, 5, &[]));
            ends.ask(7, second);
            assert_eq!(elements(&kernel, "dns_pending"), 1);
            ends.answer(&answer(second));
            assert_eq!(elements(&kernel, "dns_pending"), 0);
            add(CounterKind::COUNTER_DNS_RESPONSES, 0, second, 1);
            add(CounterKind::COUNTER_DNS_RESPONSES, 5, 0, 4);
            add(CounterKind::COUNTER_DNS_RESPONSES, 2, 0, 1);
            add(CounterKind::COUNTER_DNS_QUERIES, 0, first, 4);
            add(CounterKind::COUNTER_DNS_QUERIES, 0, second, 5);
        }
    }
    assert_eq!(kernel.counts(), expected);
    assert_balanced(&kernel);
}

/// Of `wire.h`, in seconds.
const TIMEOUT_S: u64 = 5;

/// What a loaded machine may need between two lines of a test, in seconds.
const SLACK: u64 = 2;

/// One for each query, however often it was asked, to the pod that asked or was asked.
#[test]
fn a_query_times_out_once_at_its_time_and_not_before() {
    let kernel = Kernel::new();
    let mut expected = Counts::default();
    for ends in both_roles(&kernel) {
        let role = u8::try_from(ends.role.0).unwrap();
        let sweep = || kernel.maps.sweep(Duration::from_secs(60)).unwrap();
        let asks = frame::End { port: 5001, ..ends.asks };
        let mut over_tcp = Stream::open(&kernel, ends.role, asks, ends.serves);
        let query = message(7, 0x0100, &["example", "org"], A);
        let length = u16::try_from(query.len()).unwrap().to_be_bytes();
        over_tcp.send(Side::Client, &[&length[..], &query].concat());
        [(7, A), (7, AAAA), (8, A), (9, A), (9, A)].into_iter().for_each(|it| ends.ask(it.0, it.1));
        ends.answer(&message(8, 0x8180, &["example", "org"], A));
        assert_eq!(elements(&kernel, "dns_pending"), 4);
        kernel.age_queries_by(TIMEOUT_S - SLACK);
        sweep();
        assert_eq!(
            kernel.counts().of(CounterKind::COUNTER_DNS_TIMEOUTS),
            expected.of(CounterKind::COUNTER_DNS_TIMEOUTS)
        );
        assert_eq!(elements(&kernel, "dns_pending"), 4);
        // Asked again it is as old as it was, and a younger one has its time before it.
        kernel.age_queries_by(SLACK);
        ends.ask(9, A);
        ends.ask(10, A);
        sweep();
        assert_eq!(elements(&kernel, "dns_pending"), 1);
        sweep();
        // Answers that are too late, and one that is not.
        for (id, qtype) in [(7, A), (7, AAAA), (9, A), (10, A)] {
            ends.answer(&message(id, 0x8180, &["example", "org"], qtype));
        }
        over_tcp.reset(Side::Client);
        let mut add =
            |kind, a, transport: Transport, c, n| expected.add(kind, role, a, transport.0, c, n);
        let (udp, tcp) = (Transport::TRANSPORT_UDP, Transport::TRANSPORT_TCP);
        add(CounterKind::COUNTER_L7_CONNECTIONS, L7Protocol::L7_DNS.0, udp, 0, 1);
        add(CounterKind::COUNTER_DNS_QUERIES, 0, tcp, A, 1);
        add(CounterKind::COUNTER_DNS_TIMEOUTS, 0, tcp, 0, 1);
        add(CounterKind::COUNTER_DNS_QUERIES, 0, udp, A, 6);
        add(CounterKind::COUNTER_DNS_QUERIES, 0, udp, AAAA, 1);
        add(CounterKind::COUNTER_DNS_RESPONSES, 0, udp, A, 2);
        add(CounterKind::COUNTER_DNS_TIMEOUTS, 0, udp, 0, 3);
        add(CounterKind::COUNTER_DNS_UNMATCHED, 0, udp, 0, 3);
        assert_eq!(kernel.counts().above_tcp(), expected);
    }
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_DNS_LOOKUP), 4);
    assert_balanced(&kernel);
}

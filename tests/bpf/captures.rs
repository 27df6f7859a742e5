//! What other protocols' own programs say, as it was captured: `captures/README.md`.

use weir::telemetry::wire::{L7Protocol, Role};

use crate::{
    confusion::Listener,
    exchange::Exchange,
    stream::Side::{self, Client, Server},
};

/// As on a wire with Ethernet's usual MTU.
const SEGMENT: usize = 1448;

const CAPTURES: [(&str, &str); 7] = [
    ("SSH", include_str!("captures/ssh.txt")),
    ("MQTT 3.1.1, published", include_str!("captures/mqtt-3.1.1-publish.txt")),
    ("MQTT 3.1.1, subscribed", include_str!("captures/mqtt-3.1.1-subscribe.txt")),
    ("MQTT 5, published", include_str!("captures/mqtt-5-publish.txt")),
    ("MQTT 5, subscribed", include_str!("captures/mqtt-5-subscribe.txt")),
    ("AMQP 0-9-1", include_str!("captures/amqp-0-9-1.txt")),
    ("AMQP 1.0", include_str!("captures/amqp-1.0.txt")),
];

/// Who says what, in this order.
pub fn turns(text: &str) -> Vec<(Side, Vec<u8>)> {
    let mut turns: Vec<(Side, Vec<u8>)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line {
            "C" => turns.push((Client, Vec::new())),
            "S" => turns.push((Server, Vec::new())),
            hex => {
                let bytes = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
                let (_, said) = turns.last_mut().unwrap();
                said.extend(bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
            }
        }
    }
    turns
}

/// All of them; of what both sides say at once in either order.
pub fn exchanges() -> Vec<Exchange> {
    let mut all: Vec<_> = CAPTURES
        .iter()
        .map(|(name, text)| Exchange::of(name, turns(text), L7Protocol::L7_UNKNOWN))
        .collect();
    let mut ssh = turns(CAPTURES[0].1);
    ssh.swap(0, 1);
    all.push(Exchange::of("SSH, the server first", ssh, L7Protocol::L7_UNKNOWN));
    all
}

/// The turns in segments, with one of them cut at `cut`.
fn segments(exchange: &Exchange, (turn, cut): (usize, usize)) -> Vec<(Side, Vec<u8>)> {
    let mut segments = Vec::new();
    for (at, (side, bytes)) in exchange.turns.iter().enumerate() {
        let (first, second) = bytes.split_at(if at == turn { cut } else { 0 });
        let both = first.chunks(SEGMENT).chain(second.chunks(SEGMENT));
        segments.extend(both.map(|bytes| (*side, bytes.to_vec())));
    }
    segments
}

#[test]
fn however_it_is_cut_nothing_is_counted_but_an_unknown_protocol() {
    let mut listener = Listener::new();
    let mut hear = |exchange: &Exchange, how: &str, segments: &[(Side, Vec<u8>)]| {
        let counts = listener.hear(80, segments).above_tcp();
        assert_eq!(counts, exchange.expected(Role::ROLE_SERVER), "{} {how}", exchange.name);
    };
    for exchange in exchanges() {
        let bytewise: Vec<_> = exchange
            .turns
            .iter()
            .flat_map(|(side, bytes)| bytes.iter().map(|byte| (*side, vec![*byte])))
            .collect();
        hear(&exchange, "bytewise", &bytewise);
        for (turn, (_, bytes)) in exchange.turns.iter().enumerate() {
            // What comes late is not even looked at.
            for cut in (1..bytes.len()).step_by(if turn < 2 { 1 } else { 31 }) {
                let how = format!("with turn {turn} cut at {cut}");
                hear(&exchange, &how, &segments(&exchange, (turn, cut)));
            }
        }
    }
}

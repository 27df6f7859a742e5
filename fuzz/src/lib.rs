//! What reads bytes that pods, runtimes, other plugins, other versions and clients write: each decoder
//! with what it is begun from, and what must be true of it whatever it is given.
//!
//! `tests/decoders.rs` runs them on stable Rust; `coverage/` is the same for cargo-fuzz.

pub mod mutate;
mod seeds;

use weir::fuzzing;

/// A decoder under test.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    /// Its name, and that of its directory in `corpus/`.
    pub name: &'static str,
    /// Bytes that it accepts.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Decodes, and asserts what must be true.
    pub run: fn(&[u8]),
}

/// All of them.
pub const DECODERS: &[Decoder] = &[
    Decoder { name: "ring", seeds: seeds::ring, run: ring },
    Decoder { name: "stdin", seeds: seeds::stdin, run: stdin },
    Decoder { name: "args", seeds: seeds::args, run: fuzzing::args },
    Decoder { name: "delegate", seeds: seeds::delegate, run: fuzzing::delegate },
    Decoder { name: "record", seeds: seeds::record, run: fuzzing::record },
    Decoder { name: "query", seeds: seeds::query, run: query },
    Decoder { name: "events", seeds: seeds::events, run: events },
    Decoder { name: "accept", seeds: seeds::accept, run: fuzzing::accept },
    Decoder { name: "conflist", seeds: seeds::conflist, run: conflist },
    Decoder { name: "overview", seeds: seeds::overview, run: overview },
    Decoder { name: "receiver", seeds: seeds::receiver, run: receiver },
    Decoder { name: "resolv", seeds: seeds::resolv, run: fuzzing::resolv },
];

fn ring(bytes: &[u8]) {
    fuzzing::ring(bytes).iter().for_each(|line| is_one_line(line));
}

fn events(bytes: &[u8]) {
    fuzzing::events(bytes).iter().for_each(|line| is_one_line(line));
}

/// Nothing of a pod ends a line early or is obeyed by a terminal.
fn is_one_line(line: &str) {
    let text = line.strip_suffix('\n').unwrap_or_default();
    assert!(!text.is_empty() && !text.contains(char::is_control), "{line:?}");
}

/// An error has words.
fn stdin(bytes: &[u8]) {
    if let Err(err) = fuzzing::stdin(bytes) {
        assert!(!err.to_string().is_empty(), "an error without a word");
    }
}

fn conflist(bytes: &[u8]) {
    let _ = fuzzing::conflist(bytes);
}

fn overview(bytes: &[u8]) {
    let _ = fuzzing::overview(bytes);
}

/// What it refused is not less than nothing.
fn receiver(bytes: &[u8]) {
    assert!(i64::try_from(fuzzing::receiver(bytes)).is_ok());
}

fn query(bytes: &[u8]) {
    if let Some((written, again)) = fuzzing::query(bytes) {
        assert_eq!(written, again, "a query changes when it is read again");
    }
}

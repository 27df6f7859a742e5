//! A fault campaign: pods come and go at a node whose calls are killed, whose namespaces vanish, whose
//! records and leases are spoilt, whose state dir fills up and whose clock jumps, while pods talk, the
//! programs are swapped and the agent is killed. After each round there must be what the living need, and
//! nothing else; at its end every request is counted that a pod's server counted itself.
//!
//! A short one with a fixed seed runs with the other tests; `make torture` runs a long one
//! (`WEIR_TORTURE=1`), of 100 pods. `WEIR_TORTURE_SECONDS` bounds it, `WEIR_TORTURE_SEED` and
//! `WEIR_TORTURE_ROUND` begin at a round of a seed, which are printed at the start and with a failure.
//! The same seed and round draw the same calls and faults; how they meet in time is the machine's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test ends at the first surprise"
)]

mod campaign;
mod chores;
mod dice;
mod ground;
mod http;
mod maps;
mod page;
mod place;
mod plan;
mod pod;
mod sight;
mod traffic;

#[path = "../netns/node.rs"]
#[allow(dead_code, reason = "the language has words that this test doesn't need")]
mod node;
#[path = "../netns/plugin.rs"]
#[allow(dead_code, reason = "the language has words that this test doesn't need")]
mod plugin;

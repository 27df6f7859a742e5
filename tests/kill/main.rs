//! A call may be killed, and any system call of it may fail: whatever was made by then is gone after
//! the next DEL, GC, reconciliation, or ADD that needs the address, and whoever reads stdout is told.
//!
//! `strace` strikes one system call of a call at a time: all of them by `WEIR_TORTURE=1` (`make torture-kill`),
//! else a sample, the same in each run. `WEIR_SEED`, which is printed, draws another; the weekly run of the
//! workflow strikes all. `WEIR_STRIKE=N` goes on with a test where it ended before.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test ends at the first surprise"
)]

mod add;
mod del;
mod finish;
mod gc;
mod ground;
mod strike;

#[path = "../netns/node.rs"]
#[allow(dead_code, reason = "the language has words that this test doesn't need")]
mod node;
#[path = "../netns/plugin.rs"]
#[allow(dead_code, reason = "the language has words that this test doesn't need")]
mod plugin;

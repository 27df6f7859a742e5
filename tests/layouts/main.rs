//! An upgrade to a version whose maps have another layout, and the way back: both versions are built
//! from this tree, and pods go from one to the other while their traffic is counted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test ends at the first surprise"
)]

mod agents;
#[path = "../netns/exchanges.rs"]
mod exchanges;
mod killed;
#[path = "../netns/node.rs"]
#[allow(dead_code, reason = "the language has words that this test doesn't need")]
mod node;
#[path = "../netns/plugin.rs"]
#[allow(dead_code, reason = "the language has words that this test doesn't need")]
mod plugin;
mod refused;
mod short;
mod torn;
mod totals;
mod upgrade;
mod version;

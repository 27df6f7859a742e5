//! What needs root, namespaces and the kernel: one module a subject, on the small language of
//! [`node`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test ends at the first surprise"
)]

mod add;
mod allocator;
mod answer;
mod aside;
mod bad_input;
mod bandwidth;
mod chained;
mod check;
mod counted;
mod crowd;
mod cut_off;
mod del;
mod delegated;
mod delegated_gc;
mod disaster;
mod durable;
mod example_lists;
mod exchanges;
mod flushed;
mod gc;
mod handed_on;
mod held_pins;
mod install;
mod libcni;
mod lists;
mod misspelt;
mod modes;
mod net_apply;
mod net_check;
mod net_nft;
mod networkd;
mod node;
mod old_records;
mod outlived;
mod overlap;
mod plugin;
mod ports;
mod ports_owned;
mod reconcile;
mod reconcile_unit;
mod references;
mod reload;
mod sctp;
mod status;
mod tenants;
mod torn;
mod unit;

//! `weir agent` as a scraper, a person and an attacker meet it: the real binary in a network and mount
//! namespace of its own, its pages read over real sockets, its maps on a bpffs of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

mod began;
mod bounds;
mod browser;
mod churn;
mod dashboard;
mod doctor;
mod due;
mod fill;
mod flavors;
mod flows;
mod held;
mod http;
mod keyboard;
mod lasting;
mod lifecycle;
mod names;
mod native;
mod node;
mod observe;
mod otlp;
mod otlp_pods;
mod otlp_receiver;
mod page;
mod pages;
mod plumbed;
mod privilege;
mod prometheus;
mod reading;
mod relay;
mod resume;
mod screen;
mod top;
mod traffic;
#[path = "../netns/unit.rs"]
mod unit;

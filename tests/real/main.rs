//! Real servers and their real clients, from pod to pod: what is exposed is what the server counted
//! itself. Needs root; nothing listens outside of the tests' own namespaces.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test ends at the first surprise"
)]

mod counts;
mod curl;
mod dns;
mod grpc;
mod grpc_service;
mod http1;
mod http2;
mod mariadb;
mod nginx;
mod pair;
mod postgresql;
mod redis;
mod tls;
mod upgrade;

#[path = "../netns/node.rs"]
#[allow(dead_code, reason = "the language has words that this test doesn't need")]
mod node;
#[path = "../netns/plugin.rs"]
#[allow(dead_code, reason = "the language has words that this test doesn't need")]
mod plugin;

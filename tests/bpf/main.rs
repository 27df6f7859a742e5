//! The BPF programs through `BPF_PROG_TEST_RUN`: crafted frames in, pinned maps out.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a failed step fails the test

mod captures;
mod compilers;
mod confusion;
mod databases;
mod dns;
mod dns_tcp_cases;
mod durations;
mod exchange;
mod flood;
mod forged;
mod frame;
mod gaps;
mod handshake;
mod headers;
mod hold;
mod hook;
mod hostile;
mod http;
mod http1_cases;
mod http2_cases;
mod http2_end_cases;
mod http2_identity_cases;
mod kafka_cases;
mod kernel;
mod leak;
mod malformed_cases;
mod memory;
mod mysql_cases;
mod parallel;
mod postgresql_cases;
#[path = "../../benches/program.rs"]
mod program;
mod recorded;
mod records;
mod redis_cases;
mod reload;
mod resync;
mod share;
mod split;
mod steps;
mod stream;
mod tcp;
mod timeout;
mod tls_cases;
mod verified;

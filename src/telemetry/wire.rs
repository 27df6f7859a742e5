//! The types of `bpf/wire.h` as the skeleton generated them, under their Rust names.

#[allow(
    missing_docs,
    missing_debug_implementations,
    unsafe_code,
    rust_2018_idioms,
    clippy::all,
    clippy::cast_possible_truncation,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::use_self
)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/weir.skel.rs"));
}

pub use skeleton::WeirSkelBuilder;
pub use skeleton::types::{
    attach_mode as AttachMode, attachment as RawAttachment, counter_key as CounterKey,
    counter_kind as CounterKind, direction as Direction, family as Family, histogram as Histogram,
    histogram_key as HistogramKey, histogram_kind as HistogramKind, http_error as HttpError,
    http_method as HttpMethod, http_version as HttpVersion, l7_protocol as L7Protocol,
    net_counter as NetCounter, pod_traffic as PodTraffic, role as Role, stat as Stat,
    tcp_result as TcpResult, transport as Transport,
};

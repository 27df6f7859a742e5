//! Real runtimes on a node of the test's own: containerd over the CRI, podman with its CNI backend.
//!
//! Each brings pods up with weir, moves traffic, reads the pods' metrics by their names from the agent,
//! and leaves the node as it was. The tests need Debian's containerd, runc and podman, see `.ci/deps`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test ends at the first surprise"
)]

mod cgroup;
mod containerd;
mod cri;
mod daemon;
mod image;
mod metrics;
mod node;
mod podman;

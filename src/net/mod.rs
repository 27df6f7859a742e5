//! The pod's network: what must exist, and the kernel calls that make, check and remove it.
//!
//! A pod is *routed*: it holds its addresses as /32 and /128, its gateway is a link-local address
//! behind permanent neighbour entries on both sides, and the node has one route per address. No
//! bridge, no proxy ARP, no ARP traffic.
//!
//! [`plan`] is pure and decides everything; [`create`] and [`Pair::connect`] make it so,
//! [`compare`](fn@compare) tells what differs, [`remove`] takes it away. [`nft`] masquerades whole networks, not pods.
//!
//! Every kernel object of the pod's network hangs on the veth pair: with it go its addresses,
//! routes and neighbours, so that one deletion undoes an ADD at whatever point it stopped.

pub mod address;
pub mod apply;
mod aside;
pub mod claim;
pub mod compare;
pub mod conntrack;
pub mod link;
pub mod mac;
pub mod mtu;
pub mod names;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod peer;
pub mod plan;
pub mod qdisc;
mod removal;
pub mod route;
pub mod sysctl;
pub mod undo;

pub use apply::{Links, Pair, create};
pub use claim::Claims;
pub use compare::compare;
pub use link::remove;
pub use mac::Mac;
pub use mtu::default_mtu;
pub use names::Mark;
pub use netns::{Netns, NetnsId};
pub use peer::host_side;
pub use plan::{Plan, Request};
pub use undo::Undo;

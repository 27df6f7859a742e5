//! What the kernel can do is best told by trying: in a network namespace that no one sees and that
//! ends with the thread that made it.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sched::{CloneFlags, unshare};

use crate::{
    error::{Context, Error, Kind, Result},
    net::{
        netlink::{Ask, Netlink},
        nft,
    },
};

/// `lo` is the first interface of every network namespace.
const LO: i32 = 1;

/// What was tried, and how it went.
#[derive(Debug)]
pub struct Trial {
    /// Adding a clsact qdisc.
    pub clsact: Result<()>,
    /// Making the table and rules that masquerade a network.
    pub masquerade: Result<()>,
}

/// Tries everything. The kernel may load modules for it, as it would for the first pod.
///
/// # Errors
/// [`Kind::Kernel`]: there was no namespace to be had to try it in, which takes root.
pub fn run() -> Result<Trial> {
    let tried = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .context(Kind::Kernel, || "can't make a network namespace to try it in".into())?;
        Ok(Trial { clsact: clsact(), masquerade: masquerade() })
    });
    tried.join().unwrap_or_else(|_| Err(Error::new(Kind::Kernel, "the trial died")))
}

fn clsact() -> Result<()> {
    let mut message = TcMessage::default();
    message.header.index = LO;
    message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    message.header.parent = TcHandle::CLSACT;
    message.attributes.push(TcAttribute::Kind("clsact".into()));
    let add = RouteNetlinkMessage::NewQueueDiscipline(message);
    let ask = Ask::new("add a clsact qdisc", add, NLM_F_CREATE | NLM_F_EXCL);
    Netlink::open(NETLINK_ROUTE)?.exchange(vec![ask])?;
    Ok(())
}

fn masquerade() -> Result<()> {
    let subnets = ["192.0.2.0/24", "2001:db8::/64"].map(str::parse);
    let subnets: Vec<_> = subnets.into_iter().filter_map(|subnet| subnet.ok()).collect();
    nft::masquerade_ensure(&subnets)
}

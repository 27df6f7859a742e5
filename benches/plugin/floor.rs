//! What no plugin can be faster than: the exec of a static executable that does nothing, and of one
//! that only has the kernel make a pod's network.
//!
//! The second sends the very messages that Weir sends for two families with masquerade, and knows
//! beforehand all that Weir reads, allocates and records. Both are this bench's own executable, which
//! is linked as Weir is, started again under a role.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use ipnetwork::IpNetwork;
use weir::{
    attachment::Attachment,
    net::{self, Mark, Netns, Plan, Request, Undo, nft},
    spec::{Address, Route, capability::Bandwidth},
};

use crate::Result;

/// The environment variable that says the role.
pub const ROLE: &str = "WEIR_BENCH_ROLE";
/// Does nothing.
pub const EXEC: &str = "exec";
/// Makes a pair of interfaces, and removes it.
pub const NETLINK: &str = "netlink";

const NETWORK: &str = "floor";
/// What ptp and Weir find out on a node like [`node`](crate::node)'s.
const MTU: u32 = 1500;

/// Plays the role that this process was started for; `None` if it is the bench itself.
pub fn play() -> Option<ExitCode> {
    let role = env::var(ROLE).ok()?;
    let done = if role == NETLINK { netlink() } else { Ok(()) };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("floor: {err}");
            ExitCode::FAILURE
        }
    })
}

fn netlink() -> Result<()> {
    let variable = |name| env::var(name).map_err(|err| format!("{name}: {err}"));
    let attachment = Attachment::new(&variable("CNI_CONTAINERID")?, &variable("CNI_IFNAME")?)?;
    if variable("CNI_COMMAND")? != "ADD" {
        return Ok(net::remove(None, &Mark::new(NETWORK, &attachment), None)?);
    }
    let netns = Netns::open(Path::new(&variable("CNI_NETNS")?))?;
    let address =
        |text: &str| -> Result<_> { Ok(Address { address: text.parse()?, gateway: None }) };
    let addresses = [address("10.86.0.2/16")?, address("fd00:86::2/64")?];
    let routes: Vec<Route> = serde_json::from_str(r#"[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]"#)?;
    let plan = Plan::new(&Request {
        network: NETWORK,
        attachment: &attachment,
        mtu: MTU,
        mac: None,
        addresses: &addresses,
        routes: &routes,
        ports: &[],
        bandwidth: Bandwidth::default(),
    })?;
    let mut undo = Undo::new();
    let pair = net::create(&plan, &netns, &mut undo)?;
    undo.disarm();
    pair.connect()?;
    let subnets: [IpNetwork; 2] = ["10.86.0.0/16".parse()?, "fd00:86::/64".parse()?];
    nft::masquerade_ensure(&subnets)?;
    Ok(())
}

/// This executable.
pub fn executable() -> Result<PathBuf> {
    Ok(env::current_exe()?)
}

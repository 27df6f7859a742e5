//! `weir agent`: the flags of the long-lived half.

use std::net::SocketAddr;

use super::Places;
use crate::{
    agent::{self, Options},
    error::Result,
};

/// Serves what the kernel counted until SIGTERM or SIGINT.
///
/// Nothing depends on it: pods start, stop and are counted without an agent, and an agent that is
/// started late or again shows the same totals.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address and port to serve on; may be given several times
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9920")]
    listen: Vec<SocketAddr>,
    #[command(flatten)]
    places: Places,
}

/// Runs the agent in the foreground.
pub fn run(args: Args) -> Result<()> {
    let Places { state_dir, bpf_dir } = args.places;
    agent::run(Options { listen: args.listen, state_dir, bpf_dir })
}

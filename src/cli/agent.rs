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
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9920", value_parser = listen)]
    listen: Vec<SocketAddr>,
    #[command(flatten)]
    places: Places,
}

/// Names are not looked up: what one means may change, and where an agent can be reached must not.
fn listen(text: &str) -> Result<SocketAddr, String> {
    let hint =
        "an address and a port are needed, such as 127.0.0.1:9920 or [::1]:9920; no host name";
    text.parse().map_err(|_| hint.to_owned())
}

/// Runs the agent in the foreground.
pub fn run(args: Args) -> Result<()> {
    let Places { state_dir, bpf_dir } = args.places;
    agent::run(Options { listen: args.listen, state_dir, bpf_dir })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_is_answered_with_one() {
        assert_eq!(listen("[::1]:80").unwrap(), "[::1]:80".parse().unwrap());
        for text in ["localhost:9920", "9920", ":9920", "127.0.0.1", "::1:9920:", ""] {
            assert!(listen(text).unwrap_err().contains("such as 127.0.0.1:9920"), "{text}");
        }
    }
}

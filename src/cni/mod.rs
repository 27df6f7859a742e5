//! The plugin face: one call of a container runtime (CNI spec 1.1.0), from environment and stdin to
//! the one JSON object on stdout.
//!
//! Raw, then checked, then acted upon: [`request`] and [`config`] refuse what is wrong before
//! anything is touched, each verb is a file, and [`reply`] alone speaks to the runtime.

use std::{
    env,
    io::{self, IsTerminal},
    process::ExitCode,
};

use serde_json::Value;

use crate::{error::Result, spec::Version};

mod add;
pub(crate) mod args;
mod bandwidth;
pub(crate) mod behind;
pub(crate) mod chain;
pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod counting;
mod del;
mod field;
mod gc;
mod ports;
pub mod preview;
pub mod purge;
mod reclaim;
pub mod reconcile;
pub(crate) mod reply;
mod request;
mod status;
mod teardown;
pub(crate) mod wanted;

pub use config::{BPF_DIR, STATE_DIR};

use config::Config;
use request::{Command, Request};

/// A checked call, and what an IPAM plugin gets of it.
#[derive(Debug)]
pub(crate) struct Call {
    request: Request,
    config: Config,
    stdin: Vec<u8>,
}

/// Serves the call that environment and stdin describe. The exit status is 0 or 1, and with 1 comes
/// the spec's error object on stdout.
pub fn run() -> ExitCode {
    reply::answer_panics();
    let input = read();
    let asked = input.as_ref().ok().and_then(|(_, json)| config::version_text(json));
    let asked = asked.map(str::to_owned);
    match serve(input, asked.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            let version = asked.as_deref().and_then(Version::parse).unwrap_or(Version::NEWEST);
            reply::write_error(version, &err);
            ExitCode::FAILURE
        }
    }
}

fn read() -> Result<(Vec<u8>, Value)> {
    // Somebody who tries a verb by hand has nothing to type.
    let stdin = io::stdin();
    let bytes = if stdin.is_terminal() { Vec::new() } else { request::read_stdin(stdin.lock())? };
    let json = config::decode(&bytes)?;
    Ok((bytes, json))
}

fn serve(input: Result<(Vec<u8>, Value)>, asked: Option<&str>) -> Result<()> {
    let request = Request::parse(|name| env::var_os(name))?;
    if request.command == Command::Version {
        return reply::write(&reply::versions(asked));
    }
    let (stdin, json) = input?;
    let (config, places) = Config::parse_apart(json)?;
    let call = Call { request, config, stdin };
    if let Command::Del(attachment) = &call.request.command {
        return del::run(&call, attachment, places).map_err(|err| reply::of_del(&err));
    }
    places?;
    match &call.request.command {
        Command::Add(attachment, netns) => add::run(&call, attachment, netns),
        Command::Check(attachment, netns) => check::run(&call, attachment, netns),
        Command::Gc => gc::run(&call),
        Command::Status => status::run(&call),
        Command::Del(_) | Command::Version => Ok(()),
    }
}

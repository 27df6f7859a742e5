//! The plugin face: one call of a container runtime (CNI spec 1.1.0), from environment and stdin to
//! the one JSON object on stdout.
//!
//! Raw, then checked, then acted upon: [`request`] and [`config`] refuse what is wrong before
//! anything is touched, each verb is a file, and [`reply`] alone speaks to the runtime.

use std::{
    env,
    io::{self, IsTerminal},
    process::ExitCode,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    error::{Error, Kind, Result},
    ipam::delegate::Delegate,
    spec::Version,
};

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
mod keys;
pub mod lacking;
pub mod list;
pub mod mend;
mod ports;
pub mod preview;
pub mod purge;
mod reclaim;
pub mod reconcile;
pub(crate) mod reply;
mod request;
mod status;
pub mod strays;
mod teardown;
pub(crate) mod wanted;

pub use config::{BPF_DIR, STATE_DIR};

use config::Config;
use request::{Command, Request};

/// When the time of all IPAM plugins in one call is over, from its beginning on, waiting for locks included.
/// The first gets half of what is left, so about as long as it would have alone, and an ADD that is refused by a
/// plugin that hangs still ends in a roll-back before the kubelet's two minutes are over.
const PLUGINS: Duration = Duration::from_secs(60);

/// A checked call, and what an IPAM plugin gets of it.
#[derive(Debug)]
pub(crate) struct Call {
    request: Request,
    config: Config,
    stdin: Vec<u8>,
    /// When the time of all IPAM plugins together is over.
    plugins_until: Instant,
}

impl Call {
    /// Finds an IPAM plugin and gives it its time: of what a call has for many, half of what is left, so
    /// that one that hangs leaves some to the others.
    ///
    /// # Errors
    /// As [`Delegate::find`]; [`Kind::TryAgain`]: the time is over.
    fn delegate<'a>(&'a self, plugin: &'a str, config: &'a [u8]) -> Result<Delegate<'a>> {
        let found = Delegate::find(plugin, &self.request.path, config)?;
        match share(self.plugins_until.saturating_duration_since(Instant::now())) {
            Some(share) => Ok(found.within(share)),
            None => {
                let msg = format!(
                    "IPAM plugin {plugin} was not asked: earlier calls of IPAM plugins took all the time; call again"
                );
                Err(Error::new(Kind::TryAgain, msg))
            }
        }
    }
}

/// One plugin's share of the time that is left; none if there is none left.
fn share(left: Duration) -> Option<Duration> {
    /// Any that works needs less.
    const ENOUGH: Duration = Duration::from_secs(1);
    (!left.is_zero()).then(|| (left / 2).max(ENOUGH.min(left)))
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
    let (config, misplaced) = Config::parse_apart(json)?;
    let plugins = if request.command == Command::Gc { gc::PLUGINS } else { PLUGINS };
    let plugins_until = Instant::now() + plugins;
    let call = Call { request, config, stdin, plugins_until };
    if let Command::Del(attachment) = &call.request.command {
        return del::run(&call, attachment, misplaced).map_err(|err| reply::of_del(&err));
    }
    misplaced.into_result()?;
    match &call.request.command {
        Command::Add(attachment, netns) => add::run(&call, attachment, netns),
        Command::Check(attachment, netns) => check::run(&call, attachment, netns),
        Command::Gc => gc::run(&call),
        Command::Status => status::run(&call),
        Command::Del(_) | Command::Version => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_come_to_the_whole_and_to_no_more() {
        let seconds = |of: f64| Duration::from_secs_f64(of);
        assert_eq!(share(seconds(12.0)), Some(seconds(6.0)));
        assert_eq!(share(seconds(1.5)), Some(seconds(1.0)));
        assert_eq!(share(seconds(0.5)), Some(seconds(0.5)));
        assert_eq!(share(Duration::ZERO), None);
        let mut left = seconds(12.0);
        let mut shares = 0;
        while let Some(share) = share(left) {
            left -= share;
            shares += 1;
        }
        assert_eq!(shares, 5);
    }
}

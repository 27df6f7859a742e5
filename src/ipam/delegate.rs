//! Another IPAM plugin answers: found on `CNI_PATH`, run as the spec's "Plugin Delegation" says.
//!
//! It gets our environment and the whole configuration. Its time and its output are bounded; what it
//! says on stderr goes to ours. Its own error, with its own code, is what the caller sees.

use std::{
    env,
    ffi::OsStr,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::Deserialize;

use super::Lease;
use crate::{
    attachment::Attachment,
    error::{Context, Error, Kind, Result},
};

/// Less than any runtime gives us, so that a hanging delegate still ends in an error and a roll-back.
const PATIENCE: Duration = Duration::from_secs(30);
/// An answer is some hundred bytes.
const MAX_OUTPUT: u64 = 1 << 20;

/// An IPAM plugin that was found, and the configuration to call it with.
#[derive(Debug)]
pub struct Delegate<'a> {
    plugin: &'a str,
    file: PathBuf,
    config: &'a [u8],
}

/// The spec's error object.
#[derive(Debug, Deserialize)]
struct Refusal {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: Option<String>,
}

impl<'a> Delegate<'a> {
    /// Searches the directories of `path` (`CNI_PATH`) for a regular file named `plugin`.
    ///
    /// # Errors
    /// [`Kind::Environment`]: no `CNI_PATH`; [`Kind::Config`]: no such file in it.
    pub fn find(plugin: &'a str, path: &OsStr, config: &'a [u8]) -> Result<Self> {
        if path.is_empty() {
            let msg = format!("required env variables [CNI_PATH] missing, to find IPAM {plugin:?}");
            return Err(Error::new(Kind::Environment, msg));
        }
        let found = env::split_paths(path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(plugin))
            .find(|file| file.is_file());
        match found {
            Some(file) => Ok(Self { plugin, file, config }),
            None => {
                let msg = format!("ipam.type is {plugin:?}: no such plugin in CNI_PATH {path:?}");
                Err(Error::new(Kind::Config, msg))
            }
        }
    }

    /// ADD: has addresses leased. After an error the plugin must be told to [`del`](Self::del).
    ///
    /// # Errors
    /// [`Kind::Delegate`] with the plugin's own code; [`Kind::Decode`] when its answer is none;
    /// [`Kind::TryAgain`] when it takes longer than 30 s; [`Kind::Io`].
    pub fn add(&self) -> Result<Lease> {
        let output = self.call("ADD", None)?;
        let garbled = || format!("IPAM plugin {} gave no result", self.plugin);
        let lease: Option<Lease> =
            serde_json::from_slice(&output).context(Kind::Decode, garbled)?;
        match lease {
            Some(lease) if !lease.addresses.is_empty() => Ok(lease),
            _ => {
                let msg = format!("IPAM plugin {} gave no address", self.plugin);
                Err(Error::new(Kind::Decode, msg))
            }
        }
    }

    /// DEL: has the attachment's addresses released, whichever verb we were called with.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn del(&self, attachment: &Attachment) -> Result<()> {
        self.call("DEL", Some(attachment)).map(drop)
    }

    /// CHECK, GC or STATUS, with the parameters that we were called with.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn forward(&self, verb: &str) -> Result<()> {
        self.call(verb, None).map(drop)
    }

    fn call(&self, verb: &str, attachment: Option<&Attachment>) -> Result<Vec<u8>> {
        let failed = || format!("can't run IPAM plugin {}", self.file.display());
        let mut command = Command::new(&self.file);
        command.env("CNI_COMMAND", verb).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(attachment) = attachment {
            command.env("CNI_CONTAINERID", attachment.container_id());
            command.env("CNI_IFNAME", attachment.ifname());
        }
        // In a group of its own, what it starts can be ended with it.
        let child = command.process_group(0).spawn().context(Kind::Io, failed)?;
        let group = i32::try_from(child.id()).map(Pid::from_raw);
        let config = self.config.to_vec();
        let (answer, answered) = mpsc::channel();
        thread::spawn(move || answer.send(converse(child, config)));

        let Ok(answer) = answered.recv_timeout(PATIENCE) else {
            if let Ok(group) = group {
                // The group may have ended just now, which is as good.
                let _ = killpg(group, Signal::SIGKILL);
            }
            let msg = format!("IPAM plugin {} did not finish in {PATIENCE:?}", self.plugin);
            return Err(Error::new(Kind::TryAgain, msg));
        };
        let (status, output) = answer.context(Kind::Io, failed)?;
        if status.success() {
            return Ok(output);
        }
        Err(self.refusal(status, &output))
    }

    fn refusal(&self, status: ExitStatus, output: &[u8]) -> Error {
        let from = format!("from IPAM plugin {}", self.plugin);
        match serde_json::from_slice::<Refusal>(output) {
            Ok(refusal) => {
                let error = Error::new(Kind::Delegate(refusal.code), refusal.msg);
                refusal
                    .details
                    .filter(|text| !text.is_empty())
                    .into_iter()
                    .chain([from])
                    .fold(error, Error::details)
            }
            Err(_) => {
                let msg = format!("IPAM plugin {} failed without an error message", self.plugin);
                Error::new(Kind::Io, msg).details(status)
            }
        }
    }
}

/// Gives the child its configuration, and waits for its answer and its end.
fn converse(mut child: Child, config: Vec<u8>) -> io::Result<(ExitStatus, Vec<u8>)> {
    // A thread of its own: a child that writes before it reads would block us both.
    let stdin = child.stdin.take();
    thread::spawn(move || {
        // A child may well answer without reading to the end.
        stdin.map(|mut stdin| stdin.write_all(&config))
    });
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_OUTPUT).read_to_end(&mut output)?;
    }
    Ok((child.wait()?, output))
}

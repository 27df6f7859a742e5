//! `weir reload`: this binary's programs in the place of those that run.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{Output, places::Configured, print, several};
use crate::{
    error::{Context, Error, Kind, Result},
    telemetry::{
        pin,
        reload::{self, Reloaded},
    },
};

/// Swap the running programs for this binary's, pod by pod in single steps, and keep every count
///
/// Also carries the counts over from a version of Weir with another layout of the maps. If the kernel
/// refuses the new programs the old ones run on.
///
/// Where no pod has been counted yet nothing is loaded; stderr says so, and the exit status is 0.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    places: Configured,
    /// Where the verifier's log is kept if the kernel refuses the programs
    #[arg(long, value_name = "FILE", default_value = "/run/weir-verifier.log")]
    verifier_log: PathBuf,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Reloads and reports.
pub fn run(args: &Args) -> Result<()> {
    let bpf_dir = args.places.find().bpf_dir;
    if pin::layouts(&bpf_dir).is_ok_and(|layouts| !layouts.is_empty()) {
        eprintln!("weir: loading the programs");
    }
    let done = reload::reload(&bpf_dir).map_err(|err| with_log(err, &args.verifier_log))?;
    if done.is_none() {
        eprintln!(
            "weir: there is nothing to reload in {}: no pod has been counted there; another directory is \
             given by --bpf-dir",
            bpf_dir.display()
        );
    }
    match (args.output, done) {
        (Output::Json, done) => print(&json(&done.unwrap_or_default())?),
        (Output::Text, Some(done)) => print(&text(&done)),
        (Output::Text, None) => Ok(()),
    }
}

/// The error, and where the verifier's log is, if there is one: the last lines alone seldom show the way
/// that the verifier took.
fn with_log(err: Error, file: &Path) -> Error {
    let log = reload::verifier_log();
    if log.is_empty() {
        return err;
    }
    match keep(&log, file) {
        Ok(()) => err.details(format_args!("the verifier's log is in {}", file.display())),
        Err(also) => {
            err.details(format_args!("can't keep the verifier's log in {}: {also}", file.display()))
        }
    }
}

/// In a file of its own, for root alone: anybody may have put a link in its place, into a directory such as
/// /tmp.
fn keep(log: &str, file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let mut options = fs::File::options();
    options.write(true).create_new(true).mode(0o600);
    options.open(file)?.write_all(log.as_bytes())
}

fn text(done: &Reloaded) -> String {
    let Reloaded { pods, swap, load, from } = done;
    let pods = several(*pods, "pod");
    let mut text = format!("swapped the programs of {pods} in {swap:.1?}, loaded in {load:.0?}\n");
    for layout in from {
        text += &format!("carried the counts over from layout {layout}\n");
    }
    text
}

fn json(done: &Reloaded) -> Result<String> {
    let json = serde_json::json!({
        "pods": done.pods,
        "swap_seconds": done.swap.as_secs_f64(),
        "load_seconds": done.load.as_secs_f64(),
        "from": done.from,
    });
    let text = serde_json::to_string_pretty(&json);
    text.map(|text| text + "\n").context(Kind::Io, || "can't write the report as JSON".into())
}

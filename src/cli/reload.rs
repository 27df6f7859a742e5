//! `weir reload`: this binary's programs in the place of those that run.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    Output,
    places::{Configured, Found},
    pods::uncounted,
    print,
    reconcile::tell_refilled,
    several,
};
use crate::{
    agent::{due::due, log, roster::Member},
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
/// Where no pod has been counted yet nothing is loaded; stderr says so, and the exit status is 0. Pods that are
/// not counted any more, which a reload can't mend, are named on stderr, with the command that does.
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
pub fn run(args: &Args) -> Result<ExitCode> {
    let Found { state_dir, bpf_dir } = args.places.find();
    if pin::layouts(&bpf_dir).is_ok_and(|layouts| !layouts.is_empty()) {
        eprintln!("weir: loading the programs");
    }
    let done = reload::reload(&bpf_dir).map_err(|err| with_log(err, &args.verifier_log))?;
    let nothing = done.is_none();
    let done = done.unwrap_or_default();
    let left_out = left_out(&state_dir, &bpf_dir, &done);
    let due = due(&left_out);
    if nothing {
        let shown = bpf_dir.display();
        let why = if due.is_empty() {
            ": no pod has been counted there; another directory is given by --bpf-dir"
        } else {
            ""
        };
        eprintln!("weir: there is nothing to reload in {shown}{why}");
    }
    match args.output {
        Output::Json => print(&json(&done, &left_out)?)?,
        Output::Text if nothing => {}
        Output::Text => print(&text(&done))?,
    }
    tell_refilled(&done.refilled);
    due.iter().for_each(log::say);
    done.refused.iter().for_each(log::say);
    if done.refused.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let go = if done.refused.len() == 1 { "goes" } else { "go" };
    eprintln!(
        "weir: {} {go} on with the programs of before, and counted; see what is in the way (tc qdisc show, \
         tc filter show), then once more: weir reload",
        several(done.refused.len(), "interface")
    );
    Ok(ExitCode::FAILURE)
}

/// Those that have a record and no program: somebody took it off, or removed the pins, and to put it back is not
/// a reload's. An interface that refused is named by itself.
fn left_out(state_dir: &Path, bpf_dir: &Path, done: &Reloaded) -> Vec<Member> {
    let mut members = uncounted(state_dir, bpf_dir).unwrap_or_else(|err| {
        log::say(format_args!("whether every pod is counted now is not known: {err}"));
        Vec::new()
    });
    let refused = |member: &Member| {
        done.refused.iter().any(|refusal| Some(refusal.ifindex) == member.host_ifindex)
    };
    members.retain(|member| !refused(member));
    members
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
    let Reloaded { pods, swap, load, from, left, .. } = done;
    let pods = several(*pods, "pod");
    let mut text = format!("swapped the programs of {pods} in {swap:.1?}, loaded in {load:.0?}\n");
    for layout in from {
        text += &format!("carried the counts over from layout {layout} to {}\n", pin::SCHEMA);
    }
    for layout in left {
        text += &format!("layout {layout} stays: an interface that refused counts there\n");
    }
    text
}

fn json(done: &Reloaded, uncounted: &[Member]) -> Result<String> {
    let refused = done.refused.iter().map(|refusal| {
        serde_json::json!({
            "ifindex": refusal.ifindex,
            "interface": refusal.interface,
            "namespace": refusal.pod.as_ref().map(|(namespace, _)| namespace),
            "pod": refusal.pod.as_ref().map(|(_, pod)| pod),
            "why": refusal.why,
        })
    });
    let refused: Vec<_> = refused.collect();
    let uncounted = uncounted.iter().map(|member| {
        serde_json::json!({
            "namespace": member.namespace,
            "pod": member.pod,
            "containerId": member.container_id,
            "ifname": member.ifname,
            "telemetry": member.state.word(),
        })
    });
    let uncounted: Vec<_> = uncounted.collect();
    let json = serde_json::json!({
        "pods": done.pods,
        "swap_seconds": done.swap.as_secs_f64(),
        "load_seconds": done.load.as_secs_f64(),
        "from": done.from,
        "to": pin::SCHEMA,
        "pins": done.refilled,
        "refused": refused,
        "left": done.left,
        "uncounted": uncounted,
    });
    let text = serde_json::to_string_pretty(&json);
    text.map(|text| text + "\n").context(Kind::Io, || "can't write the report as JSON".into())
}

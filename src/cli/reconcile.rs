//! `weir reconcile`: drops what no living attachment owns, and says what that was.

use std::{collections::BTreeSet, env, ffi::OsString, process::ExitCode};

use serde::Serialize;

use super::{
    Output,
    places::{Configured, Found},
    print, table,
};
use crate::{
    agent::log,
    attachment::Attachment,
    cni::{
        mend::Mend,
        reconcile::{self, Dropped, Report, Thing},
    },
    error::{Context, Kind, Result},
    telemetry::whole::Refilled,
};

/// Drop what no living attachment owns: leases, links, hooks, masquerade; safe at any time
///
/// Living pods get back what something else took from them: those that are not counted any more, because the
/// hooks were taken off or the maps were lost, are counted again, limited pods are held to their bandwidth, and
/// after a flush of the nftables ruleset host ports lead to them and what they send out is masqueraded again.
/// stderr says which, and how many. Where nothing is missing, nothing is changed, and never a table but
/// `inet weir`.
///
/// IPAM plugins that have to be told of an end have 60 s in all; what is left to the next run is said.
///
/// Exits 1 if something could not be dropped or mended.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    places: Configured,
    /// Directories in which IPAM plugins are found, between colons; else CNI_PATH's
    #[arg(long, value_name = "DIRS")]
    cni_path: Option<OsString>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Where runtimes keep plugins, by default and on Debian.
pub(super) const CNI_PATH: &str = "/opt/cni/bin:/usr/lib/cni";

/// Reconciles and reports.
pub fn run(args: Args) -> Result<ExitCode> {
    let cni_path = args.cni_path.or_else(|| env::var_os("CNI_PATH"));
    let Found { state_dir, bpf_dir } = args.places.find();
    let cni_path = cni_path.unwrap_or_else(|| CNI_PATH.into());
    let plugins = reconcile::PLUGINS;
    let report = reconcile::run(&reconcile::Places { state_dir, bpf_dir, cni_path, plugins });
    print(&match args.output {
        Output::Json => json(&report)?,
        Output::Text if report.dropped.is_empty() && did_mend(&report) => String::new(),
        Output::Text => text(&report.dropped),
    })?;
    tell_refilled(&report.refilled);
    tell_mended(&report.mended);
    report.left.iter().for_each(|left| eprintln!("weir: left: {left}"));
    report.failures.iter().for_each(log::say);
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn did_mend(report: &Report) -> bool {
    !report.mended.is_empty() || report.refilled != Refilled::default()
}

/// What became of pins that somebody had removed, on stderr.
pub(super) fn tell_refilled(refilled: &Refilled) {
    refilled.remarks().for_each(|remark| eprintln!("weir: {remark}"));
}

fn tell_mended(mended: &[(Attachment, Mend)]) {
    for (pod, what) in mended {
        let what = match what {
            Mend::Counted => "counted",
            Mend::Limited => "limited",
            Mend::Exposed => "host ports lead there",
            Mend::Masqueraded => "masqueraded",
        };
        eprintln!("weir: {what} again: {pod}");
    }
    let pods: BTreeSet<_> = mended.iter().map(|(pod, _)| pod).collect();
    if !pods.is_empty() {
        eprintln!("weir: mended attachments: {}", pods.len());
    }
}

/// A [`Report`] as a program reads it; what failed is on stderr, and the exit status tells.
#[derive(Debug, Serialize)]
struct Lines<'a> {
    dropped: &'a [Dropped],
    mended: Vec<Mended<'a>>,
    pins: &'a Refilled,
    left: &'a [String],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mended<'a> {
    what: Mend,
    container_id: &'a str,
    ifname: &'a str,
}

pub(super) fn json(report: &Report) -> Result<String> {
    let mended = report.mended.iter().map(|(pod, what)| Mended {
        what: *what,
        container_id: pod.container_id(),
        ifname: pod.ifname(),
    });
    let Report { dropped, refilled: pins, left, .. } = report;
    let lines = Lines { dropped, mended: mended.collect(), pins, left };
    let json = serde_json::to_string_pretty(&lines);
    json.map(|json| json + "\n").context(Kind::Io, || "can't write the report as JSON".into())
}

pub(super) fn text(dropped: &[Dropped]) -> String {
    if dropped.is_empty() {
        return "nothing to drop\n".into();
    }
    let mut rows = vec![["DROPPED", "NAME", "NETWORK"].map(String::from).to_vec()];
    rows.extend(dropped.iter().map(|dropped| {
        let network = dropped.network.clone().unwrap_or_else(|| "-".into());
        vec![word(dropped.what).to_owned(), dropped.name.clone(), network]
    }));
    table::render(&rows)
}

fn word(what: Thing) -> &'static str {
    match what {
        Thing::Attachment => "attachment",
        Thing::Link => "link",
        Thing::Hook => "hook",
        Thing::Ports => "ports",
        Thing::Lease => "lease",
        Thing::Remnant => "remnant",
        Thing::Masquerade => "masquerade",
        Thing::Configuration => "configuration",
        Thing::Executable => "executable",
        Thing::Pins => "pins",
        Thing::Table => "table",
        Thing::State => "state",
    }
}

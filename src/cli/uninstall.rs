//! `weir uninstall`: what `weir install` put, and what the plugin left in the kernel, goes.
//!
//! The configuration goes first: from then on no runtime starts a pod by a plugin that is about to
//! vanish.

use std::{env, fs, path::Path, process::ExitCode};

use super::{
    Output, doctor,
    install::{BINARY, Dirs, place::Place},
    places::{Found, Places},
    print,
    reconcile::{CNI_PATH, json, text},
};
use crate::{
    agent::log,
    cni::{
        purge,
        reconcile::{self, Dropped, Report, Thing},
    },
    error::{Error, Kind, Result},
};

/// Take the configuration, the executable and all that counts away; running pods keep their network
///
/// Nothing there to take away is success. Exits 1 if something could not be taken away.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    dirs: Dirs,
    #[command(flatten)]
    places: Places,
    /// Take the network of running pods away, too
    #[arg(long)]
    purge: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Uninstalls and reports.
pub fn run(args: Args) -> Result<ExitCode> {
    let Dirs { bin_dir, conf_dir } = &args.dirs;
    // Of configurations that are about to go.
    let found = args.places.find_all(conf_dir);
    let again = |it: &Found| {
        let (state, bpf) = (it.state_dir.display(), it.bpf_dir.display());
        format!("weir uninstall --state-dir {state} --bpf-dir {bpf}")
    };
    let again: Vec<_> = found.iter().map(again).collect();
    let mut dropped = configurations(conf_dir)?;
    dropped.extend(remove(bin_dir, BINARY, Thing::Executable)?);
    let cni_path = env::var_os("CNI_PATH").unwrap_or_else(|| CNI_PATH.into());
    let plugins = reconcile::PLUGINS;
    let places: Vec<_> = found
        .into_iter()
        .map(|Found { state_dir, bpf_dir }| {
            let cni_path = cni_path.clone();
            reconcile::Places { state_dir, bpf_dir, cni_path, plugins }
        })
        .collect();
    let mut report = purge::run(&places, args.purge);
    dropped.append(&mut report.dropped);
    report.dropped = dropped;
    print(&match args.output {
        Output::Json => json(&report)?,
        Output::Text => text(&report.dropped),
    })?;
    let Report { dropped, left, failures, .. } = report;
    left.iter().for_each(|left| eprintln!("weir: left: {left}"));
    failures.iter().for_each(log::say);
    // Nobody will know the directories when the configuration is gone.
    if dropped.iter().any(|it| it.what == Thing::Configuration) {
        let purge = if args.purge { " --purge" } else { "" };
        for again in again {
            if !failures.is_empty() {
                eprintln!("weir: what is left goes by a copy of the executable: {again}{purge}");
            } else if !left.is_empty() {
                eprintln!("weir: of what is left a copy of the executable knows: {again}{purge}");
            }
        }
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The configurations whose pods get their network from weir go. Where it is behind another plugin,
/// its entry would have to be cut out of what somebody else wrote: that is theirs to do, and nothing
/// is changed before.
fn configurations(dir: &Path) -> Result<Vec<Dropped>> {
    let using = doctor::networks(dir);
    let using = using.iter().filter_map(|file| Some((file, file.position()?)));
    let using: Vec<_> = using.collect();
    if let Some((file, _)) = using.iter().find(|(_, position)| *position > 0) {
        let path = dir.join(&file.name);
        let msg = format!("{} has weir behind another plugin; take its entry out", path.display());
        return Err(Error::new(Kind::Config, msg));
    }
    let mut dropped = Vec::new();
    for (file, _) in using {
        dropped.extend(remove(dir, &file.name, Thing::Configuration)?);
    }
    Ok(dropped)
}

fn remove(dir: &Path, name: &str, what: Thing) -> Result<Option<Dropped>> {
    if fs::symlink_metadata(dir).is_err() {
        return Ok(None);
    }
    let path = dir.join(name).display().to_string();
    let removed = Place::open(dir)?.remove(name)?;
    Ok(removed.then_some(Dropped { what, name: path, network: None }))
}

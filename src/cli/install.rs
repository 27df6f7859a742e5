//! `weir install`: this executable and a network configuration where the runtime looks for them.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    Output,
    doctor::{self, Network},
    places::{CONF_DIR, Places},
    print,
};
use crate::{
    error::{Context, Error, Kind, Result},
    telemetry::pin,
};
use place::{Done, Place};

pub(super) mod place;

/// The executable's name: the `type` of the configurations.
pub(super) const BINARY: &str = "weir";
/// Where runtimes look for plugins.
const BIN_DIR: &str = "/opt/cni/bin";
/// The configuration's name; runtimes take the first by name.
const CONFLIST: &str = "10-weir.conflist";
/// What there is without `--conf`.
const EXAMPLE: &str = include_str!("../../examples/10-weir.conflist");

/// Where the runtime looks.
#[derive(Debug, clap::Args)]
pub(super) struct Dirs {
    /// Directory in which the runtime looks for plugins
    #[arg(long, value_name = "DIR", default_value = BIN_DIR)]
    pub(super) bin_dir: PathBuf,
    /// Directory in which the runtime looks for network configurations
    #[arg(long, value_name = "DIR", default_value = CONF_DIR)]
    pub(super) conf_dir: PathBuf,
}

/// Put this executable and a network configuration where the runtime looks, each by rename
///
/// Installs over a running version: calls under way end as they began, the next ones are the new
/// version's. A configuration that is there stays. Running pods keep what they have; `weir reload`
/// gives them the new programs.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    dirs: Dirs,
    /// Network configuration list to install [default: an example with the ranges 10.88.0.0/24 and
    /// fd00:88::/64]
    #[arg(long, value_name = "FILE", conflicts_with = "no_conf")]
    conf: Option<PathBuf>,
    /// Install the executable alone
    #[arg(long)]
    no_conf: bool,
    /// Replace a configuration of this name that is there
    #[arg(long)]
    force: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What was done about one file.
#[derive(Debug, Serialize)]
struct Put {
    path: PathBuf,
    done: Done,
}

#[derive(Debug, Serialize)]
struct Report {
    binary: Put,
    /// `None`: not asked for.
    conflist: Option<Put>,
}

/// Installs the executable, then the configuration: one without its plugin would fail every pod.
pub fn run(args: &Args) -> Result<()> {
    let Dirs { bin_dir, conf_dir } = &args.dirs;
    // All that can be wrong with what is asked for is found before anything is changed.
    let network = if args.no_conf { None } else { Some(network(args.conf.as_deref())?) };
    let own = "/proc/self/exe";
    let binary = fs::read(own).context(Kind::Io, || format!("can't read {own}"))?;
    let done = Place::open(bin_dir)?.put(BINARY, &binary, 0o755)?;
    let binary = Put { path: bin_dir.join(BINARY), done };
    let conflist = network.map(|text| configure(conf_dir, &text, args.force)).transpose()?;
    let report = Report { binary, conflist };
    print(&match args.output {
        Output::Json => json(&report)?,
        Output::Text => text(&report),
    })?;
    doubt(args);
    hint(args, &report);
    Ok(())
}

/// The text of the configuration to install, once it is known that an ADD would take it.
fn network(file: Option<&Path>) -> Result<String> {
    let Some(file) = file else { return Ok(EXAMPLE.to_owned()) };
    let read = fs::read_to_string(file);
    let text = read.context(Kind::Io, || format!("can't read {}", file.display()))?;
    let wrong = |why: &str| Error::new(Kind::Config, format!("{} {why}", file.display()));
    let network = Network::new(CONFLIST.to_owned(), Ok(text.clone()));
    if let Err(why) = &network.network {
        return Err(wrong(why));
    }
    if !network.is_list() {
        return Err(wrong("is no list: it needs \"plugins\": [{\"type\": \"weir\", ...}]"));
    }
    match network.preview() {
        None => Err(wrong("does not use weir")),
        Some(Err(why)) => Err(wrong(&format!("would be refused by ADD: {why}"))),
        Some(Ok(_)) => Ok(text),
    }
}

/// Writes the configuration, unless there is one: the node's administrator has the last word.
fn configure(conf_dir: &Path, text: &str, force: bool) -> Result<Put> {
    let place = Place::open(conf_dir)?;
    let path = conf_dir.join(CONFLIST);
    // Broken links are somebody's too.
    if fs::symlink_metadata(&path).is_ok() && !force {
        let same = fs::read(&path).is_ok_and(|there| there == text.as_bytes());
        let done = if same { Done::Unchanged } else { Done::Kept };
        return Ok(Put { path, done });
    }
    let other = doctor::networks(conf_dir)
        .into_iter()
        .find(|other| other.name != CONFLIST && other.position().is_some());
    if let Some(other) = other.filter(|_| !force) {
        return Ok(Put { path: conf_dir.join(other.name), done: Done::Kept });
    }
    let done = place.put(CONFLIST, text.as_bytes(), 0o644)?;
    Ok(Put { path, done })
}

fn json(report: &Report) -> Result<String> {
    let json = serde_json::to_string_pretty(report);
    json.map(|json| json + "\n").context(Kind::Io, || "can't write the report as JSON".into())
}

fn text(report: &Report) -> String {
    let line = |Put { path, done }: &Put| {
        let done = match done {
            Done::Written => "wrote",
            Done::Replaced => "replaced",
            Done::Unchanged => "unchanged:",
            Done::Kept => "kept",
        };
        format!("{done} {}\n", path.display())
    };
    line(&report.binary) + &report.conflist.as_ref().map(line).unwrap_or_default()
}

/// What an ADD takes of the configuration that is to be installed and its author hardly meant, on stderr.
fn doubt(args: &Args) {
    let Some(file) = args.conf.as_deref() else { return };
    let text = fs::read_to_string(file).map_err(|err| err.to_string());
    let network = Network::new(CONFLIST.to_owned(), text);
    let shown = file.display();
    if let Some(Ok(preview)) = network.preview() {
        for key in preview.unknown {
            eprintln!(
                "weir: {shown} has a key that weir doesn't know and that does nothing: {key}"
            );
        }
    }
    let mut dirs = vec![args.dirs.bin_dir.clone()];
    dirs.extend(env::var_os("CNI_PATH").iter().flat_map(env::split_paths));
    let missing = network.missing(&|plugin| doctor::is_installed(&dirs, plugin));
    if !missing.is_empty() {
        let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        eprintln!(
            "weir: {shown} asks for what is not in {}: {}; no pod starts until it is there, or another type is named",
            dirs.join(" or "),
            missing.join(", ")
        );
    }
}

/// What is left for the operator to do, on stderr.
fn hint(args: &Args, report: &Report) {
    match &report.conflist {
        Some(Put { done: Done::Kept, path }) => eprintln!(
            "weir: {} uses other settings and stays; --force puts {CONFLIST} there",
            path.display()
        ),
        Some(Put { done: Done::Written | Done::Replaced, path }) if args.conf.is_none() => {
            eprintln!(
                "weir: {} is the built-in example; give it ranges of this node's own",
                path.display()
            );
        }
        _ => {}
    }
    let due = is_reload_due(report.binary.done, &args.dirs.conf_dir);
    if due {
        let reload = args.dirs.next("reload", false);
        eprintln!(
            "weir: give running pods this version's programs, then restart the agent: {reload}"
        );
    }
    if !(due && args.no_conf) {
        let doctor = args.dirs.next("doctor", true);
        eprintln!("weir: see what else this node needs: {doctor}");
    }
}

/// Whether pods may be counted by the programs of the version before, in the directory that the installed
/// configuration names.
fn is_reload_due(binary: Done, conf_dir: &Path) -> bool {
    let bpf_dir = Places::default().find(conf_dir).bpf_dir;
    let others = pin::other_layouts(&bpf_dir).is_ok_and(|others| !others.is_empty());
    let any = pin::layouts(&bpf_dir).is_ok_and(|layouts| !layouts.is_empty());
    others || (any && binary == Done::Replaced)
}

impl Dirs {
    /// The words of a command that works on what was installed: those directories are named that it would look
    /// for elsewhere.
    fn next(&self, command: &str, looks_for_plugins: bool) -> String {
        let mut words = format!("weir {command}");
        if looks_for_plugins && self.bin_dir != Path::new(BIN_DIR) {
            words += &format!(" --bin-dir {}", self.bin_dir.display());
        }
        if self.conf_dir != Path::new(CONF_DIR) {
            words += &format!(" --conf-dir {}", self.conf_dir.display());
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_one_that_an_add_takes() {
        let network = Network::new(CONFLIST.to_owned(), Ok(EXAMPLE.to_owned()));
        assert!(network.is_list() && network.preview().unwrap().is_ok());
        assert!(EXAMPLE.contains("10.88.0.0/24") && EXAMPLE.contains("fd00:88::/64"));
    }
}

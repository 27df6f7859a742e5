//! What a person types: one file a command. The CNI face never comes through here.

use std::{ffi::OsString, io, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum, error::ErrorKind};

use crate::error::Result;

mod agent;
mod client;
mod completions;
mod demo;
mod doctor;
pub(crate) mod events;
mod install;
pub(crate) mod line;
mod observe;
mod places;
mod pods;
mod reconcile;
mod reload;
mod table;
mod top;
mod uninstall;

/// What `--version` says, and `-V` the first line of: with the layout that messages of an upgrade name.
const LONG_VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), "\nlayout of the maps: ", env!("WEIR_SCHEMA"));

/// A CNI plugin that plumbs pods and counts what flows through them, in the kernel.
///
/// Started by a container runtime (with CNI_COMMAND in the environment) it is the plugin; started
/// by hand it is one of these commands.
#[derive(Debug, Parser)]
#[command(name = "weir", version, long_version = LONG_VERSION, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve what the kernel counted: to Prometheus, to OpenTelemetry, and to people in the browser
    ///
    /// / is the page; /metrics is for Prometheus, with ?flavor=otel and ?flavor=hubble under those names; /api/pods,
    /// /api/services and /api/flows are what `weir top`, the page and `weir observe` show; /healthz and
    /// /readyz are for a supervisor. Totals do not depend on it: pods start, stop and are counted without.
    Agent(agent::Args),
    Observe(observe::Args),
    Top(top::Args),
    /// List the attachments of this node
    Pods(pods::Args),
    /// Plumb two throw-away pods, send real traffic between them, show what the kernel counted
    ///
    /// Needs root. Everything happens in namespaces of its own: nothing of this host's network is
    /// touched, and nothing is left behind however it ends.
    Demo(demo::Args),
    Reconcile(reconcile::Args),
    Reload(reload::Args),
    Install(install::Args),
    Uninstall(uninstall::Args),
    /// Is this host fit for Weir? Changes nothing; exits 1 if something fails
    Doctor(doctor::Args),
    Completions(completions::Args),
}

/// The form of a read-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Runs the command that `args` (program name first) asks for.
///
/// The exit status is 0, 1 for a command that failed, or 2 for a command line that says nothing.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(usage) => return explain(&usage),
    };
    let done = match cli.command {
        Command::Agent(args) => agent::run(args).map(|()| ExitCode::SUCCESS),
        Command::Observe(args) => observe::run(args).map(|()| ExitCode::SUCCESS),
        Command::Top(args) => top::run(args).map(|()| ExitCode::SUCCESS),
        Command::Pods(args) => pods::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Demo(args) => demo::run(&args),
        Command::Reconcile(args) => reconcile::run(args),
        Command::Reload(args) => reload::run(&args),
        Command::Install(args) => install::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Uninstall(args) => uninstall::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => completions::run(&args).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|err| {
        crate::agent::log::say(&err);
        ExitCode::FAILURE
    })
}

/// Help and version go to stdout and are a success; anything else is a usage error. Called with
/// nothing at all, weir says on stderr what it is, and that is a success too: it is how the reference
/// plugins answer somebody who tries one by hand.
fn explain(usage: &clap::Error) -> ExitCode {
    // A closed pipe (`weir --help | head -1`) is no failure worth a word.
    let _ = usage.print();
    let asked_nothing = usage.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if usage.use_stderr() && !asked_nothing { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

/// How many there are of something whose plural has an s.
fn several(number: impl TryInto<u64>, thing: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Writes a read-out to stdout. A reader that went away early (`| head`) is not an error.
fn print(text: &str) -> Result<()> {
    use crate::error::{Context, Kind};
    use io::Write;

    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context(Kind::Io, || "can't write to stdout".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Every command below it, with itself.
    fn all(command: &clap::Command) -> Vec<clap::Command> {
        let below = command.get_subcommands().flat_map(all);
        std::iter::once(command.clone()).chain(below).collect()
    }

    #[test]
    fn every_command_and_flag_is_explained_in_80_columns() {
        let mut root = Cli::command().term_width(80);
        root.build();
        let commands = all(&root);
        assert!(commands.len() > 10);
        for mut command in commands {
            let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
            assert!(command.get_about().is_some(), "{name} is not explained");
            for argument in command.get_arguments() {
                let explained = argument.get_help().is_some() || argument.get_long_help().is_some();
                assert!(explained || argument.is_hide_set(), "{name} {}", argument.get_id());
                for value in argument.get_possible_values() {
                    let word = value.get_name();
                    let plain = ["true", "false", "bash", "zsh", "fish", "elvish", "powershell"];
                    let explained = value.get_help().is_some() || plain.contains(&word);
                    assert!(explained, "{name} {} {word}", argument.get_id());
                }
            }
            let help = command.render_long_help().to_string();
            let longest = help.lines().map(|line| line.chars().count()).max();
            assert!(longest.is_some_and(|longest| longest <= 80), "{help}");
        }
    }
}

//! Which face? Started by a container runtime weir is the plugin, by hand a command.

use std::{env, process::ExitCode};

pub(crate) fn main() -> ExitCode {
    let called_by_runtime = env::var_os("CNI_COMMAND").is_some_and(|verb| !verb.is_empty());
    if called_by_runtime { weir::cni::run() } else { weir::cli::run(env::args_os()) }
}

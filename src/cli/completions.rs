//! `weir completions`: what a shell needs to know to complete the commands and their flags.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::{Cli, print};
use crate::error::Result;

/// Print a shell's completions for weir
///
/// bash: weir completions bash > /etc/bash_completion.d/weir
///
/// zsh: weir completions zsh > /usr/local/share/zsh/site-functions/_weir
///
/// fish: weir completions fish > /etc/fish/completions/weir.fish
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The shell
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

/// Prints them.
pub fn run(args: &Args) -> Result<()> {
    let shell = match args.shell.as_str() {
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => Shell::Bash,
    };
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "weir", &mut script);
    print(&String::from_utf8_lossy(&script))
}

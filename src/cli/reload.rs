//! `weir reload`: this binary's programs in the place of those that run.

use super::{Output, Places, print};
use crate::{
    error::{Context, Kind, Result},
    telemetry::reload::{self, Reloaded},
};

/// Swap the running programs for this binary's, pod by pod in single steps, and keep every count
///
/// Also carries the counts over from a version of Weir with another layout of the maps. If the kernel
/// refuses the new programs the old ones run on.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    places: Places,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Reloads and reports.
pub fn run(args: &Args) -> Result<()> {
    eprintln!("weir: loading the programs");
    let done = reload::reload(&args.places.bpf_dir)?;
    print(&match args.output {
        Output::Text => text(&done),
        Output::Json => json(&done)?,
    })
}

fn text(done: &Reloaded) -> String {
    let Reloaded { pods, swap, load, from } = done;
    let mut text =
        format!("swapped the programs of {pods} pods in {swap:.1?}, loaded in {load:.0?}\n");
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

//! `cni-conformance --plugin PATH --conf FILE`: plays the runtime for one plugin and says what held.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, ValueEnum};
use cni_conformance::{
    Context, Result,
    call::Plugin,
    case::{self, Level},
    report,
    suite::{self, Verdict},
};

/// Checks a CNI plugin against the specification and what runtimes make of it.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Arguments {
    /// The plugin's executable
    #[arg(long, value_name = "PATH")]
    plugin: PathBuf,
    /// Its network configuration: of the one plugin, or a list with it
    #[arg(long, value_name = "FILE")]
    conf: PathBuf,
    /// Directories of the plugins that it calls, after its own
    #[arg(long, value_name = "DIR:DIR", default_value = "/opt/cni/bin:/usr/lib/cni")]
    path: String,
    /// Cases of one's own instead of those that come with the runner
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// Only the cases whose id contains this; repeatable
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Only what is asked for at least so firmly
    #[arg(long, value_enum, default_value = "robust")]
    level: Firmness,
    /// How many runs at a time
    #[arg(long, value_name = "N", default_value_t = 8)]
    jobs: usize,
    /// A table, or the whole report
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Firmness {
    Must,
    Should,
    Runtime,
    Robust,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

impl Firmness {
    fn level(self) -> Level {
        match self {
            Self::Must => Level::Must,
            Self::Should => Level::Should,
            Self::Runtime => Level::Runtime,
            Self::Robust => Level::Robust,
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("cni-conformance: {why}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything that applies holds.
fn run(arguments: &Arguments) -> Result<bool> {
    let name = || arguments.conf.display().to_string();
    let conf = fs::read(&arguments.conf).context(name)?;
    let conf = serde_json::from_slice(&conf).context(name)?;
    let search = std::env::split_paths(&arguments.path).collect();
    let plugin = Plugin::new(&arguments.plugin, search, &conf)?;
    let sections = match &arguments.cases {
        Some(dir) => case::from_dir(dir)?,
        None => case::built_in()?,
    };
    let least = arguments.level.level();
    let only = &arguments.only;
    let report = suite::run(&plugin, &sections, arguments.jobs, |case| {
        case.level <= least
            && (only.is_empty() || only.iter().any(|text| case.id.contains(text.as_str())))
    })?;
    let text = match arguments.output {
        Output::Text => report::table(&report, true),
        Output::Json => {
            let json = serde_json::to_string_pretty(&report).context(|| "report".into())?;
            json + "\n"
        }
    };
    io::stdout().write_all(text.as_bytes()).context(|| "stdout".into())?;
    Ok(report.count(Verdict::Fail) == 0)
}

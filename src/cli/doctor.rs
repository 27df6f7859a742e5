//! `weir doctor`: is this host fit? Looks, judges, and changes nothing.

use std::{path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::{
    Output,
    places::{ConfDir, Places},
    print,
};
use crate::error::{Context, Kind, Result};

mod checks;
mod conflist;
mod lists;
mod pods;
mod probes;
mod ranges;
mod strays;
mod trial;

pub(super) use conflist::File as Network;
pub(super) use probes::{configurations as networks, is_installed};

/// Says for each thing that Weir needs whether this host has it, and what to do if not.
///
/// Exits 1 if something fails; a warning is about a part of what Weir can do.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    conf_dir: ConfDir,
    /// Directory in which the runtime looks for plugins; may be given several times
    #[arg(long, value_name = "DIR", default_values = ["/opt/cni/bin", "/usr/lib/cni"])]
    bin_dir: Vec<PathBuf>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// A part of what Weir can do is missing, or can't be judged.
    Warn,
    /// Pods won't start, or nothing will be counted.
    Fail,
}

/// One line of the diagnosis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    says: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, says: says.into(), mend: None }
    }

    fn warn(check: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, says: says.into(), mend: Some(mend.into()) }
    }

    fn fail(check: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, says: says.into(), mend: Some(mend.into()) }
    }
}

/// Prints the diagnosis; the exit status tells whether something fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    let findings = probes::look(args);
    print(&match args.output {
        Output::Json => json(&findings)?,
        Output::Text => text(&findings),
    })?;
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn json(findings: &[Finding]) -> Result<String> {
    let json = serde_json::to_string_pretty(findings);
    json.map(|json| json + "\n").context(Kind::Io, || "can't write the diagnosis as JSON".into())
}

fn text(findings: &[Finding]) -> String {
    let lines = findings.iter().map(|Finding { check, verdict, says, mend }| {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let mend = mend.as_ref().map(|mend| format!("\n{:18}> {mend}", "")).unwrap_or_default();
        format!("{verdict:4}  {check:10}  {says}{mend}\n")
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_check_and_the_mend_below_it() {
        let findings =
            [Finding::ok("kernel", "Linux 6.1.0"), Finding::fail("bpffs", "none", "mount one")];
        assert_eq!(
            text(&findings),
            "ok    kernel      Linux 6.1.0\n\
             FAIL  bpffs       none\n                  > mount one\n"
        );
    }

    #[test]
    fn json_names_the_verdict_and_leaves_out_an_empty_mend() {
        let json = json(&[Finding::ok("kernel", "Linux 6.1.0")]).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json[0]["verdict"], "ok");
        assert!(json[0].get("mend").is_none());
    }
}

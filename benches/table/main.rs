//! The one table of all benches, from the rows that they put down, as `make bench` has them do.
//!
//! ```text
//! WEIR_BENCH_ROWS=FILE cargo bench --bench table [-- BENCH...]
//! ```
//!
//! A bench that is named and has no rows, or did not come to its end, is told of, and makes the exit status 1.

#[path = "../report/report.rs"]
#[allow(dead_code, reason = "the table measures nothing")]
mod report;

use std::{
    env, fs,
    io::{self, Write},
    process::ExitCode,
};

use report::{lines, text};

/// Whatever goes wrong ends it.
type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("table of the benches: {err}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all benches came to their end.
fn run() -> Result<bool> {
    let Some(path) = env::var_os(report::ROWS) else {
        // As among all of `cargo bench`, each of which has printed its own.
        eprintln!(
            "table of the benches: {} names no file of rows; `make bench` does",
            report::ROWS
        );
        return Ok(true);
    };
    let rows = fs::read_to_string(&path).map_err(|err| format!("{}: {err}", path.display()))?;
    let benches: Vec<String> = report::arguments().collect();
    let runs = lines::read(&rows, &benches).map_err(|err| format!("{}: {err}", path.display()))?;
    io::stdout().write_all(text::table(&report::heading()?, &runs).as_bytes())?;
    Ok(runs.iter().all(|run| run.failed.is_none()))
}

//! Rows as lines of JSON, which outlive the bench that wrote them, however it ends.

use std::io;

use serde::{Deserialize, Serialize};

use super::row::Row;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "lowercase")]
pub enum Line {
    Begun {
        bench: String,
        command: String,
    },
    Row {
        bench: String,
        #[serde(flatten)]
        row: Row,
    },
    Ended {
        bench: String,
        /// Its words, where it failed.
        error: Option<String>,
    },
}

/// A bench, and what it told.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub bench: String,
    pub command: String,
    pub rows: Vec<Row>,
    /// Why it has not all its rows.
    pub failed: Option<String>,
}

impl Run {
    pub fn new(bench: &str, command: &str) -> Self {
        let (bench, command) = (bench.to_owned(), command.to_owned());
        Self { bench, command, rows: Vec::new(), failed: None }
    }
}

impl Line {
    /// With its newline.
    pub fn written(&self) -> io::Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }
}

/// Of each of `benches` its last run, and after these the runs of others. One that never began or never ended
/// has failed.
pub fn read(text: &str, benches: &[String]) -> Result<Vec<Run>, String> {
    let absent = |bench: &String| Run {
        failed: Some("it did not begin".to_owned()),
        ..Run::new(bench, &format!("cargo bench --bench {bench}"))
    };
    let mut runs: Vec<Run> = benches.iter().map(absent).collect();
    for (number, line) in text.lines().enumerate() {
        let line = serde_json::from_str(line)
            .map_err(|err| format!("line {} is not of a bench: {err}", number + 1))?;
        match line {
            Line::Begun { bench, command } => {
                let began =
                    Run { failed: Some("it did not end".to_owned()), ..Run::new(&bench, &command) };
                match runs.iter_mut().find(|run| run.bench == bench) {
                    Some(run) => *run = began,
                    None => runs.push(began),
                }
            }
            Line::Row { bench, row } => of(&mut runs, &bench, number)?.rows.push(row),
            Line::Ended { bench, error } => of(&mut runs, &bench, number)?.failed = error,
        }
    }
    Ok(runs)
}

fn of<'a>(runs: &'a mut [Run], bench: &str, number: usize) -> Result<&'a mut Run, String> {
    let found = runs.iter_mut().find(|run| run.bench == bench);
    found.ok_or_else(|| format!("line {} is of {bench}, which did not begin", number + 1))
}

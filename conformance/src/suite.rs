//! All cases against one plugin: which apply, in which versions, and what came of each.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde::Serialize;
use serde_json::Value;

use crate::{
    Result,
    call::Plugin,
    case::{Case, Level, Section},
    facts, play,
};

/// What came of a whole suite.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The executable's name.
    pub plugin: String,
    /// The versions that it speaks.
    pub versions: Vec<String>,
    /// By section, in order.
    pub sections: Vec<Outcomes>,
}

/// The outcomes of a section.
#[derive(Debug, Serialize)]
pub struct Outcomes {
    /// Its heading.
    pub section: String,
    /// Of each case.
    pub cases: Vec<Outcome>,
}

/// What came of a case.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The case's id.
    pub id: String,
    /// What must hold.
    pub title: String,
    /// Where that is written.
    pub spec: String,
    /// Who asks for it.
    pub level: Level,
    /// What came of it.
    pub verdict: Verdict,
    /// Each run that there was.
    pub runs: Vec<Run>,
    /// The case's versions that the plugin doesn't speak.
    pub unspoken: Vec<&'static str>,
    /// Why there was no run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// Whether it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// In every run.
    Pass,
    /// Not in every run.
    Fail,
    /// There was nothing to run.
    Skip,
}

/// One run of a case.
#[derive(Debug, Serialize)]
pub struct Run {
    /// The `cniVersion`.
    pub version: &'static str,
    /// Which of the case's `each`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub it: Option<Value>,
    /// What did not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// A run that is still to come.
struct Job {
    section: usize,
    case: usize,
    run: usize,
    version: &'static str,
    alone: bool,
    plugin: Plugin,
    steps: Vec<Value>,
}

/// Runs every case that `wanted` says, `jobs` at a time.
///
/// # Errors
/// The plugin can't be run at all.
pub fn run(
    plugin: &Plugin,
    sections: &[Section],
    jobs: usize,
    wanted: impl Fn(&Case) -> bool,
) -> Result<Report> {
    let versions = facts::spoken(plugin)?;
    let mut pending = Vec::new();
    let mut planned = Vec::new();
    for section in sections {
        let mut outcomes = Outcomes { section: section.section.clone(), cases: Vec::new() };
        for case in section.cases.iter().filter(|case| wanted(case)) {
            let mut outcome = plan(case, plugin, &versions);
            let place = (planned.len(), outcomes.cases.len());
            if outcome.skipped.is_none() {
                let plugin = Plugin { conf: case.conf(&plugin.conf)?, ..plugin.clone() };
                pending.extend(jobs_of(case, &plugin, &mut outcome, place));
            }
            outcomes.cases.push(outcome);
        }
        planned.push(outcomes);
    }
    let (alone, together): (Vec<_>, Vec<_>) = pending.into_iter().partition(|job| job.alone);
    for (list, at_a_time) in [(together, jobs.max(1)), (alone, 1)] {
        let failures = work(&list, at_a_time);
        for (job, failure) in list.iter().zip(failures) {
            planned[job.section].cases[job.case].runs[job.run].failure = failure;
        }
    }
    for outcome in planned.iter_mut().flat_map(|section| &mut section.cases) {
        outcome.verdict = verdict(&outcome.runs);
    }
    planned.retain(|section| !section.cases.is_empty());
    let name = plugin.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Report { plugin: name, versions, sections: planned })
}

fn verdict(runs: &[Run]) -> Verdict {
    if runs.is_empty() {
        Verdict::Skip
    } else if runs.iter().all(|run| run.failure.is_none()) {
        Verdict::Pass
    } else {
        Verdict::Fail
    }
}

fn plan(case: &Case, plugin: &Plugin, spoken: &[String]) -> Outcome {
    let (versions, unspoken) = case.versions.of(spoken);
    let lacking = case.needs.iter().find_map(|need| need.lacking(&plugin.conf));
    let skipped = match lacking {
        Some(lacking) => Some(format!("the configuration has {lacking}")),
        None if versions.is_empty() => Some(format!("does not speak {}", unspoken.join(", "))),
        None => None,
    };
    let runs = if skipped.is_some() { Vec::new() } else { versions };
    let empty = |version| Run { version, it: None, failure: None };
    Outcome {
        id: case.id.clone(),
        title: case.title.clone(),
        spec: case.spec.clone(),
        level: case.level,
        verdict: Verdict::Skip,
        runs: runs.into_iter().map(empty).collect(),
        unspoken,
        skipped,
    }
}

/// The runs of a case: one for each version and each of its variants.
fn jobs_of(
    case: &Case,
    plugin: &Plugin,
    outcome: &mut Outcome,
    (section, at): (usize, usize),
) -> Vec<Job> {
    let versions: Vec<_> = outcome.runs.drain(..).map(|run| run.version).collect();
    let mut jobs = Vec::new();
    for version in versions {
        for (it, steps) in case.variants() {
            let (run, plugin) = (outcome.runs.len(), plugin.clone());
            jobs.push(Job { section, case: at, run, version, alone: case.alone, plugin, steps });
            outcome.runs.push(Run { version, it: it.cloned(), failure: None });
        }
    }
    jobs
}

/// Runs the jobs, each on a thread of its own, which becomes a node; what did not hold in each.
fn work(jobs: &[Job], at_a_time: usize) -> Vec<Option<String>> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(vec![None; jobs.len()]);
    thread::scope(|scope| {
        let worker = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(job) = jobs.get(at) else { return };
                let played = thread::scope(|scope| {
                    scope.spawn(|| play::play(&job.plugin, job.version, &job.steps)).join()
                });
                let failure =
                    played.unwrap_or_else(|_| Err("the runner itself failed".into())).err();
                if let Ok(mut failures) = failures.lock() {
                    failures[at] = failure;
                }
            }
        };
        for _ in 0..at_a_time {
            scope.spawn(worker);
        }
    });
    failures.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Report {
    /// Takes over the outcomes of cases that were run again.
    pub fn replace(&mut self, again: Self) {
        for outcome in again.sections.into_iter().flat_map(|section| section.cases) {
            let mut ours = self.sections.iter_mut().flat_map(|section| &mut section.cases);
            if let Some(place) = ours.find(|case| case.id == outcome.id) {
                *place = outcome;
            }
        }
    }

    /// Every case's outcome.
    pub fn cases(&self) -> impl Iterator<Item = &Outcome> {
        self.sections.iter().flat_map(|section| &section.cases)
    }

    /// How many cases have that verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.cases().filter(|case| case.verdict == verdict).count()
    }
}

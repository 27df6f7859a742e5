//! A row: what was measured, its median and spread, and what it is held against.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One figure of a bench.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured of whom.
    pub what: String,
    /// Of all figures of the row.
    pub unit: String,
    pub median: f64,
    /// None of what was counted or summed up, or measured once.
    pub spread: Option<Spread>,
    pub against: Vec<Against>,
}

/// Nearest-rank percentiles, and of how many runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub runs: usize,
    pub p10: f64,
    pub p90: f64,
    pub p99: f64,
}

/// What the median is held against, measured in the same run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Against {
    pub how: How,
    /// By the name that it has in its own row; empty of the median itself.
    pub other: String,
    /// None where the other is nothing that can be divided by.
    pub figure: Option<f64>,
    pub target: Option<Target>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// So many times the other.
    Ratio,
    /// So much more than the other, in the row's unit.
    More,
    /// The median alone.
    Itself,
}

/// What is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    Exactly(f64),
}

impl Row {
    /// Of samples; an error where there is none.
    pub fn of(what: impl Into<String>, unit: &str, samples: &[f64]) -> Result<Self, String> {
        let what = what.into();
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |percent| percentile(&sorted, percent);
        let (Some(median), Some(p10), Some(p90), Some(p99)) = (at(50), at(10), at(90), at(99))
        else {
            return Err(format!("{what}: nothing was measured"));
        };
        let runs = samples.len();
        let spread = (runs > 1).then_some(Spread { runs, p10, p90, p99 });
        Ok(Self { what, unit: unit.to_owned(), median, spread, against: Vec::new() })
    }

    /// Of what was counted, or measured once.
    pub fn one(what: impl Into<String>, unit: &str, figure: f64) -> Self {
        let (what, unit) = (what.into(), unit.to_owned());
        Self { what, unit, median: figure, spread: None, against: Vec::new() }
    }

    /// How many times `other` it is, whose median is `than`.
    pub fn ratio(self, other: &str, than: f64) -> Self {
        let ratio = self.median / than;
        self.held(How::Ratio, other, ratio)
    }

    /// How much more than `other` it is: `by`, in the row's unit.
    pub fn more(self, other: &str, by: f64) -> Self {
        self.held(How::More, other, by)
    }

    fn held(mut self, how: How, other: &str, figure: f64) -> Self {
        let figure = figure.is_finite().then_some(figure);
        self.against.push(Against { how, other: other.to_owned(), figure, target: None });
        self
    }

    /// What is aimed at with the last thing that it is held against, else with the median.
    pub fn aims(mut self, target: Target) -> Self {
        if self.against.last().is_none_or(|last| last.target.is_some()) {
            let median = self.median;
            self = self.held(How::Itself, "", median);
        }
        if let Some(last) = self.against.last_mut() {
            last.target = Some(target);
        }
        self
    }

    pub fn at_most(self, most: f64) -> Self {
        self.aims(Target::AtMost(most))
    }

    pub fn at_least(self, least: f64) -> Self {
        self.aims(Target::AtLeast(least))
    }

    pub fn exactly(self, figure: f64) -> Self {
        self.aims(Target::Exactly(figure))
    }
}

impl Against {
    /// None where nothing is aimed at.
    pub fn met(&self) -> Option<bool> {
        let target = self.target?;
        Some(self.figure.is_some_and(|figure| match target {
            Target::AtMost(most) => figure <= most,
            Target::AtLeast(least) => figure >= least,
            // Counts, and the ratio of equal ones, are exact.
            Target::Exactly(wanted) => figure.total_cmp(&wanted).is_eq(),
        }))
    }
}

/// The nearest rank's; none of none.
pub fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// Of samples in any order; none of none.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    percentile(&sorted, 50)
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub fn nanos(time: Duration) -> f64 {
    time.as_nanos() as f64
}

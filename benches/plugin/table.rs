//! The samples and the table that is printed.

use std::{collections::BTreeMap, fmt::Write, fs, time::Duration};

use nix::sys::utsname::uname;

use crate::{
    Result,
    contender::{Contender, VERBS},
};

/// Times by verb.
#[derive(Default)]
pub struct Samples(BTreeMap<&'static str, Vec<Duration>>);

impl Samples {
    pub fn add(&mut self, verb: &'static str, took: Duration) {
        self.0.entry(verb).or_default().push(took);
    }

    /// The nearest-rank percentile in milliseconds.
    fn percentile(&self, verb: &str, percent: usize) -> Option<f64> {
        let mut times = self.0.get(verb)?.clone();
        times.sort_unstable();
        let rank = (times.len() * percent).div_ceil(100).max(1);
        times.get(rank - 1).map(|time| time.as_secs_f64() * 1e3)
    }
}

/// The whole read-out.
pub fn report(
    contenders: &[Contender],
    samples: &[Samples],
    first: &[Duration],
    target: f64,
    rounds: usize,
) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "plugin calls, {rounds} alternating rounds, milliseconds; {}\n", machine()?)?;
    writeln!(text, "{:<42} {:>6} {:>8} {:>8} {:>7}", "", "", "p50", "p99", "ratio")?;
    for verb in VERBS {
        for (contender, own) in contenders.iter().zip(samples) {
            let at = |samples: &Samples, percent| {
                samples.percentile(verb, percent).ok_or_else(|| format!("no {verb} was measured"))
            };
            let (p50, p99) = (at(own, 50)?, at(own, 99)?);
            let ratio = p50 / at(&samples[0], 50)?;
            writeln!(text, "{:<42} {verb:>6} {p50:>8.2} {p99:>8.2} {ratio:>7.2}", contender.label)?;
        }
    }
    writeln!(text)?;
    for (contender, first) in contenders.iter().zip(first) {
        let first = first.as_secs_f64() * 1e3;
        writeln!(text, "{:<42} {:>6} {first:>8.2}   (the first of all)", contender.label, "ADD")?;
    }
    let add = |samples: &Samples| samples.percentile("ADD", 50).unwrap_or(f64::NAN);
    let ratio = add(&samples[1]) / add(&samples[0]);
    let met = if ratio <= target { "met" } else { "missed" };
    writeln!(
        text,
        "\nADD with everything on: {ratio:.2} x {}; at most {target}: {met}",
        contenders[0].label
    )?;
    Ok(text)
}

fn machine() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let models: Vec<_> = cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model)
        .collect();
    let model = models.first().copied().unwrap_or("unknown CPU");
    let kernel = uname()?.release().to_string_lossy().into_owned();
    Ok(format!("{} x {model}, Linux {kernel}", models.len()))
}

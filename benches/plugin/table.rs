//! The samples, the table that is printed, and the targets.

use std::{collections::BTreeMap, fmt::Write, fs, time::Duration};

use nix::sys::utsname::uname;

use crate::{
    Result,
    contender::{Contender, Contenders, VERBS},
};

/// Times by contender and row.
pub type Samples = BTreeMap<(&'static str, &'static str), Vec<Duration>>;

/// Remembers one.
pub fn note(samples: &mut Samples, contender: &Contender, row: &'static str, took: Duration) {
    samples.entry((contender.label, row)).or_default().push(took);
}

/// The nearest-rank percentile in milliseconds.
fn percentile(samples: &Samples, contender: &Contender, row: &str, percent: usize) -> Result<f64> {
    let missing = || format!("no {row} of {} was measured", contender.label);
    let found = samples.iter().find(|((label, of), _)| *label == contender.label && *of == row);
    let mut times = found.map(|(_, times)| times.clone()).ok_or_else(missing)?;
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    Ok(times.get(rank - 1).ok_or_else(missing)?.as_secs_f64() * 1e3)
}

/// The whole read-out.
pub fn report(
    contenders: &Contenders,
    samples: &Samples,
    first: &[Duration],
    rounds: usize,
) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "plugin calls, {rounds} alternating rounds, milliseconds; {}\n", machine()?)?;
    writeln!(text, "{:<40} {:>20} {:>8} {:>8}", "", "", "p50", "p99")?;
    let mut line = |contender: &Contender, row: &str| -> Result<()> {
        let at = |percent| percentile(samples, contender, row, percent);
        let (p50, p99) = (at(50)?, at(99)?);
        writeln!(text, "{:<40} {row:>20} {p50:>8.2} {p99:>8.2}", contender.label)?;
        Ok(())
    };
    for verb in VERBS {
        for contender in contenders.listed() {
            line(contender, verb)?;
        }
    }
    for (contender, row) in [
        (&contenders.ptp, "VERSION"),
        (&contenders.all, "DEL of an unknown id"),
        (&contenders.ptp, "96 ADDs"),
        (&contenders.bare, "96 ADDs"),
        (&contenders.all, "96 ADDs"),
        (&contenders.bare, "ADD among none"),
        (&contenders.bare, "ADD among 1000"),
    ] {
        line(contender, row)?;
    }
    for (contender, first) in contenders.listed().iter().zip(first) {
        let first = first.as_secs_f64() * 1e3;
        writeln!(text, "{:<40} {:>20} {first:>8.2}", contender.label, "very first ADD")?;
    }
    writeln!(text)?;
    targets(contenders, samples, &mut text)?;
    Ok(text)
}

/// What is aimed at, and whether it was met.
fn targets(contenders: &Contenders, samples: &Samples, text: &mut String) -> Result<()> {
    let Contenders { ptp, ptp_masq, bare, counted, masq, dual, all } = contenders;
    let p50 = |contender: &Contender, row: &str| percentile(samples, contender, row, 50);
    for (own, row, other, of, most) in [
        (bare, "ADD", ptp, "ADD", 0.25),
        (counted, "ADD", ptp, "ADD", 0.25),
        (masq, "ADD", ptp_masq, "ADD", 0.10),
        (all, "ADD", ptp_masq, "ADD", 0.10),
        (bare, "DEL", ptp, "DEL", 0.15),
        (all, "DEL", ptp, "DEL", 0.15),
        (all, "DEL of an unknown id", ptp, "VERSION", 0.4),
        (bare, "96 ADDs", ptp, "96 ADDs", 0.25),
        (all, "96 ADDs", ptp, "96 ADDs", 0.25),
        (bare, "ADD among 1000", bare, "ADD among none", 1.2),
    ] {
        let ratio = p50(own, row)? / p50(other, of)?;
        let what = format!("{} of {}", row, own.label);
        let than = format!("{} of {}", of, other.label);
        writeln!(text, "{what}: {ratio:.2} x {than}; at most {most}: {}", met(ratio <= most))?;
    }
    let more = p50(dual, "ADD")? - p50(bare, "ADD")?;
    let what = "IPv6 besides IPv4 adds";
    writeln!(text, "{what} {more:.2} ms to an ADD; at most 0.3: {}", met(more <= 0.3))?;
    Ok(())
}

fn met(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
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

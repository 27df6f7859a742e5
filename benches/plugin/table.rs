//! The samples, the table that is printed, and the targets.

use std::{collections::BTreeMap, fmt::Write, fs, time::Duration};

use nix::sys::utsname::uname;

use crate::{
    Result,
    contender::{Contender, Contenders, Taken, VERBS},
    crowd::{AMONG, AT_ONCE},
};

/// What calls took, by contender and row.
pub type Samples = BTreeMap<(&'static str, &'static str), Vec<Taken>>;

/// Remembers one.
pub fn note(samples: &mut Samples, contender: &Contender, row: &'static str, taken: Taken) {
    samples.entry((contender.label, row)).or_default().push(taken);
}

fn of<'a>(samples: &'a Samples, contender: &Contender, row: &str) -> Result<&'a [Taken]> {
    let found = samples.iter().find(|((label, of), _)| *label == contender.label && *of == row);
    let missing = || format!("no {row} of {} was measured", contender.label);
    Ok(found.map(|(_, taken)| taken.as_slice()).ok_or_else(missing)?)
}

/// The nearest-rank percentile of the time, in milliseconds.
fn percentile(samples: &Samples, contender: &Contender, row: &str, percent: usize) -> Result<f64> {
    let mut times: Vec<_> = of(samples, contender, row)?.iter().map(|taken| taken.wall).collect();
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    Ok(times.get(rank - 1).ok_or("a row without a sample")?.as_secs_f64() * 1e3)
}

/// The processors' time of a call, on average, in milliseconds.
fn cpu(samples: &Samples, contender: &Contender, row: &str) -> Result<f64> {
    let taken = of(samples, contender, row)?;
    let sum: Duration = taken.iter().map(|taken| taken.cpu).sum();
    Ok(sum.div_f64(taken.len().max(1) as f64).as_secs_f64() * 1e3)
}

/// The whole read-out.
pub fn report(
    contenders: &Contenders,
    samples: &Samples,
    first: &[Taken],
    rounds: usize,
) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "plugin calls, {rounds} alternating rounds, milliseconds; {}\n", machine()?)?;
    writeln!(text, "{:<42} {:>20} {:>8} {:>8} {:>8}", "", "", "p50", "p99", "CPU")?;
    for (contender, row) in rows(contenders) {
        let at = |percent| percentile(samples, contender, row, percent);
        let (p50, p99, cpu) = (at(50)?, at(99)?, cpu(samples, contender, row)?);
        let label = contender.label;
        writeln!(text, "{label:<42} {row:>20} {p50:>8.2} {p99:>8.2} {cpu:>8.2}")?;
    }
    for (contender, first) in contenders.listed().iter().zip(first) {
        let first = first.wall.as_secs_f64() * 1e3;
        writeln!(text, "{:<42} {:>20} {first:>8.2}", contender.label, "very first ADD")?;
    }
    writeln!(text)?;
    targets(contenders, samples, &mut text)?;
    Ok(text)
}

/// The rows of the table.
fn rows(contenders: &Contenders) -> Vec<(&Contender, &'static str)> {
    let Contenders { ptp, bare, all, netlink, exec, .. } = contenders;
    let mut rows = Vec::new();
    for verb in VERBS {
        rows.extend(contenders.listed().map(|contender| (contender, verb)));
        if verb != "CHECK" {
            rows.push((netlink, verb));
        }
    }
    rows.extend([(ptp, "VERSION"), (all, "DEL of an unknown id"), (exec, "VERSION")]);
    for (_, row) in AT_ONCE {
        rows.extend(contenders.crowding().map(|contender| (contender, row)));
    }
    rows.extend(AMONG.map(|(_, row)| (bare, row)));
    rows
}

/// What is aimed at, and whether it was met.
fn targets(contenders: &Contenders, samples: &Samples, text: &mut String) -> Result<()> {
    let Contenders { ptp, ptp_masq, bare, counted, masq, dual, all, netlink, .. } = contenders;
    let p50 = |contender: &Contender, row: &str| percentile(samples, contender, row, 50);
    for (own, row, other, of, most) in [
        (bare, "ADD", ptp, "ADD", 0.25),
        (counted, "ADD", ptp, "ADD", 0.25),
        (masq, "ADD", ptp_masq, "ADD", 0.10),
        (all, "ADD", ptp_masq, "ADD", 0.10),
        (all, "ADD", ptp, "ADD", 0.17),
        (all, "ADD", netlink, "ADD", 1.4),
        (bare, "DEL", ptp, "DEL", 0.10),
        (all, "DEL", ptp, "DEL", 0.10),
        (all, "DEL of an unknown id", ptp, "VERSION", 0.4),
        (bare, "96 ADDs, 8 at once", ptp, "96 ADDs, 8 at once", 0.20),
        (bare, "96 ADDs, 32 at once", ptp, "96 ADDs, 32 at once", 0.20),
        (all, "96 ADDs, 32 at once", ptp_masq, "96 ADDs, 32 at once", 0.20),
        (all, "96 ADDs, 32 at once", ptp, "96 ADDs, 32 at once", 0.20),
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

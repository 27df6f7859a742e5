//! The samples, the rows that they make, and the targets.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    Result,
    contender::{Contender, Contenders, Taken, VERBS},
    crowd::{AMONG, CROWDS},
    report::{
        Row, Rows,
        row::{median, millis},
    },
};

/// What calls took, by contender and call.
pub type Samples = BTreeMap<(&'static str, &'static str), Vec<Taken>>;

/// A DEL of what never was.
pub const UNKNOWN: &str = "DEL of an unknown id";
/// The ADD that finds nothing there.
pub const FIRST: &str = "very first ADD";

/// Remembers one.
pub fn note(samples: &mut Samples, contender: &Contender, call: &'static str, taken: Taken) {
    samples.entry((contender.label, call)).or_default().push(taken);
}

/// Milliseconds of each sample; none where none was taken.
fn of(
    samples: &Samples,
    contender: &Contender,
    call: &str,
    time: fn(&Taken) -> Duration,
) -> Option<Vec<f64>> {
    let found = samples.iter().find(|((label, of), _)| *label == contender.label && *of == call);
    found.map(|(_, taken)| taken.iter().map(time).map(millis).collect())
}

fn wall(taken: &Taken) -> Duration {
    taken.wall
}

fn cpu(taken: &Taken) -> Duration {
    taken.cpu
}

/// All rows: the time of each call and then the processors' time of each, as a call alone has it.
pub fn tell(contenders: &Contenders, samples: &Samples, rows: &mut Rows) -> Result<()> {
    for (contender, call) in calls(contenders) {
        rows.add(timed(contenders, samples, contender, call)?)?;
    }
    for (contender, call) in calls(contenders) {
        rows.add(used(contenders, samples, contender, call)?)?;
    }
    Ok(())
}

/// What is told of, in the order of the table.
fn calls(contenders: &Contenders) -> Vec<(&Contender, &'static str)> {
    let Contenders { ptp, bridge, bare, all, netlink, exec, .. } = contenders;
    let mut calls = Vec::new();
    for verb in VERBS {
        calls.extend(contenders.listed().map(|contender| (contender, verb)));
        if verb != "CHECK" {
            calls.push((netlink, verb));
        }
    }
    calls.extend([ptp, bridge, bare, all, exec].map(|contender| (contender, "VERSION")));
    calls.push((all, UNKNOWN));
    for crowd in CROWDS {
        for call in [crowd.add, crowd.del] {
            calls.extend(contenders.crowding().map(|contender| (contender, call)));
        }
    }
    for (contender, _) in contenders.among() {
        calls.extend(AMONG.iter().flat_map(|(_, calls)| calls).map(|call| (contender, *call)));
    }
    calls.extend(contenders.listed().map(|contender| (contender, FIRST)));
    calls
}

/// The time of a call, beside ptp's and whatever it has a target with.
fn timed(
    contenders: &Contenders,
    samples: &Samples,
    contender: &Contender,
    call: &'static str,
) -> Result<Row> {
    let Contenders { ptp, bare, dual, .. } = contenders;
    let p50 = |contender: &Contender, call: &str| {
        let times = of(samples, contender, call, wall).unwrap_or_default();
        median(&times).ok_or_else(|| format!("no {call} of {} was measured", contender.label))
    };
    let mut row = row(samples, contender, call, wall, call)?;
    let targets: Vec<_> = targets(contenders)
        .into_iter()
        .filter(|(own, of, ..)| own.label == contender.label && *of == call)
        .collect();
    let aimed = targets.iter().any(|(.., other, of, _)| other.label == ptp.label && *of == call);
    if contender.label != ptp.label
        && !aimed
        && let Ok(than) = p50(ptp, call)
    {
        row = row.ratio(ptp.label, than);
    }
    for (_, _, other, of, most) in targets {
        let name = if of == call { other.label } else { &format!("{of}: {}", other.label) };
        row = row.ratio(name, p50(other, of)?).at_most(most);
    }
    if contender.label == dual.label && call == "ADD" {
        row = row.more(bare.label, p50(dual, call)? - p50(bare, call)?).at_most(0.3);
    }
    Ok(row)
}

/// The processors' time of a call, beside ptp's.
fn used(
    contenders: &Contenders,
    samples: &Samples,
    contender: &Contender,
    call: &'static str,
) -> Result<Row> {
    let ptp = &contenders.ptp;
    let row = row(samples, contender, call, cpu, &format!("{call}, CPU"))?;
    let than = of(samples, ptp, call, cpu).and_then(|times| median(&times));
    Ok(match than {
        Some(than) if contender.label != ptp.label => row.ratio(ptp.label, than),
        _ => row,
    })
}

fn row(
    samples: &Samples,
    contender: &Contender,
    call: &str,
    time: fn(&Taken) -> Duration,
    name: &str,
) -> Result<Row> {
    let times = of(samples, contender, call, time).unwrap_or_default();
    Ok(Row::of(format!("{name}: {}", contender.label), "ms", &times)?)
}

/// A contender and its call, what the median is a ratio to, and the most that is aimed at.
type Aim<'a> = (&'a Contender, &'static str, &'a Contender, &'static str, f64);

fn targets(contenders: &Contenders) -> [Aim<'_>; 14] {
    let Contenders { ptp, ptp_masq, bare, counted, masq, all, netlink, .. } = contenders;
    let [few, many] = CROWDS.map(|crowd| crowd.add);
    let ([(_, [alone, ..]), _, (_, [crowded, ..])], del) = (AMONG, "DEL");
    [
        (bare, "ADD", ptp, "ADD", 0.25),
        (counted, "ADD", ptp, "ADD", 0.25),
        (masq, "ADD", ptp_masq, "ADD", 0.10),
        (all, "ADD", ptp_masq, "ADD", 0.10),
        (all, "ADD", ptp, "ADD", 0.17),
        (all, "ADD", netlink, "ADD", 1.4),
        (bare, del, ptp, del, 0.10),
        (all, del, ptp, del, 0.10),
        (all, UNKNOWN, ptp, "VERSION", 0.4),
        (bare, few, ptp, few, 0.20),
        (bare, many, ptp, many, 0.20),
        (all, many, ptp_masq, many, 0.20),
        (all, many, ptp, many, 0.20),
        (bare, crowded, bare, alone, 1.2),
    ]
}

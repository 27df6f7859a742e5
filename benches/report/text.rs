//! Rows as plain text, in columns.

use super::{
    lines::Run,
    row::{Against, How, Row, Target},
};

const HEADS: [&str; 10] =
    ["bench", "what", "median", "p10", "p90", "p99", "runs", "unit", "compared", "target"];
/// Figures stand to the right, words to the left.
const RIGHT: [bool; HEADS.len()] =
    [false, false, true, true, true, true, true, false, false, false];

type Cells = [String; HEADS.len()];

/// Everything that the benches told, with when and where it was measured.
pub fn table(heading: &str, runs: &[Run]) -> String {
    let mut lines: Vec<Option<Cells>> = vec![Some(HEADS.map(str::to_owned))];
    for run in runs {
        lines.push(None);
        lines.extend(run.rows.iter().flat_map(|row| cells(&run.bench, row)).map(Some));
    }
    let mut widths = [0; HEADS.len()];
    for cells in lines.iter().flatten() {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let commands: String =
        runs.iter().map(|run| format!("{:<10}{}\n", run.bench, command(run))).collect();
    let rows: String = lines
        .iter()
        .map(|cells| cells.as_ref().map_or("\n".to_owned(), |cells| line(cells, &widths)))
        .collect();
    format!(
        "{heading}\n\n{commands}\nWhat is compared was measured in the same run, by medians.\n\n\
         {rows}\n{}",
        sum(runs)
    )
}

fn command(run: &Run) -> String {
    match &run.failed {
        Some(why) => format!("{}   FAILED: {why}", run.command),
        None => run.command.clone(),
    }
}

/// How many targets were met, and which benches failed.
fn sum(runs: &[Run]) -> String {
    let rows = runs.iter().flat_map(|run| &run.rows);
    let judged: Vec<bool> = rows.flat_map(|row| &row.against).filter_map(Against::met).collect();
    let met = judged.iter().filter(|met| **met).count();
    let mut text = format!("targets: {met} met, {} missed\n", judged.len() - met);
    for run in runs {
        if let Some(why) = &run.failed {
            text += &format!("FAILED: {}: {why}\n", run.bench);
        }
    }
    text
}

/// The line of a row, and one more for whatever else it is held against.
fn cells(bench: &str, row: &Row) -> Vec<Cells> {
    let places = places(row.median);
    let figure = |number: f64| figure(number, places);
    let (p10, p90, p99, runs) = match row.spread {
        Some(spread) => {
            (figure(spread.p10), figure(spread.p90), figure(spread.p99), spread.runs.to_string())
        }
        None => Default::default(),
    };
    let [compared, target] = row.against.first().map(|first| held(row, first)).unwrap_or_default();
    let first = [
        bench.to_owned(),
        row.what.clone(),
        figure(row.median),
        p10,
        p90,
        p99,
        runs,
        row.unit.clone(),
        compared,
        target,
    ];
    let rest = row.against.iter().skip(1).map(|against| {
        let [compared, target] = held(row, against);
        let mut cells = Cells::default();
        cells[0] = bench.to_owned();
        cells[HEADS.len() - 2] = compared;
        cells[HEADS.len() - 1] = target;
        cells
    });
    std::iter::once(first).chain(rest).collect()
}

/// The comparison and the target.
fn held(row: &Row, against: &Against) -> [String; 2] {
    let shown = against.figure.map_or("no".to_owned(), |number| match against.target {
        // Of a million that are one too few no place may be lost.
        Some(Target::Exactly(_)) => number.to_string(),
        _ => figure(number, places(number)),
    });
    let compared = match against.how {
        How::Ratio => format!("{shown} x {}", against.other),
        How::More => format!("{shown} {} more than {}", row.unit, against.other),
        How::Itself => String::new(),
    };
    let target = match (against.target, against.met()) {
        (Some(target), Some(met)) => {
            let aim = match target {
                Target::AtMost(most) => format!("at most {most}"),
                Target::AtLeast(least) => format!("at least {least}"),
                Target::Exactly(wanted) => format!("exactly {wanted}"),
            };
            format!("{aim}: {}", if met { "met" } else { "MISSED" })
        }
        _ => String::new(),
    };
    [compared, target]
}

fn line(cells: &Cells, widths: &[usize; HEADS.len()]) -> String {
    let padded = cells.iter().zip(widths).zip(RIGHT).map(|((cell, width), right)| {
        if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
    });
    let padded: Vec<_> = padded.collect();
    format!("{}\n", padded.join("  ").trim_end())
}

/// So many places behind the point show three digits.
fn places(number: f64) -> usize {
    match number.abs() {
        0.0 | 100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    }
}

/// With a comma before each three digits.
fn figure(number: f64, places: usize) -> String {
    let text = format!("{number:.places$}");
    let whole = text.find('.').unwrap_or(text.len());
    let first = text.len() - text.trim_start_matches('-').len();
    let mut grouped = String::new();
    for (at, digit) in text.char_indices() {
        if at > first && at < whole && (whole - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

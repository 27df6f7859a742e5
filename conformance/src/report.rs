//! A report for people: a table for the terminal, and one of several plugins for a page.

use std::fmt::Write;

use crate::{
    case::Level,
    suite::{Outcome, Report, Verdict},
};

/// A line a case, and under each that does not hold the runs that show it.
pub fn table(report: &Report, all: bool) -> String {
    let mut text = String::new();
    for section in &report.sections {
        let shown: Vec<_> =
            section.cases.iter().filter(|case| all || case.verdict == Verdict::Fail).collect();
        if shown.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{}", section.section);
        for case in shown {
            line(&mut text, case);
        }
    }
    let _ = writeln!(
        text,
        "\n{}: {} hold, {} do not, {} do not apply; it speaks {}",
        report.plugin,
        report.count(Verdict::Pass),
        report.count(Verdict::Fail),
        report.count(Verdict::Skip),
        report.versions.join(", "),
    );
    text
}

fn line(text: &mut String, case: &Outcome) {
    let word = match case.verdict {
        Verdict::Pass => "ok  ",
        Verdict::Fail => "FAIL",
        Verdict::Skip => "-   ",
    };
    let _ = writeln!(text, "  {word} {:<34} {:<7} {}", case.id, case.level.word(), case.title);
    if let Some(why) = &case.skipped {
        let _ = writeln!(text, "         {why}");
    }
    for run in &case.runs {
        if let Some(failure) = &run.failure {
            let it = run
                .it
                .as_ref()
                .map(|it| format!(" {}", crate::protocol::shortened(&it.to_string())));
            let _ = writeln!(text, "         {}{}: {failure}", run.version, it.unwrap_or_default());
        }
    }
}

impl Level {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Should => "should",
            Self::Runtime => "runtime",
            Self::Robust => "robust",
        }
    }
}

/// A Markdown page of several plugins: a summary, and a table a section. It says what holds and what
/// doesn't but not in which words, so that it is the same wherever it is made.
pub fn page(reports: &[Report]) -> String {
    let mut text = summary(reports);
    let Some(first) = reports.first() else { return text };
    let names: Vec<_> = reports.iter().map(|report| report.plugin.as_str()).collect();
    for (at, section) in first.sections.iter().enumerate() {
        let _ = writeln!(text, "\n## {}\n", section.section);
        let _ = writeln!(text, "| what must hold | {} | level | by | id |", names.join(" | "));
        let _ = writeln!(text, "|---|{}---|---|---|", "---|".repeat(names.len()));
        for (number, case) in section.cases.iter().enumerate() {
            let cell = |report: &Report| {
                let found = report.sections.get(at).and_then(|section| section.cases.get(number));
                found.map_or("", mark)
            };
            let cells: Vec<_> = reports.iter().map(cell).collect();
            let (title, cells, level) = (&case.title, cells.join(" | "), case.level.word());
            let _ = writeln!(text, "| {title} | {cells} | {level} | {} | {} |", case.spec, case.id);
        }
    }
    text
}

fn summary(reports: &[Report]) -> String {
    let mut text = "| plugin | speaks | holds | misses | of which must | can't be asked |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    for report in reports {
        let missed = report.cases().filter(|case| case.verdict == Verdict::Fail);
        let musts = missed.filter(|case| case.level == Level::Must).count();
        let [holds, misses, skipped] =
            [Verdict::Pass, Verdict::Fail, Verdict::Skip].map(|verdict| report.count(verdict));
        let (plugin, versions) = (&report.plugin, report.versions.join(", "));
        let _ =
            writeln!(text, "| {plugin} | {versions} | {holds} | {misses} | {musts} | {skipped} |");
    }
    text
}

fn mark(case: &Outcome) -> &'static str {
    match case.verdict {
        Verdict::Pass if case.unspoken.is_empty() => "yes",
        Verdict::Pass => "yes, in what it speaks",
        Verdict::Fail => "**no**",
        Verdict::Skip => "–",
    }
}

//! What `weir top` draws.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table, TableState},
};

use super::{
    super::{line::duration, several},
    state::{Detail, State, name, requests, title},
};
use crate::agent::{
    log::visible,
    overview::{Exchanges, PodOverview},
};

/// Blocks of a trend in a row.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Readings in it.
const ROW_TREND: usize = 10;

/// Heads of the columns.
pub const COLUMNS: [&str; 9] = ["POD", "", "REQ/S", "ERR/S", "P50", "P99", "RX/S", "TX/S", "TREND"];

/// Characters of the columns behind a pod's name, and of the name where the terminal is narrow.
const WIDTHS: [u16; 8] = [2, 7, 6, 7, 7, 6, 6, 10];
const NAME: u16 = 20;

const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, state: &State, agent: &str) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(heading(state, agent), head);
    match state.detail.as_ref().map(|at| (at, state.pod(&at.name))) {
        Some((at, Some(pod))) => detail(frame, body, pod, &state.trend(&at.name), at),
        Some((at, None)) => {
            let gone = format!("{} is not there any more", visible(&title(&at.name)));
            frame.render_widget(Paragraph::new(gone), body);
        }
        None => rows(frame, body, state),
    }
    frame.render_widget(footing(state), foot);
}

fn heading(state: &State, agent: &str) -> Line<'static> {
    let pods = several(state.overview.pods.len(), "pod");
    let mut spans = vec![
        Span::styled("weir top", BOLD),
        Span::raw(format!("  {pods}  by {}", state.sort.name())),
    ];
    if !state.filter.is_empty() || state.typing {
        let cursor = if state.typing { "_" } else { "" };
        spans.push(Span::raw(format!("  /{}{cursor}", visible(&state.filter))));
    }
    match &state.trouble {
        Some(trouble) => {
            let text = format!("  {}", visible(trouble));
            spans.push(Span::styled(text, Style::new().fg(Color::Red)));
        }
        None => spans.push(Span::styled(format!("  {agent}"), DIM)),
    }
    Line::from(spans)
}

fn footing(state: &State) -> Line<'static> {
    Line::styled(
        if state.typing {
            "enter keep  esc clear"
        } else if state.detail.is_some() {
            "esc back  q quit"
        } else {
            "j/k move  enter look into  s sort  / filter  q quit   <- serves  -> asks"
        },
        DIM,
    )
}

fn rows(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let pods = state.rows();
    // Between two columns is one more.
    let others: u16 = WIDTHS.iter().map(|width| width + 1).sum();
    let room = area.width.saturating_sub(others).max(NAME);
    let rows = pods.iter().map(|pod| {
        let [title, arrow, rate, errors, p50, p99, rx, tx] = cells(pod);
        let failing = requests(pod).1.error_rate.is_some_and(|rate| rate > 0.0);
        let alarm = if failing { Style::new().fg(Color::Red) } else { Style::new() };
        let style = if pod.counted { Style::new() } else { DIM };
        let trend = bars(&state.trend(&name(pod)), ROW_TREND);
        let right = |text: String| Cell::from(Line::from(text).right_aligned());
        Row::new([
            Cell::from(shortened(title, room.into())),
            Cell::from(arrow),
            right(rate),
            right(errors).style(alarm),
            right(p50),
            right(p99),
            right(rx),
            right(tx),
            Cell::from(trend),
        ])
        .style(style)
    });
    let widths = [Constraint::Min(NAME)].into_iter().chain(WIDTHS.map(Constraint::Length));
    let heads = COLUMNS.iter().enumerate().map(|(at, head)| {
        let line = Line::from(*head);
        Cell::from(if (2..8).contains(&at) { line.right_aligned() } else { line })
    });
    let table = Table::new(rows, widths)
        .header(Row::new(heads).style(BOLD))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut selection = TableState::new().with_selected(state.at(&pods));
    frame.render_stateful_widget(table, area, &mut selection);
}

/// A name in so many characters. It gives way in the middle: those of a namespace or of a workload
/// begin alike, and its replicas differ at the end.
fn shortened(name: String, room: usize) -> String {
    let count = name.chars().count();
    if count <= room {
        return name;
    }
    let end = room.saturating_sub(1).div_ceil(2);
    let start = room.saturating_sub(1 + end);
    let (first, last) = (name.chars().take(start), name.chars().skip(count - end));
    first.chain(['…']).chain(last).collect()
}

/// A row's texts, without its trend.
pub fn cells(pod: &PodOverview) -> [String; 8] {
    let (arrow, requests) = requests(pod);
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), number);
    [
        visible(&title(&name(pod))),
        arrow.to_owned(),
        rate(requests.rate),
        rate(requests.error_rate),
        requests.p50_seconds.map_or("-".to_owned(), duration),
        requests.p99_seconds.map_or("-".to_owned(), duration),
        rate(pod.network.rx_rate),
        rate(pod.network.tx_rate),
    ]
}

/// A number in five characters at most.
fn number(value: f64) -> String {
    const STEPS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    for (step, unit) in STEPS {
        if value >= step * 0.9995 {
            let scaled = value / step;
            return if scaled < 99.95 {
                format!("{scaled:.1}{unit}")
            } else {
                format!("{scaled:.0}{unit}")
            };
        }
    }
    match value {
        0.0 => "0".to_owned(),
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The last `count` values as blocks, the highest of which is full.
fn bars(values: &[f64], count: usize) -> String {
    let recent = &values[values.len().saturating_sub(count)..];
    let highest = recent.iter().copied().fold(0.0, f64::max);
    let bar = |value: &f64| {
        let eighth = eighths(*value, highest);
        BARS.get(eighth).copied().unwrap_or('█')
    };
    recent.iter().map(bar).collect()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Between 0 and 7.
fn eighths(value: f64, highest: f64) -> usize {
    if highest > 0.0 { (value / highest * 7.0).clamp(0.0, 7.0).round() as usize } else { 0 }
}

fn detail(frame: &mut Frame<'_>, area: Rect, pod: &PodOverview, trend: &[f64], at: &Detail) {
    let [table, graph, flows] =
        Layout::vertical([Constraint::Length(9), Constraint::Length(5), Constraint::Min(2)])
            .areas(area);
    let kinds = [
        ("serves HTTP", &pod.server.http),
        ("serves DNS", &pod.server.dns),
        ("serves databases", &pod.server.db),
        ("asks HTTP", &pod.client.http),
        ("asks DNS", &pod.client.dns),
        ("asks databases", &pod.client.db),
    ];
    let rows =
        kinds.into_iter().filter(|(_, kind)| kind.total > 0).map(|(what, kind)| side(what, kind));
    let widths = [18, 12, 10, 8, 8, 8, 8].map(Constraint::Length);
    let heads = ["", "TOTAL", "ERRORS", "REQ/S", "ERR/S", "P50", "P99"];
    let heads = heads.map(|head| Line::from(head).right_aligned());
    let titled = |title: String| Block::new().borders(Borders::TOP).title(title);
    let (serving, asking) = (pod.server.connections, pod.client.connections);
    let about = format!(
        "{}  rx {}/s  tx {}/s  connections {serving} in, {asking} out ",
        visible(&title(&name(pod))),
        pod.network.rx_rate.map_or("-".to_owned(), number),
        pod.network.tx_rate.map_or("-".to_owned(), number),
    );
    frame.render_widget(
        Table::new(rows, widths).header(Row::new(heads).style(BOLD)).block(titled(about)),
        table,
    );
    let highest = trend.iter().copied().fold(0.0, f64::max);
    let spark = Sparkline::default()
        .block(titled(format!("requests a second, up to {} ", number(highest))))
        .data(trend.iter().map(|rate| whole(*rate)))
        .style(Style::new().fg(Color::Cyan));
    frame.render_widget(spark, graph);
    let room = usize::from(flows.height.saturating_sub(1));
    let recent = at.lines.iter().skip(at.lines.len().saturating_sub(room));
    let recent: Vec<Line<'_>> = recent.map(|line| Line::from(line.as_str())).collect();
    frame.render_widget(Paragraph::new(recent).block(titled(exchanges(at))), flows);
}

/// What is above a pod's exchanges.
fn exchanges(at: &Detail) -> String {
    let missing = match at.lost {
        0 => String::new(),
        lost => format!(", {} missing", several(lost, "record")),
    };
    match &at.trouble {
        Some(trouble) => format!("exchanges{missing}: {} ", visible(trouble)),
        None if at.lines.is_empty() => format!("exchanges{missing}: none yet "),
        None => format!("exchanges{missing} "),
    }
}

/// For the height of a bar, where thousandths are enough.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Clamped to what fits.
fn whole(rate: f64) -> u64 {
    (rate * 1e3).clamp(0.0, 1e15) as u64
}

fn side(what: &str, kind: &Exchanges) -> Row<'static> {
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), number);
    let time = |time: Option<f64>| time.map_or("-".to_owned(), duration);
    let cells = [
        kind.total.to_string(),
        kind.errors.to_string(),
        rate(kind.rate),
        rate(kind.error_rate),
        time(kind.p50_seconds),
        time(kind.p99_seconds),
    ]
    .map(|text| Line::from(text).right_aligned());
    Row::new([Line::from(what.to_owned())].into_iter().chain(cells))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_give_way_in_the_middle() {
        for (name, room, shown) in [
            ("shop/web", 8, "shop/web"),
            ("shop/checkout-7d4b9c6f5d-x2x8p", 20, "shop/chec…6f5d-x2x8p"),
            ("shop/checkout-7d4b9c6f5d-x2x8p", 21, "shop/check…6f5d-x2x8p"),
            ("äöüäöü", 3, "ä…ü"),
            ("ab", 1, "…"),
        ] {
            assert_eq!(shortened(name.into(), room), shown);
        }
    }

    #[test]
    fn numbers_have_five_characters_at_most() {
        for (value, shown) in [
            (0.0, "0"),
            (0.256, "0.26"),
            (9.994, "9.99"),
            (9.999, "10.0"),
            (99.99, "100"),
            (999.4, "999"),
            (999.9, "1.0k"),
            (12_345.0, "12.3k"),
            (999_400.0, "999k"),
            (3e6, "3.0M"),
            (4.2e12, "4.2T"),
        ] {
            assert_eq!(number(value), shown);
        }
    }

    #[test]
    fn the_highest_bar_is_full_and_only_the_last_are_shown() {
        assert_eq!(bars(&[9.0, 0.0, 1.0, 2.0], 3), "▁▅█");
        assert_eq!(bars(&[0.0, 0.0], 3), "▁▁");
        assert_eq!(bars(&[], 3), "");
    }
}

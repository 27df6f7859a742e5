//! Columns for a terminal.

use std::fmt::Write;

use crate::agent::log::visible;

/// Lays `rows` (the header first) out in columns two spaces apart.
///
/// Names come from whoever started a pod: what could move a cursor is shown, not sent.
pub fn render(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| visible(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|at| rows.iter().filter_map(|row| row.get(at)).map(|cell| width(cell)).max())
        .map(|widest| widest.unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, widest) in row.iter().zip(&widths) {
            // Writing to a String can't fail.
            let _ = write!(line, "{cell}{:1$}", "", widest - width(cell) + 2);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

//! Tables as text for a terminal, and as Markdown for a comment on a pull request.

use super::{Table, clean};

/// Appends a table for a terminal: the first column to the left, the figures to the right, the last column of words to the left.
pub(crate) fn push_text(text: &mut String, table: &Table) {
    text.push_str(&format!("{}\n", table.title));
    let width = |column: usize| {
        let cells = table.rows.iter().map(|row| row.cells[column].chars().count());
        cells.chain([table.columns[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..table.columns.len()).map(width).collect();
    let words = matches!(table.columns.last().map(String::as_str), Some("what" | "verdict" | "in"));
    let mut line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(index, (cell, &width))| {
            let left = index == 0 || (words && index + 1 == cells.len());
            if left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        let joined = padded.collect::<Vec<_>>().join("  ");
        text.push_str(&format!("  {}\n", joined.trim_end()));
    };
    line(&table.columns);
    for row in &table.rows {
        line(&row.cells);
    }
    if let Some(note) = &table.note {
        text.push_str(&format!("  ({note})\n"));
    }
    text.push('\n');
}

/// Appends a table as Markdown: the first column as code, details folded away.
pub(crate) fn push_markdown(text: &mut String, table: &Table) {
    let note = table.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
    if table.detail {
        text.push_str(&format!("<details><summary>{}{note}</summary>\n\n", escape(&table.title)));
    } else {
        text.push_str(&format!("**{}**{note}\n\n", escape(&table.title)));
    }
    if !table.rows.is_empty() {
        text.push_str(&format!("| {} |\n|:--|{}\n", table.columns.join(" | "), "--:|".repeat(table.columns.len() - 1)));
    }
    for row in &table.rows {
        let cells = row.cells.iter().enumerate().map(|(index, cell)| if index == 0 { code(cell) } else { escape(cell) });
        text.push_str(&format!("| {} |\n", cells.collect::<Vec<_>>().join(" | ")));
    }
    text.push_str(if table.detail { "\n</details>\n\n" } else { "\n" });
}

/// A name as code: nothing in it is markup, a mention or a link.
pub(crate) fn code(name: &str) -> String {
    format!("`{}`", clean(name).replace('`', "'").replace('|', "\\|"))
}

/// Words in which nothing is markup, a mention or a link.
pub(crate) fn escape(words: &str) -> String {
    let mut text = String::new();
    for character in clean(words).chars() {
        match character {
            '<' => text.push_str("&lt;"),
            '&' => text.push_str("&amp;"),
            '@' => text.push_str("&#64;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' => {
                text.push('\\');
                text.push(character);
            }
            other => text.push(other),
        }
    }
    text
}

//! For a comment on a pull request: a summary line, tables, details folded away.

use super::table;
use crate::compare::Comparisons;
use crate::page::{Table, clean};

/// Renders a comparison, ending in a newline.
#[must_use]
pub fn comparison(comparisons: &Comparisons) -> String {
    let mut text = String::new();
    let verdict = match (comparisons.limited, comparisons.over.len()) {
        (false, _) => "",
        (true, 0) => "✅ **Within budget.** ",
        (true, _) => "❌ **Over budget.** ",
    };
    let several = comparisons.comparisons.len() != 1;
    if several {
        text.push_str(&format!("### Images compared\n\n{verdict}\n\n"));
        push_table(&mut text, &table::of_images(comparisons));
    }
    for comparison in &comparisons.comparisons {
        if several {
            text.push_str(&format!("#### {}\n\n{}\n\n", code(&comparison.head), table::summary(comparison)));
        } else {
            let (base, head) = (code(&comparison.base), code(&comparison.head));
            text.push_str(&format!("### {base} → {head}\n\n{verdict}{}\n\n", table::summary(comparison)));
        }
        if !several && !comparisons.over.is_empty() {
            push_table(&mut text, &table::of_excess(comparisons));
        }
        for table in table::of_comparison(comparison) {
            push_table(&mut text, &table);
        }
    }
    if several && !comparisons.over.is_empty() {
        push_table(&mut text, &table::of_excess(comparisons));
    }
    for note in &comparisons.notes {
        text.push_str(&format!("- {}\n", escape(note)));
    }
    text
}

fn push_table(text: &mut String, table: &Table) {
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
fn code(name: &str) -> String {
    format!("`{}`", clean(name).replace('`', "'").replace('|', "\\|"))
}

/// Words in which nothing is markup, a mention or a link.
fn escape(words: &str) -> String {
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

//! For a comment on a pull request: a summary line, tables, details folded away.

use super::table;
use crate::compare::Comparisons;
use crate::page::tables::{code, escape, push_markdown as push_table};

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

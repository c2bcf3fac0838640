//! For a terminal or a log.

use super::table;
use crate::compare::{Comparisons, History, Point};
use crate::page::clean;
use crate::page::tables::push_text as push_table;

/// The bars of a sparkline, lowest first.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Renders a comparison, without colours, ending in a newline.
#[must_use]
pub fn comparison(comparisons: &Comparisons) -> String {
    let mut text = String::new();
    if comparisons.comparisons.len() != 1 {
        push_table(&mut text, &table::of_images(comparisons));
    }
    for comparison in &comparisons.comparisons {
        text.push_str(&format!("{} → {}\n{}\n\n", clean(&comparison.base), clean(&comparison.head), table::summary(comparison)));
        for table in table::of_comparison(comparison) {
            push_table(&mut text, &table);
        }
    }
    for note in &comparisons.notes {
        text.push_str(&format!("note: {}\n", clean(note)));
    }
    if comparisons.limited && comparisons.over.is_empty() {
        text.push_str("within budget\n");
    }
    text
}

/// What a sparkline is drawn of.
type Figure = fn(&Point) -> Option<f64>;

/// Renders a history with a sparkline for each figure, ending in a newline.
#[must_use]
pub fn history(history: &History) -> String {
    let mut text = String::new();
    push_table(&mut text, &table::of_history(history));
    let figures: [(&str, Figure); 3] = [
        ("compressed", |point| point.total.compressed.map(crate::compare::arithmetic::float)),
        ("unpacked", |point| point.total.unpacked.map(crate::compare::arithmetic::float)),
        ("cold start", |point| point.cold_start_ms),
    ];
    for (name, of) in figures {
        let values: Vec<Option<f64>> = history.points.iter().map(of).collect();
        if values.iter().flatten().count() > 1 {
            text.push_str(&format!("{name:<11} {}\n", sparkline(&values)));
        }
    }
    text
}

/// A bar for each value, from the smallest to the largest; a space where there is none.
fn sparkline(values: &[Option<f64>]) -> String {
    let smallest = values.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let largest = values.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
    let bar = |value: f64| {
        let place = if largest > smallest { (value - smallest) / (largest - smallest) } else { 0.0 };
        let steps = (1..BARS.len()).filter(|step| place * 7.0 >= f64::from(u8::try_from(*step).unwrap_or(7)) - 0.5).count();
        BARS[steps]
    };
    values.iter().map(|value| value.map_or(' ', bar)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_has_the_lowest_and_the_highest_bar() {
        assert_eq!(sparkline(&[Some(1.0), None, Some(8.0), Some(4.5)]), "▁ █▅");
        assert_eq!(sparkline(&[Some(3.0), Some(3.0)]), "▁▁");
    }
}

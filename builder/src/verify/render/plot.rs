//! The plots of a verification: how many elements are how far off, and what came against what was expected.

use std::collections::BTreeSet;

use plotters::prelude::*;

use super::words::number;
use crate::page::plot::{Canvas, FAINT, FONT, IN_MEMORY, INK, LINES, NARROW, Plot, SERIES, colour, drawing, text};
use crate::verify::metrics::Metrics;

/// The most powers of ten that have a bar of their own; smaller errors share one.
const DECADES: usize = 18;
/// Points of a scatter are drawn once for each square of so many pixels.
const GRID: i32 = 2;
/// Width of a digit on an axis, pixels.
const DIGIT: i32 = 7;

/// A bar of the histogram.
struct Bar {
    label: String,
    meaning: String,
    count: u64,
    colour: usize,
}

/// The bars: elements that are equal, errors by power of ten, and what is no number on one side.
fn bars_of(metrics: &Metrics) -> Vec<Bar> {
    let bar =
        |label: &str, meaning: String, count, series| Bar { label: label.to_owned(), meaning, count, colour: SERIES + series };
    let mut bars = vec![bar("equal", "equal".to_owned(), metrics.elements.saturating_sub(metrics.unequal), 2)];
    let first = metrics.error_decades.first().map_or(0, |(exponent, _)| *exponent);
    let last = metrics.error_decades.last().map_or(-1, |(exponent, _)| *exponent);
    let shown = i32::try_from(DECADES).unwrap_or(i32::MAX);
    let from = first.max(last.saturating_sub(shown - 1));
    let count = |wanted: &dyn Fn(i32) -> bool| -> u64 {
        metrics.error_decades.iter().filter(|(exponent, _)| wanted(*exponent)).map(|(_, count)| count).sum()
    };
    if first < from {
        bars.push(bar(&format!("<1e{from}"), format!("error below 1e{from}"), count(&|exponent| exponent < from), 0));
    }
    for exponent in from..=last {
        let meaning = format!("error from 1e{exponent} to 1e{}", i64::from(exponent) + 1);
        bars.push(bar(&format!("1e{exponent}"), meaning, count(&|other| other == exponent), 0));
    }
    if metrics.nonfinite_mismatches > 0 {
        let meaning = "NaN or infinite on one side".to_owned();
        bars.push(bar("not finite", meaning, metrics.nonfinite_mismatches, 3));
    }
    // Texts, and integers too large for the difference of 64-bit floats, have no error that is a number.
    let rest = metrics.unequal.saturating_sub(metrics.nonfinite_mismatches + count(&|_| true));
    if rest > 0 {
        bars.push(bar("unequal", "not equal".to_owned(), rest, 3));
    }
    bars
}

/// How many elements are how far off; counts are on a logarithmic axis, where a single wild element is seen.
pub(super) fn histogram(label: &str, metrics: &Metrics) -> Plot {
    let bars = bars_of(metrics);
    let top = bars.iter().map(|bar| bar.count).max().unwrap_or(0).max(1).ilog10() + 1;
    Plot::new(label, Vec::new(), |width| {
        drawing(width, if width > NARROW { 300 } else { 240 }, |area, areas| {
            let columns = f64::from(u16::try_from(bars.len()).unwrap_or(u16::MAX));
            let mut chart = ChartBuilder::on(area)
                .margin_top(14)
                .margin_right(8)
                .margin_left(46)
                .margin_bottom(24)
                .build_cartesian_2d(0.0..columns, -0.5..f64::from(top))
                .expect(IN_MEMORY);
            for exponent in 0..=top {
                let at = f64::from(exponent);
                let line = PathElement::new([(0.0, at), (columns, at)], colour(FAINT));
                chart.draw_series([line]).expect(IN_MEMORY);
                let (x, y) = chart.backend_coord(&(0.0, at));
                ends_at(area, (x - 6, y - FONT / 2), &power(exponent));
            }
            let mut free = 0;
            for (index, bar) in bars.iter().enumerate() {
                let left = f64::from(u16::try_from(index).unwrap_or(u16::MAX));
                #[expect(clippy::cast_precision_loss, reason = "a height on a logarithmic axis")]
                let height = if bar.count == 0 { -0.5 } else { (bar.count as f64).log10() };
                let corners = [(left + 0.08, height), (left + 0.92, -0.5)];
                if bar.count > 0 {
                    chart.draw_series([Rectangle::new(corners, colour(bar.colour).filled())]).expect(IN_MEMORY);
                }
                let (x, y) = chart.backend_coord(&corners[0]);
                let (right, low) = chart.backend_coord(&corners[1]);
                if bar.count > 0 {
                    areas.push((x, y.min(low - 6), right - x, (low - y).max(6), meaning(bar, metrics.elements)));
                }
                let wide = DIGIT * i32::try_from(bar.label.chars().count()).unwrap_or(0);
                let start = ((x + right - wide) / 2).clamp(0, i32::try_from(width).unwrap_or(0) - wide);
                if start >= free {
                    text(area, (start, low + 6), &bar.label, INK);
                    free = start + wide + 4;
                }
            }
        })
    })
}

fn meaning(bar: &Bar, elements: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    let share = 100.0 * bar.count as f64 / elements.max(1) as f64;
    format!("{}: {} elements, {} %", bar.meaning, bar.count, number(share))
}

/// `1`, `10`, `100`, `1k` and so on.
fn power(exponent: u32) -> String {
    let digits = 10_u32.pow(exponent % 3);
    match exponent / 3 {
        0 => digits.to_string(),
        1 => format!("{digits}k"),
        2 => format!("{digits}M"),
        3 => format!("{digits}G"),
        _ => format!("1e{exponent}"),
    }
}

fn ends_at(area: &Canvas<'_>, (x, y): (i32, i32), words: &str) {
    let wide = DIGIT * i32::try_from(words.chars().count()).unwrap_or(0);
    text(area, ((x - wide).max(0), y), words, INK);
}

/// What came over what was expected, with the line on which both are equal. `None` where there are no numbers.
pub(super) fn scatter(label: &str, pairs: &[(f64, f64)]) -> Option<Plot> {
    let values = || pairs.iter().flat_map(|(expected, actual)| [*expected, *actual]).filter(|value| value.is_finite());
    let lowest = values().fold(f64::INFINITY, f64::min);
    let highest = values().fold(f64::NEG_INFINITY, f64::max);
    if lowest > highest {
        return None;
    }
    // In parts of a power of ten near the largest magnitude, since the drawing library cannot place the largest and smallest numbers.
    let peak = lowest.abs().max(highest.abs());
    #[expect(clippy::cast_possible_truncation, reason = "64-bit floats have 632 powers of ten")]
    let scale = if peak > 0.0 { 10_f64.powi((peak.log10().floor() as i32).max(-307)) } else { 1.0 };
    let spread = highest / scale - lowest / scale;
    let around = (spread * 0.04).max(1e-6);
    let range = (lowest / scale - around)..(highest / scale + around);
    let legend = vec![(LINES, "an element".to_owned()), (LINES + 1, "equal".to_owned())];
    Some(Plot::new(label, legend, |width| {
        let height = if width > NARROW { 420 } else { 300 };
        drawing(width, height, |area, areas| {
            let mut chart = ChartBuilder::on(area)
                .margin(12)
                .margin_right(26)
                .x_label_area_size(42)
                .y_label_area_size(74)
                .build_cartesian_2d(range.clone(), range.clone())
                .expect(IN_MEMORY);
            let shown = |value: &f64| number(value * scale);
            chart
                .configure_mesh()
                .x_labels(if width > NARROW { 5 } else { 3 })
                .y_labels(5)
                .x_label_formatter(&shown)
                .y_label_formatter(&shown)
                .x_desc("expected")
                .y_desc("actual")
                .label_style(("sans-serif", FONT).into_font().color(&colour(INK)))
                .bold_line_style(colour(FAINT))
                .light_line_style(TRANSPARENT)
                .axis_style(colour(FAINT))
                .draw()
                .expect(IN_MEMORY);
            let ends = [(range.start, range.start), (range.end, range.end)];
            chart.draw_series(LineSeries::new(ends, colour(LINES + 1).stroke_width(1))).expect(IN_MEMORY);
            let mut drawn = BTreeSet::new();
            for (expected, actual) in pairs {
                let place = (expected / scale, actual / scale);
                let (x, y) = chart.backend_coord(&place);
                if drawn.insert((x / GRID, y / GRID)) {
                    chart.draw_series([Circle::new(place, 2, colour(LINES).filled())]).expect(IN_MEMORY);
                    areas.push((x - 4, y - 4, 8, 8, format!("{}, expected {}", number(*actual), number(*expected))));
                }
            }
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_in_a_bar_even_of_the_widest_range() {
        let decades: Vec<(i32, u64)> = vec![(-324, 1), (-7, 5), (-6, 2), (307, 1)];
        let metrics =
            Metrics { elements: 20, unequal: 12, nonfinite_mismatches: 2, error_decades: decades, ..Metrics::default() };
        let bars = bars_of(&metrics);
        assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), 20);
        assert!(bars.len() <= DECADES + 4, "{}", bars.len());
        assert_eq!((bars[0].count, bars[1].label.as_str(), bars[1].count), (8, "<1e290", 8));
        histogram("errors", &metrics);
        histogram("nothing", &Metrics::default());
    }

    #[test]
    fn any_numbers_can_be_drawn() {
        let hard = [
            vec![(0.0, 0.0)],
            vec![(f64::MAX, f64::MIN)],
            vec![(5e-324, 0.0)],
            vec![(1e6, 1e6 + 1e-9), (1e6, 1e6)],
            vec![(-1.0, 1.0), (f64::MAX, 0.0)],
        ];
        for pairs in hard {
            let plot = scatter("pairs", &pairs).expect("there are numbers");
            assert!(!plot.wide.markup.contains("NaN"), "{}", plot.wide.markup);
        }
        assert!(scatter("pairs", &[]).is_none());
    }
}

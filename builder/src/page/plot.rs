//! Plots as SVG: stacked bars and lines here, further ones by the same means beside what they show.
//!
//! Each is drawn twice, for a wide page and for a phone, so that text keeps its size. Colours are names that the page's style defines,
//! so that one drawing serves light and dark: the drawing library knows only numbers, and [`named_colours`] turns those into names.

use plotters::coord::Shift;
use plotters::prelude::*;
use serde::Serialize;

use super::clean;
use crate::units::{ByteSize, Milliseconds};

/// Text on the page.
pub(crate) const INK: usize = 0;
/// Grid lines and frames.
pub(crate) const FAINT: usize = 1;
/// Text on coloured cells.
pub(crate) const ON_CELL: usize = 2;
/// The page.
pub(crate) const PAPER: usize = 3;
/// The first colour of a series.
pub(crate) const SERIES: usize = 10;
/// How many colours there are for series.
pub(crate) const COLOURS: usize = 11;
/// The first of two colours for lines, which need more contrast than areas.
pub(crate) const LINES: usize = SERIES + COLOURS;

/// Width of a drawing for a wide page, pixels.
pub(crate) const WIDE: u32 = 580;
/// Width of a drawing for a phone, pixels.
pub(crate) const NARROW: u32 = 312;
/// Height of text, pixels.
pub(crate) const FONT: i32 = 12;
/// How wide a character is, about, in tenths of the font's size.
const CHARACTER: i32 = 6;

/// Position, size and meaning of a part of a drawing.
pub(crate) type Area = (i32, i32, i32, i32, String);

/// A drawing, and what its areas mean.
#[derive(Debug, Serialize)]
pub(crate) struct Drawing {
    /// The SVG element.
    pub markup: String,
    /// `[x, y, width, height, text]` of every area as JSON, for the text that appears under a pointer.
    pub areas: String,
}

/// One plot in both widths.
#[derive(Debug, Serialize)]
pub(crate) struct Plot {
    /// What it shows.
    pub label: String,
    /// For a wide page.
    pub wide: Drawing,
    /// For a phone.
    pub narrow: Drawing,
    /// Colour and name of every series.
    pub legend: Vec<(usize, String)>,
}

impl Plot {
    /// Draws it in both widths.
    pub fn new(label: &str, legend: Vec<(usize, String)>, draw: impl Fn(u32) -> Drawing) -> Self {
        Self { label: clean(label), wide: draw(WIDE), narrow: draw(NARROW), legend }
    }
}

/// What is drawn upon.
pub(crate) type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A number that stands for a colour's name.
pub(crate) fn colour(index: usize) -> RGBColor {
    RGBColor(1, 2, u8::try_from(index).unwrap_or(u8::MAX))
}

/// Replaces the numbers of [`colour`] by the names of the page's style. Text is escaped by the drawing library and has no quotes of its own.
fn named_colours(svg: &str) -> String {
    (0..LINES + 2)
        .fold(svg.to_owned(), |svg, index| svg.replace(&format!("\"#0102{index:02X}\""), &format!("\"var(--c{index})\"")))
}

/// Runs a drawing; writing to memory does not fail.
pub(crate) fn drawing(width: u32, height: u32, draw: impl FnOnce(&Canvas<'_>, &mut Vec<Area>)) -> Drawing {
    let mut svg = String::new();
    let mut areas = Vec::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        draw(&root, &mut areas);
        root.present().expect(IN_MEMORY);
    }
    let areas = serde_json::to_string(&areas).expect("areas are lists of numbers and text");
    Drawing { markup: named_colours(&svg), areas }
}

/// Why drawing does not fail.
pub(crate) const IN_MEMORY: &str = "drawing into memory does not fail";

/// Draws a text.
pub(crate) fn text(area: &Canvas<'_>, at: (i32, i32), words: &str, ink: usize) {
    let style = ("sans-serif", FONT).into_font().color(&colour(ink));
    area.draw(&Text::new(words.to_owned(), at, style)).expect(IN_MEMORY);
}

/// As much of a text as fits into so many pixels.
pub(crate) fn fitting(words: &str, width: i32) -> Option<String> {
    let room = usize::try_from(width * 10 / (FONT * CHARACTER)).unwrap_or(0);
    let length = words.chars().count();
    match (length <= room, room >= 4) {
        (true, _) => Some(words.to_owned()),
        (false, true) => Some(words.chars().take(room - 1).chain(['…']).collect()),
        (false, false) => None,
    }
}

/// A number of bytes that was summed as floating point.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a sum of sizes is a size")]
pub(crate) fn whole(size: f64) -> u64 {
    size as u64
}

/// A bar of stacked segments.
pub(crate) struct Bar {
    /// Its name.
    pub label: String,
    /// Colour, name and length of each segment, from the left.
    pub segments: Vec<(usize, String, f64)>,
}

/// What an axis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Bytes => ByteSize(whole(value)).to_string(),
            Self::Milliseconds => Milliseconds(value).to_string(),
        }
    }

    fn axis(self, value: f64) -> String {
        match self {
            Self::Bytes => format!("{} MB", value / 1e6),
            Self::Milliseconds if value >= 10_000.0 => format!("{} s", value / 1e3),
            Self::Milliseconds => format!("{value} ms"),
        }
    }
}

/// Stacked bars, one below the other, with a common axis that begins at 0.
pub(crate) fn bars(label: &str, bars: &[Bar], unit: Unit) -> Plot {
    let mut legend: Vec<(usize, String)> = Vec::new();
    for (series, name, _) in bars.iter().flat_map(|bar| &bar.segments) {
        if !legend.iter().any(|(_, known)| known == name) {
            legend.push((*series, name.clone()));
        }
    }
    let length = |bar: &Bar| bar.segments.iter().map(|(_, _, length)| length).sum::<f64>();
    let longest = bars.iter().map(length).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let rows = f64::from(u16::try_from(bars.len()).unwrap_or(u16::MAX));
    Plot::new(label, legend, |width| {
        let height = 40 + 52 * u32::try_from(bars.len()).unwrap_or(1);
        drawing(width, height, |area, areas| {
            let mut chart = ChartBuilder::on(area)
                .margin_right(24)
                .margin_left(18)
                .x_label_area_size(28)
                .build_cartesian_2d(0.0..longest * 1.01, 0.0..rows)
                .expect(IN_MEMORY);
            mesh(&mut chart, if width > NARROW { 6 } else { 3 }, unit);
            let mut bottom = rows;
            for bar in bars {
                bottom -= 1.0;
                let mut start = 0.0;
                for (series, name, length) in &bar.segments {
                    let corners = [(start, bottom + 0.6), (start + length, bottom + 0.12)];
                    chart.draw_series([Rectangle::new(corners, colour(*series).filled())]).expect(IN_MEMORY);
                    let (left, top) = chart.backend_coord(&corners[0]);
                    let (right, low) = chart.backend_coord(&corners[1]);
                    areas.push((
                        left,
                        top,
                        (right - left).max(2),
                        low - top,
                        format!("{}, {name}: {}", clean(&bar.label), unit.show(*length)),
                    ));
                    start += length;
                }
                let (x, y) = chart.backend_coord(&(0.0, bottom + 0.98));
                let words = format!("{} · {}", clean(&bar.label), unit.show(start));
                let room = i32::try_from(width).unwrap_or(0) - x - 8;
                text(area, (x, y), &fitting(&words, room).unwrap_or_default(), INK);
            }
        })
    })
}

type Chart<'a, 'b> =
    ChartContext<'a, SVGBackend<'b>, Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>>;

/// Vertical lines with their values below.
fn mesh(chart: &mut Chart<'_, '_>, labels: usize, unit: Unit) {
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(labels)
        .x_label_formatter(&|value| unit.axis(*value))
        .label_style(("sans-serif", FONT).into_font().color(&colour(INK)))
        .bold_line_style(colour(FAINT))
        .light_line_style(TRANSPARENT)
        .axis_style(colour(FAINT))
        .draw()
        .expect(IN_MEMORY);
}

/// A line through the known values of a series.
pub(crate) struct Line {
    /// Its name.
    pub name: String,
    /// A value for every point, where there is one.
    pub values: Vec<Option<f64>>,
}

/// Lines over named points; the axis begins at 0.
pub(crate) fn lines(label: &str, points: &[String], lines: &[Line], unit: Unit) -> Plot {
    let legend = lines.iter().enumerate().map(|(index, line)| (LINES + index, line.name.clone())).collect();
    let largest = lines.iter().flat_map(|line| line.values.iter().flatten()).copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let place = |index: usize| f64::from(u16::try_from(index).unwrap_or(u16::MAX));
    let last = place(points.len().saturating_sub(1)).max(0.5);
    Plot::new(label, legend, |width| {
        let shown = if width > NARROW { 5 } else { 2 };
        drawing(width, if width > NARROW { 300 } else { 240 }, |area, areas| {
            let mut chart = ChartBuilder::on(area)
                .margin(12)
                .margin_right(40)
                .x_label_area_size(28)
                .y_label_area_size(62)
                .build_cartesian_2d(0.0..last, 0.0..largest * 1.1)
                .expect(IN_MEMORY);
            let name = |value: &f64| {
                let index = points.iter().enumerate().find(|(index, _)| (place(*index) - value).abs() < 1e-9);
                index.and_then(|(_, name)| fitting(&clean(name), 90)).unwrap_or_default()
            };
            chart
                .configure_mesh()
                .disable_x_mesh()
                .x_labels(shown.min(points.len()))
                .x_label_formatter(&name)
                .y_labels(5)
                .y_label_formatter(&|value| unit.axis(*value))
                .label_style(("sans-serif", FONT).into_font().color(&colour(INK)))
                .bold_line_style(colour(FAINT))
                .light_line_style(TRANSPARENT)
                .axis_style(colour(FAINT))
                .draw()
                .expect(IN_MEMORY);
            for (index, line) in lines.iter().enumerate() {
                let known =
                    || line.values.iter().enumerate().filter_map(|(index, value)| value.map(|value| (place(index), value)));
                let ink = colour(LINES + index);
                chart.draw_series(LineSeries::new(known(), ink.stroke_width(2))).expect(IN_MEMORY);
                chart.draw_series(known().map(|point| Circle::new(point, 4, ink.filled()))).expect(IN_MEMORY);
                for (index, value) in
                    line.values.iter().enumerate().filter_map(|(index, value)| value.map(|value| (index, value)))
                {
                    let (x, y) = chart.backend_coord(&(place(index), value));
                    areas.push((
                        x - 12,
                        y - 12,
                        24,
                        24,
                        format!("{}, {}: {}", clean(&points[index]), line.name, unit.show(value)),
                    ));
                }
            }
        })
    })
}

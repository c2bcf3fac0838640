//! The image as areas: a treemap of layers, packages and files by their unpacked bytes.

use plotters::prelude::*;
use treemap::{Mappable, Rect, TreemapLayout};

use crate::compare::arithmetic::{file_name, float};
use crate::compare::{Part, Sizes};
use crate::page::clean;
use crate::page::plot::{Area, Canvas, FONT, IN_MEMORY, NARROW, ON_CELL, PAPER, Plot, colour, drawing, fitting, text, whole};
use crate::units::ByteSize;

/// A cell of a treemap.
struct Cell {
    name: String,
    tip: String,
    size: f64,
    bounds: Rect,
    children: Vec<Cell>,
}

impl Mappable for Cell {
    fn size(&self) -> f64 {
        self.size
    }

    fn bounds(&self) -> &Rect {
        &self.bounds
    }

    fn set_bounds(&mut self, bounds: Rect) {
        self.bounds = bounds;
    }
}

impl Cell {
    fn group(name: &str, mut children: Vec<Self>) -> Self {
        // Cells that nobody could see are one.
        let size: f64 = children.iter().map(|child| child.size).sum();
        let small: Vec<Self> = children.extract_if(.., |child| child.size < size / 400.0).collect();
        if !small.is_empty() {
            let sum: f64 = small.iter().map(|child| child.size).sum();
            let name = format!("{} small ones", small.len());
            children.push(Self { tip: name.clone(), name, size: sum, bounds: Rect::new(), children: Vec::new() });
        }
        Self { name: name.to_owned(), tip: clean(name), size, bounds: Rect::new(), children }
    }

    /// Places the children below a line for the name, where there is room for one.
    fn lay_out(&mut self) {
        if self.children.is_empty() {
            return;
        }
        let line = f64::from(FONT + 5);
        let header = if self.bounds.h > 2.5 * line && self.bounds.w > 50.0 { line } else { 0.0 };
        let inside = Rect::from_points(
            self.bounds.x + 1.0,
            self.bounds.y + 1.0 + header,
            (self.bounds.w - 2.0).max(0.0),
            (self.bounds.h - 2.0 - header).max(0.0),
        );
        TreemapLayout::new().layout_items(&mut self.children, inside);
        self.children.iter_mut().for_each(Self::lay_out);
    }
}

/// Groups parts by a key, in the order in which the keys come.
fn grouped<'a>(parts: &[&'a Part], key: impl Fn(&Part) -> String) -> Vec<(String, Vec<&'a Part>)> {
    let mut groups: Vec<(String, Vec<&Part>)> = Vec::new();
    for &part in parts {
        let key = key(part);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, members)) => members.push(part),
            None => groups.push((key, vec![part])),
        }
    }
    groups
}

/// The image down to its files, by unpacked bytes: layer, package, file. `None` where no file is known.
pub fn treemap(label: &str, sizes: &Sizes, series: impl Fn(&str) -> usize) -> Option<Plot> {
    let seen: Vec<&Part> = sizes.files.iter().filter(|file| file.amount.unpacked > Some(0)).collect();
    if seen.is_empty() {
        return None;
    }
    let layers = grouped(&seen, |file| file.layer.clone().unwrap_or_else(|| "libraries".to_owned()));
    let mut legend: Vec<(usize, String)> = layers.iter().map(|(name, _)| (series(name), clean(name))).collect();
    legend.sort();
    let leaf = |file: &&Part| {
        let bytes = file.amount.unpacked.unwrap_or_default();
        let compressed = file.amount.compressed.map(|bytes| format!(", {} compressed", ByteSize(bytes))).unwrap_or_default();
        let tip = format!("{}: {}{compressed}", clean(&file.name), ByteSize(bytes));
        let name = clean(file_name(&file.name));
        Cell { name, tip, size: float(bytes), bounds: Rect::new(), children: Vec::new() }
    };
    let tree = || -> Vec<Cell> {
        let package = |(name, files): &(String, Vec<&Part>)| Cell::group(name, files.iter().map(leaf).collect());
        let layer = |(name, files): &(String, Vec<&Part>)| {
            let packages = grouped(files, |file| file.package.clone().unwrap_or_else(|| "others".to_owned()));
            Cell::group(name, packages.iter().map(package).collect())
        };
        layers.iter().map(layer).collect()
    };
    Some(Plot::new(label, legend, |width| {
        let height = if width > NARROW { width * 3 / 4 } else { width * 5 / 4 };
        let mut cells = tree();
        let everything = Rect::from_points(0.0, 0.0, f64::from(width), f64::from(height));
        TreemapLayout::new().layout_items(&mut cells, everything);
        cells.iter_mut().for_each(Cell::lay_out);
        drawing(width, height, |area, areas| {
            for layer in &cells {
                draw_cell(area, areas, layer, series(&layer.name), 0);
            }
        })
    }))
}

#[expect(clippy::cast_possible_truncation, reason = "coordinates within a page")]
fn pixel(value: f64) -> i32 {
    value.round() as i32
}

fn draw_cell(area: &Canvas<'_>, areas: &mut Vec<Area>, cell: &Cell, series: usize, depth: usize) {
    let bounds = cell.bounds;
    let (x, y) = (pixel(bounds.x), pixel(bounds.y));
    let (width, height) = (pixel(bounds.x + bounds.w) - x, pixel(bounds.y + bounds.h) - y);
    if width < 1 || height < 1 {
        return;
    }
    let corners = [(x, y), (x + width, y + height)];
    area.draw(&Rectangle::new(corners, colour(series).filled())).expect(IN_MEMORY);
    area.draw(&Rectangle::new(corners, colour(PAPER).stroke_width(if depth == 0 { 3 } else { 1 }))).expect(IN_MEMORY);
    let bytes = format!("{}", ByteSize(whole(cell.size)));
    areas.push((x, y, width, height, if cell.children.is_empty() { cell.tip.clone() } else { format!("{}: {bytes}", cell.tip) }));
    let has_line = height > FONT + 6 && (cell.children.is_empty() || (bounds.h > 2.5 * f64::from(FONT + 5) && bounds.w > 50.0));
    if let Some(words) = fitting(&clean(&cell.name), width - 8).filter(|_| has_line) {
        text(area, (x + 4, y + 4), &words, ON_CELL);
        if cell.children.is_empty() && height > 2 * FONT + 10 && width > 60 {
            text(area, (x + 4, y + 6 + FONT), &bytes, ON_CELL);
        }
    }
    for child in &cell.children {
        draw_cell(area, areas, child, series, depth + 1);
    }
}

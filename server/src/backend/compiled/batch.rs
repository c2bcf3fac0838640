//! A request's rows, split into parts for which code was compiled.

use std::ops::Range;

/// One run: rows `first..first + used` of the request, in a variant that takes `rows`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// The variant's place.
    pub variant: usize,
    /// Rows that come before, and rows of the request altogether.
    first: usize,
    total: usize,
    /// Rows of the request that are in this part.
    used: usize,
    /// Rows that the variant runs; those beyond `used` are zeros and their answers are dropped.
    rows: usize,
}

impl Part {
    /// The part's place in a tensor of all rows that has so many bytes.
    pub fn bytes(self, all: usize) -> Range<usize> {
        let row = all.checked_div(self.total).unwrap_or(all);
        self.first * row..(self.first + self.used) * row
    }

    /// The bytes that are used of an output of so many bytes.
    pub fn used(self, all: usize) -> usize {
        all.checked_div(self.rows).map_or(all, |row| row * self.used)
    }
}

/// Splits rows: the largest variant as long as it is filled, then the smallest that holds the rest. `sizes` rise.
pub(super) fn split(rows: Option<usize>, sizes: &[usize]) -> Vec<Part> {
    let Some(total) = rows else {
        return vec![Part { variant: 0, first: 0, total: 0, used: 0, rows: 0 }];
    };
    let mut parts = Vec::new();
    let mut first = 0;
    while first < total {
        let left = total - first;
        let variant = sizes.iter().position(|&rows| rows >= left).unwrap_or(sizes.len() - 1);
        let used = left.min(sizes[variant]);
        parts.push(Part { variant, first, total, used, rows: sizes[variant] });
        first += used;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_into_the_smallest_variant_that_holds_them() {
        let shown = |rows| split(Some(rows), &[1, 8, 32]).iter().map(|part| (part.rows, part.used)).collect::<Vec<_>>();
        assert_eq!(shown(0), []);
        assert_eq!(shown(1), [(1, 1)]);
        assert_eq!(shown(2), [(8, 2)]);
        assert_eq!(shown(8), [(8, 8)]);
        assert_eq!(shown(9), [(32, 9)]);
        assert_eq!(shown(33), [(32, 32), (1, 1)]);
        assert_eq!(shown(70), [(32, 32), (32, 32), (8, 6)]);
    }

    #[test]
    fn parts_cover_every_byte_once() {
        for total in 0..80 {
            let mut next = 0;
            for part in split(Some(total), &[2, 8]) {
                let bytes = part.bytes(total * 12);
                assert_eq!(bytes.start, next);
                assert_eq!(part.used(part.rows * 12), bytes.len());
                next = bytes.end;
            }
            assert_eq!(next, total * 12);
        }
        assert_eq!(split(None, &[0])[0].bytes(5), 0..0);
        assert_eq!(split(None, &[0])[0].used(5), 5);
    }
}

//! What `auto` and `hard` come to: a few samples of a layer's files decide whether compressing it is worth it.

use std::io;

use super::source::Source;
use super::{Compression, CompressionChoice, LayerError, frame};
use crate::tree::{Entry, ImagePath, Kind};

/// Bytes of a sample.
const WINDOW: u64 = 64 << 10;
/// Most samples of a layer.
const WINDOWS: u64 = 64;
/// Layers with less are compressed without looking.
const SMALL: u64 = 256 << 10;
/// How a sample is compressed.
const PROBE: Compression = Compression::Zstd { level: 1 };
/// Hundredths of their size that samples at least keep in a layer that is stored uncompressed.
const WORTHLESS: u64 = 90;

/// Decides how to compress a layer, from the bytes of its files alone.
///
/// The files are looked at as one stream in the order of their paths; samples lie at equal distances in it, so that each file
/// counts by its size. A sample ends with its file.
pub(crate) fn choose(choice: CompressionChoice, entries: &[(&ImagePath, &Entry)]) -> Result<Compression, LayerError> {
    let total: u64 = entries.iter().map(|(_, entry)| size(entry)).sum();
    let compressed = choice.worthwhile(total);
    if total < SMALL {
        return Ok(compressed);
    }
    let windows = WINDOWS.min(total / WINDOW).max(2);
    let positions: Vec<u64> =
        (0..windows).map(|number| (u128::from(total - WINDOW) * u128::from(number) / u128::from(windows - 1)) as u64).collect();
    let (mut before, mut after) = (0, 0);
    let mut start = 0;
    let mut next = 0;
    let (mut sample, mut room) = (Vec::new(), Vec::new());
    for (path, entry) in entries {
        let Kind::File { content, size, .. } = &entry.kind else { continue };
        let end = start + size;
        if next < positions.len() && positions[next] < end {
            let source = Source::open(path, content, *size)?;
            while next < positions.len() && positions[next] < end {
                let offset = positions[next] - start;
                sample.resize(WINDOW.min(size - offset) as usize, 0);
                source.read_at(&mut sample, offset)?;
                before += sample.len() as u64;
                after += frame::compress(PROBE, &sample, &mut room).map_err(error(sample.len()))?.len() as u64;
                next += 1;
            }
        }
        start = end;
    }
    Ok(if after * 100 >= before * WORTHLESS { Compression::None } else { compressed })
}

fn size(entry: &Entry) -> u64 {
    match &entry.kind {
        Kind::File { size, .. } => *size,
        _ => 0,
    }
}

fn error(bytes: usize) -> impl FnOnce(io::Error) -> LayerError {
    move |source| LayerError::Compress { codec: PROBE.to_string(), bytes, source }
}

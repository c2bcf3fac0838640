//! Rewrites shared libraries so that they are smaller and load faster, and are the same once loaded.
//!
//! A [`Transformation`] is a value with its parameters; [`rewrite`] applies a list of them to one library, knowing the
//! [`Neighbours`] that it is loaded with, and then compares what a loader makes of the two files, by a reading of the result
//! that shares nothing with the writing but the parser. A library that cannot be rewritten, or comes out different, gives a
//! [`RewriteError`], and the caller takes the original. [`rewrite_in_store`] keeps results by all that decides them.

mod bind;
mod draft;
mod drop;
mod error;
mod kept;
mod kinds;
mod layout;
mod library;
mod neighbours;
mod rearrange;
mod record;
mod relr;
mod report;
mod strings;
mod strip;
mod tables;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests;
mod verify;
mod words;

pub use bind::BindRules;
pub use error::{Difference, RewriteError};
pub use kept::{KeepError, Rewritten, rewrite_in_store};
pub use neighbours::Neighbours;
pub(crate) use rearrange::{Arrangement, Memory, Pointer, same_outside};
pub use report::{BindReport, RewriteReport, StripReport};

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::Path;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use draft::Draft;
use library::Library;

/// A change of a library that its users do not notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transformation {
    /// Drops what only linkers and debuggers read.
    Strip,
    /// Takes needed libraries off the list, of which nothing is used.
    DropNeeded(Vec<String>),
    /// Binds what the library wants of itself, packs relative relocations, and drops exports that nothing names.
    Bind(BindRules),
}

/// The format of what [`rewrite`] gives: whoever keeps results by their inputs adds it to the key. It grows whenever the
/// same library and transformations give other bytes.
pub const REWRITE_FORMAT: u32 = 2;

/// Rewrites the bytes of a library, and writes the result to an empty file, which is verified before this returns.
///
/// Equal arguments give equal bytes. Memory grows with the number of symbols and relocations, not with the library's code.
///
/// # Errors
/// Where the library is damaged or of a kind that is not rewritten, the result is not the same when loaded, or the file
/// cannot be written. What is in the file then is worthless.
pub fn rewrite(
    library: &[u8],
    transformations: &[Transformation],
    neighbours: &Neighbours<'_>,
    target: &mut File,
) -> Result<RewriteReport, RewriteError> {
    let report = write(library, transformations, neighbours, target)?;
    // SAFETY: the map is read-only and private; the file was created for this result and nothing else writes to it.
    let result = unsafe { Mmap::map(&*target) }?;
    verify::verify(library, &result, &keep(transformations), &report.dropped, neighbours)?;
    Ok(RewriteReport { bytes_after: result.len() as u64, ..report })
}

/// Does the same with a file on disk.
///
/// # Errors
/// As [`rewrite`], and where the file cannot be read.
pub fn rewrite_file(
    path: &Path,
    transformations: &[Transformation],
    neighbours: &Neighbours<'_>,
    target: &mut File,
) -> Result<RewriteReport, RewriteError> {
    let file = File::open(path)?;
    // SAFETY: the map is read-only and private; packages in the store are not written to in place.
    let library = unsafe { Mmap::map(&file) }?;
    rewrite(&library, transformations, neighbours, target)
}

fn write(
    data: &[u8],
    transformations: &[Transformation],
    neighbours: &Neighbours<'_>,
    target: &mut File,
) -> Result<RewriteReport, RewriteError> {
    let library = Library::parse(data)?;
    let mut draft = Draft::new(&library);
    let mut report = RewriteReport { bytes_before: data.len() as u64, ..RewriteReport::default() };
    for transformation in transformations {
        match transformation {
            Transformation::Strip => report.strip = Some(strip::strip(&mut draft)),
            Transformation::DropNeeded(names) => report.dropped = drop::drop_needed(&mut draft, names, neighbours)?,
            Transformation::Bind(rules) => report.bind = Some(bind::bind(&mut draft, rules, neighbours)?),
        }
    }
    let image = draft.finish()?;
    target.rewind()?;
    let mut out = BufWriter::new(&mut *target);
    image.write_to(&mut out)?;
    out.flush()?;
    Ok(report)
}

/// The rules by which exports stay.
fn keep(transformations: &[Transformation]) -> BindRules {
    let patterns = transformations.iter().filter_map(|transformation| match transformation {
        Transformation::Bind(rules) => Some(rules.keep.iter().cloned()),
        Transformation::Strip | Transformation::DropNeeded(_) => None,
    });
    BindRules { keep: patterns.flatten().collect() }
}

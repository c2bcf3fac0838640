//! Keeps of a library's CUDA device code what given GPUs can run.
//!
//! A library for CUDA carries its kernels once for every GPU architecture, in *fatbins*: containers in the section
//! `.nv_fatbin`, found through wrappers in `.nvFatBinSegment`. One GPU runs a fraction of them.
//!
//! - [`Container`] and [`Entry`] are what a fatbin holds, read from bytes; `Fatbins` are those of a library.
//! - `Plan` says which entries stay for some GPUs ([`Sm`]), by the rules that [`Sm::runs`] states.
//! - [`prune`] packs what stays, cuts the rest out of the file, and then verifies the result: by a reading of both files that
//!   shares neither plan nor writer, every entry that one of the GPUs would use is there unchanged, and every other byte of
//!   memory is as it was.
//! - [`list`] says what a library carries.
//!
//! Containers that a library finds by tables of its own stay in their place, and only payloads that no GPU would use become zeros.
//!
//! What is damaged, unknown, or used in an unknown way stays whole and is reported ([`LeftWhole`]).

mod elsewhere;
mod embedded;
mod error;
mod format;
mod kept;
mod library;
mod plan;
mod report;
mod sm;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests;
mod verify;
mod write;

pub use error::{FatbinDifference, FatbinError};
pub use format::{CodeKind, Container, Entry, Flaw, Storage};
pub use kept::{KeepError, PRUNE_FORMAT, Pruned, prune_in_store};
pub use library::WhyWhole;
pub use report::{ContainerListing, Elsewhere, EntryListing, LeftWhole, Listing, PruneReport, Share};
pub use sm::{Architecture, Sm, SmError, Variant};

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::rewrite::Memory;
use library::Fatbins;
use plan::Plan;

/// Lists the device code of a library.
///
/// # Errors
/// Where it is no shared library, is damaged, or carries no device code.
pub fn list(library: &[u8]) -> Result<Listing, FatbinError> {
    let memory = Memory::parse(library)?;
    let fatbins = Fatbins::read(&memory);
    let known: Vec<u64> = fatbins.iter().flat_map(|fatbins| fatbins.embedded.iter().map(|embedded| embedded.address)).collect();
    let found = elsewhere::find(&memory, &known);
    let fatbins = match fatbins {
        // What cannot be pruned can be listed all the same.
        Err(FatbinError::NoDeviceCode) if !found.is_empty() => Fatbins::none(),
        other => other?,
    };
    Ok(report::listing(library.len() as u64, &fatbins, &found))
}

/// Writes a library with only the device code that some GPUs can run to an empty file, and verifies it.
///
/// Equal arguments give equal bytes. Memory grows with the number of containers, not with their sizes.
///
/// # Errors
/// Where the library is no shared library, is damaged, carries no device code or none for one of the GPUs, or the result
/// cannot be written or is not what it should be. What is in the file then is worthless.
pub fn prune(library: &[u8], gpus: &[Sm], target: &mut File) -> Result<PruneReport, FatbinError> {
    let memory = Memory::parse(library)?;
    let fatbins = Fatbins::read(&memory)?;
    let plan = Plan::new(&fatbins, gpus)?;
    write::write(&memory, &fatbins, &plan, target)?;
    // SAFETY: the map is read-only and private; the file was created for this result and nothing else writes to it.
    let result = unsafe { Mmap::map(&*target) }.map_err(|source| FatbinError::Rewrite(source.into()))?;
    verify::verify(library, &result, gpus)?;
    Ok(report::pruning(library.len() as u64, result.len() as u64, &fatbins, &plan))
}

/// Maps a library into memory.
///
/// # Errors
/// Where it cannot be read, or is no regular file.
pub fn map(path: &Path) -> Result<Mmap, FatbinError> {
    let unreadable = |source| FatbinError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(unreadable(std::io::Error::other("it is no regular file")));
    }
    // SAFETY: the map is read-only and private; a file that another program cuts short meanwhile ends this one.
    unsafe { Mmap::map(&file) }.map_err(unreadable)
}

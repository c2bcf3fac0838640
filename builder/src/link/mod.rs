//! Resolves libraries inside an image as glibc's loader would, and proves that everything in it links.
//!
//! Nothing is executed: an image for another machine is judged like any other. The steps:
//!
//! 1. [`LinkRoot`] holds the candidate files of the image and its symbolic links.
//! 2. [`Closure::resolve`] follows interpreter, needed libraries and declared run-time openings from the [`EntryPoint`]s.
//!    Each [`LinkObject`] knows the chain of [`Step`]s that brought it in; needed libraries of which nothing is used are
//!    listed as [`DeadNeed`]s.
//! 3. [`prove`] turns the closure into a [`LinkProof`], or into the list of everything that the loader would stumble over.
//!
//! The rules are those of glibc 2.36: search order, matching of names and versions, scopes of executables and of opened
//! libraries. An `ld.so.cache` counts where the image has one. Not modelled: directories for processor variants (`glibc-hwcaps`, `tls`), `LD_PRELOAD`,
//! auditing, filters (`DT_FILTER`).

mod bind;
mod cache;
mod closure;
mod dead;
mod error;
mod process;
mod proof;
mod request;
mod root;
mod search;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests;

pub use cache::parse_cache;
pub use closure::{Closure, LinkObject, Missing, Step};
pub use dead::DeadNeed;
pub use error::LinkError;
pub use proof::{LinkProof, LinkWarning, prove};
pub use request::{DroppedNeed, EntryPoint, InjectedLibrary, InjectedList, RuntimeOpen};
pub use root::LinkRoot;
pub use search::built_in_directories;

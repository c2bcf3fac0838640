//! Reads ELF files as the dynamic loader sees them.
//!
//! [`ElfObject::parse`] takes bytes, [`ElfObject::load`] a file. Everything that a loader would use is found through the
//! program headers and the dynamic segment, so files whose section headers were cut off read the same as whole ones;
//! sections only tell whether a full symbol table is still there. Any input gives a value or an [`ElfError`], never a panic.
//!
//! - [`ElfObject`]: machine, kind, interpreter, build id, thread-local storage.
//! - [`Dynamic`]: soname, needed libraries, search paths, flags, versions wanted and provided. A static program has none.
//! - [`SymbolTable`]: what the file exports and imports, and a lookup that decides as the loader does.

mod error;
mod hash;
mod machine;
mod object;
mod read;
mod symbols;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
pub(crate) mod tests;
mod versions;

pub use error::ElfError;
pub use hash::SymbolName;
pub(crate) use hash::{gnu_hash, sysv_hash};
pub use machine::{ByteOrder, Class, Identity, Kind, Machine};
pub use object::{Dynamic, ElfObject};
pub use symbols::{Binding, Export, Import, SymbolTable, WantedVersion};
pub use versions::{VersionDefinition, VersionNeed, WantedFrom};

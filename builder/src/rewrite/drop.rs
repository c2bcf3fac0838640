//! Takes needed libraries off a library's list, of which it uses nothing.
//!
//! Linkers add what the command line names, used or not, and the loader then loads it. A name goes only where no reference of the
//! library could end in the library of that name, and no version is wanted of it.

use object::elf;

use super::draft::Draft;
use super::error::RewriteError;
use super::library::{Library, Table};
use super::neighbours::Neighbours;

/// Drops names from `DT_NEEDED`; gives those that were there.
///
/// # Errors
/// [`RewriteError::Used`] where the library uses something of one of them, or might.
pub(super) fn drop_needed(
    draft: &mut Draft<'_>,
    names: &[String],
    neighbours: &Neighbours<'_>,
) -> Result<Vec<String>, RewriteError> {
    let library = draft.library;
    let needed = library.object.needed();
    let present: Vec<String> = names.iter().filter(|name| needed.contains(name)).cloned().collect();
    for name in &present {
        unused(library, name, neighbours)?;
    }
    draft.dropped.clone_from(&present);
    let strings = library.table_bytes(Table::Strings)?;
    let is_dropped = |value: u64| Library::text(strings, value).is_some_and(|name| is_one_of(name, &present));
    let stays = |tag: i64, value: u64| tag != elf::DT_NEEDED.0 || !is_dropped(value);
    let entries: Vec<_> = library.dynamic.iter().filter(|entry| stays(entry.tag, entry.value)).copied().collect();
    draft.set_dynamic(&entries)?;
    Ok(present)
}

/// Whether a name in a string table is one of some.
pub(super) fn is_one_of(name: &[u8], names: &[String]) -> bool {
    names.iter().any(|one| one.as_bytes() == name)
}

/// Shows that nothing of a needed library is used.
fn unused(library: &Library<'_>, name: &str, neighbours: &Neighbours<'_>) -> Result<(), RewriteError> {
    let used = |by: String| RewriteError::Used { needed: name.to_owned(), by };
    let Some(dynamic) = &library.object.dynamic else { return Ok(()) };
    if let Some(need) = dynamic.version_needs.iter().find(|need| need.file == name) {
        let versions: Vec<&str> = need.versions.iter().map(|version| version.name.as_str()).collect();
        return Err(used(format!("version {}", versions.join(", "))));
    }
    let provider = neighbours.called(name).ok_or_else(|| used("an unknown part, since the library is not at hand".to_owned()))?;
    match dynamic.symbols.imports().find(|import| provider.provides(import)) {
        Some(import) => Err(used(format!("symbol `{}`", import.text()))),
        None => Ok(()),
    }
}

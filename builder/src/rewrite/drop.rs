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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::elf::ElfObject;
    use crate::elf::tests::{compile, output};
    use crate::rewrite::{BindRules, Transformation, rewrite_file};

    /// A library that needs `libidle.so` in vain and `libused.so` for a function, and the two.
    fn libraries(folder: &Path, of_idle: &str) -> (PathBuf, Vec<ElfObject>) {
        let object = |name: &str, source: &str| {
            let soname = format!("-Wl,-soname,{name}");
            ElfObject::load(&compile(folder, name, source, &["-shared", "-fPIC", "-nostdlib", &soname])).unwrap()
        };
        let others = vec![object("libidle.so", of_idle), object("libused.so", "int used(void) { return 1; }")];
        let search = format!("-L{}", folder.display());
        let options = ["-shared", "-fPIC", "-nostdlib", "-Wl,--no-as-needed", &search, "-l:libidle.so", "-l:libused.so"];
        (compile(folder, "liba.so", "int used(void); int number = 1; int a(void) { return used() + number; }", &options), others)
    }

    fn drop(folder: &Path, library: &Path, others: &[ElfObject], changes: &[Transformation]) -> Result<PathBuf, RewriteError> {
        let path = folder.join("out.so");
        let mut file = fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        rewrite_file(library, changes, &Neighbours::new(others), &mut file).map(|_| path)
    }

    #[test]
    fn a_name_of_which_nothing_is_used_goes_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (library, others) = libraries(folder.path(), "int idle(void) { return 1; }");
        let names = vec!["libidle.so".to_owned(), "libnowhere.so".to_owned()];
        let dropped = Transformation::DropNeeded(names);
        let bind = Transformation::Bind(BindRules { keep: vec!["a".to_owned()] });
        for changes in [&[dropped.clone()][..], &[Transformation::Strip, dropped.clone(), bind]] {
            let result = drop(folder.path(), &library, &others, changes).unwrap();
            let said = output("readelf", &["-dW", result.to_str().unwrap()]);
            assert!(!said.contains("libidle.so") && said.contains("libused.so"), "{said}");
            // The loader takes it where the other one is gone.
            fs::remove_file(folder.path().join("libidle.so")).ok();
            let code = "import ctypes, sys; used = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL); sys.exit(ctypes.CDLL(sys.argv[2]).a() != 2)";
            let used = folder.path().join("libused.so");
            let mut python = std::process::Command::new("python3");
            python.args(["-c", code]).arg(&used).arg(&result).env("LD_LIBRARY_PATH", folder.path());
            assert!(python.status().unwrap().success());
        }
    }

    #[test]
    fn a_name_of_which_something_is_used_or_unknown_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (library, others) = libraries(folder.path(), "int used(void) { return 1; }");
        let change = |name: &str| [Transformation::DropNeeded(vec![name.to_owned()])];
        for name in ["libidle.so", "libused.so"] {
            let error = drop(folder.path(), &library, &others, &change(name)).unwrap_err().to_string();
            assert!(error.contains("symbol `used`") && error.contains(name), "{error}");
        }
        let error = drop(folder.path(), &library, &others[..1], &change("libused.so")).unwrap_err().to_string();
        assert!(error.contains("not at hand"), "{error}");
    }
}

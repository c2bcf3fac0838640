//! A runtime's library, opened with `dlopen` for good.

use std::ffi::{CStr, CString, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};

use super::{LoadError, Missing};
use crate::log::c_text;

/// A library that was opened and stays so.
pub(super) struct Library {
    handle: NonNull<c_void>,
    /// Where the loader found it.
    pub path: PathBuf,
}

impl Library {
    /// Opens a library, or says so in the words of the loader.
    pub fn open(library: &Path) -> Result<Self, String> {
        /// The start of glibc's `struct link_map`.
        #[repr(C)]
        struct LinkMap {
            address: usize,
            name: *const c_char,
        }
        let name = CString::new(library.as_os_str().as_bytes()).map_err(|_| "its path holds a zero byte".to_owned())?;
        // SAFETY: that the library may be run is what the configuration says; the handle stays open, and the loader's
        // structures live as long.
        unsafe {
            let Some(handle) = NonNull::new(libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL)) else {
                return Err(c_text(libc::dlerror()));
            };
            let mut map: *const LinkMap = ptr::null();
            let found = libc::dlinfo(handle.as_ptr(), libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) == 0 && !map.is_null();
            let path = if found && !(*map).name.is_null() {
                PathBuf::from(OsStr::from_bytes(CStr::from_ptr((*map).name).to_bytes()))
            } else {
                library.to_path_buf()
            };
            Ok(Self { handle, path })
        }
    }

    /// Finds a symbol in the library or in those that it needs.
    pub fn symbol(&self, name: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: the handle is open, and the name ends in a zero byte.
        NonNull::new(unsafe { libc::dlsym(self.handle.as_ptr(), name.as_ptr()) })
    }
}

/// Reads a message of `dlopen`.
pub(super) fn not_opened(library: PathBuf, message: String) -> LoadError {
    let name = message
        .split_once(": cannot open shared object file")
        .map(|(before, _)| before.rsplit(": ").next().unwrap_or(before).trim_start_matches("Failed to load library ").to_owned());
    let missing = Missing {
        others: name.as_deref().map(|name| other_versions(name, &searched(&library))).unwrap_or_default(),
        library: name,
        symbol: message
            .split_once("undefined symbol: ")
            .map(|(_, after)| after.split([',', ' ', '\n']).next().unwrap_or(after).to_owned()),
        symbol_version: message
            .split_once("version `")
            .and_then(|(_, after)| after.split_once("' not found"))
            .map(|(version, _)| version.to_owned()),
    };
    LoadError::LibraryNotOpened { library, missing, message }
}

/// Folders that the loader searches: where the library lies that needs another, those of the environment, and the usual ones.
fn searched(library: &Path) -> Vec<PathBuf> {
    let given = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let usual = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"].map(PathBuf::from);
    let own = library.parent().filter(|folder| folder.is_absolute()).map(Path::to_path_buf);
    own.into_iter().chain(std::env::split_paths(&given)).chain(usual).collect()
}

/// Libraries in the folders that are called as `name` but for their major version, sorted, each once.
fn other_versions(name: &str, folders: &[PathBuf]) -> Vec<String> {
    let Some((stem, wanted)) = name.split_once(".so.") else { return Vec::new() };
    let major = |version: &str| version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    let mut others: Vec<String> = names
        .filter(|other| {
            let version = other.strip_prefix(stem).and_then(|rest| rest.strip_prefix(".so."));
            version.and_then(major).is_some_and(|found| Some(found) != major(wanted))
        })
        .collect();
    others.sort();
    others.dedup();
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loader_missed_is_found() {
        let missing = |message: &str| match not_opened("x".into(), message.into()) {
            LoadError::LibraryNotOpened { missing, .. } => missing,
            other => panic!("{other}"),
        };
        let library = missing("libstdc++.so.6: cannot open shared object file: No such file or directory");
        assert_eq!(library.library.as_deref(), Some("libstdc++.so.6"));
        let symbol = missing("/lib/libx.so: undefined symbol: foo, version GLIBC_2.99");
        assert_eq!(symbol.symbol.as_deref(), Some("foo"));
        let version = missing("/lib/libc.so.6: version `GLIBC_2.99' not found (required by /lib/libx.so)");
        assert_eq!(version.symbol_version.as_deref(), Some("GLIBC_2.99"));
        assert_eq!(missing("/x: file too short"), Missing::default());
    }

    #[test]
    fn other_versions_of_a_library_are_found_beside_it() {
        let folder = std::env::temp_dir().join(format!("imgserve-versions-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        for name in [
            "libnvinfer.so.11",
            "libnvinfer.so.11.4.0",
            "libnvinfer.so.10.1",
            "libnvinfer_lean.so.11",
            "libnvinfer.so",
            "libnvinfer.so.c",
        ] {
            std::fs::write(folder.join(name), "").expect("a file");
        }
        let found = other_versions("libnvinfer.so.10", std::slice::from_ref(&folder));
        std::fs::remove_dir_all(&folder).expect("the folder is there");
        assert_eq!(found, ["libnvinfer.so.11", "libnvinfer.so.11.4.0"]);
        assert!(other_versions("libnvinfer.so", &[folder]).is_empty());
    }
}

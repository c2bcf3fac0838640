//! The table of functions of the library, and the check of every status.
//!
//! The table only grows from version to version, so that one declaration of it serves for all: what stands in it up to
//! [`OLDEST`] is in every library that is taken, and what came later is called where [`has`] says that it is there.

use std::path::Path;
use std::sync::OnceLock;

use ort_sys as sys;

use crate::backend::LoadError;
use crate::backend::library::{Library, not_opened};
use crate::log::c_text;

/// The oldest minor version that is taken.
const OLDEST: u32 = 17;

/// A part of the table that later versions have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// Plug-in providers.
    Plugins = 22,
    /// Which node runs where.
    Assignment = 24,
}

/// The table, and the version that was asked for.
struct Api {
    table: *const sys::OrtApi,
    version: u32,
}

// SAFETY: the table is constant and lives as long as the library, which is never closed.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

static API: OnceLock<Api> = OnceLock::new();

/// The table of functions.
///
/// A pointer and no reference: an older library's table ends before the declaration does.
pub(super) fn api() -> *const sys::OrtApi {
    API.get().expect("a library is opened before anything of it is used").table
}

/// Whether the library has a part that not every version has.
pub(super) fn has(part: Since) -> bool {
    API.get().is_some_and(|api| api.version >= part as u32)
}

/// Takes the table of an opened library, the first time it is called; gives the library's version, such as `1.32.0`.
///
/// # Errors
/// [`LoadError::LibraryNotOpened`] where it is not ONNX Runtime, [`LoadError::LibraryVersion`] where it is too old.
pub(super) fn take(library: &Library) -> Result<String, LoadError> {
    let Some(symbol) = library.symbol(c"OrtGetApiBase") else {
        let mut error = not_opened(library.path.clone(), "it does not export `OrtGetApiBase`, so it is not ONNX Runtime".into());
        if let LoadError::LibraryNotOpened { missing, .. } = &mut error {
            missing.symbol = Some("OrtGetApiBase".into());
        }
        return Err(error);
    };
    // SAFETY: the function is the one that ONNX Runtime's header declares, and what it returns lives as long as the library.
    let (base, version) = unsafe {
        let base: unsafe extern "C" fn() -> *const sys::OrtApiBase = std::mem::transmute(symbol.as_ptr());
        let base = base();
        (base, c_text(((*base).GetVersionString)()))
    };
    let asked = version_to_ask(&version).ok_or_else(|| refused(&library.path, &version))?;
    // SAFETY: `base` is valid, see above.
    let table = unsafe { ((*base).GetApi)(asked) };
    if table.is_null() {
        return Err(refused(&library.path, &version));
    }
    API.get_or_init(|| Api { table, version: asked });
    Ok(version)
}

/// The version of the table to ask a library for: its own, and at most the one that is declared.
fn version_to_ask(version: &str) -> Option<u32> {
    let mut parts = version.split('.');
    let (major, minor) = (parts.next()?, parts.next()?.parse::<u32>().ok()?);
    (major == "1" && minor >= OLDEST).then_some(minor.min(sys::ORT_API_VERSION))
}

fn refused(library: &Path, version: &str) -> LoadError {
    let found = if version.is_empty() { "unreadable" } else { version };
    LoadError::LibraryVersion { library: library.into(), found: found.into(), expected: format!("1.{OLDEST} or newer") }
}

/// The kinds of failure that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    InvalidArgument,
    NotImplemented,
    Other,
}

/// A failure that the runtime reported.
#[derive(Debug)]
pub(super) struct Status {
    pub code: Code,
    pub message: String,
}

/// Takes over a status.
///
/// # Safety
/// It was returned by a function of the runtime and is used once.
pub(super) unsafe fn check(status: sys::OrtStatusPtr) -> Result<(), Status> {
    if status.0.is_null() {
        return Ok(());
    }
    // SAFETY: the status is one of the runtime's and is freed once, by this function's contract. Its code is read as a number,
    // whose size the enumeration has: a later runtime may give one that this does not have.
    unsafe {
        let code_of: unsafe extern "system" fn(*const sys::OrtStatus) -> i32 = std::mem::transmute((*api()).GetErrorCode);
        let code = match code_of(status.0) {
            code if code == sys::OrtErrorCode::ORT_INVALID_ARGUMENT as i32 => Code::InvalidArgument,
            code if code == sys::OrtErrorCode::ORT_NOT_IMPLEMENTED as i32 => Code::NotImplemented,
            _ => Code::Other,
        };
        let message = c_text(((*api()).GetErrorMessage)(status.0));
        ((*api()).ReleaseStatus)(status.0);
        Err(Status { code, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_the_library_or_the_newest_declared() {
        assert_eq!(version_to_ask("1.17.3"), Some(17));
        assert_eq!(version_to_ask("1.24.0"), Some(24));
        assert_eq!(version_to_ask("1.32.0-dev"), Some(24), "a later library has the same table, and more");
        for refused in ["1.16.3", "2.0.0", "1", "", "1.x.0"] {
            assert_eq!(version_to_ask(refused), None, "{refused}");
        }
    }
}

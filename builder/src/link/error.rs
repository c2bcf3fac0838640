use std::sync::Arc;

use crate::elf::{ElfError, Machine};

/// Something over which the loader would stumble. Paths are those of the image.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// An entry point is not among the image's files.
    #[error("entry point `{path}` ({reason}) is not a file of the image")]
    EntryPointMissing {
        /// Its path.
        path: String,
        /// The reason given for it.
        reason: String,
    },
    /// A file that the loader would take is damaged, unreadable or no ELF file.
    #[error("`{path}`, wanted by {wanted_by}, cannot be loaded: {source}")]
    Broken {
        /// Its path.
        path: String,
        /// The object that wants it, or the entry point's reason.
        wanted_by: String,
        /// What is wrong with it.
        source: Arc<ElfError>,
    },
    /// A program is for another machine than the image.
    #[error("`{path}` is for {found}, the image is for {expected}")]
    OtherMachine {
        /// Its path.
        path: String,
        /// The machine and class of the file.
        found: String,
        /// The image's machine.
        expected: Machine,
    },
    /// The loader that a program names is not in the image.
    #[error("`{object}` is started by the interpreter `{interpreter}`, which is not in the image")]
    InterpreterMissing {
        /// The program.
        object: String,
        /// Path of its interpreter.
        interpreter: String,
    },
    /// A library was found that may not be loaded in this way.
    #[error("`{path}`, wanted by {wanted_by}, is {found}, expected a shared library")]
    NotLoadable {
        /// Its path.
        path: String,
        /// The object that wants it.
        wanted_by: String,
        /// What it is.
        found: &'static str,
    },
    /// A needed or opened library is nowhere in the image.
    #[error("{} {verb} `{soname}`, which is in none of {}{}", wanted_by.join(", "), list(searched), rejections(rejected))]
    LibraryMissing {
        /// The name that was looked for.
        soname: String,
        /// Whether it is needed or opened.
        verb: &'static str,
        /// The objects that want it.
        wanted_by: Vec<String>,
        /// The directories, in order; the path alone if it was wanted by path.
        searched: Vec<String>,
        /// Files of that name that were passed over, with the reason.
        rejected: Vec<(String, String)>,
        /// Symbols left unresolved that it may have been meant to provide.
        unresolved: usize,
    },
    /// A library lacks a version that another object wants from it.
    #[error("`{object}` wants {version} from `{file}`, which provides {}{}", up_to(highest), wanting(symbols))]
    VersionMissing {
        /// The object that wants it.
        object: String,
        /// Soname of the library.
        file: String,
        /// The version wanted.
        version: String,
        /// The highest version of the same family that the library has.
        highest: Option<String>,
        /// Symbols that carry the version.
        symbols: Vec<String>,
    },
    /// An object wants versions from a library that nothing loads.
    #[error("`{object}` wants versions from `{file}`, which neither it nor anything before it loads")]
    VersionFileNotLoaded {
        /// The object.
        object: String,
        /// Soname of the library.
        file: String,
    },
    /// No object in reach defines a symbol.
    #[error("`{object}` wants the symbol `{symbol}`{}, which {}", version_of(version, expected_from), elsewhere(found))]
    SymbolMissing {
        /// The object that refers to it.
        object: String,
        /// The symbol.
        symbol: String,
        /// The version asked for.
        version: Option<String>,
        /// The library that it was linked against, where the version names one.
        expected_from: Option<String>,
        /// Objects of the scope that define the name under other versions, as `library: versions`.
        found: Vec<String>,
    },
    /// A symbol was linked against a versioned library in whose place there is one without any version.
    #[error("`{object}` wants `{symbol}` in version {version} from `{file}`, which has no symbol versions")]
    VersionsStripped {
        /// The object that refers to it.
        object: String,
        /// The symbol.
        symbol: String,
        /// The version asked for.
        version: String,
        /// Soname of the library.
        file: String,
    },
    /// An object with packed relocations does not say so in its versions, which glibc refuses.
    #[error("`{object}` has DT_RELR but does not want GLIBC_ABI_DT_RELR from libc.so.6")]
    PackedRelocationsUndeclared {
        /// The object.
        object: String,
    },
}

impl LinkError {
    /// What to do about it, where that can be said.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::VersionMissing { object, version, .. } if version.starts_with("GLIBC_") => {
                Some(format!("build `{object}` against the base's glibc, or choose a base with {version}"))
            }
            Self::VersionMissing { object, file, version, .. } => {
                Some(format!("take a `{file}` with {version}, or an older `{object}`"))
            }
            Self::LibraryMissing { soname, .. } => {
                Some(format!("add the package that holds `{soname}`, or list it as injected if the host provides it"))
            }
            Self::InterpreterMissing { .. } => Some("add the base's C library, or link the program statically".to_owned()),
            Self::OtherMachine { expected, .. } => Some(format!("take the file for {expected}, or build for the other platform")),
            Self::SymbolMissing { expected_from: Some(file), .. } | Self::VersionsStripped { file, .. } => {
                Some(format!("take the version of `{file}` that the object was built with"))
            }
            Self::Broken { source, .. } if matches!(**source, ElfError::SegmentTruncated { .. }) => {
                Some("fetch the file again".to_owned())
            }
            _ => None,
        }
    }
}

fn list(directories: &[String]) -> String {
    if directories.is_empty() { "no directory".to_owned() } else { directories.join(":") }
}

fn rejections(rejected: &[(String, String)]) -> String {
    rejected.iter().map(|(path, why)| format!(" (`{path}` is {why})")).collect()
}

fn up_to(highest: &Option<String>) -> String {
    highest.as_ref().map_or_else(|| "no version of that family".to_owned(), |highest| format!("up to {highest}"))
}

fn wanting(symbols: &[String]) -> String {
    const SHOWN: usize = 3;
    match symbols.len() {
        0 => String::new(),
        count if count <= SHOWN => format!(" (for {})", symbols.join(", ")),
        count => format!(" (for {} and {} more)", symbols[..SHOWN].join(", "), count - SHOWN),
    }
}

fn version_of(version: &Option<String>, file: &Option<String>) -> String {
    match (version, file) {
        (Some(version), Some(file)) => format!(" in version {version} from `{file}`"),
        (Some(version), None) => format!(" in version {version}"),
        (None, _) => String::new(),
    }
}

fn elsewhere(found: &[String]) -> String {
    if found.is_empty() { "nothing in its scope defines".to_owned() } else { format!("is there only as {}", found.join("; ")) }
}

//! What a caller declares about an image: where it starts, what it opens, what the host adds.

use serde::{Deserialize, Serialize};

/// A program, or a library that something outside the image's knowledge loads. Each one is a process of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryPoint {
    /// Absolute path in the image.
    pub path: String,
    /// Why it is there, for reports.
    pub reason: String,
}

/// A library that another one opens while it runs, which no needed entry shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeOpen {
    /// The object that opens it: its soname, file name or path in the image.
    pub from: String,
    /// What it passes to `dlopen`: a soname, or a path that may start with `$ORIGIN`.
    pub opens: String,
    /// Whether the opener copes with its absence.
    #[serde(default)]
    pub optional: bool,
    /// Whether everything that is opened later may use its symbols (`RTLD_GLOBAL`).
    #[serde(default)]
    pub global: bool,
    /// Why it is opened, for reports.
    pub reason: String,
}

/// A library that the host adds to the container when it starts, such as a GPU driver's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InjectedLibrary {
    /// Its soname.
    pub soname: String,
    /// The symbols that may be expected of it; one that ends in `*` stands for all that start so.
    pub symbols: Vec<String>,
    /// Who injects it, for reports.
    pub reason: String,
}

impl InjectedLibrary {
    pub(super) fn provides(&self, symbol: &[u8]) -> bool {
        self.symbols.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => symbol.starts_with(start.as_bytes()),
            None => symbol == pattern.as_bytes(),
        })
    }
}

/// All that the host injects. A file of the same name in the image goes before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InjectedList {
    /// The libraries.
    pub libraries: Vec<InjectedLibrary>,
}

impl InjectedList {
    pub(super) fn position(&self, soname: &str) -> Option<usize> {
        self.libraries.iter().position(|library| library.soname == soname)
    }
}

/// A needed entry to be resolved as if it were not there, as after its removal from the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DroppedNeed {
    /// The object that has the entry: its soname, file name or path in the image.
    pub object: String,
    /// The needed name.
    pub soname: String,
}

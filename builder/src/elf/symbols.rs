//! The dynamic symbol table.

use std::borrow::Cow;
use std::ops::Range;

use memmap2::Mmap;
use object::elf;
use serde::Serialize;

use super::hash::{HashTable, SymbolName};
use super::read::until_zero;
use super::versions::IndexedVersion;

/// The dynamic symbols of a file. Names stay where they are: in the mapped file, or in one copy of its string table.
#[derive(Debug)]
pub struct SymbolTable {
    pub(super) strings: StringBytes,
    pub(super) entries: Vec<Entry>,
    pub(super) has_versions: bool,
    pub(super) versions: Vec<Option<IndexedVersion>>,
    pub(super) hash: HashTable,
}

/// Where the bytes of the names are.
#[derive(Debug)]
pub(super) enum StringBytes {
    Copied(Box<[u8]>),
    Mapped(Mmap, Range<usize>),
}

impl StringBytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Mapped(map, range) => &map[range.clone()],
        }
    }
}

/// A symbol in eight bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Offset of the name in the string table.
    pub(super) name: u32,
    /// The value of `DT_VERSYM`, hidden bit included.
    pub(super) version: u16,
    pub(super) info: u8,
    pub(super) flags: u8,
}

impl Entry {
    /// It lies in a section of this file.
    pub(super) const DEFINED: u8 = 1;
    /// The loader would bind other files' references to it.
    pub(super) const PROVIDES: u8 = 2;
    /// A relocation of this file looks it up.
    pub(super) const REFERENCED: u8 = 4;
    /// A relocation of this executable copies it out of a library.
    pub(super) const COPIED: u8 = 8;
    /// Its visibility keeps it inside the file.
    pub(super) const INTERNAL: u8 = 16;

    fn is(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn binding(self) -> Binding {
        match elf::SymbolBind(self.info >> 4) {
            elf::STB_LOCAL => Binding::Local,
            elf::STB_WEAK => Binding::Weak,
            elf::STB_GNU_UNIQUE => Binding::Unique,
            _ => Binding::Global,
        }
    }

    fn version_index(self) -> u16 {
        self.version & elf::VERSYM_VERSION
    }

    fn is_hidden(self) -> bool {
        self.version & elf::VERSYM_HIDDEN.0 != 0
    }
}

/// How a symbol binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Binding {
    /// Seen in its own file alone.
    Local,
    /// As a reference: it must be found.
    Global,
    /// As a reference: it may stay unresolved.
    Weak,
    /// One definition in the whole process, whatever opened it.
    Unique,
}

/// A version that a reference asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedVersion<'a> {
    /// Name of the version.
    pub name: &'a str,
    /// Soname of the library that it was linked against; absent if the file defines the version itself.
    pub file: Option<&'a str>,
    /// Whether only an exact match will do.
    pub is_hidden: bool,
}

/// A symbol that the file wants from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Import<'a> {
    /// The name's bytes.
    pub name: &'a [u8],
    /// `Weak` if it may stay unresolved.
    pub binding: Binding,
    /// The version asked for.
    pub version: Option<WantedVersion<'a>>,
    /// Whether a relocation uses it. The loader never looks the others up.
    pub is_referenced: bool,
    /// Whether the executable has a place of its own for the variable, into which the loader copies the library's.
    pub is_copied: bool,
}

impl Import<'_> {
    /// The name for people.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.name)
    }
}

/// A symbol that the file offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Export<'a> {
    /// The name's bytes.
    pub name: &'a [u8],
    /// How it binds.
    pub binding: Binding,
    /// Its version, if it has one.
    pub version: Option<&'a str>,
    /// Whether only references that name the version get it (`name@VERSION`, not `name@@VERSION`).
    pub is_hidden: bool,
}

impl SymbolTable {
    /// Number of entries, the empty first one included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether symbols carry version indexes (`DT_VERSYM`).
    pub fn has_versions(&self) -> bool {
        self.has_versions
    }

    /// The symbols that the file wants from elsewhere, in the table's order.
    pub fn imports(&self) -> impl Iterator<Item = Import<'_>> {
        self.entries.iter().filter(|entry| !entry.is(Entry::DEFINED) || entry.is(Entry::COPIED)).filter_map(|&entry| {
            let binding = entry.binding();
            if binding == Binding::Local || entry.is(Entry::INTERNAL) {
                return None;
            }
            Some(Import {
                name: self.name(entry),
                binding,
                version: self.version(entry).map(|version| WantedVersion {
                    name: &version.name,
                    file: version.file.as_deref(),
                    is_hidden: version.is_hidden,
                }),
                is_referenced: entry.is(Entry::REFERENCED),
                is_copied: entry.is(Entry::COPIED),
            })
        })
    }

    /// The symbols that other files can bind to, in the table's order.
    pub fn exports(&self) -> impl Iterator<Item = Export<'_>> {
        self.entries.iter().filter(|entry| entry.is(Entry::PROVIDES)).map(|&entry| Export {
            name: self.name(entry),
            binding: entry.binding(),
            version: self.version(entry).map(|version| &*version.name),
            is_hidden: entry.is_hidden(),
        })
    }

    /// Whether the loader would take a definition of this file for the reference.
    pub fn provides(&self, name: SymbolName<'_>, version: Option<WantedVersion<'_>>) -> bool {
        self.definition(name, version).is_some()
    }

    /// The index of the definition that the loader would take for a reference.
    ///
    /// A reference with a version gets exactly that version, or a definition without any. A reference without one gets the
    /// base or first version, else the only default version there is.
    pub(crate) fn definition(&self, name: SymbolName<'_>, version: Option<WantedVersion<'_>>) -> Option<u32> {
        let mut found = None;
        let mut default = None;
        let mut defaults = 0;
        self.hash.candidates(name, |index| {
            let Some(&entry) = self.entries.get(index as usize) else { return false };
            if !entry.is(Entry::PROVIDES) || self.name(entry) != name.bytes {
                return false;
            }
            let fits = match (version, self.has_versions) {
                (_, false) => true,
                (Some(wanted), true) => match self.version(entry) {
                    Some(own) => *own.name == *wanted.name,
                    None => !wanted.is_hidden && !entry.is_hidden(),
                },
                (None, true) if entry.version_index() < 3 => true,
                (None, true) => {
                    if !entry.is_hidden() {
                        defaults += 1;
                        default = default.or(Some(index));
                    }
                    false
                }
            };
            if fits {
                found = Some(index);
            }
            fits
        });
        found.or(default.filter(|_| defaults == 1))
    }

    /// The name at an index, and the version that a reference by this index asks for.
    pub(crate) fn reference(&self, index: u32) -> Option<(&[u8], Option<WantedVersion<'_>>)> {
        let &entry = self.entries.get(index as usize)?;
        let version = self.version(entry).map(|version| WantedVersion {
            name: &version.name,
            file: version.file.as_deref(),
            is_hidden: version.is_hidden,
        });
        Some((self.name(entry), version))
    }

    /// Every name in the table, whether defined or wanted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(|&entry| self.name(entry)).filter(|name| !name.is_empty())
    }

    /// Whether the symbol at an index is one that other files' references can get.
    pub(crate) fn is_provided(&self, index: u32) -> bool {
        self.entries.get(index as usize).is_some_and(|entry| entry.is(Entry::PROVIDES))
    }

    /// The versions under which the file offers a name, for messages; a definition without one counts as an empty version.
    pub fn versions_of(&self, name: SymbolName<'_>) -> Vec<&str> {
        let mut found = Vec::new();
        self.hash.candidates(name, |index| {
            if let Some(&entry) = self.entries.get(index as usize)
                && entry.is(Entry::PROVIDES)
                && self.name(entry) == name.bytes
            {
                found.push(self.version(entry).map_or("", |version| &*version.name));
            }
            false
        });
        found
    }

    fn name(&self, entry: Entry) -> &[u8] {
        until_zero(self.strings.as_slice().get(entry.name as usize..).unwrap_or(&[]))
    }

    /// The version of a symbol; the two reserved indexes stand for none.
    fn version(&self, entry: Entry) -> Option<&IndexedVersion> {
        if !self.has_versions {
            return None;
        }
        self.versions.get(usize::from(entry.version_index()))?.as_ref()
    }
}

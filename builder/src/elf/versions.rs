//! Symbol versions: those that a file defines and those that it wants from others.

use object::elf;
use object::endian::Endianness;
use serde::Serialize;

use super::error::ElfError;
use super::hash::sysv_hash;
use super::read::{Image, Strings};

/// Version indexes have 15 bits, so no honest file holds more versions than this.
const MOST_VERSIONS: usize = 0x8000;

/// A version that a file defines (an entry of `DT_VERDEF`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionDefinition {
    /// Name of the version, such as `GLIBC_2.34`; of the base definition, the file's own name.
    pub name: String,
    /// Index by which symbols refer to it.
    pub index: u16,
    /// Whether this entry names the file itself and no version of a symbol.
    pub is_base: bool,
    /// Whether it is marked weak.
    pub is_weak: bool,
    /// Names of the versions that it builds on.
    pub parents: Vec<String>,
}

/// The versions that a file wants from one library (an entry of `DT_VERNEED`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionNeed {
    /// Soname of the library.
    pub file: String,
    /// The versions that it must define.
    pub versions: Vec<WantedFrom>,
}

/// One version wanted from a library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WantedFrom {
    /// Name of the version.
    pub name: String,
    /// Index by which symbols refer to it.
    pub index: u16,
    /// Whether the loader only warns when it is absent (`VER_FLG_WEAK`).
    pub is_weak: bool,
    /// Whether only an exact match will do (the hidden bit of `vna_other`).
    pub is_hidden: bool,
}

/// What a version index of the symbol table stands for.
#[derive(Debug, Clone)]
pub(super) struct IndexedVersion {
    pub(super) name: Box<str>,
    /// Where the file wants it from; absent for a version of its own.
    pub(super) file: Option<Box<str>>,
    pub(super) is_hidden: bool,
}

/// Follows the chain of `DT_VERDEF`, as the loader does: by offsets, whatever the count says.
pub(super) fn definitions(image: &Image<'_>, address: u64, strings: &Strings<'_>) -> Result<Vec<VersionDefinition>, ElfError> {
    const TABLE: &str = "DT_VERDEF";
    let table = image.bytes_at(TABLE, address, size_of::<elf::Verdef<Endianness>>() as u64)?;
    let endian = image.endian;
    let mut found = Vec::new();
    let mut names = 0;
    let mut at = 0;
    loop {
        let entry: &elf::Verdef<Endianness> = image.record(TABLE, address, table, at)?;
        let flags = entry.vd_flags.get(endian);
        let mut texts = Vec::new();
        let mut aux_at = forward(at, entry.vd_aux.get(endian));
        for _ in 0..entry.vd_cnt.get(endian) {
            let aux: &elf::Verdaux<Endianness> = image.record(TABLE, address, table, aux_at)?;
            texts.push(strings.text(TABLE, u64::from(aux.vda_name.get(endian)))?);
            names += 1;
            check_count(TABLE, names)?;
            match aux.vda_next.get(endian) {
                0 => break,
                next => aux_at = forward(aux_at, next),
            }
        }
        let mut texts = texts.into_iter();
        let name = texts.next().ok_or(ElfError::Table { table: TABLE, field: "vd_cnt", found: 0, expected: "at least 1" })?;
        found.push(VersionDefinition {
            name,
            index: entry.vd_ndx.get(endian).0 & elf::VERSYM_VERSION,
            is_base: flags.0 & elf::VER_FLG_BASE.0 != 0,
            is_weak: flags.0 & elf::VER_FLG_WEAK.0 != 0,
            parents: texts.collect(),
        });
        check_count(TABLE, found.len())?;
        match entry.vd_next.get(endian) {
            0 => return Ok(found),
            next => at = forward(at, next),
        }
    }
}

/// Follows the chain of `DT_VERNEED` in the same way.
pub(super) fn needs(image: &Image<'_>, address: u64, strings: &Strings<'_>) -> Result<Vec<VersionNeed>, ElfError> {
    const TABLE: &str = "DT_VERNEED";
    let table = image.bytes_at(TABLE, address, size_of::<elf::Verneed<Endianness>>() as u64)?;
    let endian = image.endian;
    let mut found = Vec::new();
    let mut names = 0;
    let mut at = 0;
    loop {
        let entry: &elf::Verneed<Endianness> = image.record(TABLE, address, table, at)?;
        let file = strings.text(TABLE, u64::from(entry.vn_file.get(endian)))?;
        let mut versions = Vec::new();
        let mut aux_at = forward(at, entry.vn_aux.get(endian));
        loop {
            let aux: &elf::Vernaux<Endianness> = image.record(TABLE, address, table, aux_at)?;
            let name = strings.text(TABLE, u64::from(aux.vna_name.get(endian)))?;
            // The loader compares hashes before names, so a wrong hash is a version that nothing provides.
            let hash = aux.vna_hash.get(endian);
            if hash != sysv_hash(name.as_bytes()) {
                return Err(ElfError::Table {
                    table: TABLE,
                    field: "vna_hash",
                    found: hash.into(),
                    expected: "the hash of its own name",
                });
            }
            let other = aux.vna_other.get(endian).0;
            versions.push(WantedFrom {
                name,
                index: other & elf::VERSYM_VERSION,
                is_weak: aux.vna_flags.get(endian).0 & elf::VER_FLG_WEAK.0 != 0,
                is_hidden: other & elf::VERSYM_HIDDEN.0 != 0,
            });
            names += 1;
            check_count(TABLE, names)?;
            match aux.vna_next.get(endian) {
                0 => break,
                next => aux_at = forward(aux_at, next),
            }
        }
        found.push(VersionNeed { file, versions });
        check_count(TABLE, found.len())?;
        match entry.vn_next.get(endian) {
            0 => return Ok(found),
            next => at = forward(at, next),
        }
    }
}

/// Lays definitions and needs out by the index that symbols use.
pub(super) fn by_index(definitions: &[VersionDefinition], needs: &[VersionNeed]) -> Vec<Option<IndexedVersion>> {
    let mut table: Vec<Option<IndexedVersion>> = Vec::new();
    let mut put = |index: u16, version: IndexedVersion| {
        let index = usize::from(index);
        if table.len() <= index {
            table.resize(index + 1, None);
        }
        table[index] = Some(version);
    };
    for need in needs {
        for version in &need.versions {
            let file = Some(need.file.as_str().into());
            put(version.index, IndexedVersion { name: version.name.as_str().into(), file, is_hidden: version.is_hidden });
        }
    }
    // The base definition names the file; for the loader a symbol of that index has no version.
    for definition in definitions.iter().filter(|definition| !definition.is_base) {
        put(definition.index, IndexedVersion { name: definition.name.as_str().into(), file: None, is_hidden: false });
    }
    table
}

/// An offset further on in a table; one that overflows lies outside any table and is refused when it is read.
fn forward(at: usize, by: u32) -> usize {
    at.saturating_add(by as usize)
}

fn check_count(table: &'static str, count: usize) -> Result<(), ElfError> {
    if count > MOST_VERSIONS {
        return Err(ElfError::Table { table, field: "number of versions", found: count as u64, expected: "at most 32768" });
    }
    Ok(())
}

//! Writes the tables of a bound library: symbols, names, versions, hash table, relocations, and the dynamic segment that
//! points at them.

use std::cmp::Reverse;
use std::collections::HashMap;

use object::elf;

use super::draft::{Draft, Row, kind_of};
use super::drop::is_one_of;
use super::error::RewriteError;
use super::library::{Library, Table, Walk, version_definitions, version_needs};
use super::neighbours::{Neighbours, PACKED_VERSION};
use super::record::{Entry, Record, Relocation, Section, Symbol, to_bytes, u16_at, u32_at};
use super::strings::Strings;
use crate::elf::{Machine, gnu_hash, sysv_hash};

/// What goes into the new tables.
pub(super) struct NewTables {
    /// The symbols that stay, by their old index.
    pub(super) kept: Vec<usize>,
    /// Relative relocations that are not packed.
    pub(super) relative: Vec<Relocation>,
    /// All others, with the old symbol indexes.
    pub(super) left: Vec<Relocation>,
    /// The packed ones; `None` where nothing may be packed.
    pub(super) packed: Option<Vec<u64>>,
    /// Whether the library must not be unloaded.
    pub(super) stays_loaded: bool,
}

/// The C library, of which the version must be wanted that reads packed relocations.
const LIBC: &[u8] = b"libc.so.6";

/// Why relocations cannot be packed, if they cannot.
pub(super) fn why_not_packed(library: &Library<'_>, neighbours: &Neighbours<'_>) -> Option<&'static str> {
    if !neighbours.read_packed_relocations() {
        return Some("the C library of the image does not read packed relocations");
    }
    let dynamic = library.object.dynamic.as_ref()?;
    let wants = dynamic.version_needs.iter().any(|need| need.file.as_bytes() == LIBC);
    (!wants).then_some("the library wants no version of the C library, so it cannot say that it needs a recent one")
}

/// Tags whose value is a name.
const NAMES: [i64; 9] = [
    elf::DT_NEEDED.0,
    elf::DT_SONAME.0,
    elf::DT_RPATH.0,
    elf::DT_RUNPATH.0,
    elf::DT_AUXILIARY.0,
    elf::DT_FILTER.0,
    elf::DT_CONFIG.0,
    elf::DT_DEPAUDIT.0,
    elf::DT_AUDIT.0,
];

/// Tags of tables that are written anew, or go.
const REPLACED: [i64; 19] = [
    elf::DT_SYMTAB.0,
    elf::DT_VERSYM.0,
    elf::DT_VERDEF.0,
    elf::DT_VERNEED.0,
    elf::DT_GNU_HASH.0,
    elf::DT_HASH.0,
    elf::DT_STRTAB.0,
    elf::DT_STRSZ.0,
    elf::DT_RELA.0,
    elf::DT_RELASZ.0,
    elf::DT_RELAENT.0,
    elf::DT_RELACOUNT.0,
    elf::DT_JMPREL.0,
    elf::DT_PLTRELSZ.0,
    elf::DT_PLTREL.0,
    elf::DT_RELR.0,
    elf::DT_RELRSZ.0,
    elf::DT_RELRENT.0,
    elf::DT_FLAGS_1.0,
];

/// `DT_X86_64_PLT`, `DT_X86_64_PLTSZ` and `DT_X86_64_PLTENT`: with these the loader may rewrite the procedure linkage table by
/// the relocations of `DT_JMPREL`.
const X86_64_LINKAGE: [i64; 3] = [0x7000_0000, 0x7000_0001, 0x7000_0003];

/// Replaces the tables of a draft.
pub(super) fn write<'a>(
    draft: &mut Draft<'a>,
    symbols: &[Symbol],
    names: &[&'a [u8]],
    new: NewTables,
) -> Result<(), RewriteError> {
    let library = draft.library;
    let mut order = Order::of(symbols, names, new.kept);
    let mut strings = Strings::default();
    let table = order.symbols(symbols, names, &mut strings);
    let old_versions = library.versions()?;
    let versions: Option<Vec<u8>> = library
        .tag(elf::DT_VERSYM.0)
        .map(|_| order.indexes.iter().flat_map(|&old| old_versions.get(old).copied().unwrap_or(1).to_le_bytes()).collect());
    let definitions = renamed(library, Table::VersionDefinitions, version_definitions, &mut strings)?.map(|(bytes, _)| bytes);
    let needs = match renamed(library, Table::VersionNeeds, version_needs, &mut strings)? {
        Some((bytes, walk)) if new.packed.is_some() => Some(want_packed(library, bytes, &walk, &old_versions, &mut strings)?),
        needs => needs.map(|(bytes, _)| bytes),
    };
    let relative_count = new.relative.len() as u64;
    let relocations: Vec<Relocation> = new.relative.into_iter().chain(order.relocations(new.left)).collect();
    let mut entries = named_entries(library, &draft.dropped, &mut strings)?;

    vacate(draft)?;
    draft.reserve_program_headers_for_cuts()?;
    let words = |words: Vec<u64>| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let tables = [
        (Table::Symbols, Some(table)),
        (Table::Versions, versions),
        (Table::VersionDefinitions, definitions),
        (Table::VersionNeeds, needs),
        (Table::GnuHash, Some(order.hash_table())),
        (Table::Strings, Some(strings.into_bytes())),
        (Table::Relocations, Some(to_bytes(&relocations)).filter(|bytes| !bytes.is_empty())),
        (Table::PackedRelocations, new.packed.map(words).filter(|bytes| !bytes.is_empty())),
    ];
    let tables = tables.into_iter().filter_map(|(table, bytes)| Some((table, bytes?))).collect();
    entries.extend(place(draft, tables, order.local_count)?);
    if relative_count > 0 {
        entries.push(Entry { tag: elf::DT_RELACOUNT.0, value: relative_count });
    }
    let flags = library.tag(elf::DT_FLAGS_1.0).unwrap_or(0) | if new.stays_loaded { elf::DF_1_NODELETE.0 } else { 0 };
    if flags != 0 {
        entries.push(Entry { tag: elf::DT_FLAGS_1.0, value: flags });
    }
    drop_empty_rows(draft, &entries);
    draft.set_dynamic(&entries)
}

/// Puts the new tables where the old ones were, and gives the entries that say where. The larger ones come first, so that the
/// smaller ones fill the gaps.
fn place(draft: &mut Draft<'_>, mut tables: Vec<(Table, Vec<u8>)>, local_count: u32) -> Result<Vec<Entry>, RewriteError> {
    tables.sort_by_key(|(_, bytes)| Reverse(bytes.len()));
    let mut entries = Vec::new();
    for (table, bytes) in tables {
        let size = bytes.len() as u64;
        let align = match table {
            Table::Strings => 1,
            Table::Versions => 2,
            _ => 8,
        };
        let address = draft.place(bytes, align, table.name())?;
        move_row(draft, table, address, size, align, local_count);
        let sizes = match table {
            Table::Strings => &[(elf::DT_STRSZ, size)][..],
            Table::Relocations => &[(elf::DT_RELASZ, size), (elf::DT_RELAENT, Relocation::BYTES as u64)],
            Table::PackedRelocations => &[(elf::DT_RELRSZ, size), (elf::DT_RELRENT, 8)],
            _ => &[],
        };
        entries.push(Entry { tag: table.tag(), value: address });
        entries.extend(sizes.iter().map(|&(tag, value)| Entry { tag: tag.0, value }));
    }
    Ok(entries)
}

/// The new order of symbols: local ones, those that are wanted, and those that are offered in the order of their buckets.
struct Order {
    /// The old index of every new symbol.
    indexes: Vec<usize>,
    local_count: u32,
    /// How many come before the first one in the hash table.
    unhashed: usize,
    hashes: Vec<u32>,
    buckets: u32,
}

impl Order {
    fn of(symbols: &[Symbol], names: &[&[u8]], kept: Vec<usize>) -> Self {
        let (local, global): (Vec<_>, Vec<_>) = kept.into_iter().partition(|&index| symbols[index].binding() == elf::STB_LOCAL);
        let (offered, wanted): (Vec<_>, Vec<_>) = global.into_iter().partition(|&index| symbols[index].is_defined());
        let buckets = (offered.len() as u32 / 4).max(1);
        let mut offered: Vec<(u32, usize)> = offered.into_iter().map(|index| (gnu_hash(names[index]), index)).collect();
        offered.sort_by_key(|&(hash, index)| (hash % buckets, index));
        let mut indexes = vec![0];
        indexes.extend(local);
        let local_count = indexes.len() as u32;
        indexes.extend(wanted);
        let unhashed = indexes.len();
        indexes.extend(offered.iter().map(|&(_, index)| index));
        Self { indexes, local_count, unhashed, hashes: offered.into_iter().map(|(hash, _)| hash).collect(), buckets }
    }

    fn symbols<'a>(&self, symbols: &[Symbol], names: &[&'a [u8]], strings: &mut Strings<'a>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.indexes.len() * Symbol::BYTES);
        for &index in &self.indexes {
            let name = if index == 0 { 0 } else { strings.add(names[index]) };
            let symbol = if index == 0 { Symbol::default() } else { symbols[index] };
            Symbol { name, ..symbol }.write(&mut bytes);
        }
        bytes
    }

    /// Gives relocations the new symbol indexes.
    fn relocations(&mut self, left: Vec<Relocation>) -> impl Iterator<Item = Relocation> + use<> {
        let new: HashMap<u32, u32> = self.indexes.iter().zip(0..).map(|(&old, new)| (old as u32, new)).collect();
        left.into_iter()
            .map(move |relocation| Relocation { symbol: new.get(&relocation.symbol).copied().unwrap_or(0), ..relocation })
    }

    /// `DT_GNU_HASH`, with a filter of at least twelve bits a symbol.
    fn hash_table(&self) -> Vec<u8> {
        const SHIFT: u32 = 26;
        let words = (self.hashes.len() * 12).div_ceil(64).next_power_of_two();
        let mut filter = vec![0u64; words];
        let mut buckets = vec![0u32; self.buckets as usize];
        let mut chains = Vec::with_capacity(self.hashes.len());
        for (position, &hash) in self.hashes.iter().enumerate() {
            filter[(hash / 64) as usize % words] |= 1 << (hash % 64) | 1 << ((hash >> SHIFT) % 64);
            let bucket = hash % self.buckets;
            let first = &mut buckets[bucket as usize];
            if *first == 0 {
                *first = (self.unhashed + position) as u32;
            }
            let is_last = self.hashes.get(position + 1).is_none_or(|next| next % self.buckets != bucket);
            chains.push(hash & !1 | u32::from(is_last));
        }
        let head = [self.buckets, self.unhashed as u32, words as u32, SHIFT];
        let mut bytes: Vec<u8> = head.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(filter.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(buckets.iter().chain(&chains).flat_map(|word| word.to_le_bytes()));
        bytes
    }
}

/// A copy of a version table whose names are in the new string table.
fn renamed<'a>(
    library: &Library<'a>,
    table: Table,
    walk: fn(&[u8]) -> Option<Walk>,
    strings: &mut Strings<'a>,
) -> Result<Option<(Vec<u8>, Walk)>, RewriteError> {
    let bytes = library.table_bytes(table)?;
    let Some(found) = walk(bytes).filter(|_| !bytes.is_empty()) else { return Ok(None) };
    let mut copy = bytes.to_vec();
    for &at in &found.names {
        let offset = strings.add(string(library, u32_at(bytes, at).unwrap_or(0).into(), table.name())?);
        copy[at..at + 4].copy_from_slice(&offset.to_le_bytes());
    }
    Ok(Some((copy, found)))
}

/// Adds the version by which a recent C library is wanted, behind the others that are wanted of it.
fn want_packed(
    library: &Library<'_>,
    mut bytes: Vec<u8>,
    walk: &Walk,
    versions: &[u16],
    strings: &mut Strings<'_>,
) -> Result<Vec<u8>, RewriteError> {
    let dynamic = library.object.dynamic.as_ref();
    let needs = dynamic.map_or(&[][..], |dynamic| &dynamic.version_needs);
    let definitions = dynamic.map_or(&[][..], |dynamic| &dynamic.version_definitions);
    let mut wanted = needs.iter().flat_map(|need| &need.versions);
    if wanted.any(|version| version.name == PACKED_VERSION) {
        return Ok(bytes);
    }
    let position = needs.iter().position(|need| need.file.as_bytes() == LIBC);
    let Some(&(entry, last)) = position.and_then(|position| walk.needs.get(position)) else { return Ok(bytes) };
    let used = needs.iter().flat_map(|need| &need.versions).map(|version| version.index);
    let used =
        used.chain(definitions.iter().map(|definition| definition.index)).chain(versions.iter().map(|index| index & 0x7fff));
    let index = used.max().unwrap_or(1) + 1;
    let problem = "has no version index left";
    if index > 0x7fff {
        return Err(RewriteError::Inconsistent { field: ".gnu.version_r", found: index.into(), problem });
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let at = bytes.len();
    bytes.extend(sysv_hash(PACKED_VERSION.as_bytes()).to_le_bytes());
    bytes.extend(0u16.to_le_bytes());
    bytes.extend(index.to_le_bytes());
    bytes.extend(strings.add(PACKED_VERSION.as_bytes()).to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes[last + 12..last + 16].copy_from_slice(&((at - last) as u32).to_le_bytes());
    let count = u16_at(&bytes, entry + 2).unwrap_or(0).wrapping_add(1);
    bytes[entry + 2..entry + 4].copy_from_slice(&count.to_le_bytes());
    Ok(bytes)
}

fn string<'a>(library: &Library<'a>, offset: u64, field: &'static str) -> Result<&'a [u8], RewriteError> {
    let strings = library.table_bytes(Table::Strings)?;
    let problem = "is no name in the string table";
    Library::text(strings, offset).ok_or(RewriteError::Inconsistent { field, found: offset, problem })
}

/// The entries of the dynamic segment that stay, with their names in the new string table.
fn named_entries<'a>(library: &Library<'a>, dropped: &[String], strings: &mut Strings<'a>) -> Result<Vec<Entry>, RewriteError> {
    let mut entries = Vec::new();
    let is_linkage = |tag| library.object.machine == Machine::X86_64 && X86_64_LINKAGE.contains(&tag);
    for entry in library.dynamic.iter().filter(|entry| !REPLACED.contains(&entry.tag) && !is_linkage(entry.tag)) {
        let value = if NAMES.contains(&entry.tag) {
            let name = string(library, entry.value, "dynamic segment")?;
            if entry.tag == elf::DT_NEEDED.0 && is_one_of(name, dropped) {
                continue;
            }
            strings.add(name).into()
        } else {
            entry.value
        };
        entries.push(Entry { tag: entry.tag, value });
    }
    Ok(entries)
}

/// Frees the room of all old tables.
fn vacate(draft: &mut Draft<'_>) -> Result<(), RewriteError> {
    for table in TABLES {
        if let Some(range) = draft.library.table(table)? {
            draft.vacate(range, table.name())?;
        }
    }
    Ok(())
}

/// All tables that are replaced.
pub(super) const TABLES: [Table; 10] = [
    Table::Symbols,
    Table::Versions,
    Table::VersionDefinitions,
    Table::VersionNeeds,
    Table::GnuHash,
    Table::SysVHash,
    Table::Strings,
    Table::Relocations,
    Table::SlotRelocations,
    Table::PackedRelocations,
];

/// Lets the section header of a table follow it. A table that the original has not takes over the row of the one that it
/// replaces.
fn move_row(draft: &mut Draft<'_>, table: Table, address: u64, size: u64, align: u64, local_count: u32) {
    let has_own = draft.row(table).is_some();
    let predecessor = match table {
        Table::PackedRelocations => Table::SlotRelocations,
        Table::GnuHash => Table::SysVHash,
        other => other,
    };
    let change = |row: &mut Row| {
        let section = Section { address, size, align, ..row.section };
        row.section = match table {
            Table::Symbols => Section { info: local_count, ..section },
            Table::GnuHash => Section { kind: kind_of(table), entry_size: 0, ..section },
            Table::PackedRelocations => {
                Section { kind: kind_of(table), flags: elf::SHF_ALLOC.0, link: 0, info: 0, entry_size: 8, ..section }
            }
            _ => section,
        };
        row.name = table.name().as_bytes().to_vec();
    };
    if let Some(row) = draft.row(if has_own { table } else { predecessor }) {
        change(row);
    } else if !draft.rows.is_empty() && table == Table::PackedRelocations {
        let mut row = Row { section: Section::default(), name: Vec::new(), is_dropped: false };
        change(&mut row);
        draft.rows.push(row);
    }
}

/// Drops the section headers of tables that are no longer there.
fn drop_empty_rows(draft: &mut Draft<'_>, entries: &[Entry]) {
    for table in TABLES {
        if !entries.iter().any(|entry| entry.tag == table.tag())
            && let Some(row) = draft.row(table)
        {
            row.is_dropped = true;
        }
    }
}

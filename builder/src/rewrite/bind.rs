//! Binds what a library wants of itself, packs what is then relative, and drops the exports that nothing names.
//!
//! A reference is bound only where a lookup in the finished image can have no other outcome: the library defines the name
//! once, and no other object of the closure defines it too. So the identity of what several libraries define (inline
//! functions, vtables, type information, statics of templates) is decided by the loader as before. Names that another object
//! has at all stay exported, and so do those that the rules keep because a program looks them up by `dlsym`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use object::elf;
use serde::{Deserialize, Serialize};

use super::draft::Draft;
use super::error::RewriteError;
use super::library::{Library, Table};
use super::neighbours::{Naming, Neighbours};
use super::record::{Record, Relocation, Symbol};
use super::relr;
use super::report::BindReport;
use super::tables::{self, NewTables};

/// What binding must leave alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BindRules {
    /// Symbols that stay exported although no library names them; one that ends in `*` stands for all that start so.
    pub keep: Vec<String>,
}

impl BindRules {
    /// Keeps every export, so that lookups stay as they are and relative relocations alone are packed.
    #[must_use]
    pub fn pack_alone() -> Self {
        Self { keep: vec!["*".to_owned()] }
    }

    /// Whether a name is kept.
    pub(super) fn keeps(&self, name: &[u8]) -> bool {
        self.keep.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start.as_bytes()),
            None => name == pattern.as_bytes(),
        })
    }
}

/// What becomes of a symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is defined elsewhere.
    Import,
    /// References to it are bound; it stays exported or not.
    Bound { exported: bool },
    /// References to it stay, for a reason; it stays exported if it was.
    Left(&'static str),
}

/// The symbols of a library, and what becomes of each.
struct Fates<'a> {
    symbols: Vec<Symbol>,
    names: Vec<&'a [u8]>,
    fates: Vec<Fate>,
}

/// Binds the library of a draft.
pub(super) fn bind(draft: &mut Draft<'_>, rules: &BindRules, neighbours: &Neighbours<'_>) -> Result<BindReport, RewriteError> {
    let library = draft.library;
    check(library)?;
    let mut report = BindReport::default();
    let fates = decide(library, rules, neighbours, &mut report)?;
    let (relative, mut left) = relocate(draft, &fates, &mut report)?;

    let unpacked_because = tables::why_not_packed(library, neighbours);
    let (packed, relative): (Vec<_>, Vec<_>) = relative.into_iter().partition(|relocation| {
        unpacked_because.is_none() && relocation.address % 8 == 0 && draft.is_patchable(relocation.address)
    });
    for relocation in &packed {
        draft.patch(relocation.address, &relocation.addend.to_le_bytes())?;
    }
    let addresses: Vec<u64> = packed.iter().map(|relocation| relocation.address).collect();
    let relr = relr::pack(&addresses);
    report.packed = addresses.len() as u64;
    report.packed_bytes = 8 * relr.len() as u64;
    report.unpacked_because = unpacked_because.map(Cow::Borrowed);

    // Relative ones come first, by address; then by symbol, since the loader remembers the last lookup; and resolver
    // functions run when all else is in place.
    let indirect = library.kinds.indirect;
    left.sort_by_key(|relocation| (relocation.kind == indirect, relocation.symbol, relocation.address));
    let used: HashSet<u32> = left.iter().map(|relocation| relocation.symbol).collect();
    let stays = |index: usize| match fates.fates[index] {
        Fate::Import => used.contains(&(index as u32)),
        Fate::Bound { exported } => exported || used.contains(&(index as u32)),
        Fate::Left(_) => !fates.symbols[index].is_local() || used.contains(&(index as u32)),
    };
    let kept: Vec<usize> = (1..fates.symbols.len()).filter(|&index| stays(index)).collect();
    report.symbols_after = kept.len() as u64 + 1;
    // The loader never unloads a library one of whose unique symbols it has looked up.
    let is_unique =
        |(symbol, fate): (&Symbol, &Fate)| symbol.binding() == elf::STB_GNU_UNIQUE && matches!(fate, Fate::Bound { .. });
    let stays_loaded = fates.symbols.iter().zip(&fates.fates).any(is_unique);
    let packed = unpacked_because.is_none().then_some(relr);
    tables::write(draft, &fates.symbols, &fates.names, NewTables { kept, relative, left, packed, stays_loaded })?;
    Ok(report)
}

/// Refuses what binding has no answer for.
fn check(library: &Library<'_>) -> Result<(), RewriteError> {
    let refuse = |field, found: u64, expected| Err(RewriteError::Unsupported { field, found: format!("{found:#x}"), expected });
    for (tag, field) in [
        (elf::DT_REL.0, "DT_REL"),
        (elf::DT_TEXTREL.0, "DT_TEXTREL"),
        (elf::DT_GNU_PRELINKED.0, "DT_GNU_PRELINKED"),
        (elf::DT_ANDROID_RELA.0, "DT_ANDROID_RELA"),
        (elf::DT_ANDROID_RELR.0, "DT_ANDROID_RELR"),
    ] {
        if let Some(value) = library.tag(tag) {
            return refuse(field, value, "no such tag");
        }
    }
    if library.tag(elf::DT_FLAGS.0).unwrap_or(0) & elf::DF_TEXTREL.0 != 0 {
        return refuse("DT_FLAGS", library.tag(elf::DT_FLAGS.0).unwrap_or(0), "no DF_TEXTREL");
    }
    if library.tag(elf::DT_SYMTAB.0).is_none() || library.tag(elf::DT_STRTAB.0).is_none() {
        return refuse("DT_SYMTAB", 0, "a symbol table with names");
    }
    for (tag, size) in [(elf::DT_SYMENT.0, Symbol::BYTES), (elf::DT_RELAENT.0, Relocation::BYTES)] {
        if let Some(value) = library.tag(tag).filter(|&value| value != size as u64) {
            return refuse("record size", value, "24");
        }
    }
    Ok(())
}

/// Decides on every symbol.
fn decide<'a>(
    library: &Library<'a>,
    rules: &BindRules,
    neighbours: &Neighbours<'_>,
    report: &mut BindReport,
) -> Result<Fates<'a>, RewriteError> {
    let symbols = library.symbols()?;
    let strings = library.table_bytes(Table::Strings)?;
    let name = |symbol: &Symbol| {
        Library::text(strings, symbol.name.into()).ok_or(RewriteError::Inconsistent {
            field: "symbol name",
            found: symbol.name.into(),
            problem: "is not in the string table",
        })
    };
    let names = symbols.iter().map(name).collect::<Result<Vec<_>, _>>()?;
    let mut definitions: HashMap<&[u8], u32> = HashMap::new();
    for (symbol, name) in symbols.iter().zip(&names).filter(|(symbol, _)| symbol.is_defined()) {
        *definitions.entry(name).or_default() += u32::from(!symbol.is_local());
    }
    let named = neighbours.names();
    let table = library.object.dynamic.as_ref().map(|dynamic| &dynamic.symbols);
    let mut fates = Vec::with_capacity(symbols.len());
    for (index, (symbol, &name)) in symbols.iter().zip(&names).enumerate() {
        let is_provided = table.is_some_and(|table| table.is_provided(index as u32));
        let naming = named.get(name).copied();
        fates.push(if !symbol.is_defined() {
            Fate::Import
        } else if symbol.kind() == elf::STT_GNU_IFUNC {
            Fate::Left("its address is found by a function of the library")
        } else if symbol.section >= elf::SHN_LORESERVE {
            Fate::Left("it is no address in the library")
        } else if symbol.is_local() {
            Fate::Bound { exported: false }
        } else if rules.keeps(name) {
            report.exports_kept += 1;
            Fate::Left("a pattern keeps it")
        } else if naming == Some(Naming::Defined) {
            report.exports_named += 1;
            Fate::Left("another library defines it too")
        } else if !is_provided || definitions.get(name) != Some(&1) {
            Fate::Left("the library defines it more than once, or not for lookups")
        } else if naming == Some(Naming::Wanted) {
            report.exports_named += 1;
            Fate::Bound { exported: true }
        } else {
            report.exports_dropped += 1;
            Fate::Bound { exported: false }
        });
    }
    report.symbols_before = symbols.len() as u64;
    Ok(Fates { symbols, names, fates })
}

/// Sorts relocations into relative ones, by address, and those that stay.
fn relocate(
    draft: &mut Draft<'_>,
    fates: &Fates<'_>,
    report: &mut BindReport,
) -> Result<(Vec<Relocation>, Vec<Relocation>), RewriteError> {
    let library = draft.library;
    let kinds = library.kinds;
    let all = library.relocations()?;
    let packed = library.packed()?;
    report.relocations_before = (all.len() + packed.len()) as u64;
    let mut relative = Vec::with_capacity(all.len() + packed.len());
    for address in packed {
        let word = library.bytes(address..address.saturating_add(8)).and_then(|bytes| bytes.first_chunk());
        let problem = "is not in the file";
        let word = word.ok_or(RewriteError::Inconsistent { field: "packed relocation", found: address, problem })?;
        relative.push(Relocation { address, kind: kinds.relative, symbol: 0, addend: i64::from_le_bytes(*word) });
    }
    let mut left = Vec::new();
    let mut reasons: BTreeMap<&'static str, u64> = BTreeMap::new();
    for relocation in all {
        if relocation.kind == 0 {
            continue;
        }
        if relocation.kind == kinds.copy {
            let found = format!("{:#x}", relocation.address);
            return Err(RewriteError::Unsupported { field: "copy relocation", found, expected: "none in a library" });
        }
        if relocation.kind == kinds.relative {
            relative.push(relocation);
            continue;
        }
        match bound(draft, fates, &relocation)? {
            Outcome::Relative(relocation) => {
                report.bound += 1;
                relative.push(relocation);
            }
            Outcome::Symbolless(relocation) => {
                report.bound += 1;
                left.push(relocation);
            }
            Outcome::Done => report.bound += 1,
            Outcome::Left(reason) => {
                *reasons.entry(reason).or_default() += 1;
                left.push(relocation);
            }
        }
    }
    report.left = reasons.into_iter().map(|(reason, count)| (Cow::Borrowed(reason), count)).collect();
    relative.sort_by_key(|relocation| relocation.address);
    let mut words: Vec<u64> = relative.iter().chain(&left).map(|relocation| relocation.address).collect();
    words.sort_unstable();
    if let Some(twice) = words.windows(2).find(|pair| pair[1] - pair[0] < 8) {
        let problem = "overlaps another one, so that their order matters";
        return Err(RewriteError::Inconsistent { field: "relocation", found: twice[1], problem });
    }
    Ok((relative, left))
}

/// Why a relocation that could be bound is not.
const UNKNOWN: &str = "its kind is not bound";

/// What becomes of a relocation.
enum Outcome {
    /// It needs only the load address.
    Relative(Relocation),
    /// It needs the loader, but no symbol.
    Symbolless(Relocation),
    /// Its word is final.
    Done,
    /// It stays.
    Left(&'static str),
}

fn bound(draft: &mut Draft<'_>, fates: &Fates<'_>, relocation: &Relocation) -> Result<Outcome, RewriteError> {
    let kinds = draft.library.kinds;
    let index = relocation.symbol as usize;
    if index == 0 {
        return Ok(Outcome::Left("it needs no symbol"));
    }
    match fates.fates[index] {
        Fate::Import => return Ok(Outcome::Left("another library defines it")),
        Fate::Left(reason) => return Ok(Outcome::Left(reason)),
        Fate::Bound { .. } => {}
    }
    let symbol = &fates.symbols[index];
    let is_thread_local = symbol.kind() == elf::STT_TLS;
    let value = symbol.value.cast_signed().wrapping_add(relocation.addend);
    let is_slot = relocation.kind == kinds.global_data || relocation.kind == kinds.jump_slot;
    let is_address = relocation.kind == kinds.absolute || (is_slot && (relocation.addend == 0 || kinds.slots_have_addends));
    Ok(if is_address && !is_thread_local {
        Outcome::Relative(Relocation { address: relocation.address, kind: kinds.relative, symbol: 0, addend: value })
    } else if relocation.kind == kinds.tls_module && is_thread_local {
        Outcome::Symbolless(Relocation { symbol: 0, ..*relocation })
    } else if relocation.kind == kinds.tls_static && is_thread_local {
        Outcome::Symbolless(Relocation { symbol: 0, addend: value, ..*relocation })
    } else if relocation.kind == kinds.tls_offset && is_thread_local && draft.is_patchable(relocation.address) {
        draft.patch(relocation.address, &value.to_le_bytes())?;
        Outcome::Done
    } else {
        Outcome::Left(UNKNOWN)
    })
}

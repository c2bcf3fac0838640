//! What the loader puts into the words that relocations name.

use std::collections::HashMap;
use std::fmt;

use object::elf;

use super::error::{Difference, RewriteError};
use super::library::Library;
use super::neighbours::Neighbours;
use super::record::{Relocation, Symbol};
use crate::elf::{SymbolName, WantedVersion};

/// The content of a word once the library is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word<'a> {
    /// This number.
    Plain(u64),
    /// The address of a place in the library.
    Address(u64),
    /// What a resolver function at this place says.
    Indirect(u64),
    /// The number of the library as a module with thread-local variables.
    Module,
    /// The place of a thread-local variable of the library, from the thread pointer.
    ThreadLocal(u64),
    /// What a lookup over the whole process makes of a relocation.
    Lookup {
        /// Kind of the relocation.
        kind: u32,
        /// The name looked up.
        name: &'a [u8],
        /// The version wanted, with the library that it is wanted of.
        version: Option<(&'a str, Option<&'a str>)>,
        /// Whether it may be found nowhere.
        is_weak: bool,
        /// What is added.
        addend: i64,
    },
}

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(value) => write!(f, "{value:#x}"),
            Self::Address(value) => write!(f, "base + {value:#x}"),
            Self::Indirect(value) => write!(f, "the result of base + {value:#x}"),
            Self::Module => f.write_str("the module's number"),
            Self::ThreadLocal(value) => write!(f, "thread + {value:#x}"),
            Self::Lookup { kind, name, version, addend, .. } => {
                let version = version.map_or("", |(version, _)| version);
                write!(f, "`{}@{version}` + {addend} of kind {kind}", name.escape_ascii())
            }
        }
    }
}

/// What a reference by a symbol ends at.
#[derive(Clone, Copy)]
enum Referent<'a> {
    /// The library's own definition.
    Own(Symbol),
    /// Whatever the lookup finds.
    Lookup { name: &'a [u8], version: Option<WantedVersion<'a>>, is_weak: bool },
}

/// All words of a library, by address.
///
/// # Errors
/// Where tables cannot be read, or two relocations concern the same bytes.
pub(super) fn words<'a>(library: &'a Library<'_>, neighbours: &Neighbours<'_>) -> Result<Vec<(u64, Word<'a>)>, RewriteError> {
    let mut reader = Reader { library, neighbours, symbols: library.symbols()?, referents: HashMap::new() };
    let mut words = Vec::new();
    for address in library.packed()? {
        let bytes = library.bytes(address..address.saturating_add(8)).and_then(|bytes| bytes.first_chunk());
        let problem = "is not in the file";
        let bytes = bytes.ok_or(RewriteError::Inconsistent { field: "packed relocation", found: address, problem })?;
        words.push((address, Word::Address(u64::from_le_bytes(*bytes))));
    }
    for relocation in library.relocations()?.iter().filter(|relocation| relocation.kind != 0) {
        words.push((relocation.address, reader.word(relocation)));
    }
    words.sort_by_key(|&(address, _)| address);
    if let Some(pair) = words.windows(2).find(|pair| pair[1].0 - pair[0].0 < 8) {
        let (address, expected, found) = (pair[1].0, pair[0].1.to_string(), pair[1].1.to_string());
        return Err(Difference::Word { address, found, expected }.into());
    }
    Ok(words)
}

struct Reader<'a, 'l, 'n> {
    library: &'a Library<'l>,
    neighbours: &'n Neighbours<'n>,
    symbols: Vec<Symbol>,
    /// Referents by symbol index: many relocations share one.
    referents: HashMap<u32, Referent<'a>>,
}

impl<'a> Reader<'a, '_, '_> {
    /// The rules of `elf_machine_rela` in glibc.
    fn word(&mut self, relocation: &Relocation) -> Word<'a> {
        let kinds = self.library.kinds;
        let addend = relocation.addend.cast_unsigned();
        let kind = relocation.kind;
        if kind == kinds.relative {
            return Word::Address(addend);
        }
        if kind == kinds.indirect {
            return Word::Indirect(addend);
        }
        let is_slot = kind == kinds.global_data || kind == kinds.jump_slot;
        match self.referent(relocation.symbol) {
            Referent::Own(symbol) => {
                let value = symbol.value.wrapping_add(addend);
                let is_resolver = symbol.kind() == elf::STT_GNU_IFUNC;
                let is_variable = symbol.kind() == elf::STT_TLS;
                let is_place = !is_resolver && !is_variable && symbol.section < elf::SHN_LORESERVE && symbol.is_defined();
                if kind == kinds.absolute && is_place {
                    return Word::Address(value);
                }
                if is_slot && is_place {
                    return Word::Address(if kinds.slots_have_addends { value } else { symbol.value });
                }
                // Without a symbol, these concern the library itself.
                let is_variable = is_variable || relocation.symbol == 0;
                if kind == kinds.tls_module && is_variable {
                    return Word::Module;
                }
                if kind == kinds.tls_offset && is_variable {
                    return Word::Plain(value);
                }
                if kind == kinds.tls_static && is_variable {
                    return Word::ThreadLocal(value);
                }
                let (name, version) = self.name(relocation.symbol);
                lookup(relocation, name, version, false)
            }
            Referent::Lookup { name, version, is_weak } => lookup(relocation, name, version, is_weak),
        }
    }

    fn name(&self, index: u32) -> (&'a [u8], Option<WantedVersion<'a>>) {
        let dynamic = self.library.object.dynamic.as_ref();
        dynamic.and_then(|dynamic| dynamic.symbols.reference(index)).unwrap_or((&[], None))
    }

    fn referent(&mut self, index: u32) -> Referent<'a> {
        if let Some(&known) = self.referents.get(&index) {
            return known;
        }
        let found = self.find(index);
        self.referents.insert(index, found);
        found
    }

    fn find(&self, index: u32) -> Referent<'a> {
        let Some(&symbol) = self.symbols.get(index as usize) else { return Referent::Own(Symbol::default()) };
        if symbol.is_local() {
            return Referent::Own(symbol);
        }
        let (name, version) = self.name(index);
        let hashed = SymbolName::new(name);
        let dynamic = self.library.object.dynamic.as_ref();
        let own = dynamic.and_then(|dynamic| dynamic.symbols.definition(hashed, version));
        match own.and_then(|own| self.symbols.get(own as usize)) {
            Some(&own) if !self.neighbours.may_define(hashed, version) => Referent::Own(own),
            _ => Referent::Lookup { name, version, is_weak: symbol.binding() == elf::STB_WEAK },
        }
    }
}

fn lookup<'a>(relocation: &Relocation, name: &'a [u8], version: Option<WantedVersion<'a>>, is_weak: bool) -> Word<'a> {
    let version = version.map(|version| (version.name, version.file));
    Word::Lookup { kind: relocation.kind, name, version, is_weak, addend: relocation.addend }
}

//! What other modules need to rearrange memory that only known words point into: [`Memory`] and [`Arrangement`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::ops::Range;

use object::elf;

use super::bind::BindRules;
use super::draft::Draft;
use super::error::RewriteError;
use super::library::{Library, Table};
use super::neighbours::Neighbours;
use super::record::{Record, Relocation};
use super::verify::{self, Exempt};

/// A library as the loader lays it out in memory.
pub(crate) struct Memory<'a> {
    library: Library<'a>,
}

/// Bytes of a section that follow one another in memory.
#[derive(Debug, Clone)]
pub(crate) struct Run<'a> {
    /// Address of the first one.
    pub(crate) address: u64,
    /// The bytes.
    pub(crate) bytes: &'a [u8],
    /// Whether the loader maps them without the right to write.
    pub(crate) is_read_only: bool,
}

/// A word that the loader fills in with an address of the library itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pointer {
    /// Where the word is.
    pub(crate) address: u64,
    /// The address that it gets.
    pub(crate) target: u64,
    /// Whether the load address is all that the loader adds: then the word can be made to point elsewhere.
    pub(crate) is_relative: bool,
}

/// How a part of memory is rearranged.
#[derive(Debug, Default)]
pub(crate) struct Arrangement<'a> {
    /// Other bytes for places in read-only memory; no two overlap.
    pub(crate) blocks: Vec<(u64, Cow<'a, [u8]>)>,
    /// Ranges of read-only memory that nothing uses any more, outside of the blocks.
    pub(crate) free: Vec<Range<u64>>,
    /// Words that point elsewhere, and where.
    pub(crate) pointers: Vec<(u64, u64)>,
}

impl<'a> Memory<'a> {
    /// Reads a library.
    ///
    /// # Errors
    /// Where it is damaged, or something else than a shared library of a known machine.
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self, RewriteError> {
        Ok(Self { library: Library::parse(data)? })
    }

    /// The bytes of all sections of a name, run by run. Where holes were cut out of a section, it has several.
    pub(crate) fn section(&self, name: &[u8]) -> Vec<Run<'a>> {
        let library = &self.library;
        let sections = library
            .sections
            .iter()
            .filter(|section| section.is_allocated() && section.has_bytes() && library.section_name(section) == name);
        let mut runs = Vec::new();
        for section in sections {
            for segment in library.segments.iter().filter(|segment| segment.is_load()) {
                let start = section.offset.max(segment.offset);
                let end = (section.offset + section.size).min(segment.offset + segment.file_size);
                if start < end
                    && let Some(bytes) = library.slice(start, end - start)
                {
                    let address = segment.address + (start - segment.offset);
                    runs.push(Run { address, bytes, is_read_only: !segment.is_writable() });
                }
            }
        }
        runs.sort_by_key(|run| run.address);
        runs
    }

    /// Bytes of memory that follow one another in the file, `None` where they do not.
    pub(crate) fn bytes(&self, range: Range<u64>) -> Option<&'a [u8]> {
        self.library.bytes(range)
    }

    /// All words that the loader fills in with an address of the library itself, by address.
    ///
    /// # Errors
    /// Where a table is damaged.
    pub(crate) fn pointers(&self) -> Result<Vec<Pointer>, RewriteError> {
        let kinds = self.library.kinds;
        let symbols = self.library.symbols()?;
        let mut pointers = Vec::new();
        for address in self.library.packed()? {
            let word = self.library.bytes(address..address.saturating_add(8)).and_then(|bytes| bytes.first_chunk());
            let problem = "is not in the file";
            let word = word.ok_or(RewriteError::Inconsistent { field: "packed relocation", found: address, problem })?;
            pointers.push(Pointer { address, target: u64::from_le_bytes(*word), is_relative: true });
        }
        for relocation in self.library.relocations()? {
            let addend = relocation.addend.cast_unsigned();
            let symbol = symbols.get(relocation.symbol as usize).filter(|symbol| symbol.is_defined());
            let target = match symbol {
                _ if relocation.kind == kinds.relative || relocation.kind == kinds.indirect => addend,
                Some(symbol) => symbol.value.wrapping_add(addend),
                None => continue,
            };
            let is_relative = relocation.kind == kinds.relative;
            pointers.push(Pointer { address: relocation.address, target, is_relative });
        }
        pointers.sort_by_key(|pointer| pointer.address);
        Ok(pointers)
    }

    /// The addresses of the symbols that the library defines for others.
    ///
    /// # Errors
    /// Where the symbol table is damaged.
    pub(crate) fn definitions(&self) -> Result<Vec<u64>, RewriteError> {
        let is_place = |kind: elf::SymbolType| kind != elf::STT_TLS && kind != elf::STT_SECTION;
        let symbols = self.library.symbols()?;
        Ok(symbols.iter().filter(|symbol| symbol.is_defined() && is_place(symbol.kind())).map(|symbol| symbol.value).collect())
    }

    /// Writes the rearranged library to an empty file.
    ///
    /// # Errors
    /// Where the arrangement contradicts itself or the library, or the file cannot be written.
    pub(crate) fn rearrange(&self, arrangement: Arrangement<'a>, target: &mut File) -> Result<(), RewriteError> {
        let mut draft = Draft::new(&self.library);
        for range in arrangement.free {
            draft.clear(range)?;
        }
        for (address, bytes) in arrangement.blocks {
            draft.replace(address, bytes)?;
        }
        let addends = self.addends()?;
        for (address, new) in arrangement.pointers {
            let word = self.library.bytes(address..address.saturating_add(8)).and_then(|bytes| bytes.first_chunk());
            match addends.get(&address) {
                Some(&(at, old)) => {
                    draft.replace(at, new.to_le_bytes().to_vec().into())?;
                    // Linkers also leave the address in the word, for tools that do not relocate.
                    if word.is_some_and(|word| u64::from_le_bytes(*word) == old) {
                        draft.patch(address, &new.to_le_bytes())?;
                    }
                }
                None => draft.patch(address, &new.to_le_bytes())?,
            }
        }
        let image = draft.finish()?;
        target.rewind()?;
        let mut out = BufWriter::new(&mut *target);
        image.write_to(&mut out)?;
        out.flush()?;
        Ok(())
    }

    /// Of relative relocations that are not packed, by the word: where the addend is, and its value.
    fn addends(&self) -> Result<HashMap<u64, (u64, u64)>, RewriteError> {
        let mut addends = HashMap::new();
        for table in [Table::Relocations, Table::SlotRelocations] {
            let Some(range) = self.library.table(table)? else { continue };
            let bytes = self.library.table_bytes(table)?;
            for (index, relocation) in super::record::records::<Relocation>(bytes).enumerate() {
                if relocation.kind == self.library.kinds.relative {
                    let at = range.start + (index * Relocation::BYTES + Relocation::BYTES - 8) as u64;
                    addends.insert(relocation.address, (at, relocation.addend.cast_unsigned()));
                }
            }
        }
        Ok(addends)
    }
}

/// Verifies that two libraries are the same once loaded, but for the bytes of some ranges and for where some words point,
/// both of which are sorted.
///
/// # Errors
/// The first difference, or why one of the two cannot be read.
pub(crate) fn same_outside(before: &[u8], after: &[u8], ranges: &[Range<u64>], pointers: &[u64]) -> Result<(), RewriteError> {
    verify::verify_but(
        before,
        after,
        &BindRules::default(),
        &Neighbours::default(),
        &Exempt { ranges, pointers, ..Exempt::default() },
    )
}

//! The fixed-size records of a 64-bit little-endian ELF file, as plain structs.

use object::elf;

/// Something of a fixed length in a file.
pub(super) trait Record: Sized {
    /// Length in the file, in bytes.
    const BYTES: usize;

    /// Reads it from exactly [`Self::BYTES`] bytes.
    fn read(fields: &mut Fields<'_>) -> Self;

    /// Appends its bytes.
    fn write(&self, out: &mut Vec<u8>);
}

/// The fields of a record, taken from its front. Callers give records whole, so that no field is ever missing; one that
/// were would read as zero.
pub(super) struct Fields<'a>(&'a [u8]);

macro_rules! take {
    ($($name:ident),*) => {$(
        fn $name(&mut self) -> $name {
            let (field, rest) = self.0.split_first_chunk().map_or(($name::default().to_le_bytes(), &[][..]), |(field, rest)| (*field, rest));
            self.0 = rest;
            $name::from_le_bytes(field)
        }
    )*};
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    take!(u8, u16, u32, u64, i64);
}

/// Reads as many whole records as the bytes hold.
pub(super) fn records<T: Record>(bytes: &[u8]) -> impl ExactSizeIterator<Item = T> + '_ {
    bytes.chunks_exact(T::BYTES).map(|chunk| T::read(&mut Fields::new(chunk)))
}

/// The bytes of records.
pub(super) fn to_bytes<'a, T: Record + 'a>(records: impl IntoIterator<Item = &'a T>) -> Vec<u8> {
    let mut out = Vec::new();
    records.into_iter().for_each(|record| record.write(&mut out));
    out
}

/// A number of 32 bits at an offset; `None` where it does not fit in.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// A number of 16 bits at an offset; `None` where it does not fit in.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

macro_rules! record {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, {$($(#[$field_doc:meta])* $field:ident: $type:ident,)*}) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub(super) struct $name {
            $($(#[$field_doc])* pub(super) $field: $type,)*
        }

        impl Record for $name {
            const BYTES: usize = $bytes;

            fn read(fields: &mut Fields<'_>) -> Self {
                Self { $($field: fields.$type(),)* }
            }

            fn write(&self, out: &mut Vec<u8>) {
                $(out.extend_from_slice(&self.$field.to_le_bytes());)*
            }
        }
    };
}

record!(
    /// The header of the file after the identification (`Elf64_Ehdr` from `e_type` on).
    Header, 48, {
        kind: u16,
        machine: u16,
        version: u32,
        entry: u64,
        segments_offset: u64,
        sections_offset: u64,
        flags: u32,
        header_bytes: u16,
        segment_bytes: u16,
        segment_count: u16,
        section_bytes: u16,
        section_count: u16,
        names_section: u16,
    }
);

record!(
    /// A program header (`Elf64_Phdr`).
    Segment, 56, {
        kind: u32,
        flags: u32,
        offset: u64,
        address: u64,
        physical: u64,
        file_size: u64,
        memory_size: u64,
        align: u64,
    }
);

record!(
    /// A section header (`Elf64_Shdr`).
    Section, 64, {
        name: u32,
        kind: u32,
        flags: u64,
        address: u64,
        offset: u64,
        size: u64,
        link: u32,
        info: u32,
        align: u64,
        entry_size: u64,
    }
);

record!(
    /// An entry of the dynamic segment (`Elf64_Dyn`).
    Entry, 16, {
        tag: i64,
        value: u64,
    }
);

record!(
    /// A symbol (`Elf64_Sym`).
    Symbol, 24, {
        name: u32,
        info: u8,
        other: u8,
        section: u16,
        value: u64,
        size: u64,
    }
);

record!(
    /// A relocation (`Elf64_Rela`).
    Relocation, 24, {
        /// Address of the word.
        address: u64,
        kind: u32,
        symbol: u32,
        addend: i64,
    }
);

impl Segment {
    pub(super) fn is_load(&self) -> bool {
        self.kind == elf::PT_LOAD.0
    }

    pub(super) fn is_writable(&self) -> bool {
        self.flags & elf::PF_W.0 != 0
    }

    /// End of its memory.
    pub(super) fn end(&self) -> u64 {
        self.address + self.memory_size
    }
}

impl Section {
    pub(super) fn is_allocated(&self) -> bool {
        self.flags & elf::SHF_ALLOC.0 != 0
    }

    pub(super) fn has_bytes(&self) -> bool {
        self.kind != elf::SHT_NOBITS.0 && self.kind != elf::SHT_NULL.0
    }
}

impl Symbol {
    pub(super) fn kind(&self) -> elf::SymbolType {
        elf::SymbolType(self.info & 15)
    }

    pub(super) fn binding(&self) -> elf::SymbolBind {
        elf::SymbolBind(self.info >> 4)
    }

    pub(super) fn is_defined(&self) -> bool {
        self.section != elf::SHN_UNDEF.0
    }

    /// Whether the loader never looks it up: what refers to it means this very definition.
    pub(super) fn is_local(&self) -> bool {
        self.binding() == elf::STB_LOCAL || matches!(elf::SymbolVisibility(self.other & 3), elf::STV_HIDDEN | elf::STV_INTERNAL)
    }
}

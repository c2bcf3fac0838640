//! A whole file: its header, segments and dynamic segment.

use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use object::elf;
use object::endian::{Endianness, U32};
use object::pod::Pod;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, Rel, Rela, SectionHeader, Sym};

use super::error::ElfError;
use super::hash::{GnuHash, HashTable, SysVHash};
use super::machine::{ByteOrder, Class, Identity, Kind, Machine};
use super::read::{Image, Segment, Strings};
use super::symbols::{Entry, StringBytes, SymbolTable};
use super::versions::{self, VersionDefinition, VersionNeed};

/// A file that a loader can load.
#[derive(Debug)]
pub struct ElfObject {
    /// The processor it is for.
    pub machine: Machine,
    /// Width of its addresses.
    pub class: Class,
    /// Order of its bytes.
    pub byte_order: ByteOrder,
    /// Executable at a fixed address, or position-independent.
    pub kind: Kind,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Path of the loader that must start it (`PT_INTERP`).
    pub interpreter: Option<String>,
    /// Size in memory of each thread's own copy of its variables, in bytes; `None` without `PT_TLS`.
    pub thread_local_bytes: Option<u64>,
    /// The identifier that the linker gave it.
    pub build_id: Option<Vec<u8>>,
    /// Whether the full symbol table (`.symtab`) is gone.
    pub is_stripped: bool,
    /// What it asks of the loader; `None` for a static program.
    pub dynamic: Option<Dynamic>,
}

/// The dynamic segment.
#[derive(Debug)]
pub struct Dynamic {
    /// The name under which other files need it.
    pub soname: Option<String>,
    /// Names of the libraries it needs, in the file's order.
    pub needed: Vec<String>,
    /// Directories of `DT_RPATH`, not expanded. The loader ignores them if there is a `DT_RUNPATH`.
    pub rpath: Vec<String>,
    /// Directories of `DT_RUNPATH`, not expanded; `None` without one.
    pub runpath: Option<Vec<String>>,
    /// `DT_FLAGS`.
    pub flags: u64,
    /// `DT_FLAGS_1`.
    pub flags_1: u64,
    /// Functions that run when it is loaded. Compilers put one into every library, so more than one are its author's.
    pub initializers: u64,
    /// Whether it has relocations packed as `DT_RELR`, which glibc reads since 2.36.
    pub has_packed_relocations: bool,
    /// Its symbols.
    pub symbols: SymbolTable,
    /// Versions that it provides.
    pub version_definitions: Vec<VersionDefinition>,
    /// Versions that it wants, by library.
    pub version_needs: Vec<VersionNeed>,
}

impl Dynamic {
    /// Whether it is a position-independent executable, which nothing else may load.
    pub fn is_executable(&self) -> bool {
        self.flags_1 & elf::DF_1_PIE.0 != 0
    }

    /// Whether it forbids `dlopen`.
    pub fn forbids_open(&self) -> bool {
        self.flags_1 & elf::DF_1_NOOPEN.0 != 0
    }

    /// Whether its needed libraries are not looked for in the default directories.
    pub fn ignores_default_directories(&self) -> bool {
        self.flags_1 & elf::DF_1_NODEFLIB.0 != 0
    }

    /// Whether its thread-local variables need room that is set aside when the process starts.
    pub fn has_static_thread_locals(&self) -> bool {
        self.flags & elf::DF_STATIC_TLS.0 != 0
    }
}

impl ElfObject {
    /// Reads an object from the bytes of a whole file.
    pub fn parse(data: &[u8]) -> Result<Self, ElfError> {
        parse(data)?.finish(|names| StringBytes::Copied(data[names].into()))
    }

    /// Maps a regular file and reads it. Symbol names stay in the map, which lives as long as the object.
    ///
    /// The file must not be cut short meanwhile: the builder reads from its own store and from unpacked archives, which
    /// nothing writes to in place.
    pub fn load(path: &Path) -> Result<Self, ElfError> {
        let unreadable = |source| ElfError::Unreadable { path: path.to_owned(), source };
        // A FIFO would block on opening, so the kind is looked at first.
        let found = fs::metadata(path).map_err(unreadable)?.file_type();
        if !found.is_file() {
            return Err(ElfError::NotRegular {
                path: path.to_owned(),
                found: if found.is_dir() { "a directory" } else { "a special file" },
            });
        }
        let file = File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.len() == 0 {
            return Err(ElfError::Empty);
        }
        // SAFETY: the map is read-only and private to this object; see above for files that change underneath.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        parse(&map)?.finish(|names| StringBytes::Mapped(map, names))
    }

    /// The soname, if there is one.
    pub fn soname(&self) -> Option<&str> {
        self.dynamic.as_ref()?.soname.as_deref()
    }

    /// Names of the libraries it needs, none for a static program.
    pub fn needed(&self) -> &[String] {
        self.dynamic.as_ref().map_or(&[], |dynamic| &dynamic.needed)
    }
}

/// An object whose symbol names are not yet at their place, which is `names` in the file.
struct Parsed {
    object: ElfObject,
    names: Range<usize>,
}

impl Parsed {
    fn finish(mut self, place: impl FnOnce(Range<usize>) -> StringBytes) -> Result<ElfObject, ElfError> {
        if let Some(dynamic) = &mut self.object.dynamic {
            dynamic.symbols.strings = place(self.names);
        }
        Ok(self.object)
    }
}

fn parse(data: &[u8]) -> Result<Parsed, ElfError> {
    let identity = Identity::parse(data)?;
    match identity.class {
        Class::Elf32 => parse_class::<elf::FileHeader32<Endianness>>(data, identity),
        Class::Elf64 => parse_class::<elf::FileHeader64<Endianness>>(data, identity),
    }
}

fn parse_class<Elf: FileHeader<Endian = Endianness>>(data: &[u8], identity: Identity) -> Result<Parsed, ElfError> {
    let Identity { class, byte_order, machine } = identity;
    let truncated = ElfError::HeaderTruncated { found: data.len(), expected: size_of::<Elf>() };
    let (header, _) = object::pod::from_bytes::<Elf>(data).map_err(|()| truncated)?;
    let endian = match byte_order {
        ByteOrder::Little => Endianness::Little,
        ByteOrder::Big => Endianness::Big,
    };
    let kind = match header.e_type(endian) {
        elf::ET_EXEC => Kind::Executable,
        elf::ET_DYN => Kind::Shared,
        other => {
            return Err(ElfError::Header {
                field: "e_type",
                found: other.0.into(),
                expected: "2 (executable) or 3 (shared object)",
            });
        }
    };
    if usize::from(header.e_phentsize(endian)) != size_of::<Elf::ProgramHeader>() {
        let found = header.e_phentsize(endian).into();
        return Err(ElfError::Header { field: "e_phentsize", found, expected: "the size of the class's program header" });
    }
    let bytes = data.len() as u64;
    let headers = header.program_headers(endian, data).map_err(|_| ElfError::NoSegments { bytes })?;
    let mut image = Image { data, endian, segments: Vec::new() };
    for (index, segment) in headers.iter().enumerate() {
        let (offset, file_size) = segment.file_range(endian);
        let end = offset.saturating_add(file_size);
        if segment.p_type(endian) == elf::PT_LOAD {
            if end > bytes {
                return Err(ElfError::SegmentTruncated { index, end, bytes });
            }
            image.segments.push(Segment {
                address: segment.p_vaddr(endian).into(),
                offset: offset as usize,
                file_size: file_size as usize,
            });
        }
    }
    if image.segments.is_empty() {
        return Err(ElfError::NoSegments { bytes });
    }
    let mut object = ElfObject {
        machine,
        class,
        byte_order,
        kind,
        bytes,
        interpreter: interpreter(headers, endian, data)?,
        thread_local_bytes: find(headers, endian, elf::PT_TLS).map(|segment| segment.p_memsz(endian).into()),
        build_id: build_id::<Elf>(headers, endian, data),
        is_stripped: is_stripped(header, endian, data),
        dynamic: None,
    };
    let mut names = 0..0;
    if let Some(segment) = find(headers, endian, elf::PT_DYNAMIC) {
        let tags = Tags::read::<Elf>(&image, segment.p_vaddr(endian).into(), segment.p_filesz(endian).into())?;
        let is_mips64el = header.is_mips64el(endian);
        let (dynamic, range) = dynamic::<Elf>(&image, &tags, machine.copy_relocation(), is_mips64el)?;
        object.dynamic = Some(dynamic);
        names = range;
    }
    Ok(Parsed { object, names })
}

fn find<P: ProgramHeader<Endian = Endianness>>(headers: &[P], endian: Endianness, wanted: elf::ProgramType) -> Option<&P> {
    headers.iter().find(|segment| segment.p_type(endian) == wanted)
}

fn interpreter<P: ProgramHeader<Endian = Endianness>>(
    headers: &[P],
    endian: Endianness,
    data: &[u8],
) -> Result<Option<String>, ElfError> {
    let Some(segment) = find(headers, endian, elf::PT_INTERP) else { return Ok(None) };
    let (offset, expected) = segment.file_range(endian);
    let table = "PT_INTERP";
    let bytes = segment.data(endian, data).map_err(|()| ElfError::TableOutside {
        table,
        address: segment.p_vaddr(endian).into(),
        expected,
        found: (data.len() as u64).saturating_sub(offset),
    })?;
    Strings::new(bytes).text(table, 0).map(Some)
}

/// The build id, for information alone: notes that make no sense are passed over.
fn build_id<Elf: FileHeader<Endian = Endianness>>(
    headers: &[Elf::ProgramHeader],
    endian: Endianness,
    data: &[u8],
) -> Option<Vec<u8>> {
    headers.iter().find_map(|segment| {
        let mut notes = segment.notes(endian, data).ok()??;
        while let Ok(Some(note)) = notes.next() {
            if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
                return Some(note.desc().to_owned());
            }
        }
        None
    })
}

fn is_stripped<Elf: FileHeader<Endian = Endianness>>(header: &Elf, endian: Endianness, data: &[u8]) -> bool {
    let sections = header.section_headers(endian, data).unwrap_or(&[]);
    !sections.iter().any(|section| section.sh_type(endian) == elf::SHT_SYMTAB)
}

/// The tags of the dynamic segment. Of a tag that appears twice the loader takes the last.
#[derive(Default)]
struct Tags {
    needed: Vec<u64>,
    single: Vec<(i64, u64)>,
}

impl Tags {
    fn read<Elf: FileHeader<Endian = Endianness>>(image: &Image<'_>, address: u64, bytes: u64) -> Result<Self, ElfError> {
        let entries = image.records::<Elf::Dyn>("PT_DYNAMIC", address, bytes / size_of::<Elf::Dyn>() as u64)?;
        let mut tags = Self::default();
        for entry in entries {
            match (entry.tag(image.endian), entry.val(image.endian)) {
                (elf::DT_NULL, _) => break,
                (elf::DT_NEEDED, value) => tags.needed.push(value),
                (tag, value) => tags.single.push((tag.0, value)),
            }
        }
        Ok(tags)
    }

    fn get(&self, wanted: elf::DynamicTag) -> Option<u64> {
        self.single.iter().rev().find(|(tag, _)| *tag == wanted.0).map(|&(_, value)| value)
    }

    /// The value of a tag that another one cannot do without.
    fn with(&self, wanted: elf::DynamicTag, absent: &'static str, present: &'static str) -> Result<u64, ElfError> {
        self.get(wanted).ok_or(ElfError::TagAbsent { present, absent })
    }
}

fn dynamic<Elf: FileHeader<Endian = Endianness>>(
    image: &Image<'_>,
    tags: &Tags,
    copy_relocation: Option<u32>,
    is_mips64el: bool,
) -> Result<(Dynamic, Range<usize>), ElfError> {
    let names = match tags.get(elf::DT_STRTAB) {
        Some(address) => image.range("DT_STRTAB", address, tags.with(elf::DT_STRSZ, "DT_STRSZ", "DT_STRTAB")?)?,
        None => 0..0,
    };
    let strings = Strings::new(&image.data[names.clone()]);
    let text = |tag, table| tags.get(tag).map(|offset| strings.text(table, offset)).transpose();
    let directories = |list: String| -> Vec<String> { list.split(':').map(str::to_owned).collect() };
    let needed = tags.needed.iter().map(|&offset| strings.text("DT_NEEDED", offset)).collect::<Result<_, _>>()?;
    let version_definitions = match tags.get(elf::DT_VERDEF) {
        Some(address) => versions::definitions(image, address, &strings)?,
        None => Vec::new(),
    };
    let version_needs = match tags.get(elf::DT_VERNEED) {
        Some(address) => versions::needs(image, address, &strings)?,
        None => Vec::new(),
    };
    let symbols = SymbolTable {
        versions: versions::by_index(&version_definitions, &version_needs),
        ..symbols::<Elf>(image, tags, &strings, copy_relocation, is_mips64el)?
    };
    let dynamic = Dynamic {
        soname: text(elf::DT_SONAME, "DT_SONAME")?,
        needed,
        rpath: text(elf::DT_RPATH, "DT_RPATH")?.map_or_else(Vec::new, directories),
        runpath: text(elf::DT_RUNPATH, "DT_RUNPATH")?.map(directories),
        flags: tags.get(elf::DT_FLAGS).unwrap_or(0),
        flags_1: tags.get(elf::DT_FLAGS_1).unwrap_or(0),
        initializers: tags.get(elf::DT_INIT_ARRAYSZ).unwrap_or(0) / size_of::<Elf::Word>() as u64,
        has_packed_relocations: tags.get(elf::DT_RELR).is_some(),
        symbols,
        version_definitions,
        version_needs,
    };
    Ok((dynamic, names))
}

fn symbols<Elf: FileHeader<Endian = Endianness>>(
    image: &Image<'_>,
    tags: &Tags,
    strings: &Strings<'_>,
    copy_relocation: Option<u32>,
    is_mips64el: bool,
) -> Result<SymbolTable, ElfError> {
    let endian = image.endian;
    let mut table = SymbolTable {
        strings: StringBytes::Copied(Box::default()),
        entries: Vec::new(),
        has_versions: false,
        versions: Vec::new(),
        hash: HashTable::Absent,
    };
    let Some(address) = tags.get(elf::DT_SYMTAB) else { return Ok(table) };
    let (hash, hashed) = hash_table::<Elf>(image, tags)?;
    table.hash = hash;
    // No tag holds the table's length. The hash table leaves out what is only imported when nothing is exported, so the
    // relocations count too: a symbol in neither is one that no loader ever looks at.
    let uses = uses::<Elf>(image, tags, copy_relocation, is_mips64el)?;
    let count = hashed.max(uses.iter().map(|use_| u64::from(use_.symbol) + 1).max().unwrap_or(0));
    let entries = image.records::<Elf::Sym>("DT_SYMTAB", address, count)?;
    let versions: &[object::endian::U16<Endianness>] = match tags.get(elf::DT_VERSYM) {
        Some(address) => image.records("DT_VERSYM", address, count)?,
        None => &[],
    };
    table.has_versions = tags.get(elf::DT_VERSYM).is_some();
    table.entries = Vec::with_capacity(entries.len());
    for (index, symbol) in entries.iter().enumerate() {
        let name = symbol.st_name(endian);
        if name as usize >= strings.len().max(1) {
            return Err(ElfError::NameOutside { table: "DT_SYMTAB", offset: name.into(), bytes: strings.len() as u64 });
        }
        table.entries.push(Entry {
            name,
            version: versions.get(index).map_or(0, |version| version.get(endian)),
            info: symbol.st_info().0,
            flags: flags(symbol, endian),
        });
    }
    for use_ in uses {
        table.entries[use_.symbol as usize].flags |=
            if use_.is_copy { Entry::REFERENCED | Entry::COPIED } else { Entry::REFERENCED };
    }
    Ok(table)
}

/// What the loader makes of a symbol: which definitions it accepts is `do_lookup_x` in glibc.
fn flags<S: Sym<Endian = Endianness>>(symbol: &S, endian: Endianness) -> u8 {
    let section = symbol.st_shndx(endian);
    let internal = matches!(symbol.st_visibility(), elf::STV_HIDDEN | elf::STV_INTERNAL);
    let mut flags = if internal { Entry::INTERNAL } else { 0 };
    if section == elf::SHN_UNDEF {
        return flags;
    }
    flags |= Entry::DEFINED;
    let kind = symbol.st_type();
    let has_place = symbol.st_value(endian).into() != 0 || section == elf::SHN_ABS || kind == elf::STT_TLS;
    let is_kind =
        matches!(kind, elf::STT_NOTYPE | elf::STT_OBJECT | elf::STT_FUNC | elf::STT_COMMON | elf::STT_TLS | elf::STT_GNU_IFUNC);
    let binds = matches!(symbol.st_bind(), elf::STB_GLOBAL | elf::STB_WEAK | elf::STB_GNU_UNIQUE);
    if has_place && is_kind && binds && !internal {
        flags |= Entry::PROVIDES;
    }
    flags
}

/// Reads the hash table that the loader would use, and how many symbols it accounts for.
fn hash_table<Elf: FileHeader<Endian = Endianness>>(image: &Image<'_>, tags: &Tags) -> Result<(HashTable, u64), ElfError> {
    if let Some(address) = tags.get(elf::DT_GNU_HASH) {
        let (table, count) = gnu_hash::<Elf>(image, address)?;
        return Ok((HashTable::Gnu(table), count));
    }
    let Some(address) = tags.get(elf::DT_HASH) else { return Ok((HashTable::Absent, 0)) };
    let sizes = words(image, "DT_HASH", address, 2)?;
    let buckets = words(image, "DT_HASH", address.saturating_add(8), sizes[0].into())?;
    let chains = words(image, "DT_HASH", address.saturating_add(8 + 4 * u64::from(sizes[0])), sizes[1].into())?;
    let count = chains.len() as u64;
    Ok((HashTable::SysV(SysVHash { buckets, chains }), count))
}

fn gnu_hash<Elf: FileHeader<Endian = Endianness>>(image: &Image<'_>, address: u64) -> Result<(GnuHash, u64), ElfError> {
    const TABLE: &str = "DT_GNU_HASH";
    let header = words(image, TABLE, address, 4)?;
    let &[bucket_count, symbol_offset, filter_count, shift] = header.as_slice() else {
        return Err(ElfError::TableOutside { table: TABLE, address, expected: 16, found: 0 });
    };
    if !filter_count.is_power_of_two() {
        return Err(ElfError::Table {
            table: TABLE,
            field: "filter size",
            found: filter_count.into(),
            expected: "a power of two",
        });
    }
    let word_bytes = size_of::<Elf::Word>() as u64;
    let filter_at = address.saturating_add(16);
    let filter = image.records::<u8>(TABLE, filter_at, u64::from(filter_count) * word_bytes)?;
    let filter = filter.chunks_exact(word_bytes as usize).map(|word| number(word, image.endian)).collect();
    let buckets_at = filter_at.saturating_add(u64::from(filter_count) * word_bytes);
    let buckets = words(image, TABLE, buckets_at, bucket_count.into())?;
    let chains_at = buckets_at.saturating_add(4 * u64::from(bucket_count));
    // The last chain is the one of the highest bucket; its last entry carries the stop bit.
    let mut count = symbol_offset;
    let mut chains = Vec::new();
    if let Some(&last) = buckets.iter().max().filter(|&&last| last >= symbol_offset && last != 0) {
        let rest = image.bytes_at(TABLE, chains_at, 4)?;
        let entries = rest.chunks_exact(4).map(|word| number(word, image.endian) as u32);
        let from_last = entries.clone().skip((last - symbol_offset) as usize);
        let length = from_last.take_while(|entry| entry & 1 == 0).count() as u64 + 1;
        let wanted = u64::from(last - symbol_offset) + length;
        count = symbol_offset.saturating_add(u32::try_from(wanted).unwrap_or(u32::MAX));
        chains = words(image, TABLE, chains_at, wanted)?;
    }
    let table = GnuHash { symbol_offset, shift, word_bits: 8 * word_bytes as u32, filter, buckets, chains };
    Ok((table, count.into()))
}

/// Numbers of 32 bits at an address.
fn words(image: &Image<'_>, table: &'static str, address: u64, count: u64) -> Result<Vec<u32>, ElfError> {
    let records = image.records::<U32<Endianness>>(table, address, count)?;
    Ok(records.iter().map(|word| word.get(image.endian)).collect())
}

/// A number of four or eight bytes.
fn number(bytes: &[u8], endian: Endianness) -> u64 {
    let fold = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
    match endian {
        Endianness::Little => bytes.iter().rev().fold(0, fold),
        Endianness::Big => bytes.iter().fold(0, fold),
    }
}

/// A relocation's use of a symbol.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Use {
    symbol: u32,
    is_copy: bool,
}

/// Every symbol that a relocation refers to.
fn uses<Elf: FileHeader<Endian = Endianness>>(
    image: &Image<'_>,
    tags: &Tags,
    copy_relocation: Option<u32>,
    is_mips64el: bool,
) -> Result<Vec<Use>, ElfError> {
    let mut found: Vec<Use> = Vec::new();
    let endian = image.endian;
    let mut add = |symbol: u32, kind: u32| {
        let use_ = Use { symbol, is_copy: Some(kind) == copy_relocation };
        // Kind 0 does nothing on any machine. Neighbours often repeat a symbol.
        if symbol != 0 && kind != 0 && found.last() != Some(&use_) {
            found.push(use_);
        }
    };
    let rela = |relocation: &Elf::Rela| (relocation.r_sym(endian, is_mips64el), relocation.r_type(endian, is_mips64el).0);
    let rel = |relocation: &Elf::Rel| (relocation.r_sym(endian), relocation.r_type(endian).0);
    if let Some(address) = tags.get(elf::DT_RELA) {
        let bytes = tags.with(elf::DT_RELASZ, "DT_RELASZ", "DT_RELA")?;
        let relative = tags.get(elf::DT_RELACOUNT).unwrap_or(0);
        each::<Elf::Rela>(image, "DT_RELA", address, bytes, relative)?
            .iter()
            .map(rela)
            .for_each(|(symbol, kind)| add(symbol, kind));
    }
    if let Some(address) = tags.get(elf::DT_REL) {
        let bytes = tags.with(elf::DT_RELSZ, "DT_RELSZ", "DT_REL")?;
        let relative = tags.get(elf::DT_RELCOUNT).unwrap_or(0);
        each::<Elf::Rel>(image, "DT_REL", address, bytes, relative)?.iter().map(rel).for_each(|(symbol, kind)| add(symbol, kind));
    }
    if let Some(address) = tags.get(elf::DT_JMPREL) {
        let bytes = tags.with(elf::DT_PLTRELSZ, "DT_PLTRELSZ", "DT_JMPREL")?;
        if tags.get(elf::DT_PLTREL) == Some(elf::DT_REL.0 as u64) {
            each::<Elf::Rel>(image, "DT_JMPREL", address, bytes, 0)?.iter().map(rel).for_each(|(symbol, kind)| add(symbol, kind));
        } else {
            each::<Elf::Rela>(image, "DT_JMPREL", address, bytes, 0)?
                .iter()
                .map(rela)
                .for_each(|(symbol, kind)| add(symbol, kind));
        }
    }
    Ok(found)
}

/// The relocations of one table, without the relative ones that the linker sorted to its head.
fn each<'data, T: Pod>(
    image: &Image<'data>,
    table: &'static str,
    address: u64,
    bytes: u64,
    relative: u64,
) -> Result<&'data [T], ElfError> {
    if bytes == 0 {
        return Ok(&[]);
    }
    let records = image.records::<T>(table, address, bytes / size_of::<T>() as u64)?;
    Ok(usize::try_from(relative).ok().and_then(|relative| records.get(relative..)).unwrap_or(&[]))
}

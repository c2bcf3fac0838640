//! Cuts off what no loader reads: full symbol tables, debug information, comments.
//!
//! Linkers put these behind everything that is loaded. The bytes up to the end of the last segment stay as they are and where
//! they are; behind them goes a new table of section headers that names only what is still there.

use std::io::{self, Write};

use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::endian::{LittleEndian, U32, U64};
use object::pod::{self, bytes_of, bytes_of_slice};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

use super::error::ElfError;
use super::object::ElfObject;

type Header = FileHeader64<LittleEndian>;
type Section = SectionHeader64<LittleEndian>;

/// The name table of the sections names itself last.
const NAME_TABLE: &[u8] = b".shstrtab\0";

/// A file without what no loader reads. The bytes follow from the file's own and from nothing else.
#[derive(Debug)]
pub struct Stripped<'data> {
    header: Header,
    /// What follows the header and stays as it is.
    kept: &'data [u8],
    /// Zeros up to where the section headers may stand, names, section headers.
    tail: Vec<u8>,
}

impl<'data> Stripped<'data> {
    /// Finds out what stays of a file.
    ///
    /// # Errors
    /// Where it is no ELF file that a loader takes, or not one of 64 bits and little-endian order.
    pub fn of(data: &'data [u8]) -> Result<Self, ElfError> {
        let object = ElfObject::parse(data)?;
        if !object.is_little_endian_64() {
            const CLASS: usize = 4;
            let found = u64::from(data.get(CLASS).copied().unwrap_or_default());
            return Err(ElfError::Header { field: "e_ident", found, expected: "64 bits and little-endian" });
        }
        let outside = |table| ElfError::TableOutside { table, address: 0, expected: 0, found: data.len() as u64 };
        let header: &Header = pod::from_bytes(data).map_err(|()| outside("the header"))?.0;
        let programs: &[ProgramHeader64<LittleEndian>] =
            header.program_headers(LittleEndian, data).map_err(|_| outside("the program headers"))?;
        let end = programs.iter().map(|program| program.p_offset(LittleEndian).saturating_add(program.p_filesz(LittleEndian)));
        let table = header.e_phoff(LittleEndian).saturating_add(size_of_val(programs) as u64);
        let end = end.chain([table, size_of::<Header>() as u64]).max().unwrap_or(0);
        let end = usize::try_from(end).ok().filter(|end| *end <= data.len()).ok_or_else(|| outside("the segments"))?;
        let sections = kept_sections(header, data, end);
        let mut header = *header;
        let tail = tail(&mut header, sections, end);
        Ok(Self { header, kept: &data[size_of::<Header>()..end], tail })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Where the writer fails.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(bytes_of(&self.header))?;
        out.write_all(self.kept)?;
        out.write_all(&self.tail)
    }
}

/// The headers of sections that are loaded, with their names; a dropped one between them leaves an empty header, so that
/// numbers by which others refer to them stay right.
fn kept_sections<'data>(header: &Header, data: &'data [u8], end: usize) -> Vec<(Section, &'data [u8])> {
    // A table that is damaged is none that anyone needs: the loader does not read it.
    let Ok(table) = header.sections(LittleEndian, data) else { return Vec::new() };
    let empty = Section {
        sh_name: U32::new(LittleEndian, 0),
        sh_type: U32::new(LittleEndian, elf::SHT_NULL),
        sh_flags: U64::new(LittleEndian, elf::SectionFlags(0)),
        sh_addr: U64::new(LittleEndian, 0),
        sh_offset: U64::new(LittleEndian, 0),
        sh_size: U64::new(LittleEndian, 0),
        sh_link: U32::new(LittleEndian, 0),
        sh_info: U32::new(LittleEndian, 0),
        sh_addralign: U64::new(LittleEndian, 0),
        sh_entsize: U64::new(LittleEndian, 0),
    };
    let mut kept: Vec<(Section, &[u8])> = table
        .iter()
        .map(|section| {
            let is_loaded = section.sh_flags.get(LittleEndian).0 & elf::SHF_ALLOC.0 != 0;
            let in_file = section.sh_type(LittleEndian) != elf::SHT_NOBITS;
            let last =
                section.sh_offset.get(LittleEndian).saturating_add(if in_file { section.sh_size.get(LittleEndian) } else { 0 });
            match table.section_name(LittleEndian, section) {
                Ok(name) if is_loaded && last <= end as u64 => (*section, name),
                _ => (empty, &[][..]),
            }
        })
        .collect();
    let last = kept.iter().rposition(|(section, _)| section.sh_type(LittleEndian) != elf::SHT_NULL);
    kept.truncate(last.map_or(0, |last| last + 1));
    let count = kept.len() as u32;
    for (section, _) in &mut kept {
        if section.sh_link.get(LittleEndian) >= count {
            section.sh_link.set(LittleEndian, 0);
        }
    }
    kept
}

/// Makes what stands behind the segments, and points the header at it.
fn tail(header: &mut Header, sections: Vec<(Section, &[u8])>, end: usize) -> Vec<u8> {
    // From this number on, counts stand elsewhere than in the header; nothing that is stripped has so many.
    const LARGE: usize = 0xff00;
    if sections.is_empty() || sections.len() >= LARGE - 1 {
        header.e_shoff.set(LittleEndian, 0);
        header.e_shnum.set(LittleEndian, 0);
        header.e_shstrndx.set(LittleEndian, elf::SHN_UNDEF);
        return Vec::new();
    }
    let mut names = vec![0];
    let mut headers: Vec<Section> = Vec::with_capacity(sections.len() + 1);
    for (mut section, name) in sections {
        let place = if name.is_empty() { 0 } else { names.len() };
        if !name.is_empty() {
            names.extend_from_slice(name);
            names.push(0);
        }
        section.sh_name.set(LittleEndian, place as u32);
        headers.push(section);
    }
    let own = names.len() as u32;
    names.extend_from_slice(NAME_TABLE);
    headers.push(Section {
        sh_name: U32::new(LittleEndian, own),
        sh_type: U32::new(LittleEndian, elf::SHT_STRTAB),
        sh_flags: U64::new(LittleEndian, elf::SectionFlags(0)),
        sh_addr: U64::new(LittleEndian, 0),
        sh_offset: U64::new(LittleEndian, end as u64),
        sh_size: U64::new(LittleEndian, names.len() as u64),
        sh_link: U32::new(LittleEndian, 0),
        sh_info: U32::new(LittleEndian, 0),
        sh_addralign: U64::new(LittleEndian, 1),
        sh_entsize: U64::new(LittleEndian, 0),
    });
    let mut tail = names;
    tail.resize((end + tail.len()).next_multiple_of(8) - end, 0);
    header.e_shoff.set(LittleEndian, (end + tail.len()) as u64);
    header.e_shnum.set(LittleEndian, headers.len() as u16);
    header.e_shentsize.set(LittleEndian, size_of::<Section>() as u16);
    header.e_shstrndx.set(LittleEndian, elf::SymbolSection((headers.len() - 1) as u16));
    tail.extend_from_slice(bytes_of_slice(&headers));
    tail
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// A library with a symbol table and debug information, made by the machine's compiler.
    fn library(folder: &Path) -> Vec<u8> {
        let (source, library) = (folder.join("l.c"), folder.join("libl.so"));
        fs::write(&source, "static int hidden(int x) { return x * 3; }\nint shown(int x) { return hidden(x) + 1; }\n")
            .expect("writable");
        let status = Command::new("cc").args(["-g", "-O0", "-shared", "-fPIC", "-o"]).args([&library, &source]).status();
        assert!(status.expect("there is a C compiler").success());
        fs::read(&library).expect("readable")
    }

    fn strip(data: &[u8]) -> Result<Vec<u8>, ElfError> {
        let mut out = Vec::new();
        Stripped::of(data)?.write(&mut out).expect("memory can be written");
        Ok(out)
    }

    fn readelf(arguments: &[&str], path: &Path) -> String {
        let output = Command::new("readelf").args(arguments).arg(path).output().expect("binutils are installed");
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).replace(&path.display().to_string(), "FILE")
    }

    #[test]
    fn what_is_loaded_stays_and_the_rest_goes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let before = library(folder.path());
        let after = strip(&before).expect("a sound library");
        assert!(after.len() < before.len());
        assert_eq!(strip(&after).expect("it stays one"), after, "a second time changes nothing");
        let (old, new) = (folder.path().join("libl.so"), folder.path().join("libs.so"));
        fs::write(&new, &after).expect("writable");
        let sections = readelf(&["-SW"], &new);
        for gone in [".symtab", ".debug_info", ".comment"] {
            assert!(readelf(&["-SW"], &old).contains(gone), "the compiler writes {gone}");
            assert!(!sections.contains(gone), "{sections}");
        }
        // What the loader sees, as an independent reader tells it.
        for view in [&["-lW"][..], &["-dW"], &["--dyn-syms", "-W"], &["-rW"], &["-VW"], &["-nW"]] {
            assert_eq!(readelf(view, &new), readelf(view, &old), "{view:?}");
        }
        let (before, after) = (ElfObject::parse(&before).expect("sound"), ElfObject::parse(&after).expect("sound"));
        assert!(!before.is_stripped && after.is_stripped);
        // And the loader itself: Python calls the function in it.
        let script = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).shown(13))";
        let output = Command::new("python3").args(["-c", script]).arg(&new).output().expect("Python is installed");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "40");
    }

    #[test]
    fn other_files_are_refused() {
        assert!(strip(b"").is_err() && strip(b"\x7fELF").is_err() && strip(&[0; 4096]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn damaged_files_do_not_panic(changes in prop::collection::vec((0_usize..16_384, any::<u8>()), 1..6)) {
            thread_local! {
                static SOUND: Vec<u8> = library(tempfile::tempdir().expect("a temporary folder").path());
            }
            let mut data = SOUND.with(Clone::clone);
            for (at, byte) in changes {
                let at = at % data.len();
                data[at] = byte;
            }
            let _ = strip(&data);
        }
    }
}

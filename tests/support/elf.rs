//! ELF files made of fixed bytes, the same whatever compiler a machine has; and changes to real ones.

/// A processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// `EM_X86_64`
    X86_64,
    /// `EM_AARCH64`
    Aarch64,
}

const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const BASE: u64 = 0x40_0000;

fn header(machine: Machine, kind: u16, entry: u64, segments: u16) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend(kind.to_le_bytes());
    let machine: u16 = if machine == Machine::X86_64 { 62 } else { 183 };
    bytes.extend(machine.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    for offset in [entry, HEADER, 0] {
        bytes.extend(offset.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    for field in [64, 56, segments, 64, 0, 0] {
        bytes.extend(field.to_le_bytes());
    }
    bytes
}

fn segment(kind: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
    let flags: u32 = 5;
    let mut bytes = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    for field in [offset, address, address, size, size, 4096] {
        bytes.extend(field.to_le_bytes());
    }
    bytes
}

/// A static program that ends at once.
#[must_use]
pub fn program(machine: Machine) -> Vec<u8> {
    let code: &[u8] = match machine {
        // exit(0)
        Machine::X86_64 => &[0xb8, 0x3c, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05],
        Machine::Aarch64 => &[0xa8, 0x0b, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 1, 0, 0, 0xd4],
    };
    let start = HEADER + PROGRAM_HEADER;
    let size = start + code.len() as u64;
    let parts = [header(machine, 2, BASE + start, 1), segment(1, 0, BASE, size), code.to_vec()];
    parts.concat()
}

/// A shared library with a soname that defines nothing and needs these others.
#[must_use]
pub fn library(machine: Machine, soname: &str, needed: &[&str]) -> Vec<u8> {
    // DT_SONAME
    dynamic(machine, None, &[(14, &[soname]), (1, needed)])
}

/// A program that a loader starts, and that needs these libraries.
#[must_use]
pub fn dynamic_program(machine: Machine, loader: &str, needed: &[&str]) -> Vec<u8> {
    dynamic(machine, Some(loader), &[(1, needed)])
}

/// A file with a dynamic segment that holds these names, by their tag.
fn dynamic(machine: Machine, loader: Option<&str>, named: &[(u64, &[&str])]) -> Vec<u8> {
    let mut names = vec![0];
    let mut tags: Vec<(u64, u64)> = Vec::new();
    for (tag, name) in named.iter().flat_map(|(tag, list)| list.iter().map(move |name| (tag, name))) {
        tags.push((*tag, names.len() as u64));
        names.extend(name.as_bytes());
        names.push(0);
    }
    let loader_at = names.len() as u64;
    names.extend(loader.into_iter().flat_map(str::bytes));
    names.push(0);
    names.resize(names.len().next_multiple_of(8), 0);
    let segments = if loader.is_some() { 3 } else { 2 };
    let strings = HEADER + u64::from(segments) * PROGRAM_HEADER;
    let symbols = strings + names.len() as u64;
    let dynamic = symbols + 24;
    // DT_STRTAB, DT_STRSZ, DT_SYMTAB, DT_SYMENT, DT_NULL
    tags.extend([(5, strings), (10, names.len() as u64), (6, symbols), (11, 24), (0, 0)]);
    let size = dynamic + 16 * tags.len() as u64;
    let mut bytes = header(machine, 3, 0, segments);
    if let Some(loader) = loader {
        bytes.extend(segment(3, strings + loader_at, strings + loader_at, loader.len() as u64 + 1));
    }
    bytes.extend(segment(1, 0, 0, size));
    bytes.extend(segment(2, dynamic, dynamic, size - dynamic));
    bytes.extend(names);
    bytes.extend([0; 24]);
    bytes.extend(tags.iter().flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat()));
    bytes
}

/// Gives a symbol version another name of the same length wherever a file names it, and its hash with it.
///
/// # Panics
/// Where the lengths differ, or the file does not name the version.
#[must_use]
pub fn rename_version(file: Vec<u8>, old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let hash = |name: &str| {
        name.bytes().fold(0u32, |hash, byte| {
            let hash = (hash << 4).wrapping_add(u32::from(byte));
            let high = hash & 0xf000_0000;
            (hash ^ (high >> 24)) & !high
        })
    };
    let file = replace(file, format!("{old}\0").as_bytes(), format!("{new}\0").as_bytes());
    replace(file, &hash(old).to_le_bytes(), &hash(new).to_le_bytes())
}

fn replace(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let places: Vec<usize> = (0..=bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!places.is_empty(), "the file holds no {from:?}");
    for at in places {
        bytes[at..at + from.len()].copy_from_slice(to);
    }
    bytes
}

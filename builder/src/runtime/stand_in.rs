//! Empty libraries: they have a name and nothing else.
//!
//! Some runtimes open a library when they start, give up where it is missing, and look its functions up only when they call them.
//! Where nothing of a model calls any, a library of the same name without functions is enough, and a call that should come all the
//! same ends in the runtime's own error for a function that is not there.

use crate::platform::Platform;

/// Bytes of the file's header, of a program header and of a symbol.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SYMBOL: usize = 24;

/// Kinds of program headers and their permissions.
const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const STACK: u32 = 0x6474_e551;
const READ: u32 = 4;
const READ_WRITE: u32 = 6;

/// Writes a shared library (ELF, 64-bit, little-endian) that is called `soname`, needs nothing and exports nothing.
///
/// Its bytes depend on name and platform alone.
pub(super) fn write(soname: &str, platform: Platform) -> Vec<u8> {
    // The largest page of each: the loader maps the second segment from the same bytes of the file.
    let (machine, page) = match platform {
        Platform::LinuxAmd64 => (62_u16, 0x1000_u64),
        Platform::LinuxArm64 => (183, 0x10000),
    };
    let symbols = HEADER + 4 * PROGRAM_HEADER;
    let hash = symbols + SYMBOL;
    let strings = hash + 16;
    let string_bytes = soname.len() + 2;
    let dynamic = (strings + string_bytes).next_multiple_of(16);
    let entries: [(u64, u64); 7] = [
        (14, 1),
        (4, hash as u64),
        (5, strings as u64),
        (6, symbols as u64),
        (10, string_bytes as u64),
        (11, SYMBOL as u64),
        (0, 0),
    ];
    let dynamic_bytes = (entries.len() * 16) as u64;

    let mut file = Vec::with_capacity(dynamic + entries.len() * 16);
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // A shared object, its machine and the version of the format.
    for half in [3, machine] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    // No entry, the program headers behind this one, no section headers.
    for word in [0, HEADER as u64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [HEADER, PROGRAM_HEADER, 4, 64, 0, 0] {
        file.extend((half as u16).to_le_bytes());
    }
    let mut segment = |kind: u32, permissions: u32, offset: u64, address: u64, bytes: u64, alignment: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(permissions.to_le_bytes());
        for word in [offset, address, address, bytes, bytes, alignment] {
            file.extend(word.to_le_bytes());
        }
    };
    let (at, address) = (dynamic as u64, dynamic as u64 + page);
    segment(LOAD, READ, 0, 0, at, page);
    // The loader writes addresses into the table while it runs.
    segment(LOAD, READ_WRITE, at, address, dynamic_bytes, page);
    segment(DYNAMIC, READ_WRITE, at, address, dynamic_bytes, 8);
    segment(STACK, READ_WRITE, 0, 0, 0, 16);
    // The symbol that every table begins with, and a hash table of one bucket in which nothing is found.
    file.resize(hash, 0);
    for word in [1_u32, 1, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    file.push(0);
    file.extend(soname.as_bytes());
    file.resize(dynamic, 0);
    for (tag, value) in entries {
        file.extend(tag.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::{ElfObject, Machine};

    #[test]
    fn it_is_a_library_of_its_name_that_wants_and_gives_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        for (platform, machine) in [(Platform::LinuxAmd64, Machine::X86_64), (Platform::LinuxArm64, Machine::Aarch64)] {
            let path = folder.path().join("library");
            std::fs::write(&path, write("libcufft.so.11", platform)).expect("a file");
            let elf = ElfObject::load(&path).expect("a library");
            assert_eq!((elf.machine, elf.soname()), (machine, Some("libcufft.so.11")));
            assert!(elf.needed().is_empty());
        }
        assert_eq!(write("a", Platform::LinuxAmd64), write("a", Platform::LinuxAmd64));
        assert!(write("libcusparse.so.12", Platform::LinuxAmd64).len() < 700);
    }
}

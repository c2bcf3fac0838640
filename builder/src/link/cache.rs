//! The loader's cache, `/etc/ld.so.cache`, which an image may bring along: [`parse_cache`].

use std::collections::HashMap;

use crate::elf::Machine;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// An ELF library for the C library that is in use, in an entry's flags.
const LIBC6: u32 = 3;

/// Reads a cache: the path of each name, for one machine. `None` where the bytes are no cache, which the loader passes over too.
///
/// Entries for variants of a processor are left out: which of them counts is known on the host alone.
#[must_use]
pub fn parse_cache(bytes: &[u8], machine: Machine) -> Option<HashMap<String, String>> {
    // Older loaders wrote the format of their predecessors before this one; positions count from this one's beginning.
    let start = bytes.windows(MAGIC.len()).position(|window| window == MAGIC)?;
    let cache = &bytes[start..];
    let number = |at: usize| Some(u32::from_le_bytes(cache.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let text = |at: u32| {
        let rest = cache.get(usize::try_from(at).ok()?..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        String::from_utf8(rest[..end].to_vec()).ok()
    };
    let wanted = match machine {
        Machine::X86_64 => 0x0300 | LIBC6,
        Machine::Aarch64 => 0x0a00 | LIBC6,
        _ => return None,
    };
    let mut paths = HashMap::new();
    for entry in 0..usize::try_from(number(MAGIC.len())?).ok()? {
        let at = HEADER.checked_add(entry.checked_mul(ENTRY)?)?;
        let variant = (number(at + 16)?, number(at + 20)?);
        if number(at)? == wanted && variant == (0, 0) {
            // The first of a name is the one that the loader takes.
            paths.entry(text(number(at + 4)?)?).or_insert(text(number(at + 8)?)?);
        }
    }
    Some(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::output;

    #[test]
    fn the_cache_of_this_machine_reads_as_ldconfig_prints_it() {
        let Ok(bytes) = std::fs::read("/etc/ld.so.cache") else { return };
        let found = parse_cache(&bytes, Machine::X86_64).expect("a cache");
        let mut expected = HashMap::new();
        for line in output("/sbin/ldconfig", &["-p"]).lines().filter(|line| line.contains("(libc6,x86-64)")) {
            let (name, path) = line.trim().split_once(" (libc6,x86-64) => ").expect("a line of ldconfig");
            expected.entry(name.to_owned()).or_insert(path.to_owned());
        }
        assert!(!expected.is_empty());
        assert_eq!(found, expected);
    }

    #[test]
    fn other_bytes_are_no_cache() {
        assert_eq!(parse_cache(b"", Machine::X86_64), None);
        assert_eq!(parse_cache(&MAGIC[..19], Machine::X86_64), None);
        let mut cut = MAGIC.to_vec();
        cut.extend(u32::MAX.to_le_bytes());
        assert_eq!(parse_cache(&cut, Machine::X86_64), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let bytes = [MAGIC, &rest].concat();
            let _ = parse_cache(&bytes, Machine::Aarch64);
        }
    }
}

//! The two hash tables through which a loader finds symbols.

/// A symbol name together with the hash values that lookups need, worked out once for all objects of a scope.
#[derive(Debug, Clone, Copy)]
pub struct SymbolName<'a> {
    /// The name's bytes, without the terminating zero.
    pub bytes: &'a [u8],
    gnu: u32,
}

impl<'a> SymbolName<'a> {
    /// Hashes a name.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, gnu: gnu_hash(bytes) }
    }
}

/// The hash of `DT_GNU_HASH`.
pub(crate) fn gnu_hash(name: &[u8]) -> u32 {
    name.iter().fold(5381, |hash: u32, &byte| hash.wrapping_mul(33).wrapping_add(u32::from(byte)))
}

/// The hash of `DT_HASH`, of version names too.
pub(crate) fn sysv_hash(name: &[u8]) -> u32 {
    name.iter().fold(0, |hash: u32, &byte| {
        let hash = (hash << 4).wrapping_add(u32::from(byte));
        let high = hash & 0xf000_0000;
        (hash ^ (high >> 24)) & !high
    })
}

/// The hash table of one file. The loader prefers the GNU table where a file has both.
#[derive(Debug)]
pub(super) enum HashTable {
    /// Neither table: the loader finds no symbol in such a file.
    Absent,
    /// `DT_GNU_HASH`.
    Gnu(GnuHash),
    /// `DT_HASH`.
    SysV(SysVHash),
}

#[derive(Debug)]
pub(super) struct GnuHash {
    /// Index of the first symbol in the chains.
    pub(super) symbol_offset: u32,
    pub(super) shift: u32,
    /// Bits in a word of the filter: 32 or 64.
    pub(super) word_bits: u32,
    /// A power of two of words.
    pub(super) filter: Vec<u64>,
    pub(super) buckets: Vec<u32>,
    pub(super) chains: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct SysVHash {
    pub(super) buckets: Vec<u32>,
    pub(super) chains: Vec<u32>,
}

impl HashTable {
    /// Calls `visit` with the index of every symbol that may carry the name, until it says to stop by returning `true`.
    pub(super) fn candidates(&self, name: SymbolName<'_>, mut visit: impl FnMut(u32) -> bool) {
        match self {
            Self::Absent => {}
            Self::Gnu(table) => table.candidates(name.gnu, &mut visit),
            Self::SysV(table) => table.candidates(sysv_hash(name.bytes), &mut visit),
        }
    }
}

impl GnuHash {
    fn candidates(&self, hash: u32, visit: &mut impl FnMut(u32) -> bool) {
        if self.buckets.is_empty() || self.filter.is_empty() {
            return;
        }
        let word = self.filter[(hash / self.word_bits) as usize & (self.filter.len() - 1)];
        let first = hash % self.word_bits;
        let second = hash.checked_shr(self.shift).unwrap_or(0) % self.word_bits;
        if (word >> first) & (word >> second) & 1 == 0 {
            return;
        }
        let start = self.buckets[hash as usize % self.buckets.len()];
        let Some(start) = start.checked_sub(self.symbol_offset) else { return };
        for (&entry, index) in self.chains.get(start as usize..).unwrap_or(&[]).iter().zip(start..) {
            if (entry ^ hash) >> 1 == 0 && visit(index.wrapping_add(self.symbol_offset)) {
                return;
            }
            if entry & 1 == 1 {
                return;
            }
        }
    }
}

impl SysVHash {
    fn candidates(&self, hash: u32, visit: &mut impl FnMut(u32) -> bool) {
        if self.buckets.is_empty() {
            return;
        }
        let mut index = self.buckets[hash as usize % self.buckets.len()];
        // A chain can be no longer than the table; one that comes back to itself would never end.
        for _ in 0..self.chains.len() {
            if index == 0 || visit(index) {
                return;
            }
            let Some(&next) = self.chains.get(index as usize) else { return };
            index = next;
        }
    }
}

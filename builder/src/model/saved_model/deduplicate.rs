//! Writes a checkpoint anew so that tensors of equal bytes lie in it once.
//!
//! Keras' `export()` stores each weight under two names. An index may name one place twice, so the graph stays as it is, and
//! every name gives the very bytes that it gave before.

use std::collections::HashMap;
use std::io::{self, Write};
use std::ops::Range;

use prost::Message as _;
use prost::encoding::{DecodeContext, decode_key, encode_varint, int64, skip_field};

use super::checkpoint::{FOOTER, MAGIC, each_entry};
use super::proto::BundleEntry;

/// Bytes of a block after which the next one begins.
const BLOCK: usize = 64 * 1024;
/// The field of an entry that says where in its shard the tensor begins.
const OFFSET: u32 = 4;

/// A checkpoint of one shard without what was stored twice.
#[derive(Debug)]
pub(crate) struct Deduplicated {
    /// The new index.
    pub index: Vec<u8>,
    /// What the new shard is made of, as ranges of the old one.
    kept: Vec<Range<usize>>,
}

/// An entry of the index; those of size 0 have no bytes in the shard.
struct Entry {
    key: Vec<u8>,
    value: Vec<u8>,
    place: Range<usize>,
    checksum: u32,
}

impl Deduplicated {
    /// Finds tensors that lie in the shard more than once; `None` where there are none.
    ///
    /// # Errors
    /// What is wrong with the index, as a verb phrase.
    pub fn plan(index: &[u8], shard: &[u8]) -> Result<Option<Self>, &'static str> {
        let (mut header, mut entries) = (None, Vec::new());
        each_entry(index, |key, value| {
            if header.is_none() {
                header = Some(value.to_vec());
                return Ok(());
            }
            let entry = BundleEntry::decode(value).map_err(|_| "has an entry that does not decode")?;
            let number = |number: i64| usize::try_from(number).map_err(|_| "has an entry with a negative place");
            let start = number(entry.offset)?;
            let end = start
                .checked_add(number(entry.size)?)
                .filter(|end| *end <= shard.len())
                .ok_or("names bytes that are not there")?;
            entries.push(Entry { key: key.to_vec(), value: value.to_vec(), place: start..end, checksum: entry.checksum });
            Ok(())
        })?;
        let header = header.ok_or("has no header")?;
        let (kept, offsets) = keep_first(&entries, shard);
        let length: usize = kept.iter().map(Range::len).sum();
        if length >= shard.len() {
            return Ok(None);
        }
        let mut table = Table::default();
        table.add(b"", &header);
        for (entry, offset) in entries.iter().zip(offsets) {
            table.add(&entry.key, &with_offset(&entry.value, offset)?);
        }
        Ok(Some(Self { index: table.finish(), kept }))
    }

    /// Writes the new shard from the old one.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_shard(&self, shard: &[u8], out: &mut impl Write) -> io::Result<()> {
        self.kept.iter().try_for_each(|range| out.write_all(&shard[range.clone()]))
    }
}

/// A range of the old shard, and where it begins in the new one.
type Kept = (Range<usize>, usize);

/// Ranges of different bytes in the order of the shard, and where each entry begins once they follow one another.
fn keep_first(entries: &[Entry], shard: &[u8]) -> (Vec<Range<usize>>, Vec<usize>) {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&at| (entries[at].place.start, entries[at].place.end));
    let (mut kept, mut end) = (Vec::new(), 0);
    let mut offsets = vec![0; entries.len()];
    // Bytes are only looked at where length and checksum are those of others.
    let mut known: HashMap<(usize, u32), Vec<Kept>> = HashMap::new();
    for at in order {
        let place = &entries[at].place;
        if place.is_empty() {
            continue;
        }
        let alike = known.entry((place.len(), entries[at].checksum)).or_default();
        let same = alike.iter().find(|(other, _)| other == place || shard[other.clone()] == shard[place.clone()]);
        offsets[at] = match same {
            Some((_, offset)) => *offset,
            None => {
                alike.push((place.clone(), end));
                kept.push(place.clone());
                end += place.len();
                end - place.len()
            }
        };
    }
    (kept, offsets)
}

/// An entry that begins elsewhere. What this program does not know of it stays.
fn with_offset(entry: &[u8], offset: usize) -> Result<Vec<u8>, &'static str> {
    const CUT: &str = "has an entry that does not decode";
    let mut changed = Vec::with_capacity(entry.len());
    let mut rest = entry;
    while !rest.is_empty() {
        let before = rest;
        let (number, wire) = decode_key(&mut rest).map_err(|_| CUT)?;
        skip_field(wire, number, &mut rest, DecodeContext::default()).map_err(|_| CUT)?;
        if number != OFFSET {
            changed.extend_from_slice(&before[..before.len() - rest.len()]);
        }
    }
    if offset > 0 {
        int64::encode(OFFSET, &i64::try_from(offset).map_err(|_| "is too large")?, &mut changed);
    }
    Ok(changed)
}

/// A table that is written block by block; keys come in order.
#[derive(Default)]
struct Table {
    out: Vec<u8>,
    block: Block,
    index: Block,
}

#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    last: Vec<u8>,
}

impl Table {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        if self.block.bytes.len() >= BLOCK {
            self.end_block();
        }
        self.block.add(key, value);
    }

    fn end_block(&mut self) {
        let block = std::mem::take(&mut self.block);
        let last = block.last.clone();
        let place = self.write(block);
        self.index.add(&last, &place);
    }

    /// Writes a block, and gives its handle.
    fn write(&mut self, block: Block) -> Vec<u8> {
        let content = block.finish();
        let mut handle = Vec::new();
        encode_varint(self.out.len() as u64, &mut handle);
        encode_varint(content.len() as u64, &mut handle);
        let start = self.out.len();
        self.out.extend_from_slice(&content);
        // Not compressed.
        self.out.push(0);
        let checksum = masked(crc32c::crc32c(&self.out[start..]));
        self.out.extend_from_slice(&checksum.to_le_bytes());
        handle
    }

    fn finish(mut self) -> Vec<u8> {
        self.end_block();
        let mut footer = self.write(Block::default());
        let index = std::mem::take(&mut self.index);
        footer.extend(self.write(index));
        footer.resize(FOOTER - MAGIC.len(), 0);
        self.out.extend_from_slice(&footer);
        self.out.extend_from_slice(&MAGIC);
        self.out
    }
}

impl Block {
    /// Every entry can be searched for: none shares with its predecessor.
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.restarts.push(u32::try_from(self.bytes.len()).expect("a block ends long before"));
        self.bytes.push(0);
        encode_varint(key.len() as u64, &mut self.bytes);
        encode_varint(value.len() as u64, &mut self.bytes);
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.last = key.to_vec();
    }

    fn finish(mut self) -> Vec<u8> {
        if self.restarts.is_empty() {
            self.restarts.push(0);
        }
        for restart in &self.restarts {
            self.bytes.extend_from_slice(&restart.to_le_bytes());
        }
        self.bytes.extend_from_slice(&(self.restarts.len() as u32).to_le_bytes());
        self.bytes
    }
}

/// A checksum as tables store it, so that one of a checksum is none of its own.
fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::saved_model::checkpoint;

    fn entry(offset: i64, size: i64) -> Vec<u8> {
        // A shape besides, which stays.
        [BundleEntry { dtype: 1, shard_id: 0, offset, size, checksum: 7 }.encode_to_vec(), vec![0x12, 0]].concat()
    }

    #[test]
    fn what_is_stored_twice_is_stored_once_and_every_name_gives_its_bytes() {
        let shard: Vec<u8> = [vec![1; 40], vec![2; 24], vec![1; 40], vec![2; 24], vec![3; 8]].concat();
        let names: Vec<String> = (0..3000).map(|number| format!("layer{number:05}/a/long/name/of/a/kernel")).collect();
        let places = [(0, 40), (40, 24), (64, 40), (104, 24), (128, 8), (0, 0)];
        let mut table = Table::default();
        table.add(b"", &[0x08, 1]);
        for (at, name) in names.iter().enumerate() {
            let (offset, size) = places[at % places.len()];
            table.add(name.as_bytes(), &entry(offset, size));
        }
        let index = table.finish();
        let plan = Deduplicated::plan(&index, &shard).expect("a sound index").expect("there is something to gain");
        let mut new = Vec::new();
        plan.write_shard(&shard, &mut new).expect("memory can be written");
        assert_eq!(new, [vec![1; 40], vec![2; 24], vec![3; 8]].concat());
        let bytes = |index: &[u8], shard: &[u8]| {
            let mut found = Vec::new();
            each_entry(index, |key, value| {
                if !key.is_empty() {
                    let entry = BundleEntry::decode(value).expect("an entry");
                    let (start, size) = (entry.offset as usize, entry.size as usize);
                    found.push((key.to_vec(), shard[start..start + size].to_vec(), value.len() == entry.encoded_len() + 2));
                }
                Ok(())
            })
            .expect("a sound index");
            found
        };
        assert_eq!(bytes(&plan.index, &new), bytes(&index, &shard));
        assert_eq!(checkpoint::parse(&plan.index).expect("a sound index").tensors.len(), names.len());
        // A second time there is nothing to gain.
        assert!(Deduplicated::plan(&plan.index, &new).expect("a sound index").is_none());
        assert!(Deduplicated::plan(&index, &shard[..100]).is_err());
        assert_eq!(masked(crc32c::crc32c(b"123456789")), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}

//! Reads the index of a checkpoint: which tensors it has, and where in its shards they lie.
//!
//! The index is a sorted table of blocks, as LevelDB writes them: entries share prefixes with their predecessors, an index
//! block names the data blocks, and a footer names the index block. TensorFlow writes it without compression.

use prost::Message as _;

use super::proto::{BundleEntry, BundleHeader};

/// The last eight bytes of a table.
pub(super) const MAGIC: [u8; 8] = [0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb];
pub(super) const FOOTER: usize = 48;
/// Behind every block: how it is compressed, and a checksum.
const TRAILER: usize = 5;

/// An index: what lies in which shard.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// The number of files that hold the data.
    pub shards: usize,
    /// The tensors by name.
    pub tensors: Vec<StoredTensor>,
}

/// A tensor of a checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StoredTensor {
    pub name: String,
    pub shard: usize,
    /// The first byte behind it in its shard.
    pub end: u64,
    /// Its bytes.
    pub size: u64,
}

/// Reads an index, or says what is wrong with it.
pub(super) fn parse(bytes: &[u8]) -> Result<Checkpoint, &'static str> {
    let mut checkpoint = Checkpoint::default();
    let mut seen = false;
    each_entry(bytes, |key, value| {
        if !seen {
            seen = true;
            checkpoint.shards = header(key, value)?;
            return Ok(());
        }
        checkpoint.tensors.push(tensor(key, value, checkpoint.shards)?);
        Ok(())
    })?;
    if seen { Ok(checkpoint) } else { Err("has no header") }
}

/// Gives every key and value of an index to `visit`, the header first.
pub(super) fn each_entry(
    bytes: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    let Some((body, footer)) = bytes.split_last_chunk::<FOOTER>() else {
        return Err("is shorter than a table's footer");
    };
    if footer[FOOTER - MAGIC.len()..] != MAGIC {
        return Err("does not end as a table does");
    }
    let mut handles = &footer[..];
    // The first handle is of a block that TensorFlow leaves empty.
    handle(&mut handles)?;
    let index = block(body, handle(&mut handles)?)?;
    entries(index, |_, mut value| {
        let data = block(body, handle(&mut value)?)?;
        entries(data, &mut visit)
    })
}

fn header(key: &[u8], value: &[u8]) -> Result<usize, &'static str> {
    if !key.is_empty() {
        return Err("has no header");
    }
    let header = BundleHeader::decode(value).map_err(|_| "has a header that does not decode")?;
    if header.endianness != 0 {
        return Err("is of a big-endian machine");
    }
    // The number is part of file names of five digits.
    usize::try_from(header.num_shards).ok().filter(|shards| (1..=99_999).contains(shards)).ok_or("has a wrong number of shards")
}

fn tensor(key: &[u8], value: &[u8], shards: usize) -> Result<StoredTensor, &'static str> {
    let entry = BundleEntry::decode(value).map_err(|_| "has an entry that does not decode")?;
    let unsigned = |number: i64| u64::try_from(number).map_err(|_| "has an entry with a negative place");
    let size = unsigned(entry.size)?;
    let end = unsigned(entry.offset)?.checked_add(size).ok_or("has an entry that ends beyond 64 bits")?;
    let shard = usize::try_from(entry.shard_id).ok().filter(|shard| *shard < shards).ok_or("names a shard that it has not")?;
    Ok(StoredTensor { name: String::from_utf8_lossy(key).into_owned(), shard, end, size })
}

/// A block without its trailer.
fn block(body: &[u8], (offset, size): (u64, u64)) -> Result<&[u8], &'static str> {
    let offset = usize::try_from(offset).map_err(|_| "names a block outside of it")?;
    let size = usize::try_from(size).map_err(|_| "names a block outside of it")?;
    let end = offset.checked_add(size).ok_or("names a block outside of it")?;
    let (Some(content), Some(trailer)) = (body.get(offset..end), body.get(end..).and_then(|rest| rest.get(..TRAILER))) else {
        return Err("names a block outside of it");
    };
    if trailer[0] == 0 { Ok(content) } else { Err("is compressed, which TensorFlow does not do") }
}

/// Gives every key and value of a block to `visit`.
fn entries(block: &[u8], mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), &'static str>) -> Result<(), &'static str> {
    const CUT: &str = "has a block that is cut off";
    let (before, count) = block.split_last_chunk::<4>().ok_or(CUT)?;
    let restarts = usize::try_from(u32::from_le_bytes(*count)).ok().and_then(|count| count.checked_mul(4)).ok_or(CUT)?;
    let mut rest = before.get(..before.len().checked_sub(restarts).ok_or(CUT)?).ok_or(CUT)?;
    let mut key: Vec<u8> = Vec::new();
    while !rest.is_empty() {
        let shared = length(&mut rest)?;
        let own = length(&mut rest)?;
        let value = length(&mut rest)?;
        if shared > key.len() {
            return Err("has an entry that shares more than there is");
        }
        key.truncate(shared);
        let (suffix, behind) = rest.split_at_checked(own).ok_or(CUT)?;
        key.extend_from_slice(suffix);
        let (value, behind) = behind.split_at_checked(value).ok_or(CUT)?;
        rest = behind;
        visit(&key, value)?;
    }
    Ok(())
}

fn handle(bytes: &mut &[u8]) -> Result<(u64, u64), &'static str> {
    Ok((varint(bytes)?, varint(bytes)?))
}

fn length(bytes: &mut &[u8]) -> Result<usize, &'static str> {
    usize::try_from(varint(bytes)?).map_err(|_| "has a length beyond the address space")
}

fn varint(bytes: &mut &[u8]) -> Result<u64, &'static str> {
    prost::encoding::decode_varint(bytes).map_err(|_| "has a number that is cut off")
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A block with one restart, whose entries share nothing.
    fn written_block(entries: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (key, value) in entries {
            block.push(0);
            prost::encoding::encode_varint(key.len() as u64, &mut block);
            prost::encoding::encode_varint(value.len() as u64, &mut block);
            block.extend_from_slice(key);
            block.extend_from_slice(value);
        }
        block.extend_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0]);
        block
    }

    pub(in super::super) fn table(entries: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
        let data = written_block(entries);
        let mut place = Vec::new();
        prost::encoding::encode_varint(0, &mut place);
        prost::encoding::encode_varint(data.len() as u64, &mut place);
        let index = written_block(&[(b"z".as_slice(), place)]);
        let mut footer = vec![0, 0];
        prost::encoding::encode_varint((data.len() + TRAILER) as u64, &mut footer);
        prost::encoding::encode_varint(index.len() as u64, &mut footer);
        footer.resize(FOOTER - MAGIC.len(), 0);
        [data.as_slice(), &[0; TRAILER], &index, &[0; TRAILER], &footer, &MAGIC].concat()
    }

    fn sample() -> Vec<u8> {
        let header = BundleHeader { num_shards: 1, endianness: 0 }.encode_to_vec();
        let entry = BundleEntry { dtype: 1, shard_id: 0, offset: 8, size: 16, checksum: 0 }.encode_to_vec();
        table(&[(b"", header), (b"layer/kernel", entry)])
    }

    #[test]
    fn tensors_are_found() {
        let tensor = StoredTensor { name: "layer/kernel".to_owned(), shard: 0, end: 24, size: 16 };
        assert_eq!(parse(&sample()), Ok(Checkpoint { shards: 1, tensors: vec![tensor] }));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = sample();
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length]).is_err(), "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn damaged_indices_do_not_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            let mut bytes = sample();
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = parse(&bytes);
        }
    }
}

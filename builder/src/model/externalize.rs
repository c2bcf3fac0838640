//! Moves a model's large tensors into a file of their own, which the runtime maps into memory instead of reading it.
//!
//! This is a rewrite of protobuf and needs no runtime: the tensors' bytes stay what they are, so the result depends on the
//! model alone. Initializers of the main graph move whose data is raw; everything else stays where it is, byte for byte.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use memmap2::{Advice, Mmap};

use super::wire::{Cursor, LENGTH, Message, VARINT};

/// Tensors below this many bytes stay in the model: a mapping of its own costs more than copying them.
const SMALLEST: u64 = 64 << 10;
/// Models that have less than this to move stay as they are.
const SMALLEST_SUM: u64 = 1 << 20;
/// Where a tensor may begin: at a page, so that the mapping has the alignment that kernels like.
const ALIGNMENT: u64 = 4096;

const MODEL_GRAPH: u64 = 7;
const GRAPH_INITIALIZER: u64 = 5;
const TENSOR_RAW_DATA: u64 = 9;
const TENSOR_EXTERNAL_DATA: u64 = 13;
const TENSOR_DATA_LOCATION: u64 = 14;

/// How a model is written anew.
#[derive(Debug)]
pub(crate) struct Externalized {
    pieces: Vec<Piece>,
    data: Vec<Moved>,
}

/// A part of the new model file.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// Bytes of the old file.
    Old(Range<u64>),
    /// Other bytes.
    New(Vec<u8>),
}

/// A tensor's bytes in the old file, and where the new one has them.
#[derive(Debug, PartialEq, Eq)]
struct Moved {
    from: Range<u64>,
    to: u64,
}

/// Why a model is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotMoved {
    /// Little would change.
    #[error("it holds {found} bytes of tensors that could be mapped, less than {SMALLEST_SUM}")]
    Small {
        /// How many bytes could be moved.
        found: u64,
    },
    /// The graph is written in several pieces, or in none.
    #[error("its graph is written in {found} pieces, expected 1")]
    Pieces {
        /// How many.
        found: usize,
    },
    /// The walk lost its way, which the check of the model would have found.
    #[error("its protobuf message is damaged near byte {offset}")]
    Damaged {
        /// Where.
        offset: u64,
    },
}

impl Externalized {
    /// Plans the rewrite of a file; the tensors' bytes are not read.
    pub(crate) fn plan(path: &Path, location: &str) -> io::Result<Result<Self, NotMoved>> {
        let file = File::open(path)?;
        #[expect(unsafe_code, reason = "mapping is what keeps memory flat")]
        // SAFETY: as in `format::open`: the map is private to this function, read-only, and dropped before it returns.
        let bytes = unsafe { Mmap::map(&file) }?;
        let _ = bytes.advise(Advice::Random);
        Ok(Self::of(&bytes, location))
    }

    fn of(bytes: &[u8], location: &str) -> Result<Self, NotMoved> {
        let fields = fields(bytes, 0..bytes.len(), Message::Model)?;
        let graphs: Vec<&Field> = fields.iter().filter(|field| field.number == MODEL_GRAPH).collect();
        let [graph] = graphs[..] else { return Err(NotMoved::Pieces { found: graphs.len() }) };

        let mut inner = Vec::new();
        let mut data: Vec<Moved> = Vec::new();
        let mut kept_from = graph.content.start;
        let mut end = 0_u64;
        for field in self::fields(bytes, graph.content.clone(), Message::Graph)? {
            if field.number != GRAPH_INITIALIZER {
                continue;
            }
            let Some((raw, rest)) = movable(bytes, &field)? else { continue };
            let to = end.next_multiple_of(ALIGNMENT);
            end = to + raw.len() as u64;
            let tensor = external_tensor(bytes, &rest, location, to, raw.len());
            inner.push(Piece::Old(wide(kept_from..field.start)));
            inner.push(Piece::New(length_delimited(GRAPH_INITIALIZER, &tensor)));
            kept_from = field.content.end;
            data.push(Moved { from: wide(raw), to });
        }
        inner.push(Piece::Old(wide(kept_from..graph.content.end)));
        let moved: u64 = data.iter().map(|moved| moved.from.end - moved.from.start).sum();
        if moved < SMALLEST_SUM {
            return Err(NotMoved::Small { found: moved });
        }
        let mut head = Vec::new();
        varint(MODEL_GRAPH << 3 | u64::from(LENGTH), &mut head);
        varint(inner.iter().map(Piece::len).sum(), &mut head);
        let mut pieces = vec![Piece::Old(wide(0..graph.start)), Piece::New(head)];
        pieces.extend(inner);
        pieces.push(Piece::Old(wide(graph.content.end..bytes.len())));
        Ok(Self { pieces, data })
    }

    /// Writes the new model file.
    pub(crate) fn write_model(&self, old: &mut File, new: &mut impl Write) -> io::Result<()> {
        self.pieces.iter().try_for_each(|piece| match piece {
            Piece::Old(range) => copy(old, range, new),
            Piece::New(bytes) => new.write_all(bytes),
        })
    }

    /// Writes the file of the tensors.
    pub(crate) fn write_data(&self, old: &mut File, new: &mut impl Write) -> io::Result<()> {
        let mut at = 0;
        for moved in &self.data {
            io::copy(&mut io::repeat(0).take(moved.to - at), new)?;
            copy(old, &moved.from, new)?;
            at = moved.to + (moved.from.end - moved.from.start);
        }
        Ok(())
    }
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Old(range) => range.end - range.start,
            Self::New(bytes) => bytes.len() as u64,
        }
    }
}

fn copy(old: &mut File, range: &Range<u64>, new: &mut impl Write) -> io::Result<()> {
    old.seek(SeekFrom::Start(range.start))?;
    let expected = range.end - range.start;
    let copied = io::copy(&mut old.take(expected), new)?;
    if copied == expected { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// One field of a message: where its key and its content lie.
struct Field {
    number: u64,
    start: usize,
    content: Range<usize>,
}

fn fields(bytes: &[u8], within: Range<usize>, message: Message) -> Result<Vec<Field>, NotMoved> {
    let mut cursor = Cursor { bytes, at: within.start, end: within.end };
    let mut fields = Vec::new();
    while !cursor.is_done() {
        let start = cursor.at;
        let item = cursor.next(message).map_err(|(_, offset, _)| NotMoved::Damaged { offset: offset as u64 })?;
        fields.push(Field { number: item.number, start, content: item.start..item.end });
    }
    Ok(fields)
}

/// The raw data of a tensor that can be moved, and its other fields with their keys.
type Movable = (Range<usize>, Vec<Range<usize>>);

fn movable(bytes: &[u8], tensor: &Field) -> Result<Option<Movable>, NotMoved> {
    let (mut raw, mut rest) = (None, Vec::new());
    for field in fields(bytes, tensor.content.clone(), Message::Tensor)? {
        match field.number {
            TENSOR_RAW_DATA if raw.is_none() => raw = Some(field.content),
            // Written twice, or its data is elsewhere already.
            TENSOR_RAW_DATA | TENSOR_EXTERNAL_DATA | TENSOR_DATA_LOCATION => return Ok(None),
            _ => rest.push(field.start..field.content.end),
        }
    }
    Ok(raw.filter(|raw| raw.len() as u64 >= SMALLEST).map(|raw| (raw, rest)))
}

/// A tensor whose data lies in another file.
fn external_tensor(bytes: &[u8], rest: &[Range<usize>], location: &str, offset: u64, length: usize) -> Vec<u8> {
    let mut tensor: Vec<u8> = rest.iter().flat_map(|range| &bytes[range.clone()]).copied().collect();
    for (key, value) in [("location", location), ("offset", &offset.to_string()), ("length", &length.to_string())] {
        let entry = [length_delimited(1, key.as_bytes()), length_delimited(2, value.as_bytes())].concat();
        tensor.extend(length_delimited(TENSOR_EXTERNAL_DATA, &entry));
    }
    varint(TENSOR_DATA_LOCATION << 3 | u64::from(VARINT), &mut tensor);
    varint(1, &mut tensor);
    tensor
}

fn length_delimited(number: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 12);
    varint(number << 3 | u64::from(LENGTH), &mut bytes);
    varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

fn varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn wide(range: Range<usize>) -> Range<u64> {
    range.start as u64..range.end as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::model::proto::{LOCATION_EXTERNAL, ModelProto};

    fn tensor(name: &str, bytes: &[u8]) -> Vec<u8> {
        let mut tensor = vec![8];
        varint(bytes.len() as u64, &mut tensor);
        tensor.extend([16, 2]);
        tensor.extend(length_delimited(TENSOR_RAW_DATA, bytes));
        tensor.extend(length_delimited(8, name.as_bytes()));
        length_delimited(GRAPH_INITIALIZER, &tensor)
    }

    fn model(tensors: &[Vec<u8>]) -> Vec<u8> {
        let graph = [length_delimited(2, b"g"), tensors.concat(), length_delimited(10, b"a graph")].concat();
        [vec![8, 9], length_delimited(MODEL_GRAPH, &graph), length_delimited(2, b"producer")].concat()
    }

    fn rewrite(old: &[u8], plan: &Externalized) -> (Vec<u8>, Vec<u8>) {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(old).expect("written");
        let (mut model, mut data) = (Vec::new(), Vec::new());
        plan.write_model(&mut file, &mut model).expect("written");
        plan.write_data(&mut file, &mut data).expect("written");
        (model, data)
    }

    #[test]
    fn large_tensors_move_and_everything_else_stays() {
        let (first, second) = (vec![7_u8; 700_001], vec![9_u8; 500_000]);
        let old = model(&[tensor("first", &first), tensor("small", &[1; 100]), tensor("second", &second)]);
        let (new, data) = rewrite(&old, &Externalized::of(&old, "m.data").expect("it is large enough"));
        let parsed = ModelProto::decode(&new[..]).expect("a model");
        assert_eq!((parsed.ir_version, parsed.producer_name.as_slice()), (Some(9), &b"producer"[..]));
        let graph = parsed.graph.expect("a graph");
        let entry = |tensor: usize, key: &str| {
            let entries = &graph.initializer[tensor].external_data;
            let value = entries.iter().find(|entry| entry.key == key.as_bytes()).map(|entry| entry.value.clone());
            String::from_utf8(value.expect("the entry")).expect("text")
        };
        assert_eq!((entry(0, "location").as_str(), entry(0, "offset").as_str()), ("m.data", "0"));
        assert_eq!((entry(2, "offset").as_str(), entry(2, "length").as_str()), ("700416", "500000"));
        assert!(graph.initializer[1].external_data.is_empty());
        assert_eq!(graph.initializer[0].data_location, LOCATION_EXTERNAL);
        assert!(data[..700_001] == first && data[700_416..] == second && data[700_001..700_416].iter().all(|byte| *byte == 0));
        assert!(new.windows(9).any(|window| window == b"\x52\x07a graph"), "a field that is not declared is kept");
        // Once more: there is nothing left to move.
        assert_eq!(Externalized::of(&new, "m.data").expect_err("all is moved"), NotMoved::Small { found: 0 });
    }

    #[test]
    fn what_cannot_be_rewritten_is_left_with_a_reason() {
        assert_eq!(Externalized::of(&model(&[]), "d").expect_err("small"), NotMoved::Small { found: 0 });
        let twice = [model(&[]), model(&[])].concat();
        assert_eq!(Externalized::of(&twice, "d").expect_err("twice"), NotMoved::Pieces { found: 2 });
        let cut = model(&[tensor("x", &[0; 2 << 20])]);
        assert!(matches!(Externalized::of(&cut[..1000], "d"), Err(NotMoved::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Externalized::of(&bytes, "d");
        }
    }
}

//! Finds where a protobuf file is damaged, so that the error can say more than "invalid".
//!
//! Decoding itself is left to prost; this walk knows the names of ONNX's fields and follows their
//! lengths. It reads keys and lengths only, so that it is quick on files of any size.

use std::fmt::Write as _;
use std::path::Path;

use super::error::ModelError;

/// What is wrong, and where in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The field's path, such as `graph.node[3].attribute[0]`.
    pub field: String,
    /// The byte in the file at which the field's key starts.
    pub offset: u64,
    pub kind: DamageKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DamageKind {
    /// The field says that it is longer than what is left of the file or of its parent.
    Overrun { claimed: u64, remaining: u64 },
    /// A key or a number is not finished at the end.
    CutOff,
    /// A number is longer than 64 bits, or a key is not a key.
    NotProtobuf,
    /// The field has another wire type than ONNX gives it.
    WireType { expected: u8, found: u8 },
    /// Messages lie in each other more deeply than any reader accepts.
    TooDeep,
}

/// The messages whose fields have names here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    ValueInfo,
    Type,
    TensorType,
    ElementType,
    MapType,
    Shape,
    Entry,
    /// Bytes, a string, or a message that holds nothing of interest.
    Leaf,
}

pub(crate) const VARINT: u8 = 0;
pub(crate) const LENGTH: u8 = 2;
/// Protobuf readers give up at this depth; prost and C++ share the number.
const DEPTH_LIMIT: usize = 100;

/// Returns a field's name, wire type and content, for the fields that [`super::proto`] declares.
pub(crate) fn field(message: Message, number: u64) -> Option<(&'static str, u8, Message)> {
    use Message::{
        Attribute, ElementType, Entry, Function, Graph, Leaf, MapType, Model, Node, Shape, SparseTensor, Tensor, TensorType,
        Type, ValueInfo,
    };
    Some(match (message, number) {
        (Model, 1) => ("ir_version", VARINT, Leaf),
        (Model, 2) => ("producer_name", LENGTH, Leaf),
        (Model, 3) => ("producer_version", LENGTH, Leaf),
        (Model, 4) => ("domain", LENGTH, Leaf),
        (Model, 5) => ("model_version", VARINT, Leaf),
        (Model, 6) => ("doc_string", LENGTH, Leaf),
        (Model, 7) => ("graph", LENGTH, Graph),
        (Model, 8) => ("opset_import", LENGTH, Leaf),
        (Model, 14) => ("metadata_props", LENGTH, Entry),
        (Model, 20) => ("training_info", LENGTH, Leaf),
        (Model, 25) => ("functions", LENGTH, Function),
        (Model, 26) => ("configuration", LENGTH, Leaf),
        (Graph, 1) | (Function, 7) => ("node", LENGTH, Node),
        (Graph, 2) | (Function | Attribute | ValueInfo, 1) | (Node, 3) | (Tensor, 8) => ("name", LENGTH, Leaf),
        (Graph, 5) => ("initializer", LENGTH, Tensor),
        (Graph, 11) => ("input", LENGTH, ValueInfo),
        (Graph, 12) => ("output", LENGTH, ValueInfo),
        (Graph, 13) => ("value_info", LENGTH, ValueInfo),
        (Graph, 15) => ("sparse_initializer", LENGTH, SparseTensor),
        (Function, 9) => ("opset_import", LENGTH, Leaf),
        (Function, 10) | (Node, 7) => ("domain", LENGTH, Leaf),
        (Function, 11) => ("attribute_proto", LENGTH, Attribute),
        (Function, 13) | (Node, 8) => ("overload", LENGTH, Leaf),
        (Node, 1) => ("input", LENGTH, Leaf),
        (Node, 2) => ("output", LENGTH, Leaf),
        (Node, 4) => ("op_type", LENGTH, Leaf),
        (Node, 5) => ("attribute", LENGTH, Attribute),
        (Attribute, 3) => ("i", VARINT, Leaf),
        (Attribute, 5) => ("t", LENGTH, Tensor),
        (Attribute, 6) => ("g", LENGTH, Graph),
        (Attribute, 10) => ("tensors", LENGTH, Tensor),
        (Attribute, 11) => ("graphs", LENGTH, Graph),
        (Attribute, 22) => ("sparse_tensor", LENGTH, SparseTensor),
        (Attribute, 23) => ("sparse_tensors", LENGTH, SparseTensor),
        (Tensor, 2) => ("data_type", VARINT, Leaf),
        (Tensor, 9) => ("raw_data", LENGTH, Leaf),
        (Tensor, 13) => ("external_data", LENGTH, Entry),
        (Tensor, 14) => ("data_location", VARINT, Leaf),
        (SparseTensor, 1) => ("values", LENGTH, Tensor),
        (SparseTensor, 2) => ("indices", LENGTH, Tensor),
        (ValueInfo, 2) => ("type", LENGTH, Type),
        (Type, 1) => ("tensor_type", LENGTH, TensorType),
        (Type, 4) => ("sequence_type", LENGTH, ElementType),
        (Type, 5) => ("map_type", LENGTH, MapType),
        (Type, 8) => ("sparse_tensor_type", LENGTH, TensorType),
        (Type, 9) => ("optional_type", LENGTH, ElementType),
        (TensorType, 1) => ("elem_type", VARINT, Leaf),
        (TensorType, 2) => ("shape", LENGTH, Shape),
        (ElementType, 1) => ("elem_type", LENGTH, Type),
        (MapType, 1) => ("key_type", VARINT, Leaf),
        (MapType, 2) => ("value_type", LENGTH, Type),
        (Shape, 1) => ("dim", LENGTH, Leaf),
        (Entry, 1) => ("key", LENGTH, Leaf),
        (Entry, 2) => ("value", LENGTH, Leaf),
        _ => return None,
    })
}

/// What the fields at the top of a file say about whether it is a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outline {
    /// The numbers of the fields, in order, without repeats in a row.
    pub fields: Vec<u64>,
    /// Where the fields stop making sense, if they do.
    pub damage: Option<Damage>,
}

impl Outline {
    pub(crate) fn has(&self, number: u64) -> bool {
        self.fields.contains(&number)
    }
}

/// Lists the fields at the top of a file, without descending.
pub(crate) fn outline(bytes: &[u8]) -> Outline {
    let mut outline = Outline::default();
    let mut cursor = Cursor::over(bytes, 0, bytes.len());
    while !cursor.is_done() {
        match cursor.next(Message::Model) {
            Ok(item) => {
                if outline.fields.last() != Some(&item.number) {
                    outline.fields.push(item.number);
                }
            }
            Err((number, offset, kind)) => {
                // A field that is cut off is there, even though it cannot be read.
                if let (Some(number), DamageKind::Overrun { .. }) = (number, &kind) {
                    outline.fields.push(number);
                }
                outline.damage = Some(damage(&[], Message::Model, number, offset, kind));
                break;
            }
        }
    }
    outline
}

/// Whether the bytes are a protobuf message of any kind.
pub(crate) fn is_message(bytes: &[u8]) -> bool {
    let mut cursor = Cursor::over(bytes, 0, bytes.len());
    while !cursor.is_done() {
        if cursor.next(Message::Leaf).is_err() {
            return false;
        }
    }
    true
}

/// Returns the first damage in a model, or `None` if the walk finds none.
pub(crate) fn locate(bytes: &[u8]) -> Option<Damage> {
    walk(Cursor::over(bytes, 0, bytes.len()), Message::Model, &mut Vec::new())
}

type Step = (&'static str, usize);

fn walk(mut cursor: Cursor<'_>, message: Message, path: &mut Vec<Step>) -> Option<Damage> {
    let mut counts: Vec<(u64, usize)> = Vec::new();
    while !cursor.is_done() {
        let start = cursor.at;
        let item = match cursor.next(message) {
            Ok(item) => item,
            Err((number, offset, kind)) => {
                return Some(damage(path, message, number, offset, kind));
            }
        };
        let Some((name, _, content)) = field(message, item.number) else {
            continue;
        };
        let count = match counts.iter_mut().find(|(number, _)| *number == item.number) {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                counts.push((item.number, 0));
                0
            }
        };
        if content == Message::Leaf {
            continue;
        }
        if path.len() >= DEPTH_LIMIT {
            return Some(damage(path, message, Some(item.number), start, DamageKind::TooDeep));
        }
        path.push((name, count));
        let inner = Cursor::over(cursor.bytes, item.start, item.end);
        if let Some(found) = walk(inner, content, path) {
            return Some(found);
        }
        path.pop();
    }
    None
}

impl Damage {
    /// The error that says so of the file at `path`.
    pub(crate) fn into_error(self, path: &Path) -> ModelError {
        let Damage { field, offset, kind } = self;
        let path = path.to_owned();
        let problem = match kind {
            DamageKind::Overrun { claimed, remaining } => {
                return ModelError::Truncated { path, field, offset, claimed, remaining };
            }
            DamageKind::WireType { expected, found } => format!("has wire type {found}, expected {expected}"),
            DamageKind::CutOff => "is cut off by the end of the file or of its parent".to_owned(),
            DamageKind::TooDeep => "is nested more deeply than 100 messages".to_owned(),
            DamageKind::NotProtobuf => "is not a protobuf field".to_owned(),
        };
        ModelError::Damaged { path, field, offset, problem }
    }
}

fn damage(path: &[Step], message: Message, number: Option<u64>, offset: usize, kind: DamageKind) -> Damage {
    let mut field_path = String::new();
    for (name, index) in path {
        let _ = match name {
            &"graph" | &"type" | &"shape" | &"t" | &"g" => write!(field_path, "{name}."),
            _ => write!(field_path, "{name}[{index}]."),
        };
    }
    match number {
        Some(number) => match field(message, number) {
            Some((name, ..)) => field_path.push_str(name),
            None => {
                let _ = write!(field_path, "#{number}");
            }
        },
        None => field_path.push_str("(key)"),
    }
    Damage { field: field_path, offset: offset as u64, kind }
}

/// One field: its number, and where its content lies in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub number: u64,
    pub start: usize,
    pub end: usize,
}

/// The number of the field as far as it is known, where its key starts, and what is wrong.
pub(crate) type Failure = (Option<u64>, usize, DamageKind);

/// Steps over the fields of one message without reading their content.
pub(crate) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    pub end: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor over the message that lies from `start` to `end` in a file.
    pub(crate) fn over(bytes: &'a [u8], start: usize, end: usize) -> Cursor<'a> {
        Cursor { bytes, at: start, end }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.end
    }

    fn varint(&mut self) -> Result<u64, DamageKind> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.at >= self.end {
                return Err(DamageKind::CutOff);
            }
            let byte = self.bytes[self.at];
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // The tenth byte holds the one bit that is left.
                return if shift == 63 && byte > 1 { Err(DamageKind::NotProtobuf) } else { Ok(value) };
            }
        }
        Err(DamageKind::NotProtobuf)
    }

    /// Steps over one field and returns where its content lies.
    pub(crate) fn next(&mut self, message: Message) -> Result<Item, Failure> {
        let offset = self.at;
        let key = self.varint().map_err(|kind| (None, offset, kind))?;
        let (number, wire) = (key >> 3, (key & 7) as u8);
        if number == 0 || number > 0x1fff_ffff {
            return Err((None, offset, DamageKind::NotProtobuf));
        }
        let fail = |kind| (Some(number), offset, kind);
        if let Some((_, expected, _)) = field(message, number)
            && expected != wire
        {
            return Err(fail(DamageKind::WireType { expected, found: wire }));
        }
        let start = match wire {
            VARINT => {
                self.varint().map_err(fail)?;
                return Ok(Item { number, start: self.at, end: self.at });
            }
            LENGTH => {
                let length = self.varint().map_err(fail)?;
                self.skip(length).map_err(fail)?
            }
            1 => self.skip(8).map_err(fail)?,
            5 => self.skip(4).map_err(fail)?,
            // Groups were dropped before ONNX and SavedModel existed; no field of theirs has one.
            _ => return Err(fail(DamageKind::NotProtobuf)),
        };
        Ok(Item { number, start, end: self.at })
    }

    fn skip(&mut self, length: u64) -> Result<usize, DamageKind> {
        let remaining = self.end - self.at;
        match usize::try_from(length) {
            Ok(length) if length <= remaining => {
                let start = self.at;
                self.at += length;
                Ok(start)
            }
            _ => Err(DamageKind::Overrun { claimed: length, remaining: remaining as u64 }),
        }
    }
}

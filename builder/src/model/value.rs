//! Types of a model's values: element types, shapes, and what is built from them.

use std::fmt;

use serde::{Serialize, Serializer};

use super::proto::{ShapeProto, TypeProto, ValueInfoProto, text};

/// The element type of a tensor, by ONNX's number.
///
/// Displays and serialises as ONNX Runtime's name for it (`float`, `int64`, `bfloat16`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DataType(i32);

/// Names and sizes in bits, by number; strings have no size.
const DATA_TYPES: [(&str, Option<u64>); 29] = [
    ("undefined", None),
    ("float", Some(32)),
    ("uint8", Some(8)),
    ("int8", Some(8)),
    ("uint16", Some(16)),
    ("int16", Some(16)),
    ("int32", Some(32)),
    ("int64", Some(64)),
    ("string", None),
    ("bool", Some(8)),
    ("float16", Some(16)),
    ("double", Some(64)),
    ("uint32", Some(32)),
    ("uint64", Some(64)),
    ("complex64", Some(64)),
    ("complex128", Some(128)),
    ("bfloat16", Some(16)),
    ("float8e4m3fn", Some(8)),
    ("float8e4m3fnuz", Some(8)),
    ("float8e5m2", Some(8)),
    ("float8e5m2fnuz", Some(8)),
    ("uint4", Some(4)),
    ("int4", Some(4)),
    ("float4e2m1", Some(4)),
    ("float8e8m0", Some(8)),
    ("uint2", Some(2)),
    ("int2", Some(2)),
    ("float6e2m3", Some(6)),
    ("float6e3m2", Some(6)),
];

impl DataType {
    /// 32-bit floating point, ONNX's default.
    pub const FLOAT: DataType = DataType(1);

    /// Takes ONNX's number for a type; numbers that are not known stay what they are.
    #[must_use]
    pub fn from_number(number: i32) -> DataType {
        DataType(number)
    }

    /// Returns ONNX's number for the type.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }

    fn row(self) -> Option<&'static (&'static str, Option<u64>)> {
        usize::try_from(self.0).ok().and_then(|index| DATA_TYPES.get(index))
    }

    /// Returns the type's name in ONNX Runtime, or `None` for a number that is not known.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        self.row().filter(|_| self.0 != 0).map(|row| row.0)
    }

    /// Whether the inference protocol has the type.
    pub(crate) fn is_served(self) -> bool {
        matches!(self.0, 1..=13 | 16)
    }

    /// Returns the bytes that a number of elements take, packed as ONNX packs them.
    ///
    /// `None` for strings, for unknown types, and for sizes beyond 64 bits.
    #[must_use]
    pub fn bytes_of(self, elements: u64) -> Option<u64> {
        let bits = u128::from(self.row()?.1?) * u128::from(elements);
        u64::try_from(bits.div_ceil(8)).ok()
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row() {
            Some((name, _)) => formatter.write_str(name),
            None => write!(formatter, "type-{}", self.0),
        }
    }
}

impl Serialize for DataType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One dimension of a shape.
///
/// Serialises as a number, a string, or null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Dimension {
    /// A size that every request must have.
    Fixed(u64),
    /// A size that is chosen at run time; equal names mean equal sizes.
    Symbolic(String),
    /// A size of which nothing is known.
    Unknown,
}

impl fmt::Display for Dimension {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dimension::Fixed(size) => write!(formatter, "{size}"),
            Dimension::Symbolic(name) => formatter.write_str(name),
            Dimension::Unknown => formatter.write_str("?"),
        }
    }
}

/// The type of a value that goes into or comes out of a model.
///
/// Displays as ONNX Runtime writes types, without shapes: `tensor(float)`, `seq(map(int64,tensor(float)))`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ValueType {
    /// A dense tensor.
    Tensor {
        /// The type of its elements.
        datatype: DataType,
        /// Its dimensions, or `None` where not even their number is known.
        shape: Option<Vec<Dimension>>,
    },
    /// A sparse tensor.
    SparseTensor {
        /// The type of its elements.
        datatype: DataType,
        /// Its dimensions, or `None` where not even their number is known.
        shape: Option<Vec<Dimension>>,
    },
    /// A sequence of values of one type.
    Sequence {
        /// The type of its elements.
        element: Box<ValueType>,
    },
    /// A value that may be absent.
    Optional {
        /// The type of the value if it is there.
        element: Box<ValueType>,
    },
    /// A map.
    Map {
        /// The type of its keys.
        key: DataType,
        /// The type of its values.
        value: Box<ValueType>,
    },
    /// A type that only operators of some domain know.
    Opaque {
        /// The domain that defines the type.
        domain: String,
        /// The type's name in that domain.
        name: String,
    },
    /// The model does not say.
    Unknown,
}

impl ValueType {
    pub(crate) fn from_proto(proto: Option<&TypeProto>) -> ValueType {
        let Some(proto) = proto else {
            return ValueType::Unknown;
        };
        if let Some(tensor) = &proto.tensor_type {
            ValueType::Tensor { datatype: DataType(tensor.elem_type), shape: tensor.shape.as_ref().map(shape) }
        } else if let Some(tensor) = &proto.sparse_tensor_type {
            ValueType::SparseTensor { datatype: DataType(tensor.elem_type), shape: tensor.shape.as_ref().map(shape) }
        } else if let Some(sequence) = &proto.sequence_type {
            ValueType::Sequence { element: Box::new(ValueType::from_proto(sequence.elem_type.as_deref())) }
        } else if let Some(optional) = &proto.optional_type {
            ValueType::Optional { element: Box::new(ValueType::from_proto(optional.elem_type.as_deref())) }
        } else if let Some(map) = &proto.map_type {
            ValueType::Map { key: DataType(map.key_type), value: Box::new(ValueType::from_proto(map.value_type.as_deref())) }
        } else if let Some(opaque) = &proto.opaque_type {
            ValueType::Opaque { domain: text(&opaque.domain), name: text(&opaque.name) }
        } else {
            ValueType::Unknown
        }
    }

    /// Whether every part of the type is known by name, so that it can be compared with a kernel's types.
    pub(crate) fn is_known(&self) -> bool {
        match self {
            ValueType::Tensor { datatype, .. } | ValueType::SparseTensor { datatype, .. } => datatype.name().is_some(),
            ValueType::Sequence { element } | ValueType::Optional { element } => element.is_known(),
            ValueType::Map { key, value } => key.name().is_some() && value.is_known(),
            ValueType::Opaque { .. } | ValueType::Unknown => false,
        }
    }
}

fn shape(proto: &ShapeProto) -> Vec<Dimension> {
    let dimension = |dim: &super::proto::DimensionProto| match (&dim.dim_value, &dim.dim_param) {
        // Some exporters write a dynamic dimension as a negative size.
        (Some(size), _) => u64::try_from(*size).map_or(Dimension::Unknown, Dimension::Fixed),
        (None, Some(name)) if !name.is_empty() => Dimension::Symbolic(text(name)),
        _ => Dimension::Unknown,
    };
    proto.dim.iter().map(dimension).collect()
}

impl fmt::Display for ValueType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueType::Tensor { datatype, .. } => write!(formatter, "tensor({datatype})"),
            ValueType::SparseTensor { datatype, .. } => {
                write!(formatter, "sparse_tensor({datatype})")
            }
            ValueType::Sequence { element } => write!(formatter, "seq({element})"),
            ValueType::Optional { element } => write!(formatter, "optional({element})"),
            ValueType::Map { key, value } => write!(formatter, "map({key},{value})"),
            ValueType::Opaque { domain, name } => write!(formatter, "opaque({domain},{name})"),
            ValueType::Unknown => formatter.write_str("unknown"),
        }
    }
}

/// A named input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Value {
    /// The name by which requests refer to it.
    pub name: String,
    /// Its type and shape.
    #[serde(flatten)]
    pub r#type: ValueType,
}

impl Value {
    pub(crate) fn from_proto(proto: &ValueInfoProto) -> Value {
        Value { name: text(&proto.name), r#type: ValueType::from_proto(proto.r#type.as_ref()) }
    }
}

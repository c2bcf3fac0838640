//! The tensors of a request: zeros of the model's own shapes, or files of its test data, as bytes of the Open Inference Protocol.

use std::path::Path;

use prost::Message;
use serde::Deserialize;

use super::error::ColdStartError;

/// The most bytes of zeros that are sent for one input.
const ZEROS_LIMIT: u64 = 64 << 20;

/// An input as the server's metadata names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Input {
    /// Its name.
    pub name: String,
    /// A datatype of the protocol, for instance `FP32`.
    pub datatype: String,
    /// Its shape, -1 for a dynamic dimension.
    pub shape: Vec<i64>,
}

/// A tensor as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub datatype: &'static str,
    pub shape: Vec<i64>,
    pub bytes: Vec<u8>,
}

/// ONNX's number of a type, the protocol's name, and the bytes of an element, 0 where they vary.
const TYPES: [(i32, &str, usize); 14] = [
    (1, "FP32", 4),
    (2, "UINT8", 1),
    (3, "INT8", 1),
    (4, "UINT16", 2),
    (5, "INT16", 2),
    (6, "INT32", 4),
    (7, "INT64", 8),
    (8, "BYTES", 0),
    (9, "BOOL", 1),
    (10, "FP16", 2),
    (11, "FP64", 8),
    (12, "UINT32", 4),
    (13, "UINT64", 8),
    (16, "BF16", 2),
];

/// ONNX's message of a tensor, as far as test data need it.
#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    int32_data: Vec<i32>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    string_data: Vec<Vec<u8>>,
    #[prost(int64, repeated, tag = "7")]
    int64_data: Vec<i64>,
    #[prost(bytes = "vec", tag = "8")]
    name: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "9")]
    raw_data: Option<Vec<u8>>,
    #[prost(double, repeated, tag = "10")]
    double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    uint64_data: Vec<u64>,
    #[prost(int32, tag = "14")]
    data_location: i32,
}

impl Tensor {
    /// Zeros of an input's shape, 1 for each dynamic dimension; empty texts for texts.
    pub fn zeros(input: &Input) -> Result<Self, ColdStartError> {
        let wrong = |reason: String| ColdStartError::Data { place: format!("input `{}`", input.name), reason };
        let (_, datatype, width) = TYPES
            .into_iter()
            .find(|(_, name, _)| *name == input.datatype)
            .ok_or_else(|| wrong(format!("its datatype is `{}`, which cannot be sent", input.datatype)))?;
        let shape: Vec<i64> = input.shape.iter().map(|dimension| if *dimension < 0 { 1 } else { *dimension }).collect();
        // An empty text is its length, four bytes.
        let width = if width == 0 { 4 } else { width as u64 };
        let bytes = elements(&shape).and_then(|elements| elements.checked_mul(width)).filter(|bytes| *bytes <= ZEROS_LIMIT);
        let bytes = bytes.ok_or_else(|| wrong(format!("zeros of the shape {shape:?} have more than {ZEROS_LIMIT} bytes")))?;
        Ok(Self { datatype, shape, bytes: vec![0; usize::try_from(bytes).expect("within the limit")] })
    }

    /// Reads a serialised `TensorProto`, and the name that it gives itself, which may be empty.
    pub fn parse(bytes: &[u8], place: &Path) -> Result<(String, Self), ColdStartError> {
        let wrong = |reason: String| ColdStartError::Data { place: format!("`{}`", place.display()), reason };
        let proto = TensorProto::decode(bytes).map_err(|error| wrong(format!("is no tensor: {error}")))?;
        let (_, datatype, width) = TYPES
            .into_iter()
            .find(|(number, _, _)| *number == proto.data_type)
            .ok_or_else(|| wrong(format!("its data type is {}, which cannot be sent", proto.data_type)))?;
        if proto.data_location == 1 {
            return Err(wrong("its elements lie in another file, expected them inside".to_owned()));
        }
        let count = elements(&proto.dims).ok_or_else(|| wrong(format!("its shape is {:?}", proto.dims)))?;
        let name = String::from_utf8_lossy(&proto.name).into_owned();
        let shape = proto.dims.clone();
        let texts_found = proto.string_data.len();
        let bytes = if width == 0 { texts(&proto) } else { proto.numbers(width) };
        let found = bytes.len().checked_div(width).unwrap_or(texts_found) as u64;
        if found != count || (width != 0 && bytes.len() % width != 0) {
            return Err(wrong(format!("it has {found} elements in {} bytes, expected {count} elements", bytes.len())));
        }
        Ok((name, Self { datatype, shape, bytes }))
    }
}

impl TensorProto {
    /// The elements as they travel: little-endian, one after the other.
    fn numbers(self, width: usize) -> Vec<u8> {
        if let Some(raw) = self.raw_data {
            return raw;
        }
        let cut = |bytes: &[u8]| bytes[..width].to_vec();
        match self.data_type {
            1 => self.float_data.iter().flat_map(|number| number.to_le_bytes()).collect(),
            7 => self.int64_data.iter().flat_map(|number| number.to_le_bytes()).collect(),
            11 => self.double_data.iter().flat_map(|number| number.to_le_bytes()).collect(),
            12 | 13 => self.uint64_data.iter().flat_map(|number| cut(&number.to_le_bytes())).collect(),
            _ => self.int32_data.iter().flat_map(|number| cut(&number.to_le_bytes())).collect(),
        }
    }
}

/// Each text behind its length.
fn texts(proto: &TensorProto) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in &proto.string_data {
        // A protobuf message is smaller than 2 GiB.
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(text);
    }
    bytes
}

/// The number of elements; `None` where a dimension is negative or there are too many.
fn elements(shape: &[i64]) -> Option<u64> {
    shape.iter().try_fold(1_u64, |product, dimension| product.checked_mul(u64::try_from(*dimension).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(datatype: &str, shape: &[i64]) -> Input {
        Input { name: "x".to_owned(), datatype: datatype.to_owned(), shape: shape.to_vec() }
    }

    #[test]
    fn zeros_have_the_shape_of_the_metadata() {
        let zeros = |datatype, shape: &[i64]| Tensor::zeros(&input(datatype, shape)).expect("zeros");
        assert_eq!(zeros("FP32", &[-1, 3]), Tensor { datatype: "FP32", shape: vec![1, 3], bytes: vec![0; 12] });
        assert_eq!(zeros("BYTES", &[2]).bytes, [0; 8]);
        assert_eq!(zeros("BOOL", &[]).bytes, [0]);
        for (datatype, shape) in [("FP8", &[1][..]), ("FP64", &[1 << 40]), ("FP64", &[1 << 40, 1 << 40])] {
            Tensor::zeros(&input(datatype, shape)).expect_err("it is refused");
        }
    }

    fn parsed(proto: &TensorProto) -> Result<(String, Tensor), ColdStartError> {
        Tensor::parse(&proto.encode_to_vec(), Path::new("input_0.pb"))
    }

    #[test]
    fn typed_fields_and_raw_bytes_are_the_same() {
        let proto = |data_type| TensorProto { dims: vec![2], data_type, name: b"a".to_vec(), ..TensorProto::default() };
        let typed = [
            (TensorProto { float_data: vec![1.0, -2.0], ..proto(1) }, [1.0_f32, -2.0].map(f32::to_le_bytes).concat()),
            (TensorProto { int32_data: vec![-1, 7], ..proto(3) }, vec![255, 7]),
            (TensorProto { int32_data: vec![-1, 7], ..proto(6) }, [-1_i32, 7].map(i32::to_le_bytes).concat()),
            (TensorProto { int32_data: vec![0x3c00, 0], ..proto(10) }, vec![0, 0x3c, 0, 0]),
            (TensorProto { int64_data: vec![-1, 7], ..proto(7) }, [-1_i64, 7].map(i64::to_le_bytes).concat()),
            (TensorProto { double_data: vec![0.5, 1.0], ..proto(11) }, [0.5_f64, 1.0].map(f64::to_le_bytes).concat()),
            (TensorProto { uint64_data: vec![1, 2], ..proto(12) }, [1_u32, 2].map(u32::to_le_bytes).concat()),
            (TensorProto { string_data: vec![b"ab".to_vec(), vec![]], ..proto(8) }, vec![2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]),
        ];
        for (typed, bytes) in typed {
            let (name, tensor) = parsed(&typed).expect("a tensor");
            assert_eq!((name.as_str(), &tensor.bytes), ("a", &bytes));
            if tensor.datatype != "BYTES" {
                let raw = TensorProto { raw_data: Some(bytes), ..proto(typed.data_type) };
                assert_eq!(parsed(&raw).expect("a tensor").1, tensor);
            }
        }
    }

    #[test]
    fn damaged_tensors_are_refused() {
        let proto = TensorProto { dims: vec![2], data_type: 1, float_data: vec![1.0, 2.0], ..TensorProto::default() };
        for bad in [
            TensorProto { dims: vec![3], ..proto.clone() },
            TensorProto { dims: vec![-2], ..proto.clone() },
            TensorProto { data_type: 14, ..proto.clone() },
            TensorProto { data_location: 1, ..proto.clone() },
            TensorProto { raw_data: Some(vec![0; 9]), ..proto.clone() },
        ] {
            parsed(&bad).expect_err("it is refused");
        }
        Tensor::parse(b"\xff\xff", Path::new("input_0.pb")).expect_err("it is refused");
    }
}

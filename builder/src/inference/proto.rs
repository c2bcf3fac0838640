//! ONNX's `TensorProto` with its elements, as test data holds it: `input_0.pb`, `output_0.pb`.

use std::path::{Path, PathBuf};

use prost::Message;

use super::client::TensorSpec;
use super::error::InferenceError;
use super::tensor::{Datatype, Tensor};

/// The message, whole. Numbers below 32 bits, and the bits of 16-bit floats, lie in `int32_data`.
#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
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
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
    #[prost(double, repeated, tag = "10")]
    double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    uint64_data: Vec<u64>,
    #[prost(int32, tag = "14")]
    data_location: i32,
}

/// ONNX's numbers of the datatypes that are served.
const NUMBERS: [(i32, Datatype); 14] = [
    (1, Datatype::Fp32),
    (2, Datatype::Uint8),
    (3, Datatype::Int8),
    (4, Datatype::Uint16),
    (5, Datatype::Int16),
    (6, Datatype::Int32),
    (7, Datatype::Int64),
    (8, Datatype::Bytes),
    (9, Datatype::Bool),
    (10, Datatype::Fp16),
    (11, Datatype::Fp64),
    (12, Datatype::Uint32),
    (13, Datatype::Uint64),
    (16, Datatype::Bf16),
];

/// Reads a tensor.
fn parse(bytes: &[u8]) -> Result<Tensor, String> {
    let proto = TensorProto::decode(bytes).map_err(|error| format!("is no ONNX tensor: {error}"))?;
    let datatype = NUMBERS.iter().find(|(number, _)| *number == proto.data_type).map(|(_, datatype)| *datatype);
    let datatype = datatype.ok_or_else(|| format!("has ONNX's element type {}, which is not served", proto.data_type))?;
    if proto.data_location != 0 {
        return Err("keeps its elements in another file, expected them inside".to_owned());
    }
    let shape = proto
        .dims
        .iter()
        .map(|dimension| u64::try_from(*dimension).map_err(|_| format!("has a dimension of {dimension}")))
        .collect::<Result<Vec<_>, _>>()?;
    if datatype == Datatype::Bytes {
        let tensor = Tensor::of_texts(proto.name, shape, &proto.string_data);
        return Tensor::new(tensor.name, tensor.datatype, tensor.shape, tensor.data);
    }
    let data = if proto.raw_data.is_empty() { typed_data(&proto, datatype) } else { proto.raw_data };
    Tensor::new(proto.name, datatype, shape, data)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ONNX keeps narrow numbers in wider fields")]
fn typed_data(proto: &TensorProto, datatype: Datatype) -> Vec<u8> {
    let narrow = &proto.int32_data;
    match datatype {
        Datatype::Fp32 => proto.float_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Datatype::Fp64 => proto.double_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Datatype::Int64 => proto.int64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Datatype::Uint64 => proto.uint64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Datatype::Uint32 => proto.uint64_data.iter().flat_map(|value| (*value as u32).to_le_bytes()).collect(),
        Datatype::Int32 => narrow.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Datatype::Uint16 | Datatype::Int16 | Datatype::Fp16 | Datatype::Bf16 => {
            narrow.iter().flat_map(|value| (*value as u16).to_le_bytes()).collect()
        }
        Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => narrow.iter().map(|value| *value as u8).collect(),
        Datatype::Bytes => Vec::new(),
    }
}

/// Writes a tensor, so that ONNX's own tools read it.
fn encode(tensor: &Tensor) -> Vec<u8> {
    let number = NUMBERS.iter().find(|(_, datatype)| *datatype == tensor.datatype).map_or(0, |(number, _)| *number);
    let mut proto = TensorProto {
        dims: tensor.shape.iter().map(|dimension| i64::try_from(*dimension).unwrap_or(i64::MAX)).collect(),
        data_type: number,
        name: tensor.name.clone(),
        ..TensorProto::default()
    };
    match tensor.datatype {
        Datatype::Bytes => proto.string_data = tensor.texts().unwrap_or_default().into_iter().map(<[u8]>::to_vec).collect(),
        _ => proto.raw_data.clone_from(&tensor.data),
    }
    proto.encode_to_vec()
}

/// Writes a tensor to a file: whole, or not at all.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_tensor(path: &Path, tensor: &Tensor) -> Result<(), InferenceError> {
    crate::files::write_atomically(path, &encode(tensor))
        .map_err(|source| InferenceError::Write { path: path.to_owned(), source })
}

/// The files `PREFIX0.pb`, `PREFIX1.pb`, … of a folder, in the order of their numbers.
///
/// # Errors
/// Where the folder cannot be read.
pub fn tensor_files(folder: &Path, prefix: &str) -> Result<Vec<PathBuf>, InferenceError> {
    let read = |source| InferenceError::Read { path: folder.to_owned(), source };
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let number = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".pb")).and_then(|number| number.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Reads the tensors `PREFIX0.pb`, `PREFIX1.pb`, … of a folder: one that bears the name of a spec is for that one, any other for the one of its
/// place. They come named as the specs.
///
/// # Errors
/// Where a file cannot be read, holds no tensor, or two are for the same spec.
pub fn read_folder(folder: &Path, prefix: &str, specs: &[TensorSpec]) -> Result<Vec<Tensor>, InferenceError> {
    let mut tensors: Vec<Tensor> = Vec::new();
    for (index, path) in tensor_files(folder, prefix)?.into_iter().enumerate() {
        let wrong = |problem: String| InferenceError::Data { path: path.clone(), problem };
        let bytes = std::fs::read(&path).map_err(|source| InferenceError::Read { path: path.clone(), source })?;
        let mut tensor = parse(&bytes).map_err(wrong)?;
        if !specs.iter().any(|spec| spec.name == tensor.name) {
            let spec = specs.get(index).ok_or_else(|| wrong(format!("is number {index}, and the model has {}", specs.len())))?;
            tensor.name.clone_from(&spec.name);
        }
        if tensors.iter().any(|other| other.name == tensor.name) {
            return Err(wrong(format!("is for `{}`, as another file is", tensor.name)));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_is_read_as_written() {
        let tensors = [
            Tensor::new("x", Datatype::Fp32, vec![2], vec![0, 0, 128, 63, 0, 0, 0, 64]).expect("a tensor"),
            Tensor::new("", Datatype::Bool, vec![], vec![1]).expect("a tensor"),
            Tensor::of_texts("s", vec![2], &["a", ""]),
        ];
        for tensor in tensors {
            assert_eq!(parse(&encode(&tensor)), Ok(tensor));
        }
    }

    #[test]
    fn damage_is_told() {
        let whole = encode(&Tensor::new("x", Datatype::Fp32, vec![2], vec![0; 8]).expect("a tensor"));
        assert!(parse(&whole[..whole.len() - 3]).expect_err("it is cut").contains("no ONNX tensor"));
        assert!(parse(b"").expect_err("it is empty").contains("element type 0"));
    }

    #[test]
    fn typed_fields_and_raw_bytes_are_the_same() {
        let proto = |data_type| TensorProto { dims: vec![2], data_type, name: "a".to_owned(), ..TensorProto::default() };
        let typed = [
            (TensorProto { float_data: vec![1.0, -2.0], ..proto(1) }, [1.0_f32, -2.0].map(f32::to_le_bytes).concat()),
            (TensorProto { int32_data: vec![-1, 7], ..proto(3) }, vec![255, 7]),
            (TensorProto { int32_data: vec![-1, 7], ..proto(6) }, [-1_i32, 7].map(i32::to_le_bytes).concat()),
            (TensorProto { int32_data: vec![0x3c00, 0], ..proto(10) }, vec![0, 0x3c, 0, 0]),
            (TensorProto { int64_data: vec![-1, 7], ..proto(7) }, [-1_i64, 7].map(i64::to_le_bytes).concat()),
            (TensorProto { double_data: vec![0.5, 1.0], ..proto(11) }, [0.5_f64, 1.0].map(f64::to_le_bytes).concat()),
            (TensorProto { uint64_data: vec![1, 2], ..proto(12) }, [1_u32, 2].map(u32::to_le_bytes).concat()),
        ];
        for (typed, bytes) in typed {
            let tensor = parse(&typed.encode_to_vec()).expect("a tensor");
            assert_eq!((tensor.name.as_str(), &tensor.data), ("a", &bytes));
            let raw = TensorProto { raw_data: bytes, ..proto(typed.data_type) };
            assert_eq!(parse(&raw.encode_to_vec()).expect("a tensor"), tensor);
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
            TensorProto { raw_data: vec![0; 9], ..proto.clone() },
        ] {
            parse(&bad.encode_to_vec()).expect_err("it is refused");
        }
    }
}

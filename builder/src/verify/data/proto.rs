//! ONNX's `TensorProto` with its elements, as test data holds it: `input_0.pb`, `output_0.pb`.

use prost::Message;

use super::super::tensor::{Datatype, Tensor};

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
pub(super) fn parse(bytes: &[u8]) -> Result<Tensor, String> {
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
pub(super) fn encode(tensor: &Tensor) -> Vec<u8> {
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
}

//! Tensors to the runtime's values and back, and types in words.

use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use ort_sys as sys;

use super::api::{Status, api, check};
use super::call::{MemoryInfo, Session, TypeInfo, Value, tensor_info};
use crate::backend::ShapeSpec;
use crate::tensor::{Datatype, Elements, Strings, Tensor, TensorError, element_count};

use sys::ONNXTensorElementDataType as ElementType;

/// An input or output of the model.
pub(super) struct Outlet {
    pub name: String,
    /// Datatype and shape, or the type in words where the protocol cannot carry it.
    pub kind: Result<(Datatype, ShapeSpec), String>,
}

/// The runtime's numbers of element types that have a datatype.
const TYPES: [(Datatype, ElementType); 14] = [
    (Datatype::Fp32, ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT),
    (Datatype::Uint8, ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8),
    (Datatype::Int8, ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8),
    (Datatype::Uint16, ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16),
    (Datatype::Int16, ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16),
    (Datatype::Int32, ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32),
    (Datatype::Int64, ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64),
    (Datatype::Bytes, ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING),
    (Datatype::Bool, ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL),
    (Datatype::Fp16, ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16),
    (Datatype::Fp64, ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE),
    (Datatype::Uint32, ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32),
    (Datatype::Uint64, ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64),
    (Datatype::Bf16, ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16),
];

/// Names of the other element types, from the number of the first on.
const UNSERVED_FROM: i32 = 14;
const UNSERVED: [&str; 13] = [
    "complex64",
    "complex128",
    "bfloat16",
    "float8e4m3fn",
    "float8e4m3fnuz",
    "float8e5m2",
    "float8e5m2fnuz",
    "uint4",
    "int4",
    "float4e2m1",
    "uint2",
    "int2",
    "float8e8m0",
];

fn to_runtime(datatype: Datatype) -> ElementType {
    TYPES
        .iter()
        .find(|(ours, _)| *ours == datatype)
        .map_or(ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, |(_, theirs)| *theirs)
}

/// The datatype of an element type, or the type in words.
fn from_runtime(number: i32) -> Result<Datatype, String> {
    TYPES.iter().find(|(_, theirs)| *theirs as i32 == number).map(|(ours, _)| *ours).ok_or_else(|| {
        let name = usize::try_from(number - UNSERVED_FROM).ok().and_then(|index| UNSERVED.get(index));
        match name {
            Some(name) => format!("a tensor of {name}"),
            None => format!("a tensor of element type {number}"),
        }
    })
}

/// Datatype and shape of an input or output, or its type in words.
pub(super) fn describe(info: &TypeInfo) -> Result<Result<(Datatype, ShapeSpec), String>, Status> {
    // Numbers, not the enumerations: a later runtime may answer with one that these do not have.
    let mut kind = 0_i32;
    // SAFETY: the information is valid, and an `i32` has the size of the enumeration.
    unsafe { check(((*api()).GetOnnxTypeFromTypeInfo)(info.as_ptr(), (&raw mut kind).cast())) }?;
    let words = match kind {
        1 => None,
        2 => Some("a sequence"),
        3 => Some("a map"),
        4 => Some("opaque"),
        5 => Some("a sparse tensor"),
        6 => Some("an optional value"),
        _ => Some("of an unknown kind"),
    };
    if let Some(words) = words {
        return Ok(Err(words.to_owned()));
    }
    let mut tensor = ptr::null();
    // SAFETY: the information is valid and that of a tensor; what is cast from it lives as long as it does.
    let (number, dimensions) = unsafe {
        check(((*api()).CastTypeInfoToTensorInfo)(info.as_ptr(), &raw mut tensor))?;
        if tensor.is_null() {
            return Ok(Err("a tensor of unknown type".to_owned()));
        }
        type_and_dimensions(tensor)?
    };
    let shape = if dimensions.is_empty() {
        // The runtime gives no dimensions for a scalar and for an unknown rank alike.
        ShapeSpec::Unranked
    } else {
        ShapeSpec::Ranked(dimensions.into_iter().map(|dimension| usize::try_from(dimension).ok()).collect())
    };
    Ok(from_runtime(number).map(|datatype| (datatype, shape)))
}

/// # Safety
/// `info` is valid.
unsafe fn type_and_dimensions(info: *const sys::OrtTensorTypeAndShapeInfo) -> Result<(i32, Vec<i64>), Status> {
    let (mut number, mut rank) = (0_i32, 0);
    // SAFETY: `info` is valid by this function's contract, and there is room for as many dimensions as are asked for.
    unsafe {
        check(((*api()).GetTensorElementType)(info, (&raw mut number).cast()))?;
        check(((*api()).GetDimensionsCount)(info, &raw mut rank))?;
        let mut dimensions = vec![0_i64; rank];
        check(((*api()).GetDimensions)(info, dimensions.as_mut_ptr(), rank))?;
        Ok((number, dimensions))
    }
}

/// A tensor as the runtime sees it.
pub(super) struct Input {
    // Dropped before what it points into.
    value: Value,
    _tensor: Tensor,
}

impl Input {
    /// Wraps a tensor: numbers where they lie, strings copied.
    pub(super) fn new(tensor: Tensor) -> Result<Self, Status> {
        let tensor = tensor.aligned();
        let shape: Vec<i64> = tensor
            .shape()
            .iter()
            .map(|&dimension| i64::try_from(dimension).expect("the element count was checked against isize"))
            .collect();
        let element_type = to_runtime(tensor.datatype());
        let mut raw = ptr::null_mut();
        let value = match tensor.elements() {
            Elements::Fixed(bytes) => {
                // A pointer to nothing may be null, which the runtime refuses.
                static NOTHING: u64 = 0;
                let data = if bytes.is_empty() { (&raw const NOTHING).cast() } else { bytes.as_ptr() };
                // SAFETY: the buffer has the size of the shape, is aligned, and outlives the value; the runtime does not
                // write to the inputs of a graph.
                unsafe {
                    check(((*api()).CreateTensorWithDataAsOrtValue)(
                        cpu()?.as_ptr(),
                        data.cast_mut().cast::<c_void>(),
                        bytes.len(),
                        shape.as_ptr(),
                        shape.len(),
                        element_type,
                        &raw mut raw,
                    ))?;
                }
                Value::from_raw(raw)
            }
            Elements::Strings(strings) => {
                // SAFETY: the allocator is the runtime's own; each buffer is as long as was asked for.
                unsafe {
                    let mut allocator = ptr::null_mut();
                    check(((*api()).GetAllocatorWithDefaultOptions)(&raw mut allocator))?;
                    check(((*api()).CreateTensorAsOrtValue)(allocator, shape.as_ptr(), shape.len(), element_type, &raw mut raw))?;
                    let value = Value::from_raw(raw);
                    for (index, string) in strings.iter().enumerate() {
                        let mut buffer: *mut c_char = ptr::null_mut();
                        check(((*api()).GetResizedStringTensorElementBuffer)(raw, index, string.len(), &raw mut buffer))?;
                        if !string.is_empty() {
                            ptr::copy_nonoverlapping(string.as_ptr(), buffer.cast(), string.len());
                        }
                    }
                    value
                }
            }
        };
        Ok(Self { value, _tensor: tensor })
    }

    pub(super) fn as_ptr(&self) -> *const sys::OrtValue {
        self.value.as_ptr()
    }
}

fn cpu() -> Result<&'static MemoryInfo, Status> {
    static CPU: OnceLock<MemoryInfo> = OnceLock::new();
    if let Some(info) = CPU.get() {
        return Ok(info);
    }
    let info = MemoryInfo::cpu()?;
    Ok(CPU.get_or_init(|| info))
}

/// Why an output makes no tensor.
pub(super) enum OutputError {
    Status(Status),
    /// Its type in words.
    Kind(String),
    Tensor(TensorError),
}

impl From<Status> for OutputError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// A buffer that belongs to a value of the runtime.
struct OutputBuffer {
    // Dropped in this order: a value may point into an input, and its memory belongs to the session.
    _value: Value,
    _inputs: Arc<[Input]>,
    _session: Arc<Session>,
    data: *const u8,
    length: usize,
}

// SAFETY: the buffer is only read, and its owner is tied to no thread.
unsafe impl Send for OutputBuffer {}

impl AsRef<[u8]> for OutputBuffer {
    fn as_ref(&self) -> &[u8] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY: the value holds that many bytes there for as long as it lives, and nobody writes to them.
        unsafe { std::slice::from_raw_parts(self.data, self.length) }
    }
}

/// Takes an output over: numbers where they lie, strings copied.
pub(super) fn output(value: Value, inputs: &Arc<[Input]>, session: &Arc<Session>) -> Result<Tensor, OutputError> {
    if value.as_ptr().is_null() {
        return Err(OutputError::Kind("absent".into()));
    }
    let mut is_tensor = 0;
    // SAFETY: the value is valid.
    unsafe { check(((*api()).IsTensor)(value.as_ptr(), &raw mut is_tensor)) }?;
    if is_tensor == 0 {
        return Err(OutputError::Kind("no tensor".into()));
    }
    let info = tensor_info(&value)?;
    // SAFETY: the information is valid.
    let (number, dimensions) = unsafe { type_and_dimensions(info.as_ptr()) }?;
    let datatype = from_runtime(number).map_err(OutputError::Kind)?;
    let shape: Vec<usize> = dimensions
        .iter()
        .map(|&dimension| usize::try_from(dimension).map_err(|_| OutputError::Kind("of a negative dimension".into())))
        .collect::<Result<_, _>>()?;
    let count = element_count(&shape).map_err(OutputError::Tensor)?;
    let elements = match datatype.size() {
        Some(size) => {
            let mut data: *mut c_void = ptr::null_mut();
            // SAFETY: the value is a tensor of numbers.
            unsafe { check(((*api()).GetTensorMutableData)(value.as_ptr(), &raw mut data)) }?;
            let length = if data.is_null() { 0 } else { count * size };
            Elements::Fixed(Bytes::from_owner(OutputBuffer {
                _value: value,
                _inputs: Arc::clone(inputs),
                _session: Arc::clone(session),
                data: data.cast(),
                length,
            }))
        }
        None => Elements::Strings(strings(&value, count)?),
    };
    Tensor::new(datatype, shape, elements).map_err(OutputError::Tensor)
}

fn strings(value: &Value, count: usize) -> Result<Strings, Status> {
    let mut length = 0;
    // SAFETY: the value is a tensor of strings, and there is room for what the runtime says it writes.
    unsafe {
        check(((*api()).GetStringTensorDataLength)(value.as_ptr(), &raw mut length))?;
        let (mut bytes, mut starts) = (vec![0_u8; length], vec![0_usize; count]);
        if count > 0 {
            check(((*api()).GetStringTensorContent)(
                value.as_ptr(),
                bytes.as_mut_ptr().cast(),
                length,
                starts.as_mut_ptr(),
                count,
            ))?;
        }
        Ok(Strings::from_starts(bytes, &starts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datatype_has_one_number() {
        for datatype in Datatype::ALL {
            assert_eq!(from_runtime(to_runtime(datatype) as i32), Ok(datatype));
        }
        assert_eq!(from_runtime(17), Err("a tensor of float8e4m3fn".into()));
        assert_eq!(from_runtime(ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4 as i32), Err("a tensor of int4".into()));
        assert_eq!(from_runtime(26), Err("a tensor of float8e8m0".into()));
        assert_eq!(from_runtime(99), Err("a tensor of element type 99".into()));
        assert_eq!(from_runtime(0), Err("a tensor of element type 0".into()));
        assert_eq!(from_runtime(i32::MIN + 20), Err(format!("a tensor of element type {}", i32::MIN + 20)));
    }
}

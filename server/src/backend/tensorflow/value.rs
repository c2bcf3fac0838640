//! Tensors to the library's and back.

use std::ffi::{c_int, c_void};
use std::slice;

use bytes::Bytes;

use super::call::{self, api};
use super::signature::{datatype, number};
use crate::tensor::{Datatype, Elements, Strings, Tensor, TensorError, element_count};

/// Bytes of a string object in a tensor's buffer.
const STRING_SIZE: usize = 24;

/// A tensor that is fed, and the string objects in it, which the library does not free.
pub(super) struct Input {
    tensor: call::Tensor,
    strings: usize,
}

impl Input {
    pub fn as_ptr(&self) -> *mut call::Opaque {
        self.tensor.as_ptr()
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if self.strings == 0 {
            return;
        }
        // SAFETY: as many string objects were initialised in the buffer, and nothing reads them any more: outputs that share
        // it were copied.
        unsafe {
            let data = (api().TF_TensorData)(self.tensor.as_ptr()).cast::<u8>();
            for index in 0..self.strings {
                (api().TF_StringDealloc)(data.add(index * STRING_SIZE).cast());
            }
        }
    }
}

/// Makes the library's tensor of one of ours; numbers are not copied where their address suits the library.
pub(super) fn input(tensor: Tensor) -> Option<Input> {
    let tensor = tensor.aligned();
    let dimensions: Vec<i64> = tensor.shape().iter().map(|&size| i64::try_from(size).ok()).collect::<Option<_>>()?;
    let rank = c_int::try_from(dimensions.len()).ok()?;
    match tensor.elements() {
        Elements::Fixed(bytes) => {
            let owner = Box::into_raw(Box::new(bytes.clone()));
            // SAFETY: the bytes live until the library gives the owner back, and it only reads the buffer of a tensor that
            // is fed. Dimensions and length agree, since a tensor of ours does.
            let raw = unsafe {
                (api().TF_NewTensor)(
                    number(tensor.datatype()),
                    dimensions.as_ptr(),
                    rank,
                    bytes.as_ptr().cast_mut().cast(),
                    bytes.len(),
                    release,
                    owner.cast(),
                )
            };
            Some(Input { tensor: call::Tensor::from_raw(raw)?, strings: 0 })
        }
        Elements::Strings(strings) => {
            let length = strings.len().checked_mul(STRING_SIZE)?;
            // SAFETY: the tensor has room for as many string objects, each of which is initialised before it is set.
            unsafe {
                let raw = (api().TF_AllocateTensor)(number(Datatype::Bytes), dimensions.as_ptr(), rank, length);
                let allocated = call::Tensor::from_raw(raw)?;
                let data = (api().TF_TensorData)(allocated.as_ptr()).cast::<u8>();
                for (index, string) in strings.iter().enumerate() {
                    let place = data.add(index * STRING_SIZE).cast::<c_void>();
                    (api().TF_StringInit)(place);
                    (api().TF_StringCopy)(place, string.as_ptr().cast(), string.len());
                }
                Some(Input { tensor: allocated, strings: strings.len() })
            }
        }
    }
}

/// Frees the bytes behind a tensor.
unsafe extern "C" fn release(_data: *mut c_void, _length: usize, owner: *mut c_void) {
    // SAFETY: the owner was made by `Box::into_raw` and is given back once.
    drop(unsafe { Box::from_raw(owner.cast::<Bytes>()) });
}

/// Why an output cannot be handed on.
pub(super) enum OutputError {
    /// Its type, in words, is none of the protocol.
    Kind(String),
    /// It contradicts itself.
    Tensor(TensorError),
}

/// Makes our tensor of one of the library's; numbers are not copied.
pub(super) fn output(tensor: call::Tensor) -> Result<Tensor, OutputError> {
    // SAFETY: the tensor is valid, and dimensions are asked for only below its rank.
    let (kind, shape) = unsafe {
        let kind = (api().TF_TensorType)(tensor.as_ptr());
        let rank = (api().TF_NumDims)(tensor.as_ptr()).max(0);
        let shape = (0..rank).map(|index| (api().TF_Dim)(tensor.as_ptr(), index)).collect::<Vec<_>>();
        (kind, shape)
    };
    let datatype = datatype(u64::try_from(kind).unwrap_or(u64::MAX)).map_err(OutputError::Kind)?;
    let shape: Vec<usize> = shape.into_iter().map(|size| usize::try_from(size).unwrap_or(usize::MAX)).collect();
    let elements = if datatype == Datatype::Bytes {
        Elements::Strings(strings(&tensor, element_count(&shape).map_err(OutputError::Tensor)?))
    } else {
        Elements::Fixed(Bytes::from_owner(Numbers(tensor)))
    };
    Tensor::new(datatype, shape, elements).map_err(OutputError::Tensor)
}

/// The buffer of a tensor of numbers.
struct Numbers(call::Tensor);

impl AsRef<[u8]> for Numbers {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the buffer is as long as is said, lives as long as the tensor, and nothing changes it any more.
        unsafe {
            let data = (api().TF_TensorData)(self.0.as_ptr()).cast::<u8>();
            let length = (api().TF_TensorByteSize)(self.0.as_ptr());
            if data.is_null() || length == 0 { &[] } else { slice::from_raw_parts(data, length) }
        }
    }
}

fn strings(tensor: &call::Tensor, count: usize) -> Strings {
    let mut strings = Strings::default();
    // SAFETY: the buffer holds as many string objects, which live as long as the tensor.
    unsafe {
        let data = (api().TF_TensorData)(tensor.as_ptr()).cast::<u8>();
        for index in 0..count {
            let place = data.add(index * STRING_SIZE).cast::<c_void>();
            let (bytes, length) = ((api().TF_StringGetDataPointer)(place), (api().TF_StringGetSize)(place));
            strings.push(if length == 0 { &[] } else { slice::from_raw_parts(bytes.cast(), length) });
        }
    }
    strings
}

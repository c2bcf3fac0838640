//! Tensors as the server holds them between a protocol and a backend.
//!
//! [`Tensor`] is the one currency: a protocol makes it from a request, a [`Backend`](crate::backend::Backend) takes and
//! returns it, and neither knows the other. Elements lie little-endian, row-major, in one shared buffer, so that bytes
//! go from the socket to the runtime and back without being copied where their alignment allows it.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

/// The type of a tensor's elements, named as in the Open Inference Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Datatype {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned 8 bit.
    Uint8,
    /// Unsigned 16 bit.
    Uint16,
    /// Unsigned 32 bit.
    Uint32,
    /// Unsigned 64 bit.
    Uint64,
    /// Signed 8 bit.
    Int8,
    /// Signed 16 bit.
    Int16,
    /// Signed 32 bit.
    Int32,
    /// Signed 64 bit.
    Int64,
    /// IEEE 754 binary16.
    Fp16,
    /// The upper half of a binary32; travels in binary only.
    Bf16,
    /// IEEE 754 binary32.
    Fp32,
    /// IEEE 754 binary64.
    Fp64,
    /// Byte strings of any length.
    Bytes,
}

impl Datatype {
    /// Every datatype, for tables and tests.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    /// Bytes of one element; `None` for [`Datatype::Bytes`], whose elements differ in length.
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// The protocol's name, such as `FP32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Datatype {
    type Err = TensorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.name() == text)
            .ok_or_else(|| TensorError::UnknownDatatype { found: text.chars().take(32).collect() })
    }
}

/// What is wrong with a tensor, apart from the model that it is meant for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The name of a datatype that the protocol does not have.
    #[error("datatype `{found}` is unknown, expected one of BOOL, UINT8 to UINT64, INT8 to INT64, FP16, BF16, FP32, FP64, BYTES")]
    UnknownDatatype {
        /// The name as given, cut at 32 characters.
        found: String,
    },
    /// Dimensions whose product does not fit the address space.
    #[error("shape {} has more elements than can be addressed", Shape(.shape))]
    TooManyElements {
        /// The dimensions.
        shape: Vec<usize>,
    },
    /// The buffer does not hold what the shape says.
    #[error("{datatype} of shape {} takes {expected} bytes, found {found}", Shape(.shape))]
    WrongSize {
        /// The element type.
        datatype: Datatype,
        /// The dimensions.
        shape: Vec<usize>,
        /// Bytes that the shape asks for.
        expected: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// The number of elements is not what the shape says.
    #[error("shape {} has {expected} elements, found {found}", Shape(.shape))]
    WrongCount {
        /// The dimensions.
        shape: Vec<usize>,
        /// Elements that the shape asks for.
        expected: usize,
        /// Elements that are there.
        found: usize,
    },
    /// A BOOL byte that is neither 0 nor 1.
    #[error("element {index} of a BOOL tensor is the byte {found}, expected 0 or 1")]
    NotBool {
        /// The element's place in row-major order.
        index: usize,
        /// The byte.
        found: u8,
    },
    /// Strings were given for numbers or the reverse.
    #[error("elements of {datatype} are given in the layout of another datatype")]
    WrongLayout {
        /// The element type that was declared.
        datatype: Datatype,
    },
}

/// Writes dimensions as `[2,3]`.
pub struct Shape<'a>(pub &'a [usize]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, dimension) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{dimension}")?;
        }
        f.write_str("]")
    }
}

/// The number of elements of a shape: 1 for no dimensions.
///
/// # Errors
/// [`TensorError::TooManyElements`] when the product does not fit.
pub fn element_count(shape: &[usize]) -> Result<usize, TensorError> {
    // A zero anywhere makes the product zero, whatever the other dimensions are.
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(1_usize, |product, &dimension| product.checked_mul(dimension))
        // Element counts are signed in every runtime's interface.
        .filter(|&count| isize::try_from(count).is_ok())
        .ok_or_else(|| TensorError::TooManyElements { shape: shape.to_vec() })
}

/// Byte strings, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Strings {
    bytes: Vec<u8>,
    /// Where each string ends in `bytes`.
    ends: Vec<usize>,
}

impl Strings {
    /// An empty list with room for `count` strings of `bytes` bytes together.
    pub fn with_capacity(count: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(count) }
    }

    /// Takes bytes and the place where each string starts, as ONNX Runtime gives them.
    ///
    /// Starts that do not rise or lie outside the bytes are brought into range, so that reading never fails.
    pub fn from_starts(bytes: Vec<u8>, starts: &[usize]) -> Self {
        let mut ends = Vec::with_capacity(starts.len());
        let mut last = 0;
        for index in 1..=starts.len() {
            let end = starts.get(index).copied().unwrap_or(bytes.len());
            last = end.clamp(last, bytes.len());
            ends.push(last);
        }
        Self { bytes, ends }
    }

    /// Adds one string.
    pub fn push(&mut self, string: &[u8]) {
        self.bytes.extend_from_slice(string);
        self.ends.push(self.bytes.len());
    }

    /// The number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no string.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all strings together.
    pub fn total_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// One string by its place.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let string = &self.bytes[start..end];
            start = end;
            string
        })
    }
}

impl<'a> FromIterator<&'a [u8]> for Strings {
    fn from_iter<T: IntoIterator<Item = &'a [u8]>>(iterator: T) -> Self {
        let mut strings = Self::default();
        for string in iterator {
            strings.push(string);
        }
        strings
    }
}

/// A tensor's elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elements {
    /// Elements of one size, little-endian, without gaps.
    Fixed(Bytes),
    /// The elements of a [`Datatype::Bytes`] tensor.
    Strings(Strings),
}

/// A tensor whose elements agree with its datatype and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    datatype: Datatype,
    shape: Vec<usize>,
    elements: Elements,
}

impl Tensor {
    /// Makes a tensor, row-major.
    ///
    /// # Errors
    /// When the elements are not as many as the shape says, lie in another layout, or are no BOOL.
    pub fn new(datatype: Datatype, shape: Vec<usize>, elements: Elements) -> Result<Self, TensorError> {
        let count = element_count(&shape)?;
        match (&elements, datatype.size()) {
            (Elements::Fixed(bytes), Some(size)) => {
                let expected = count.checked_mul(size).ok_or_else(|| TensorError::TooManyElements { shape: shape.clone() })?;
                if bytes.len() != expected {
                    return Err(TensorError::WrongSize { datatype, shape, expected, found: bytes.len() });
                }
                if datatype == Datatype::Bool
                    && let Some(index) = bytes.iter().position(|&byte| byte > 1)
                {
                    // A C++ bool that is neither 0 nor 1 is undefined behaviour in the runtime.
                    return Err(TensorError::NotBool { index, found: bytes[index] });
                }
            }
            (Elements::Strings(strings), None) => {
                if strings.len() != count {
                    return Err(TensorError::WrongCount { shape, expected: count, found: strings.len() });
                }
            }
            _ => return Err(TensorError::WrongLayout { datatype }),
        }
        Ok(Self { datatype, shape, elements })
    }

    /// A tensor of zeros, or of empty strings.
    ///
    /// # Errors
    /// [`TensorError::TooManyElements`] when the shape does not fit the address space.
    pub fn zeros(datatype: Datatype, shape: Vec<usize>) -> Result<Self, TensorError> {
        let count = element_count(&shape)?;
        let elements = match datatype.size() {
            Some(size) => {
                let words =
                    count.checked_mul(size).ok_or_else(|| TensorError::TooManyElements { shape: shape.clone() })?.div_ceil(8);
                Elements::Fixed(from_vec(vec![0_u64; words]).slice(..count * size))
            }
            None => Elements::Strings(Strings { bytes: Vec::new(), ends: vec![0; count] }),
        };
        Self::new(datatype, shape, elements)
    }

    /// The element type.
    pub fn datatype(&self) -> Datatype {
        self.datatype
    }

    /// The dimensions; none for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements.
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// The same tensor with its buffer at an address that is a multiple of the element's size.
    ///
    /// Bytes that came in the middle of a request may lie anywhere; they are copied only when they must be.
    #[must_use]
    pub fn aligned(mut self) -> Self {
        if let (Elements::Fixed(bytes), Some(size)) = (&self.elements, self.datatype.size())
            && bytes.as_ptr().align_offset(size) != 0
        {
            let mut words = vec![0_u64; bytes.len().div_ceil(8)];
            // SAFETY: a `u64` has no invalid bit pattern, and the words cover at least `bytes.len()` bytes.
            let target = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), bytes.len()) };
            target.copy_from_slice(bytes);
            self.elements = Elements::Fixed(from_vec(words).slice(..bytes.len()));
        }
        self
    }
}

/// A number as it lies in a tensor: no padding and no invalid bit pattern.
pub trait Number: Copy + Send + Sync + 'static {}
impl Number for u8 {}
impl Number for u16 {}
impl Number for u32 {}
impl Number for u64 {}
impl Number for i8 {}
impl Number for i16 {}
impl Number for i32 {}
impl Number for i64 {}
impl Number for f32 {}
impl Number for f64 {}

/// Turns numbers into a tensor's buffer, without copying them.
pub fn from_vec<T: Number>(numbers: Vec<T>) -> Bytes {
    struct Owner<T: Number>(Vec<T>);
    impl<T: Number> AsRef<[u8]> for Owner<T> {
        fn as_ref(&self) -> &[u8] {
            // SAFETY: a `Number` has no padding, and the length is that of the vector's own allocation.
            unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast::<u8>(), std::mem::size_of_val(self.0.as_slice())) }
        }
    }
    // The layout in memory is the layout on the wire only on a little-endian machine.
    const { assert!(cfg!(target_endian = "little")) };
    Bytes::from_owner(Owner(numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for datatype in Datatype::ALL {
            assert_eq!(datatype.to_string().parse::<Datatype>(), Ok(datatype));
        }
        assert!("FP8".parse::<Datatype>().is_err());
        assert!("fp32".parse::<Datatype>().is_err());
    }

    #[test]
    fn counts_do_not_overflow() {
        assert_eq!(element_count(&[]), Ok(1));
        assert_eq!(element_count(&[usize::MAX, 0, usize::MAX]), Ok(0));
        assert!(element_count(&[usize::MAX, 2]).is_err());
        assert!(element_count(&[1 << 63]).is_err());
        assert!(Tensor::zeros(Datatype::Fp64, vec![1 << 61]).is_err());
    }

    #[test]
    fn elements_must_fit_the_shape() {
        let four = || Elements::Fixed(Bytes::from_static(&[0; 4]));
        assert!(Tensor::new(Datatype::Fp32, vec![], four()).is_ok());
        assert!(Tensor::new(Datatype::Fp32, vec![1, 1], four()).is_ok());
        assert_eq!(
            Tensor::new(Datatype::Fp32, vec![2], four()),
            Err(TensorError::WrongSize { datatype: Datatype::Fp32, shape: vec![2], expected: 8, found: 4 })
        );
        assert!(Tensor::new(Datatype::Bytes, vec![4], four()).is_err());
        assert!(Tensor::new(Datatype::Int8, vec![0, 7], Elements::Fixed(Bytes::new())).is_ok());
        assert_eq!(
            Tensor::new(Datatype::Bool, vec![3], Elements::Fixed(Bytes::from_static(&[0, 1, 2]))),
            Err(TensorError::NotBool { index: 2, found: 2 })
        );
    }

    #[test]
    fn aligning_keeps_the_bytes() {
        let buffer = from_vec((0..64_u64).collect::<Vec<_>>());
        for start in 0..8 {
            let bytes = buffer.slice(start..start + 64);
            let tensor = Tensor::new(Datatype::Fp64, vec![8], Elements::Fixed(bytes.clone())).expect("eight doubles");
            let tensor = tensor.aligned();
            let Elements::Fixed(found) = tensor.elements() else { panic!("numbers") };
            assert_eq!(found, &bytes);
            assert_eq!(found.as_ptr().align_offset(8), 0);
            assert_eq!(found.as_ptr() == bytes.as_ptr(), start == 0, "copied only when it must be");
        }
    }

    #[test]
    fn strings_from_starts_survive_nonsense() {
        let strings = Strings::from_starts(b"abcdef".to_vec(), &[0, 2, 2]);
        assert_eq!(strings.iter().collect::<Vec<_>>(), [b"ab".as_slice(), b"", b"cdef"]);
        let strings = Strings::from_starts(b"abc".to_vec(), &[9, 1, 0]);
        assert_eq!(strings.len(), 3);
        assert_eq!(strings.iter().map(<[u8]>::len).sum::<usize>(), 3);
    }
}

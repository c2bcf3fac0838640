//! Tensors as they travel: [`Tensor`] and [`Datatype`], in the Open Inference Protocol's names and byte order.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// What the elements of a tensor are, by the Open Inference Protocol's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are the protocol's own")]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

impl Datatype {
    /// Every datatype.
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

    /// Its name in the protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
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

    /// Bytes of an element; `None` for `BYTES`, whose elements carry their lengths.
    #[must_use]
    pub fn width(self) -> Option<usize> {
        Some(match self {
            Self::Bool | Self::Uint8 | Self::Int8 => 1,
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => 2,
            Self::Uint32 | Self::Int32 | Self::Fp32 => 4,
            Self::Uint64 | Self::Int64 | Self::Fp64 => 8,
            Self::Bytes => return None,
        })
    }

    /// True for floating point.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::Fp16 | Self::Bf16 | Self::Fp32 | Self::Fp64)
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Datatype {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.as_str() == text)
            .ok_or_else(|| format!("datatype is `{text}`, expected one of {}", names()))
    }
}

/// A tensor: little-endian elements in row-major order; each element of `BYTES` behind its length in 4 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name; empty where the file it is from names none.
    pub name: String,
    /// What its elements are.
    pub datatype: Datatype,
    /// Its dimensions; none for a scalar.
    pub shape: Vec<u64>,
    /// Its elements.
    pub data: Vec<u8>,
}

impl Tensor {
    /// A tensor whose bytes fit its shape.
    ///
    /// # Errors
    /// Where they do not, in words.
    pub fn new(name: impl Into<String>, datatype: Datatype, shape: Vec<u64>, data: Vec<u8>) -> Result<Self, String> {
        let tensor = Self { name: name.into(), datatype, shape, data };
        let elements = tensor.elements().ok_or_else(|| format!("shape {:?} has too many elements", tensor.shape))?;
        match datatype.width() {
            Some(width) => {
                let expected = elements.saturating_mul(width as u64);
                if tensor.data.len() as u64 != expected {
                    return Err(format!(
                        "has {} bytes, expected {expected} for {datatype} of shape {:?}",
                        tensor.data.len(),
                        tensor.shape
                    ));
                }
            }
            None => {
                let found = tensor.texts().ok_or("is BYTES whose lengths do not fit its bytes")?.len();
                if found as u64 != elements {
                    return Err(format!("has {found} elements, expected {elements} for shape {:?}", tensor.shape));
                }
            }
        }
        Ok(tensor)
    }

    /// A tensor of `BYTES` from its elements.
    #[must_use]
    pub fn of_texts<T: AsRef<[u8]>>(name: impl Into<String>, shape: Vec<u64>, texts: &[T]) -> Self {
        let mut data = Vec::new();
        for text in texts {
            let text = text.as_ref();
            data.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
            data.extend(text);
        }
        Self { name: name.into(), datatype: Datatype::Bytes, shape, data }
    }

    /// How many elements the shape says; `None` where that is no number of 64 bits.
    #[must_use]
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1_u64, |product, dimension| product.checked_mul(*dimension))
    }

    /// The elements as 64-bit floats: exact for all but integers beyond 2^53. Empty for `BYTES`.
    #[must_use]
    pub fn floats(&self) -> Vec<f64> {
        fn each<const N: usize>(data: &[u8], convert: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            data.chunks_exact(N).map(|bytes| convert(bytes.try_into().expect("a chunk has N bytes"))).collect()
        }
        #[expect(clippy::cast_precision_loss, reason = "said in the documentation")]
        match self.datatype {
            Datatype::Bool | Datatype::Uint8 => each(&self.data, |bytes: [u8; 1]| f64::from(bytes[0])),
            Datatype::Int8 => each(&self.data, |bytes| f64::from(i8::from_le_bytes(bytes))),
            Datatype::Uint16 => each(&self.data, |bytes| f64::from(u16::from_le_bytes(bytes))),
            Datatype::Int16 => each(&self.data, |bytes| f64::from(i16::from_le_bytes(bytes))),
            Datatype::Uint32 => each(&self.data, |bytes| f64::from(u32::from_le_bytes(bytes))),
            Datatype::Int32 => each(&self.data, |bytes| f64::from(i32::from_le_bytes(bytes))),
            Datatype::Uint64 => each(&self.data, |bytes| u64::from_le_bytes(bytes) as f64),
            Datatype::Int64 => each(&self.data, |bytes| i64::from_le_bytes(bytes) as f64),
            Datatype::Fp16 => each(&self.data, |bytes| f16::from_le_bytes(bytes).to_f64()),
            Datatype::Bf16 => each(&self.data, |bytes| bf16::from_le_bytes(bytes).to_f64()),
            Datatype::Fp32 => each(&self.data, |bytes| f64::from(f32::from_le_bytes(bytes))),
            Datatype::Fp64 => each(&self.data, f64::from_le_bytes),
            Datatype::Bytes => Vec::new(),
        }
    }

    /// The elements of `BYTES`; `None` where lengths and bytes do not fit.
    #[must_use]
    pub fn texts(&self) -> Option<Vec<&[u8]>> {
        let mut rest = self.data.as_slice();
        let mut texts = Vec::new();
        while !rest.is_empty() {
            let (length, behind) = rest.split_first_chunk::<4>()?;
            let (text, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            texts.push(text);
            rest = behind;
        }
        Some(texts)
    }

    /// One element as people read it.
    #[must_use]
    pub fn element(&self, index: usize) -> String {
        match self.datatype.width() {
            None => {
                let texts = self.texts().unwrap_or_default();
                texts.get(index).map_or_else(String::new, |text| format!("{:?}", String::from_utf8_lossy(text)))
            }
            Some(width) => {
                let Some(data) = self.data.get(index * width..(index + 1) * width) else { return String::new() };
                let one = Self { name: String::new(), datatype: self.datatype, shape: Vec::new(), data: data.to_vec() };
                let value = one.floats().first().copied().unwrap_or_default();
                match (self.datatype, data.try_into()) {
                    (Datatype::Int64, Ok(bytes)) => i64::from_le_bytes(bytes).to_string(),
                    (Datatype::Uint64, Ok(bytes)) => u64::from_le_bytes(bytes).to_string(),
                    // As 64-bit floats they would get digits that they do not have.
                    (Datatype::Fp32, _) => data.try_into().map(f32::from_le_bytes).unwrap_or_default().to_string(),
                    (Datatype::Fp16, _) => shortest(value, |other| f16::from_f64(other) == f16::from_f64(value)),
                    (Datatype::Bf16, _) => shortest(value, |other| bf16::from_f64(other) == bf16::from_f64(value)),
                    _ => value.to_string(),
                }
            }
        }
    }
}

/// The decimal number with the fewest digits that a datatype rounds to the same value.
fn shortest(value: f64, is_same: impl Fn(f64) -> bool) -> String {
    // Five digits tell all finite values with 16 bits apart.
    let rounded = (0..5).filter_map(|digits| format!("{value:.digits$e}").parse().ok()).find(|other| is_same(*other));
    rounded.unwrap_or(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_shown_with_the_digits_that_they_have() {
        let shown = |datatype, data: &[u8]| Tensor::new("x", datatype, vec![1], data.to_vec()).expect("a tensor").element(0);
        assert_eq!(shown(Datatype::Fp32, &0.1_f32.to_le_bytes()), "0.1");
        assert_eq!(shown(Datatype::Fp16, &f16::from_f64(0.1).to_le_bytes()), "0.1");
        assert_eq!(shown(Datatype::Bf16, &bf16::from_f64(0.1).to_le_bytes()), "0.1");
        assert_eq!(shown(Datatype::Fp16, &f16::NEG_INFINITY.to_le_bytes()), "-inf");
        assert_eq!(shown(Datatype::Bf16, &bf16::NAN.to_le_bytes()), "NaN");
        for bits in 0..=u16::MAX {
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            let read = |text: String| text.parse::<f64>().expect("a number");
            assert!(half.is_nan() || f16::from_f64(read(shown(Datatype::Fp16, &half.to_le_bytes()))) == half, "{half}");
            assert!(brain.is_nan() || bf16::from_f64(read(shown(Datatype::Bf16, &brain.to_le_bytes()))) == brain, "{brain}");
        }
    }

    #[test]
    fn bytes_must_fit_the_shape() {
        assert!(Tensor::new("x", Datatype::Fp32, vec![2, 2], vec![0; 16]).is_ok());
        assert!(Tensor::new("x", Datatype::Fp32, vec![], vec![0; 4]).is_ok(), "a scalar has one element");
        assert!(Tensor::new("x", Datatype::Fp32, vec![0, 5], vec![]).is_ok());
        let error = Tensor::new("x", Datatype::Fp32, vec![2, 2], vec![0; 15]).expect_err("a byte is missing");
        assert_eq!(error, "has 15 bytes, expected 16 for FP32 of shape [2, 2]");
        assert!(Tensor::new("x", Datatype::Int8, vec![u64::MAX, 2], vec![]).is_err());
    }

    #[test]
    fn texts_are_read_as_written_and_never_beyond_their_end() {
        let tensor = Tensor::of_texts("x", vec![3], &["", "ab", "ü"]);
        assert_eq!(tensor.texts().expect("texts"), [&b""[..], b"ab", "ü".as_bytes()]);
        assert_eq!(tensor.element(1), "\"ab\"");
        let damaged = Tensor { data: tensor.data[..tensor.data.len() - 1].to_vec(), ..tensor };
        assert_eq!(damaged.texts(), None);
        assert!(Tensor::new("x", Datatype::Bytes, vec![1], vec![255, 255, 255, 255]).is_err());
    }

    #[test]
    fn every_name_is_read_back() {
        for datatype in Datatype::ALL {
            assert_eq!(datatype.to_string().parse(), Ok(datatype));
        }
        assert!("FP31".parse::<Datatype>().is_err());
    }
}

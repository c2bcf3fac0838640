//! Reads a serialised ONNX `TensorProto`, the form of test data beside a model.
//!
//! Only what a tensor file has: dimensions, type, name, and elements raw or in a typed field. Segments and external data
//! are refused.

use bytes::Bytes;

use crate::tensor::{Datatype, Elements, Strings, Tensor, TensorError, from_vec};

/// What is wrong with a tensor file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorProtoError {
    /// The bytes end inside a field.
    #[error("the protobuf message is cut short or damaged near byte {offset}")]
    Damaged {
        /// Where reading stopped.
        offset: usize,
    },
    /// A field that has another wire type than the format says.
    #[error("field {field} has wire type {found}")]
    WireType {
        /// The field's number.
        field: u64,
        /// The wire type.
        found: u8,
    },
    /// An element type that is not served.
    #[error("data type {found} of ONNX is not served")]
    DataType {
        /// The number in ONNX's enumeration.
        found: u64,
    },
    /// A negative dimension.
    #[error("a dimension is {found}, expected 0 or more")]
    Dimension {
        /// The dimension.
        found: i64,
    },
    /// Elements that lie in another file.
    #[error("the elements lie in another file, expected them inside")]
    External,
    /// An element that does not fit its type.
    #[error("element {found} does not fit {datatype}")]
    Element {
        /// The element.
        found: i64,
        /// The type.
        datatype: Datatype,
    },
    /// Elements that do not fit the shape.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// A tensor and the name that its file gives it, which may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedTensor {
    /// The name.
    pub name: String,
    /// The tensor.
    pub tensor: Tensor,
}

/// Reads one message.
///
/// # Errors
/// See [`TensorProtoError`].
pub fn parse(bytes: &[u8]) -> Result<NamedTensor, TensorProtoError> {
    let mut reader = Reader::new(bytes);
    let mut fields = Fields::default();
    while let Some((field, wire)) = reader.key()? {
        fields.read(&mut reader, field, wire)?;
    }
    fields.finish()
}

#[derive(Default)]
struct Fields<'a> {
    dims: Vec<i64>,
    data_type: u64,
    name: &'a [u8],
    raw: Option<&'a [u8]>,
    floats: Vec<u32>,
    doubles: Vec<u64>,
    /// The fields `int32_data`, `int64_data` and `uint64_data`; which one is told by the data type.
    integers: Vec<u64>,
    strings: Strings,
    external: bool,
}

impl<'a> Fields<'a> {
    fn read(&mut self, reader: &mut Reader<'a>, field: u64, wire: u8) -> Result<(), TensorProtoError> {
        match field {
            1 => {
                let mut dims = Vec::new();
                reader.varints(field, wire, &mut dims)?;
                self.dims.extend(dims.into_iter().map(u64::cast_signed));
            }
            2 => self.data_type = reader.expect(field, wire, 0)?.varint()?,
            4 => reader.fixed(field, wire, 5, |raw: [u8; 4]| self.floats.push(u32::from_le_bytes(raw)))?,
            5 | 7 | 11 => reader.varints(field, wire, &mut self.integers)?,
            6 => self.strings.push(reader.expect(field, wire, 2)?.block()?),
            8 => self.name = reader.expect(field, wire, 2)?.block()?,
            9 => self.raw = Some(reader.expect(field, wire, 2)?.block()?),
            10 => reader.fixed(field, wire, 1, |raw: [u8; 8]| self.doubles.push(u64::from_le_bytes(raw)))?,
            13 => {
                reader.expect(field, wire, 2)?.block()?;
                self.external = true;
            }
            14 => self.external |= reader.expect(field, wire, 0)?.varint()? == 1,
            _ => reader.skip(field, wire)?,
        }
        Ok(())
    }

    fn finish(self) -> Result<NamedTensor, TensorProtoError> {
        if self.external {
            return Err(TensorProtoError::External);
        }
        let datatype = from_onnx(self.data_type).ok_or(TensorProtoError::DataType { found: self.data_type })?;
        let shape = self
            .dims
            .iter()
            .map(|&found| usize::try_from(found).map_err(|_| TensorProtoError::Dimension { found }))
            .collect::<Result<Vec<_>, _>>()?;
        let elements = match (datatype, self.raw) {
            (Datatype::Bytes, _) => Elements::Strings(self.strings),
            (_, Some(raw)) => Elements::Fixed(Bytes::copy_from_slice(raw)),
            (Datatype::Fp32, None) => Elements::Fixed(from_vec(self.floats)),
            (Datatype::Fp64, None) => Elements::Fixed(from_vec(self.doubles)),
            (Datatype::Int64 | Datatype::Uint64, None) => Elements::Fixed(from_vec(self.integers)),
            (_, None) => Elements::Fixed(narrow(datatype, &self.integers)?),
        };
        Ok(NamedTensor {
            name: String::from_utf8_lossy(self.name).into_owned(),
            tensor: Tensor::new(datatype, shape, elements)?.aligned(),
        })
    }
}

/// Packs the elements of `int32_data` (and of `uint64_data` for UINT32) at their own width.
fn narrow(datatype: Datatype, integers: &[u64]) -> Result<Bytes, TensorProtoError> {
    let size = datatype.size().unwrap_or(1);
    let mut bytes = Vec::with_capacity(integers.len() * size);
    for &integer in integers {
        let signed = integer.cast_signed();
        let fits = match datatype {
            Datatype::Bool => (0..=1).contains(&signed),
            Datatype::Uint8 => u8::try_from(signed).is_ok(),
            Datatype::Int8 => i8::try_from(signed).is_ok(),
            Datatype::Uint16 | Datatype::Fp16 | Datatype::Bf16 => u16::try_from(signed).is_ok(),
            Datatype::Int16 => i16::try_from(signed).is_ok(),
            Datatype::Uint32 => u32::try_from(signed).is_ok(),
            _ => i32::try_from(signed).is_ok(),
        };
        if !fits {
            return Err(TensorProtoError::Element { found: signed, datatype });
        }
        bytes.extend_from_slice(&integer.to_le_bytes()[..size]);
    }
    Ok(bytes.into())
}

/// The datatype of a number in ONNX's enumeration of tensor types, which ONNX Runtime's does not share.
fn from_onnx(data_type: u64) -> Option<Datatype> {
    Some(match data_type {
        1 => Datatype::Fp32,
        2 => Datatype::Uint8,
        3 => Datatype::Int8,
        4 => Datatype::Uint16,
        5 => Datatype::Int16,
        6 => Datatype::Int32,
        7 => Datatype::Int64,
        8 => Datatype::Bytes,
        9 => Datatype::Bool,
        10 => Datatype::Fp16,
        11 => Datatype::Fp64,
        12 => Datatype::Uint32,
        13 => Datatype::Uint64,
        16 => Datatype::Bf16,
        _ => return None,
    })
}

/// Reads the fields of one protobuf message.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of a message.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// The number and wire type of the next field, `None` at the end.
    pub(crate) fn key(&mut self) -> Result<Option<(u64, u8)>, TensorProtoError> {
        if self.offset >= self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        Ok(Some((key >> 3, (key & 7) as u8)))
    }

    fn damaged<T>(&self) -> Result<T, TensorProtoError> {
        Err(TensorProtoError::Damaged { offset: self.offset })
    }

    pub(crate) fn varint(&mut self) -> Result<u64, TensorProtoError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let Some(&byte) = self.bytes.get(self.offset) else { return self.damaged() };
            self.offset += 1;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        self.damaged()
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], TensorProtoError> {
        let Some(block) = self.bytes[self.offset..].get(..length) else { return self.damaged() };
        self.offset += length;
        Ok(block)
    }

    pub(crate) fn block(&mut self) -> Result<&'a [u8], TensorProtoError> {
        let length = self.varint()?;
        let Ok(length) = usize::try_from(length) else { return self.damaged() };
        self.take(length)
    }

    pub(crate) fn expect(&mut self, field: u64, found: u8, expected: u8) -> Result<&mut Self, TensorProtoError> {
        if found == expected { Ok(self) } else { Err(TensorProtoError::WireType { field, found }) }
    }

    /// One varint, or a packed block of them.
    fn varints(&mut self, field: u64, wire: u8, out: &mut Vec<u64>) -> Result<(), TensorProtoError> {
        if wire == 0 {
            out.push(self.varint()?);
            return Ok(());
        }
        let mut packed = Reader { bytes: self.expect(field, wire, 2)?.block()?, offset: 0 };
        while packed.offset < packed.bytes.len() {
            out.push(packed.varint()?);
        }
        Ok(())
    }

    /// One number of fixed width, or a packed block of them.
    fn fixed<const N: usize>(
        &mut self,
        field: u64,
        wire: u8,
        single: u8,
        mut push: impl FnMut([u8; N]),
    ) -> Result<(), TensorProtoError> {
        let block = if wire == single { self.take(N)? } else { self.expect(field, wire, 2)?.block()? };
        let (numbers, rest) = block.as_chunks::<N>();
        if !rest.is_empty() {
            return self.damaged();
        }
        numbers.iter().for_each(|raw| push(*raw));
        Ok(())
    }

    pub(crate) fn skip(&mut self, field: u64, wire: u8) -> Result<(), TensorProtoError> {
        match wire {
            0 => self.varint().map(drop),
            1 => self.take(8).map(drop),
            2 => self.block().map(drop),
            5 => self.take(4).map(drop),
            found => Err(TensorProtoError::WireType { field, found }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn typed_and_raw_elements_are_the_same() {
        // dims [2], data_type INT16, name "x", int32_data [1, -2] packed.
        let typed = b"\x08\x02\x10\x05\x42\x01x\x2a\x0b\x01\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        let raw = b"\x08\x02\x10\x05\x42\x01x\x4a\x04\x01\x00\xfe\xff";
        assert_eq!(parse(typed).expect("typed"), parse(raw).expect("raw"));
        assert_eq!(parse(raw).expect("raw").name, "x");
        assert_eq!(
            parse(b"\x10\x05\x2a\x03\x80\x80\x04"),
            Err(TensorProtoError::Element { found: 65536, datatype: Datatype::Int16 })
        );
        assert_eq!(parse(b"\x10\x0e"), Err(TensorProtoError::DataType { found: 14 }));
        assert_eq!(parse(b"\x10\x01\x70\x01"), Err(TensorProtoError::External));
        assert!(matches!(parse(b"\x4a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), Err(TensorProtoError::Damaged { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn likely_bytes_are_read_without_a_panic(
            fields in vec((0_u8..16, 0_u8..6, vec(any::<u8>(), 0..12)), 0..6),
        ) {
            let bytes: Vec<u8> = fields.iter().flat_map(|(field, wire, data)| {
                let length = (*wire == 2).then_some(data.len() as u8);
                [field << 3 | wire].into_iter().chain(length).chain(data.iter().copied()).collect::<Vec<_>>()
            }).collect();
            let _ = parse(&bytes);
        }
    }
}

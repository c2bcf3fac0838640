//! A tensor's elements as JSON: nested lists or one flat list, row-major.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::half::{f16_to_f32, f64_to_f16};
use super::{MAX_RANK, NotJson, ProtocolError};
use crate::tensor::{Datatype, Elements, Number, Strings, Tensor, TensorError, element_count, from_vec};

/// Reads `data`, a flat list of all elements or lists nested as the shape is; a scalar may stand bare.
///
/// # Errors
/// When the text is no JSON, is nested otherwise than the shape, has another number of elements, or has one that the
/// datatype cannot hold; and for BF16, which has no form in JSON.
pub fn read_data(input: &str, datatype: Datatype, shape: &[usize], data: &str) -> Result<Elements, ProtocolError> {
    read(input, datatype, shape, data, Encoding::Plain)
}

/// Reads lists nested as the shape is, in which bytes may be written as `{"b64": "…"}`.
///
/// # Errors
/// As [`read_data`].
pub(super) fn read_lists(input: &str, datatype: Datatype, shape: &[usize], data: &str) -> Result<Elements, ProtocolError> {
    read(input, datatype, shape, data, Encoding::Base64)
}

/// Finds the shape of nested lists, going by the first item of each; whether the others agree is not looked at.
///
/// # Errors
/// When the text is no JSON, or nested more deeply than tensors are.
pub(super) fn list_shape(input: &str, data: &str) -> Result<Vec<usize>, ProtocolError> {
    let mut shape = Vec::new();
    let mut text = serde_json::Deserializer::from_str(data);
    Nesting { shape: &mut shape, depth: 0 }
        .deserialize(&mut text)
        .and_then(|()| text.end())
        .map_err(|source| ProtocolError::Data { input: input.to_owned(), source })?;
    Ok(shape)
}

/// How bytes may be written beside plain text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Plain,
    Base64,
}

fn read(input: &str, datatype: Datatype, shape: &[usize], data: &str, encoding: Encoding) -> Result<Elements, ProtocolError> {
    let count = element_count(shape).map_err(|source| ProtocolError::Tensor { input: input.to_owned(), source })?;
    // An element takes at least one character and a comma, so a lying shape reserves no more than the text is long.
    let capacity = count.min(data.len() / 2 + 1);
    let read = Read { input, shape, data, count, capacity, encoding };
    Ok(match datatype {
        Datatype::Bool => read.numbers(|element| match element {
            Element::Boolean(value) => Some(u8::from(value)),
            Element::Unsigned(value @ (0 | 1)) => Some(value as u8),
            _ => None,
        })?,
        Datatype::Uint8 => read.numbers(integer::<u8>)?,
        Datatype::Uint16 => read.numbers(integer::<u16>)?,
        Datatype::Uint32 => read.numbers(integer::<u32>)?,
        Datatype::Uint64 => read.numbers(integer::<u64>)?,
        Datatype::Int8 => read.numbers(integer::<i8>)?,
        Datatype::Int16 => read.numbers(integer::<i16>)?,
        Datatype::Int32 => read.numbers(integer::<i32>)?,
        Datatype::Int64 => read.numbers(integer::<i64>)?,
        Datatype::Fp16 => read.numbers(|element| {
            let half = f64_to_f16(float(element)?);
            f16_to_f32(half).is_finite().then_some(half)
        })?,
        Datatype::Fp32 => read.numbers(|element| {
            let single = float(element)? as f32;
            single.is_finite().then_some(single)
        })?,
        Datatype::Fp64 => read.numbers(float)?,
        Datatype::Bytes => read.strings()?,
        Datatype::Bf16 => return Err(ProtocolError::BinaryOnlyInput { input: input.to_owned(), datatype }),
    })
}

/// One scalar of the JSON.
#[derive(Clone, Copy)]
enum Element<'a> {
    Boolean(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

fn integer<T: TryFrom<u64> + TryFrom<i64>>(element: Element<'_>) -> Option<T> {
    match element {
        Element::Unsigned(value) => T::try_from(value).ok(),
        Element::Signed(value) => T::try_from(value).ok(),
        _ => None,
    }
}

fn float(element: Element<'_>) -> Option<f64> {
    match element {
        #[expect(clippy::cast_precision_loss, reason = "rounding to the nearest is what a float input means")]
        Element::Unsigned(value) => Some(value as f64),
        #[expect(clippy::cast_precision_loss, reason = "rounding to the nearest is what a float input means")]
        Element::Signed(value) => Some(value as f64),
        Element::Float(value) => Some(value),
        _ => None,
    }
}

impl fmt::Display for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Unsigned(value) => write!(f, "{value}"),
            Self::Signed(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Text(_) => f.write_str("a string"),
            Self::Bytes(_) => f.write_str("an encoded string"),
        }
    }
}

struct Read<'a> {
    input: &'a str,
    shape: &'a [usize],
    data: &'a str,
    count: usize,
    capacity: usize,
    encoding: Encoding,
}

impl Read<'_> {
    fn numbers<T: Number>(&self, convert: impl Fn(Element<'_>) -> Option<T>) -> Result<Elements, ProtocolError> {
        let mut numbers = Vec::with_capacity(self.capacity);
        self.walk(&mut |element| {
            convert(element).map(|number| {
                numbers.push(number);
                numbers.len()
            })
        })?;
        Ok(Elements::Fixed(from_vec(numbers)))
    }

    fn strings(&self) -> Result<Elements, ProtocolError> {
        let mut strings = Strings::with_capacity(self.capacity, self.data.len());
        self.walk(&mut |element| match element {
            Element::Text(text) => {
                strings.push(text.as_bytes());
                Some(strings.len())
            }
            Element::Bytes(bytes) if self.encoding == Encoding::Base64 => {
                strings.push(bytes);
                Some(strings.len())
            }
            _ => None,
        })?;
        Ok(Elements::Strings(strings))
    }

    /// Gives every scalar to `push`, which answers with the number it has taken, or `None` for one it cannot hold.
    fn walk(&self, push: &mut dyn FnMut(Element<'_>) -> Option<usize>) -> Result<(), ProtocolError> {
        let mut taken = 0;
        let mut counting = |element: Element<'_>| {
            taken = push(element)?;
            Some(taken)
        };
        let mut text = serde_json::Deserializer::from_str(self.data);
        Level { shape: self.shape, count: self.count, depth: 0, push: &mut counting }
            .deserialize(&mut text)
            .and_then(|_| text.end())
            .map_err(|source| ProtocolError::Data { input: self.input.to_owned(), source })?;
        if taken != self.count {
            let source = TensorError::WrongCount { shape: self.shape.to_vec(), expected: self.count, found: taken };
            return Err(ProtocolError::Tensor { input: self.input.to_owned(), source });
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Scalar,
    List,
}

/// Reads one value that lies inside `depth` lists.
struct Level<'a> {
    shape: &'a [usize],
    count: usize,
    depth: usize,
    push: &'a mut dyn FnMut(Element<'_>) -> Option<usize>,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = Kind;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(Walk { level: self, lifetime: PhantomData })
    }
}

struct Walk<'a, 'de> {
    level: Level<'a>,
    lifetime: PhantomData<&'de ()>,
}

impl Walk<'_, '_> {
    fn scalar<E: Error>(self, element: Element<'_>) -> Result<Kind, E> {
        if self.level.depth == 0 && !self.level.shape.is_empty() {
            return Err(E::custom("found a bare value, expected a list"));
        }
        match (self.level.push)(element) {
            None => Err(E::custom(format_args!("{element} does not fit the datatype"))),
            Some(taken) if taken > self.level.count => {
                Err(E::custom(format_args!("more elements than the {} of the shape", self.level.count)))
            }
            Some(_) => Ok(Kind::Scalar),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_, 'de> {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("lists of elements")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Kind, E> {
        self.scalar(Element::Boolean(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Kind, E> {
        self.scalar(Element::Unsigned(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Kind, E> {
        self.scalar(Element::Signed(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Kind, E> {
        self.scalar(Element::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Kind, E> {
        self.scalar(Element::Text(value))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Kind, A::Error> {
        let wrong = || A::Error::custom("found an object, expected an element or `{\"b64\": …}`");
        let (key, text) = members.next_entry::<Cow<'de, str>, Cow<'de, str>>().map_err(|_| wrong())?.ok_or_else(wrong)?;
        if key != "b64" || members.next_key::<IgnoredAny>()?.is_some() {
            return Err(wrong());
        }
        let bytes = STANDARD.decode(text.as_bytes()).map_err(|error| A::Error::custom(format_args!("base64: {error}")))?;
        self.scalar(Element::Bytes(&bytes))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kind, A::Error> {
        let Level { shape, count, depth, push } = self.level;
        if depth >= shape.len().max(1) {
            return Err(A::Error::custom(format_args!("lists are nested deeper than the {} dimensions", shape.len())));
        }
        let mut length = 0;
        let mut inside = None;
        while let Some(kind) = list.next_element_seed(Level { shape, count, depth: depth + 1, push: &mut *push })? {
            if inside.is_some_and(|first| first != kind) {
                return Err(A::Error::custom("a list holds both elements and lists"));
            }
            inside = Some(kind);
            length += 1;
        }
        // The outermost list may hold all elements flat; any other is one dimension of the shape.
        let flat = depth == 0 && inside != Some(Kind::List);
        if !flat {
            if inside == Some(Kind::Scalar) && depth + 1 != shape.len() {
                return Err(A::Error::custom(format_args!(
                    "elements lie in {} lists, expected {} or a flat list",
                    depth + 1,
                    shape.len()
                )));
            }
            if length != shape[depth] {
                return Err(A::Error::custom(format_args!(
                    "a list has {length} items, expected the {} of dimension {depth}",
                    shape[depth]
                )));
            }
        }
        Ok(Kind::List)
    }
}

/// Counts the items of a list, and of the first list in it, and so on.
struct Nesting<'a> {
    shape: &'a mut Vec<usize>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Nesting<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nesting<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("lists of elements")
    }

    fn visit_bool<E: Error>(self, _value: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _value: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _value: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _value: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _value: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Nesting { shape, depth } = self;
        if depth >= MAX_RANK {
            return Err(A::Error::custom(format_args!("lists are nested deeper than {MAX_RANK}")));
        }
        shape.push(0);
        if list.next_element_seed(Nesting { shape: &mut *shape, depth: depth + 1 })?.is_none() {
            return Ok(());
        }
        let mut length = 1;
        while list.next_element::<IgnoredAny>()?.is_some() {
            length += 1;
        }
        shape[depth] = length;
        Ok(())
    }
}

/// Writes a tensor's elements as one flat list.
///
/// # Errors
/// See [`NotJson`].
pub fn write_data(tensor: &Tensor, out: &mut Vec<u8>) -> Result<(), NotJson> {
    match (tensor.datatype(), tensor.elements()) {
        (Datatype::Bool, Elements::Fixed(bytes)) => each(out, bytes, |[byte]: [u8; 1]| Ok(byte != 0)),
        (Datatype::Uint8, Elements::Fixed(bytes)) => each(out, bytes, |raw| Ok(u8::from_le_bytes(raw))),
        (Datatype::Uint16, Elements::Fixed(bytes)) => each(out, bytes, |raw| Ok(u16::from_le_bytes(raw))),
        (Datatype::Uint32, Elements::Fixed(bytes)) => each(out, bytes, |raw| Ok(u32::from_le_bytes(raw))),
        (Datatype::Uint64, Elements::Fixed(bytes)) => each(out, bytes, |raw| Ok(u64::from_le_bytes(raw))),
        (Datatype::Int8, Elements::Fixed(bytes)) => each(out, bytes, |raw| Ok(i8::from_le_bytes(raw))),
        (Datatype::Int16, Elements::Fixed(bytes)) => each(out, bytes, |raw| Ok(i16::from_le_bytes(raw))),
        (Datatype::Int32, Elements::Fixed(bytes)) => each(out, bytes, |raw| Ok(i32::from_le_bytes(raw))),
        (Datatype::Int64, Elements::Fixed(bytes)) => each(out, bytes, |raw| Ok(i64::from_le_bytes(raw))),
        (Datatype::Fp16, Elements::Fixed(bytes)) => {
            each(out, bytes, |raw| finite(f16_to_f32(u16::from_le_bytes(raw)), f64::from))
        }
        (Datatype::Fp32, Elements::Fixed(bytes)) => each(out, bytes, |raw| finite(f32::from_le_bytes(raw), f64::from)),
        (Datatype::Fp64, Elements::Fixed(bytes)) => each(out, bytes, |raw| finite(f64::from_le_bytes(raw), f64::from)),
        (Datatype::Bytes, Elements::Strings(strings)) => {
            out.push(b'[');
            for (index, string) in strings.iter().enumerate() {
                let text = std::str::from_utf8(string).map_err(|_| NotJson::NotUtf8 { index })?;
                comma(out, index);
                write_json(out, text);
            }
            out.push(b']');
            Ok(())
        }
        (datatype, _) => Err(NotJson::BinaryOnly { datatype }),
    }
}

fn finite<T: Copy>(value: T, widen: impl Fn(T) -> f64) -> Result<T, f64> {
    let wide = widen(value);
    if wide.is_finite() { Ok(value) } else { Err(wide) }
}

fn each<const N: usize, T: serde::Serialize>(
    out: &mut Vec<u8>,
    bytes: &Bytes,
    number: impl Fn([u8; N]) -> Result<T, f64>,
) -> Result<(), NotJson> {
    out.push(b'[');
    for (index, raw) in bytes.as_chunks::<N>().0.iter().enumerate() {
        let value = number(*raw).map_err(|value| NotJson::NotFinite { index, value })?;
        comma(out, index);
        write_json(out, &value);
    }
    out.push(b']');
    Ok(())
}

fn comma(out: &mut Vec<u8>, index: usize) {
    if index > 0 {
        out.push(b',');
    }
}

/// Appends a scalar, a string or a structure of them as JSON.
pub(super) fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("writing to memory does not fail, and maps have string keys");
}

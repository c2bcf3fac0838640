//! The signatures of a `MetaGraphDef`: names, places in the graph, types and shapes.

use std::collections::BTreeMap;

use crate::backend::ShapeSpec;
use crate::tensor::Datatype;
use crate::tensor_proto::{Reader, TensorProtoError};

/// What a signature calls a tensor, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outlet {
    /// The tensor's name in the graph, `operation:index`; `None` for one of several parts.
    pub tensor: Option<String>,
    /// TensorFlow's number of its element type.
    pub data_type: u64,
    pub shape: ShapeSpec,
}

/// A signature's inputs and outputs by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Signature {
    pub inputs: BTreeMap<String, Outlet>,
    pub outputs: BTreeMap<String, Outlet>,
}

type Result<T> = std::result::Result<T, TensorProtoError>;

/// Reads the signatures by their keys; those by which TensorFlow initialises itself are left out.
pub(super) fn parse(meta_graph: &[u8]) -> Result<BTreeMap<String, Signature>> {
    let mut signatures = BTreeMap::new();
    each(meta_graph, |field, wire, reader| {
        if field != 5 {
            return reader.skip(field, wire);
        }
        let (key, value) = entry(reader.expect(field, wire, 2)?.block()?)?;
        if !key.starts_with("__saved_model") {
            signatures.insert(key, signature(value)?);
        }
        Ok(())
    })?;
    Ok(signatures)
}

fn signature(message: &[u8]) -> Result<Signature> {
    let mut signature = Signature::default();
    each(message, |field, wire, reader| {
        let outlets = match field {
            1 => &mut signature.inputs,
            2 => &mut signature.outputs,
            _ => return reader.skip(field, wire),
        };
        let (name, value) = entry(reader.expect(field, wire, 2)?.block()?)?;
        outlets.insert(name, outlet(value)?);
        Ok(())
    })?;
    Ok(signature)
}

fn outlet(message: &[u8]) -> Result<Outlet> {
    let mut outlet = Outlet { tensor: None, data_type: 0, shape: ShapeSpec::Unranked };
    each(message, |field, wire, reader| {
        match field {
            1 => outlet.tensor = Some(text(reader.expect(field, wire, 2)?.block()?)),
            2 => outlet.data_type = reader.expect(field, wire, 0)?.varint()?,
            3 => outlet.shape = shape(reader.expect(field, wire, 2)?.block()?)?,
            _ => reader.skip(field, wire)?,
        }
        Ok(())
    })?;
    Ok(outlet)
}

fn shape(message: &[u8]) -> Result<ShapeSpec> {
    let (mut dimensions, mut unknown) = (Vec::new(), false);
    each(message, |field, wire, reader| {
        match field {
            2 => dimensions.push(dimension(reader.expect(field, wire, 2)?.block()?)?),
            3 => unknown = reader.expect(field, wire, 0)?.varint()? != 0,
            _ => reader.skip(field, wire)?,
        }
        Ok(())
    })?;
    Ok(if unknown { ShapeSpec::Unranked } else { ShapeSpec::Ranked(dimensions) })
}

fn dimension(message: &[u8]) -> Result<Option<usize>> {
    let mut size = 0;
    each(message, |field, wire, reader| {
        match field {
            1 => size = reader.expect(field, wire, 0)?.varint()?.cast_signed(),
            _ => reader.skip(field, wire)?,
        }
        Ok(())
    })?;
    Ok(usize::try_from(size).ok())
}

/// An entry of a map: its key, and its value's bytes.
fn entry(message: &[u8]) -> Result<(String, &[u8])> {
    let (mut key, mut value) = (String::new(), &[][..]);
    each(message, |field, wire, reader| {
        match field {
            1 => key = text(reader.expect(field, wire, 2)?.block()?),
            2 => value = reader.expect(field, wire, 2)?.block()?,
            _ => reader.skip(field, wire)?,
        }
        Ok(())
    })?;
    Ok((key, value))
}

fn each<'a>(message: &'a [u8], mut visit: impl FnMut(u64, u8, &mut Reader<'a>) -> Result<()>) -> Result<()> {
    let mut reader = Reader::new(message);
    while let Some((field, wire)) = reader.key()? {
        visit(field, wire, &mut reader)?;
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// TensorFlow's numbers of element types that have a datatype.
const TYPES: [(Datatype, u64); 14] = [
    (Datatype::Fp32, 1),
    (Datatype::Fp64, 2),
    (Datatype::Int32, 3),
    (Datatype::Uint8, 4),
    (Datatype::Int16, 5),
    (Datatype::Int8, 6),
    (Datatype::Bytes, 7),
    (Datatype::Int64, 9),
    (Datatype::Bool, 10),
    (Datatype::Bf16, 14),
    (Datatype::Uint16, 17),
    (Datatype::Fp16, 19),
    (Datatype::Uint32, 22),
    (Datatype::Uint64, 23),
];

/// The datatype of an element type, or the type in words.
pub(super) fn datatype(number: u64) -> std::result::Result<Datatype, String> {
    TYPES.iter().find(|(_, theirs)| *theirs == number).map(|(ours, _)| *ours).ok_or_else(|| {
        match number {
            8 => "a tensor of complex64",
            18 => "a tensor of complex128",
            11..=13 | 15 | 16 => "a quantised tensor",
            20 => "a resource",
            21 => "a variant",
            0 => "a tensor of several parts (sparse or composite)",
            _ => return format!("a tensor of element type {number}"),
        }
        .to_owned()
    })
}

/// TensorFlow's number of a datatype.
pub(super) fn number(datatype: Datatype) -> i32 {
    TYPES.iter().find(|(ours, _)| *ours == datatype).map_or(0, |(_, theirs)| i32::try_from(*theirs).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).expect("short")], content].concat()
    }

    fn sample() -> Vec<u8> {
        let minus_one = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let shape = [field(2, &minus_one), field(2, &[0x08, 3])].concat();
        let x = [field(1, b"serve_x:0"), vec![0x10, 1], field(3, &shape)].concat();
        let y = [field(1, b"Call:1"), vec![0x10, 7], field(3, &[0x18, 1])].concat();
        let map = |name: &[u8], value: &[u8]| [field(1, name), field(2, value)].concat();
        let signature = [field(1, &map(b"x", &x)), field(2, &map(b"y", &y))].concat();
        [field(5, &map(b"serving_default", &signature)), field(5, &map(b"__saved_model_init_op", b""))].concat()
    }

    #[test]
    fn signatures_are_read() {
        let signatures = parse(&sample()).expect("a sound message");
        assert_eq!(signatures.keys().collect::<Vec<_>>(), ["serving_default"]);
        let signature = &signatures["serving_default"];
        let x = Outlet { tensor: Some("serve_x:0".into()), data_type: 1, shape: ShapeSpec::Ranked(vec![None, Some(3)]) };
        assert_eq!(signature.inputs["x"], x);
        assert_eq!((signature.outputs["y"].data_type, &signature.outputs["y"].shape), (7, &ShapeSpec::Unranked));
    }

    #[test]
    fn types_go_both_ways() {
        for known in Datatype::ALL {
            assert_eq!(datatype(number(known).cast_unsigned().into()), Ok(known));
        }
        assert_eq!(datatype(20).expect_err("a resource"), "a resource");
    }

    proptest! {
        #[test]
        fn damaged_messages_do_not_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            let mut bytes = sample();
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = parse(&bytes);
        }
    }
}

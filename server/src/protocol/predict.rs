//! TensorFlow Serving's REST predict API, as pure functions over bytes.
//!
//! A request has rows (`instances`) or columns (`inputs`) and is answered in kind. It names no datatypes and no shapes: the
//! datatype is the model's, the shape is that of the lists, and both are checked before a runtime sees anything.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{list_shape, read_lists, write_json};
use super::request::{brief, missing};
use super::{ProtocolError, Reply, f16_to_f32};
use crate::backend::{ModelInterface, TensorSpec};
use crate::tensor::{Datatype, Elements, Tensor};

/// How inputs are given, and so how outputs are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `instances`: one value for each row of the batch.
    Rows,
    /// `inputs`: one value for the whole batch.
    Columns,
}

impl Layout {
    fn key(self) -> &'static str {
        match self {
            Self::Rows => "instances",
            Self::Columns => "inputs",
        }
    }
}

/// A request that was read, not yet checked against a signature.
#[derive(Debug)]
pub struct PredictRequest<'a> {
    /// The signature that is wanted.
    pub signature: Option<Cow<'a, str>>,
    /// How inputs are given.
    pub layout: Layout,
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct RawPredict<'a> {
    #[serde(borrow, default)]
    signature_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    instances: Option<&'a RawValue>,
    #[serde(borrow, default)]
    inputs: Option<&'a RawValue>,
}

type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

impl<'a> PredictRequest<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// See [`ProtocolError`].
    pub fn parse(body: &'a [u8]) -> Result<Self, ProtocolError> {
        let raw: RawPredict<'a> = serde_json::from_slice(body).map_err(|source| ProtocolError::Json { source })?;
        let signature = raw.signature_name.filter(|name| !name.is_empty());
        match (raw.instances, raw.inputs) {
            (Some(data), None) => Ok(Self { signature, layout: Layout::Rows, data }),
            (None, Some(data)) => Ok(Self { signature, layout: Layout::Columns, data }),
            (Some(_), Some(_)) => Err(ProtocolError::Layouts { found: "both" }),
            (None, None) => Err(ProtocolError::Layouts { found: "neither" }),
        }
    }

    /// Makes the tensors, one for each input of the model in its order.
    ///
    /// # Errors
    /// See [`ProtocolError`].
    pub fn bind(&self, model: &ModelInterface) -> Result<Vec<Tensor>, ProtocolError> {
        match self.layout {
            Layout::Columns => match members(self.data) {
                Some(columns) => {
                    known(&columns, model)?;
                    let column =
                        |spec: &TensorSpec| tensor(spec, columns.get(spec.name.as_str()).ok_or_else(|| missing(spec))?.get());
                    model.inputs.iter().map(column).collect()
                }
                None => Ok(vec![tensor(self.only(model)?, self.data.get())?]),
            },
            Layout::Rows => {
                let rows: Vec<&RawValue> =
                    serde_json::from_str(self.data.get()).map_err(|source| ProtocolError::Json { source })?;
                match rows.first().and_then(|row| members(row)) {
                    Some(_) => named_rows(&rows, model),
                    None => Ok(vec![tensor(self.only(model)?, self.data.get())?]),
                }
            }
        }
    }

    /// The model's one input, where values are given without names.
    fn only<'m>(&self, model: &'m ModelInterface) -> Result<&'m TensorSpec, ProtocolError> {
        match &model.inputs[..] {
            [only] => Ok(only),
            inputs => Err(ProtocolError::Unnamed {
                layout: self.layout.key(),
                known: inputs.iter().map(|spec| spec.name.clone()).collect(),
            }),
        }
    }
}

/// The members of an object that holds inputs by name; `None` for a value, encoded bytes among them.
fn members(value: &RawValue) -> Option<Members<'_>> {
    if !value.get().starts_with('{') {
        return None;
    }
    let members: Members<'_> = serde_json::from_str(value.get()).ok()?;
    (members.len() != 1 || !members.contains_key("b64")).then_some(members)
}

/// One tensor for each input, of the rows that name them.
fn named_rows(rows: &[&RawValue], model: &ModelInterface) -> Result<Vec<Tensor>, ProtocolError> {
    let mut columns: Vec<String> = vec!["[".to_owned(); model.inputs.len()];
    for (index, row) in rows.iter().enumerate() {
        let row = members(row).ok_or(ProtocolError::MixedRows { index })?;
        known(&row, model)?;
        for (column, spec) in columns.iter_mut().zip(&model.inputs) {
            let value = row.get(spec.name.as_str()).ok_or_else(|| missing(spec))?;
            if index > 0 {
                column.push(',');
            }
            column.push_str(value.get());
        }
    }
    columns
        .iter_mut()
        .zip(&model.inputs)
        .map(|(column, spec)| {
            column.push(']');
            tensor(spec, column)
        })
        .collect()
}

fn known(members: &Members<'_>, model: &ModelInterface) -> Result<(), ProtocolError> {
    match members.keys().find(|name| !model.inputs.iter().any(|spec| spec.name == **name)) {
        None => Ok(()),
        Some(name) => Err(ProtocolError::UnknownInput {
            input: brief(name),
            known: model.inputs.iter().map(|spec| spec.name.clone()).collect(),
        }),
    }
}

fn tensor(spec: &TensorSpec, text: &str) -> Result<Tensor, ProtocolError> {
    let shape = list_shape(&spec.name, text)?;
    if !spec.shape.accepts(&shape) {
        return Err(ProtocolError::WrongShape { input: spec.name.clone(), found: shape, expected: spec.shape.clone() });
    }
    let elements = read_lists(&spec.name, spec.datatype, &shape, text)?;
    Tensor::new(spec.datatype, shape, elements).map_err(|source| ProtocolError::Tensor { input: spec.name.clone(), source })
}

/// Writes the answer: `predictions` for rows, `outputs` for columns. A single output goes without its name.
///
/// `tensors` are the outputs of the interface, in its order.
///
/// # Errors
/// Where an output has not one part for each row, or a string that is no text.
pub fn respond_predict(layout: Layout, interface: &ModelInterface, tensors: &[Tensor]) -> Result<Reply, ProtocolError> {
    let outputs: Vec<Output<'_>> = interface.outputs.iter().zip(tensors).map(|(spec, tensor)| Output { spec, tensor }).collect();
    let mut json = Vec::with_capacity(256);
    match layout {
        Layout::Columns => {
            json.extend_from_slice(b"{\"outputs\":");
            write_outputs(&mut json, &outputs, |output, json| output.write(0, 0, json))?;
        }
        Layout::Rows => {
            let rows = rows(&outputs)?;
            json.extend_from_slice(b"{\"predictions\":[");
            for row in 0..rows {
                if row > 0 {
                    json.push(b',');
                }
                write_outputs(&mut json, &outputs, |output, json| output.write(1, row * output.count(1), json))?;
            }
            json.push(b']');
        }
    }
    json.push(b'}');
    Ok(Reply { header_length: None, parts: vec![Bytes::from(json)] })
}

fn write_outputs(
    json: &mut Vec<u8>,
    outputs: &[Output<'_>],
    write: impl Fn(&Output<'_>, &mut Vec<u8>) -> Result<(), ProtocolError>,
) -> Result<(), ProtocolError> {
    if let [only] = outputs {
        return write(only, json);
    }
    for (index, output) in outputs.iter().enumerate() {
        json.push(if index == 0 { b'{' } else { b',' });
        write_json(json, &output.spec.name);
        json.push(b':');
        write(output, json)?;
    }
    json.push(b'}');
    Ok(())
}

/// The number of rows, which all outputs must have.
fn rows(outputs: &[Output<'_>]) -> Result<usize, ProtocolError> {
    let mut rows = None;
    for output in outputs {
        match (output.tensor.shape().first(), rows) {
            (Some(&found), None) => rows = Some(found),
            (Some(&found), Some(expected)) if found == expected => {}
            _ => {
                let shape = output.tensor.shape().to_vec();
                return Err(ProtocolError::NoRows { output: output.spec.name.clone(), shape });
            }
        }
    }
    Ok(rows.unwrap_or(0))
}

struct Output<'a> {
    spec: &'a TensorSpec,
    tensor: &'a Tensor,
}

impl Output<'_> {
    /// Elements below one place of the first `depth` dimensions.
    fn count(&self, depth: usize) -> usize {
        self.tensor.shape().get(depth..).unwrap_or_default().iter().product()
    }

    /// Writes the lists from dimension `depth` on, whose first element is `start`.
    fn write(&self, depth: usize, start: usize, json: &mut Vec<u8>) -> Result<(), ProtocolError> {
        let Some(&size) = self.tensor.shape().get(depth) else { return self.write_element(start, json) };
        let step = self.count(depth + 1);
        json.push(b'[');
        for index in 0..size {
            if index > 0 {
                json.push(b',');
            }
            self.write(depth + 1, start + index * step, json)?;
        }
        json.push(b']');
        Ok(())
    }

    fn write_element(&self, index: usize, json: &mut Vec<u8>) -> Result<(), ProtocolError> {
        let bytes = match self.tensor.elements() {
            Elements::Fixed(bytes) => bytes,
            Elements::Strings(strings) => {
                return self.write_string(strings.get(index).unwrap_or_default(), index, json);
            }
        };
        match self.tensor.datatype() {
            Datatype::Bool => write_json(json, &(bytes[index] != 0)),
            Datatype::Uint8 => write_json(json, &bytes[index]),
            Datatype::Int8 => write_json(json, &bytes[index].cast_signed()),
            Datatype::Uint16 => write_json(json, &u16::from_le_bytes(at(bytes, index))),
            Datatype::Int16 => write_json(json, &i16::from_le_bytes(at(bytes, index))),
            Datatype::Uint32 => write_json(json, &u32::from_le_bytes(at(bytes, index))),
            Datatype::Int32 => write_json(json, &i32::from_le_bytes(at(bytes, index))),
            Datatype::Uint64 => write_json(json, &u64::from_le_bytes(at(bytes, index))),
            Datatype::Int64 => write_json(json, &i64::from_le_bytes(at(bytes, index))),
            Datatype::Fp16 => single(json, f16_to_f32(u16::from_le_bytes(at(bytes, index)))),
            Datatype::Bf16 => single(json, f32::from_bits(u32::from(u16::from_le_bytes(at(bytes, index))) << 16)),
            Datatype::Fp32 => single(json, f32::from_le_bytes(at(bytes, index))),
            Datatype::Fp64 => match f64::from_le_bytes(at(bytes, index)) {
                finite if finite.is_finite() => write_json(json, &finite),
                other => token(json, other.is_nan(), other > 0.0),
            },
            // Its elements are strings.
            Datatype::Bytes => {}
        }
        Ok(())
    }

    /// Writes bytes as text, or encoded where the output's name says that they are none.
    fn write_string(&self, string: &[u8], index: usize, json: &mut Vec<u8>) -> Result<(), ProtocolError> {
        if self.spec.name.ends_with("_bytes") {
            json.extend_from_slice(b"{\"b64\":");
            write_json(json, &STANDARD.encode(string));
            json.push(b'}');
            return Ok(());
        }
        let text = std::str::from_utf8(string).map_err(|_| ProtocolError::NotText { output: self.spec.name.clone(), index })?;
        write_json(json, text);
        Ok(())
    }
}

fn at<const N: usize>(bytes: &[u8], index: usize) -> [u8; N] {
    bytes.as_chunks::<N>().0[index]
}

fn single(json: &mut Vec<u8>, value: f32) {
    if value.is_finite() { write_json(json, &value) } else { token(json, value.is_nan(), value > 0.0) }
}

/// Writes what JSON has no token for as TensorFlow Serving does.
fn token(json: &mut Vec<u8>, nan: bool, positive: bool) {
    json.extend_from_slice(match (nan, positive) {
        (true, _) => b"NaN".as_slice(),
        (_, true) => b"Infinity",
        _ => b"-Infinity",
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::ShapeSpec;
    use crate::tensor::{Strings, from_vec};

    fn spec(name: &str, datatype: Datatype, shape: &[Option<usize>]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: ShapeSpec::Ranked(shape.to_vec()) }
    }

    fn interface(inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> ModelInterface {
        ModelInterface { platform: "tensorflow_savedmodel", runtime: "r".into(), inputs, outputs, unserved: Vec::new() }
    }

    fn one() -> ModelInterface {
        interface(vec![spec("x", Datatype::Fp32, &[None, Some(2)])], vec![])
    }

    fn two() -> ModelInterface {
        interface(vec![spec("a", Datatype::Int32, &[None]), spec("s", Datatype::Bytes, &[None, Some(1)])], vec![])
    }

    fn bind(body: &str, model: &ModelInterface) -> Result<Vec<Tensor>, ProtocolError> {
        PredictRequest::parse(body.as_bytes())?.bind(model)
    }

    fn error(body: &str, model: &ModelInterface) -> String {
        bind(body, model).expect_err("it does not fit").to_string()
    }

    #[test]
    fn rows_and_columns_are_the_same_tensors() {
        let rows = bind(r#"{"instances": [[1, 2], [3, 4.5]]}"#, &one()).expect("rows");
        assert_eq!(rows[0].shape(), [2, 2]);
        for same in [
            r#"{"inputs": [[1, 2], [3, 4.5]]}"#,
            r#"{"inputs": {"x": [[1, 2], [3, 4.5]]}, "signature_name": ""}"#,
            r#"{"instances": [{"x": [1, 2]}, {"x": [3, 4.5]}]}"#,
        ] {
            assert_eq!(bind(same, &one()).expect(same), rows);
        }
    }

    #[test]
    fn several_inputs_are_named() {
        let rows = bind(r#"{"instances": [{"a": 1, "s": ["x"]}, {"s": [{"b64": "/w=="}], "a": 2}]}"#, &two()).expect("rows");
        assert_eq!((rows[0].shape(), rows[1].shape()), ([2].as_slice(), [2, 1].as_slice()));
        let Elements::Strings(strings) = rows[1].elements() else { panic!("strings") };
        assert_eq!(strings.iter().collect::<Vec<_>>(), [b"x".as_slice(), b"\xff"]);
        let columns = bind(r#"{"inputs": {"a": [1, 2], "s": [["x"], [{"b64": "/w=="}]]}}"#, &two()).expect("columns");
        assert_eq!(columns, rows);
    }

    #[test]
    fn what_does_not_fit_says_why() {
        let cases = [
            ("{}", "request has neither of `instances` and `inputs`, expected one of them"),
            (r#"{"instances": [], "inputs": []}"#, "request has both of"),
            (r#"{"instances": 3}"#, "failed to read the request's JSON"),
            (r#"{"instances": [[1, 2, 3]]}"#, "input `x` has shape [1,3], expected [-1,2]"),
            (r#"{"instances": [[1, 2], [3]]}"#, "a list has 1 items, expected the 2 of dimension 1"),
            (r#"{"instances": [[1, "2"]]}"#, "a string does not fit the datatype"),
            (r#"{"instances": [{"y": [1, 2]}]}"#, "input `y` is unknown, the model has `x`"),
            (r#"{"instances": [{"x": [1, 2]}, [1, 2]]}"#, "row 1 does not name its inputs as the first row does"),
            (r#"{"inputs": {}}"#, "input `x` (FP32, shape [-1,2]) is missing"),
            (r#"{"instances": [[1, NaN]]}"#, "failed to read the request's JSON"),
        ];
        for (body, expected) in cases {
            let found = error(body, &one());
            assert!(found.contains(expected), "{body}: {found}");
        }
        assert!(error(r#"{"instances": [[1]]}"#, &two()).contains("expected each to name its input: `a`, `s`"));
        let broken = error(r#"{"inputs": {"a": [1], "s": [[{"b64": "?"}]]}}"#, &two());
        assert!(broken.contains("base64"), "{broken}");
    }

    fn text(layout: Layout, outputs: Vec<TensorSpec>, tensors: &[Tensor]) -> Result<String, ProtocolError> {
        let reply = respond_predict(layout, &interface(vec![], outputs), tensors)?;
        Ok(String::from_utf8(reply.parts.concat()).expect("JSON"))
    }

    fn floats(shape: &[usize], numbers: Vec<f32>) -> Tensor {
        Tensor::new(Datatype::Fp32, shape.to_vec(), Elements::Fixed(from_vec(numbers))).expect("sound")
    }

    #[test]
    fn answers_are_rows_or_columns() {
        let tensor = floats(&[2, 2], vec![1.0, 2.5, f32::NAN, f32::NEG_INFINITY]);
        let spec_y = || spec("y", Datatype::Fp32, &[None, None]);
        let one = |layout| text(layout, vec![spec_y()], std::slice::from_ref(&tensor)).expect("it can be written");
        assert_eq!(one(Layout::Rows), r#"{"predictions":[[1.0,2.5],[NaN,-Infinity]]}"#);
        assert_eq!(one(Layout::Columns), r#"{"outputs":[[1.0,2.5],[NaN,-Infinity]]}"#);
        let strings: Strings = [b"a".as_slice(), b"\xff"].into_iter().collect();
        let bytes = Tensor::new(Datatype::Bytes, vec![2], Elements::Strings(strings)).expect("sound");
        let named = |name: &str| {
            text(Layout::Rows, vec![spec_y(), spec(name, Datatype::Bytes, &[None])], &[tensor.clone(), bytes.clone()])
        };
        let expected =
            r#"{"predictions":[{"y":[1.0,2.5],"i_bytes":{"b64":"YQ=="}},{"y":[NaN,-Infinity],"i_bytes":{"b64":"/w=="}}]}"#;
        assert_eq!(named("i_bytes").expect("encoded"), expected);
        assert!(matches!(named("i"), Err(ProtocolError::NotText { index: 1, .. })));
    }

    #[test]
    fn outputs_without_rows_go_in_columns_only() {
        let scalar = floats(&[], vec![1.0]);
        let of = |layout| text(layout, vec![spec("y", Datatype::Fp32, &[])], std::slice::from_ref(&scalar));
        assert_eq!(of(Layout::Columns).expect("a scalar"), r#"{"outputs":1.0}"#);
        assert!(matches!(of(Layout::Rows), Err(ProtocolError::NoRows { .. })));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in r#"\{"(instances|inputs)": ?[\[\]\{\}0-9a-z":, ]{0,40}\}"#) {
            let _ = bind(&text, &one());
            let _ = bind(&text, &two());
        }
    }
}

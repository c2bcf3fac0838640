//! Requests: read, then checked against the model.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::binary::decode_strings;
use super::json::read_data;
use super::{MAX_RANK, ProtocolError};
use crate::backend::{ModelInterface, TensorSpec};
use crate::tensor::{Datatype, Elements, Tensor, element_count};

/// A request that was read, not yet checked against a model.
#[derive(Debug)]
pub struct Request<'a> {
    /// The caller's mark, given back in the answer.
    pub id: Option<Cow<'a, str>>,
    inputs: Vec<Input<'a>>,
    outputs: Vec<Output<'a>>,
    binary_output: bool,
}

#[derive(Debug)]
struct Input<'a> {
    name: Cow<'a, str>,
    datatype: Datatype,
    shape: Vec<usize>,
    data: Data<'a>,
}

#[derive(Debug)]
enum Data<'a> {
    Json(&'a RawValue),
    Binary(Bytes),
}

#[derive(Debug)]
struct Output<'a> {
    name: Cow<'a, str>,
    binary: bool,
}

/// A request that fits the model.
#[derive(Debug)]
pub struct Bound {
    /// One tensor for each input of the model, in its order.
    pub inputs: Vec<Tensor>,
    /// What to answer with, in the order of the answer.
    pub outputs: Vec<RequestedOutput>,
}

/// One output to answer with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedOutput {
    /// Its place in the interface's outputs.
    pub index: usize,
    /// Whether it goes in binary.
    pub binary: bool,
}

#[derive(Deserialize)]
struct RawRequest<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    inputs: Vec<RawInput<'a>>,
    #[serde(borrow, default)]
    outputs: Option<Vec<RawOutput<'a>>>,
    #[serde(default)]
    parameters: Option<RequestParameters>,
}

#[derive(Deserialize, Default)]
struct RequestParameters {
    #[serde(default)]
    binary_data_output: Option<bool>,
}

#[derive(Deserialize)]
struct RawInput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    shape: Vec<i64>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(default)]
    parameters: Option<InputParameters>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct InputParameters {
    #[serde(default)]
    binary_data_size: Option<u64>,
    #[serde(default)]
    shared_memory_region: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct RawOutput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    parameters: Option<OutputParameters>,
}

#[derive(Deserialize, Default)]
struct OutputParameters {
    #[serde(default)]
    binary_data: Option<bool>,
    #[serde(default)]
    classification: Option<u64>,
    #[serde(default)]
    shared_memory_region: Option<serde::de::IgnoredAny>,
}

impl<'a> Request<'a> {
    /// Reads a body: JSON alone, or with `header_length` that many bytes of JSON and then the inputs' binary data.
    ///
    /// # Errors
    /// See [`ProtocolError`]; every one of them is the caller's to mend.
    pub fn parse(body: &'a Bytes, header_length: Option<usize>) -> Result<Self, ProtocolError> {
        let json_length = header_length.unwrap_or(body.len());
        let json = body.get(..json_length).ok_or(ProtocolError::HeaderTooLong { header: json_length, body: body.len() })?;
        let raw: RawRequest<'a> = serde_json::from_slice(json).map_err(|source| ProtocolError::Json { source })?;

        let mut rest = body.slice(json_length..);
        let mut inputs = Vec::with_capacity(raw.inputs.len());
        for input in raw.inputs {
            inputs.push(Input::read(input, &mut rest)?);
        }
        if !rest.is_empty() {
            return Err(ProtocolError::BinaryTooLong { left: rest.len() });
        }

        let binary_output = raw.parameters.unwrap_or_default().binary_data_output.unwrap_or(false);
        let mut outputs = Vec::new();
        for output in raw.outputs.unwrap_or_default() {
            outputs.push(Output::read(output, binary_output)?);
        }
        Ok(Self { id: raw.id, inputs, outputs, binary_output })
    }

    /// Checks names, datatypes and shapes against the model, and makes the tensors.
    ///
    /// No outputs asked for means all that can be served.
    ///
    /// # Errors
    /// See [`ProtocolError`].
    pub fn bind(&self, model: &ModelInterface) -> Result<Bound, ProtocolError> {
        let mut tensors: Vec<Option<Tensor>> = vec![None; model.inputs.len()];
        for input in &self.inputs {
            let Some(index) = model.inputs.iter().position(|spec| spec.name == input.name) else {
                return Err(ProtocolError::UnknownInput {
                    input: brief(&input.name),
                    known: model.inputs.iter().map(|spec| spec.name.clone()).collect(),
                });
            };
            if tensors[index].is_some() {
                return Err(ProtocolError::DuplicateInput { input: brief(&input.name) });
            }
            let spec = &model.inputs[index];
            if input.datatype != spec.datatype {
                let (found, expected) = (input.datatype, spec.datatype);
                return Err(ProtocolError::WrongDatatype { input: spec.name.clone(), found, expected });
            }
            if !spec.shape.accepts(&input.shape) {
                return Err(ProtocolError::WrongShape {
                    input: spec.name.clone(),
                    found: input.shape.clone(),
                    expected: spec.shape.clone(),
                });
            }
            tensors[index] = Some(input.tensor()?);
        }
        let inputs = tensors
            .into_iter()
            .zip(&model.inputs)
            .map(|(tensor, spec)| tensor.ok_or_else(|| missing(spec)))
            .collect::<Result<_, _>>()?;
        Ok(Bound { inputs, outputs: self.bind_outputs(model)? })
    }

    fn bind_outputs(&self, model: &ModelInterface) -> Result<Vec<RequestedOutput>, ProtocolError> {
        if self.outputs.is_empty() {
            return Ok((0..model.outputs.len()).map(|index| RequestedOutput { index, binary: self.binary_output }).collect());
        }
        let mut bound: Vec<RequestedOutput> = Vec::with_capacity(self.outputs.len().min(model.outputs.len()));
        for output in &self.outputs {
            let Some(index) = model.outputs.iter().position(|spec| spec.name == output.name) else {
                if let Some(unserved) = model.unserved.iter().find(|unserved| unserved.name == output.name) {
                    let (output, kind) = (unserved.name.clone(), unserved.kind.clone());
                    return Err(ProtocolError::UnservedOutput { output, kind });
                }
                return Err(ProtocolError::UnknownOutput {
                    output: brief(&output.name),
                    known: model.outputs.iter().map(|spec| spec.name.clone()).collect(),
                });
            };
            if bound.iter().any(|earlier| earlier.index == index) {
                return Err(ProtocolError::DuplicateOutput { output: brief(&output.name) });
            }
            bound.push(RequestedOutput { index, binary: output.binary });
        }
        Ok(bound)
    }
}

impl<'a> Input<'a> {
    /// Takes an input's part of the binary data off `rest`.
    fn read(raw: RawInput<'a>, rest: &mut Bytes) -> Result<Self, ProtocolError> {
        let name = || brief(&raw.name);
        let datatype = raw.datatype.parse().map_err(|source| ProtocolError::Tensor { input: name(), source })?;
        if raw.shape.len() > MAX_RANK {
            return Err(ProtocolError::RankTooHigh { input: name(), rank: raw.shape.len() });
        }
        let shape = raw
            .shape
            .iter()
            .map(|&dimension| {
                usize::try_from(dimension).map_err(|_| ProtocolError::NegativeDimension { input: name(), dimension })
            })
            .collect::<Result<_, _>>()?;
        let parameters = raw.parameters.unwrap_or_default();
        if parameters.shared_memory_region.is_some() {
            let parameter = "shared_memory_region";
            return Err(ProtocolError::UnsupportedParameter { tensor: name(), parameter });
        }
        let data = match (raw.data, parameters.binary_data_size) {
            (Some(_), Some(_)) => return Err(ProtocolError::TwiceData { input: name() }),
            (None, None) => return Err(ProtocolError::NoData { input: name() }),
            (Some(data), None) => Data::Json(data),
            (None, Some(size)) => {
                let left = rest.len();
                let length = usize::try_from(size)
                    .ok()
                    .filter(|&length| length <= left)
                    .ok_or_else(|| ProtocolError::BinaryTooShort { input: name(), size, left })?;
                Data::Binary(rest.split_to(length))
            }
        };
        Ok(Self { name: raw.name, datatype, shape, data })
    }

    fn tensor(&self) -> Result<Tensor, ProtocolError> {
        let wrap = |source| ProtocolError::Tensor { input: brief(&self.name), source };
        let elements = match &self.data {
            Data::Json(data) => read_data(&self.name, self.datatype, &self.shape, data.get())?,
            Data::Binary(bytes) if self.datatype == Datatype::Bytes => {
                let count = element_count(&self.shape).map_err(wrap)?;
                Elements::Strings(decode_strings(&self.name, bytes, count)?)
            }
            Data::Binary(bytes) => Elements::Fixed(bytes.clone()),
        };
        Tensor::new(self.datatype, self.shape.clone(), elements).map_err(wrap)
    }
}

impl<'a> Output<'a> {
    fn read(raw: RawOutput<'a>, binary_output: bool) -> Result<Self, ProtocolError> {
        let parameters = raw.parameters.unwrap_or_default();
        let unsupported = |parameter| ProtocolError::UnsupportedParameter { tensor: brief(&raw.name), parameter };
        if parameters.classification.is_some_and(|count| count > 0) {
            return Err(unsupported("classification"));
        }
        if parameters.shared_memory_region.is_some() {
            return Err(unsupported("shared_memory_region"));
        }
        Ok(Self { name: raw.name, binary: parameters.binary_data.unwrap_or(binary_output) })
    }
}

/// Says that an input is not given.
pub(super) fn missing(spec: &TensorSpec) -> ProtocolError {
    ProtocolError::MissingInput { input: spec.name.clone(), datatype: spec.datatype, shape: spec.shape.clone() }
}

/// A caller's text, short enough for a message.
pub(super) fn brief(text: &str) -> String {
    const SHOWN: usize = 128;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN).chain(std::iter::once('…')).collect()
}

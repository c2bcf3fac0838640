//! What TensorFlow's compiler found out, and the description that the server gets of it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::batch::has_rows;
use super::{CompileError, CompileRequest};
use crate::model::{Dimension, Value, ValueType};

/// The format of the description (`docs/spec/compiled.md`).
const FORMAT: u32 = 1;
/// Where variables begin in the file of weights: at multiples of it.
const ALIGNMENT: u64 = 64;

/// The driver's `facts.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Facts {
    pub variants: Vec<Variant>,
    /// Bytes of each variable, where they were written.
    weights: Option<Vec<u64>>,
}

/// One compiled size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Variant {
    pub rows: u64,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    variables: Vec<Tensor>,
}

/// A tensor, by the protocol's name of its type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tensor {
    name: String,
    datatype: String,
    shape: Vec<u64>,
}

impl Facts {
    pub fn load(path: &Path) -> Result<Self, CompileError> {
        let text = std::fs::read(path).map_err(|source| CompileError::io("read", path, source))?;
        serde_json::from_slice(&text).map_err(|error| CompileError::Facts { reason: error.to_string() })
    }

    /// The names of the variables, in the order of the file of weights.
    pub fn variables(&self) -> Vec<&str> {
        self.variants
            .first()
            .map(|variant| variant.variables.iter().map(|tensor| tensor.name.as_str()).collect())
            .unwrap_or_default()
    }

    /// Whether there is a file of weights.
    pub fn has_weights(&self) -> bool {
        self.weights_size() > 0
    }

    /// The bytes of that file.
    pub fn weights_size(&self) -> u64 {
        let sizes = self.weights.iter().flatten();
        sizes.fold(0_u64, |end, size| end.next_multiple_of(ALIGNMENT) + size)
    }

    /// The server's description.
    ///
    /// # Errors
    /// [`CompileError::Refused`] where an output of a batch does not have the batch's rows.
    pub fn describe(&self, request: &CompileRequest<'_>) -> Result<Vec<u8>, CompileError> {
        let signature = &request.saved_model.signatures[&request.saved_model.signature];
        let variant = self.variants.first().ok_or_else(|| CompileError::Facts { reason: "no variant".to_owned() })?;
        let inputs: Vec<Json> = signature.inputs.iter().map(|value| input(value, variant)).collect();
        let outputs = variant.outputs.iter().enumerate().map(|(place, output)| {
            let value = signature.outputs.iter().find(|value| value.name == output.name);
            let batched = variant.rows > 0;
            let with_rows = |of: &Variant| of.outputs.get(place).is_some_and(|output| output.shape.first() == Some(&of.rows));
            if batched && !(value.is_some_and(has_rows) && self.variants.iter().all(with_rows)) {
                let reason = format!("output `{}` does not have a row for each row of the batch", output.name);
                return Err(CompileError::Refused { model: request.model.path.clone(), reason });
            }
            Ok(json!({ "name": output.name, "datatype": output.datatype, "shape": shape(&output.shape, batched) }))
        });
        let description = json!({
            "format": FORMAT,
            "runtime": request.template.title,
            "signature": request.saved_model.signature,
            "cpu": { "name": request.processor.name, "features": request.processor.features },
            "weights": "weights",
            "inputs": inputs,
            "outputs": outputs.collect::<Result<Vec<Json>, _>>()?,
            "variants": self.variants.iter().map(|variant| json!({ "rows": variant.rows })).collect::<Vec<_>>(),
        });
        let mut text = serde_json::to_vec_pretty(&description).expect("a JSON value is JSON");
        text.push(b'\n');
        Ok(text)
    }
}

/// An input of the signature; one that no output depends on is no argument of the code.
fn input(value: &Value, variant: &Variant) -> Json {
    let place = variant.inputs.iter().position(|input| input.name == value.name);
    match place.map(|place| (place, &variant.inputs[place])) {
        Some((place, input)) => json!({
            "name": input.name, "datatype": input.datatype, "shape": shape(&input.shape, has_rows(value)), "argument": place,
        }),
        None => json!({ "name": value.name, "datatype": datatype(value), "shape": declared(value) }),
    }
}

/// Dimensions, the first one -1 where it is that of the batch.
fn shape(sizes: &[u64], batched: bool) -> Vec<Json> {
    sizes.iter().enumerate().map(|(place, size)| if place == 0 && batched { json!(-1) } else { json!(size) }).collect()
}

fn declared(value: &Value) -> Vec<Json> {
    let ValueType::Tensor { shape: Some(shape), .. } = &value.r#type else { return Vec::new() };
    shape.iter().map(|size| if let Dimension::Fixed(size) = size { json!(size) } else { json!(-1) }).collect()
}

/// The protocol's name of a value's type.
fn datatype(value: &Value) -> &'static str {
    let ValueType::Tensor { datatype, .. } = &value.r#type else { return "BYTES" };
    match datatype.number() {
        1 => "FP32",
        2 => "UINT8",
        3 => "INT8",
        4 => "UINT16",
        5 => "INT16",
        6 => "INT32",
        7 => "INT64",
        9 => "BOOL",
        10 => "FP16",
        11 => "FP64",
        12 => "UINT32",
        13 => "UINT64",
        16 => "BF16",
        _ => "BYTES",
    }
}

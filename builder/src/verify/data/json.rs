//! Requests of the Open Inference Protocol as test data: `inputs` is what is asked, `outputs` with `data` is what is expected.

use serde_json::{Map, Value};

use super::super::tensor::{Datatype, Tensor};
use super::{ModelSpec, Sample, TensorSpec};
use half::{bf16, f16};

/// Reads one request.
pub(super) fn parse(text: &[u8], name: &str, model: &ModelSpec) -> Result<Sample, String> {
    let value: Value = serde_json::from_slice(text).map_err(|error| format!("is no JSON request: {error}"))?;
    let list = |key: &str| value.get(key).and_then(Value::as_array);
    let inputs = list("inputs").ok_or("has no list `inputs`, expected a request of the Open Inference Protocol")?;
    let inputs = inputs.iter().map(|input| tensor(input, &model.inputs)).collect::<Result<_, _>>()?;
    let outputs = list("outputs").into_iter().flatten().filter(|output| output.get("data").is_some());
    let expected = outputs.map(|output| tensor(output, &model.outputs)).collect::<Result<_, _>>()?;
    Ok(Sample { name: name.to_owned(), inputs, expected })
}

fn tensor(value: &Value, specs: &[TensorSpec]) -> Result<Tensor, String> {
    let none = Map::new();
    let object = value.as_object().unwrap_or(&none);
    let name = object.get("name").and_then(Value::as_str).ok_or("has a tensor without a `name`")?;
    let wrong = |problem: String| format!("has a tensor `{name}` that {problem}");
    let spec = specs.iter().find(|spec| spec.name == name);
    let datatype = match (object.get("datatype").and_then(Value::as_str), spec) {
        (Some(text), _) => text.parse().map_err(|problem| wrong(format!("cannot be read: {problem}")))?,
        (None, Some(spec)) => spec.datatype,
        (None, None) => return Err(wrong("has no `datatype`, and the model has none of that name".to_owned())),
    };
    let data = object.get("data").ok_or_else(|| wrong("has no `data`".to_owned()))?;
    let shape = match object.get("shape") {
        None => nested_shape(data),
        Some(shape) => serde_json::from_value(shape.clone()).map_err(|error| wrong(format!("has no valid `shape`: {error}")))?,
    };
    let mut elements = Vec::new();
    flatten(data, &mut elements);
    if datatype == Datatype::Bytes {
        let texts: Option<Vec<&str>> = elements.iter().map(|element| element.as_str()).collect();
        let tensor = Tensor::of_texts(name, shape, &texts.ok_or_else(|| wrong("holds something else than texts".to_owned()))?);
        return Tensor::new(tensor.name, tensor.datatype, tensor.shape, tensor.data).map_err(wrong);
    }
    let mut bytes = Vec::with_capacity(elements.len() * datatype.width().unwrap_or(0));
    for element in elements {
        write(element, datatype, &mut bytes).ok_or_else(|| wrong(format!("holds `{element}`, which is no {datatype}")))?;
    }
    Tensor::new(name, datatype, shape, bytes).map_err(wrong)
}

/// The shape of nested lists, by the first element of each.
fn nested_shape(data: &Value) -> Vec<u64> {
    let mut shape = Vec::new();
    let mut inside = data;
    while let Value::Array(list) = inside {
        shape.push(list.len() as u64);
        let Some(first) = list.first() else { break };
        inside = first;
    }
    shape
}

fn flatten<'a>(value: &'a Value, elements: &mut Vec<&'a Value>) {
    match value {
        Value::Array(list) => list.iter().for_each(|inside| flatten(inside, elements)),
        other => elements.push(other),
    }
}

/// Appends one element; `None` where the datatype cannot hold it.
fn write(value: &Value, datatype: Datatype, bytes: &mut Vec<u8>) -> Option<()> {
    match datatype {
        Datatype::Bool => bytes.push(u8::from(value.as_bool().or_else(|| value.as_u64().map(|number| number != 0))?)),
        Datatype::Uint8 => bytes.push(u8::try_from(value.as_u64()?).ok()?),
        Datatype::Uint16 => bytes.extend(u16::try_from(value.as_u64()?).ok()?.to_le_bytes()),
        Datatype::Uint32 => bytes.extend(u32::try_from(value.as_u64()?).ok()?.to_le_bytes()),
        Datatype::Uint64 => bytes.extend(value.as_u64()?.to_le_bytes()),
        Datatype::Int8 => bytes.extend(i8::try_from(value.as_i64()?).ok()?.to_le_bytes()),
        Datatype::Int16 => bytes.extend(i16::try_from(value.as_i64()?).ok()?.to_le_bytes()),
        Datatype::Int32 => bytes.extend(i32::try_from(value.as_i64()?).ok()?.to_le_bytes()),
        Datatype::Int64 => bytes.extend(value.as_i64()?.to_le_bytes()),
        Datatype::Fp16 => bytes.extend(f16::from_f64(value.as_f64()?).to_le_bytes()),
        Datatype::Bf16 => bytes.extend(bf16::from_f64(value.as_f64()?).to_le_bytes()),
        #[expect(clippy::cast_possible_truncation, reason = "rounding to the datatype is what is meant")]
        Datatype::Fp32 => bytes.extend((value.as_f64()? as f32).to_le_bytes()),
        Datatype::Fp64 => bytes.extend(value.as_f64()?.to_le_bytes()),
        Datatype::Bytes => return None,
    }
    Some(())
}

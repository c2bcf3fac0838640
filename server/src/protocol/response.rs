//! Answers: JSON, then the outputs that go in binary.

use bytes::Bytes;
use serde::Serialize;

use super::binary::encode_strings;
use super::json::{write_data, write_json};
use super::{NotJson, ProtocolError, RequestedOutput};
use crate::backend::ModelInterface;
use crate::tensor::{Elements, Tensor};

/// An answer's body, in the parts it is written in.
#[derive(Debug)]
pub struct Reply {
    /// Bytes of JSON at the start when binary data follow, to be sent as `Inference-Header-Content-Length`.
    pub header_length: Option<usize>,
    /// The body: the JSON, then each binary output.
    pub parts: Vec<Bytes>,
}

/// Writes the answer to a request.
///
/// `outputs` and `tensors` go together, one for one.
///
/// # Errors
/// [`ProtocolError::NotJson`] for an output that was asked for as JSON and has no form there.
pub fn respond(
    model: (&str, &str),
    id: Option<&str>,
    interface: &ModelInterface,
    outputs: &[RequestedOutput],
    tensors: &[Tensor],
) -> Result<Reply, ProtocolError> {
    let mut json = Vec::with_capacity(256);
    json.extend_from_slice(b"{\"model_name\":");
    write_json(&mut json, model.0);
    json.extend_from_slice(b",\"model_version\":");
    write_json(&mut json, model.1);
    if let Some(id) = id {
        json.extend_from_slice(b",\"id\":");
        write_json(&mut json, id);
    }
    json.extend_from_slice(b",\"outputs\":[");
    let mut binary = Vec::new();
    let mut any_binary = false;
    for (place, (output, tensor)) in outputs.iter().zip(tensors).enumerate() {
        let name = &interface.outputs[output.index].name;
        if place > 0 {
            json.push(b',');
        }
        json.extend_from_slice(b"{\"name\":");
        write_json(&mut json, name);
        json.extend_from_slice(b",\"datatype\":");
        write_json(&mut json, tensor.datatype().name());
        json.extend_from_slice(b",\"shape\":");
        write_json(&mut json, tensor.shape());
        if output.binary {
            let bytes = match tensor.elements() {
                Elements::Fixed(bytes) => bytes.clone(),
                Elements::Strings(strings) => encode_strings(strings).map(Bytes::from).ok_or_else(|| {
                    // A string of more than 4 GiB has no binary form, and JSON may hold it.
                    ProtocolError::UnservedOutput { output: name.clone(), kind: "a string of more than 4 GiB".into() }
                })?,
            };
            #[derive(Serialize)]
            struct Parameters {
                binary_data_size: usize,
            }
            json.extend_from_slice(b",\"parameters\":");
            write_json(&mut json, &Parameters { binary_data_size: bytes.len() });
            any_binary = true;
            if !bytes.is_empty() {
                binary.push(bytes);
            }
        } else {
            json.extend_from_slice(b",\"data\":");
            write_data(tensor, &mut json).map_err(|reason: NotJson| ProtocolError::NotJson { output: name.clone(), reason })?;
        }
        json.push(b'}');
    }
    json.extend_from_slice(b"]}");
    let header_length = any_binary.then_some(json.len());
    let mut parts = Vec::with_capacity(1 + binary.len());
    parts.push(Bytes::from(json));
    parts.append(&mut binary);
    Ok(Reply { header_length, parts })
}

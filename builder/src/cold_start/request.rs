//! The inference that is asked for: [`InferRequest`], made once, sent as often as wanted.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;
use url::Url;

use super::error::ColdStartError;
use super::tensor::{Input, Tensor};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// What is shown of an answer that is an error.
const SHOWN: usize = 300;

/// An inference in the protocol's binary form.
#[derive(Debug, Clone)]
pub(super) struct InferRequest {
    path: String,
    /// Bytes of the JSON at the body's head.
    header: usize,
    body: Vec<u8>,
}

/// A client with connections of its own, which it keeps open.
pub(super) fn agent() -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).proxy(None).timeout_global(Some(PATIENCE));
    Agent::new_with_config(config.build())
}

fn url(address: SocketAddr, path: &str) -> String {
    format!("http://{address}{path}")
}

fn failed(path: &str, reason: impl ToString) -> ColdStartError {
    ColdStartError::Request { path: path.to_owned(), reason: reason.to_string() }
}

/// The path of a model, its name escaped.
fn model_path(model: &str) -> String {
    let mut url = Url::parse("http://server/v2/models").expect("a fixed address");
    url.path_segments_mut().expect("an address with a path").push(model);
    url.path().to_owned()
}

impl InferRequest {
    /// Makes the request for a model of a running server: of the files `input_N.pb` in a folder, or of zeros.
    pub fn for_model(address: SocketAddr, model: &str, data: Option<&Path>) -> Result<Self, ColdStartError> {
        #[derive(Deserialize)]
        struct Metadata {
            inputs: Vec<Input>,
        }
        let path = model_path(model);
        let answer = agent().get(&url(address, &path)).call().map_err(|error| failed(&path, error))?;
        let status = answer.status().as_u16();
        let text = answer.into_body().read_to_string().map_err(|error| failed(&path, error))?;
        if status != 200 {
            return Err(ColdStartError::Answer { path, status, body: shown(&text) });
        }
        let Metadata { inputs } = serde_json::from_str(&text).map_err(|error| failed(&path, error))?;
        let tensors = match data {
            Some(folder) => from_files(folder, &inputs)?,
            None => inputs.iter().map(Tensor::zeros).collect::<Result<_, _>>()?,
        };
        Ok(Self::new(&path, &inputs, &tensors))
    }

    fn new(path: &str, inputs: &[Input], tensors: &[Tensor]) -> Self {
        let described: Vec<_> = inputs
            .iter()
            .zip(tensors)
            .map(|(input, tensor)| {
                serde_json::json!({
                    "name": input.name,
                    "datatype": tensor.datatype,
                    "shape": tensor.shape,
                    "parameters": { "binary_data_size": tensor.bytes.len() },
                })
            })
            .collect();
        let header = serde_json::json!({ "inputs": described, "parameters": { "binary_data_output": true } }).to_string();
        let mut body = header.clone().into_bytes();
        for tensor in tensors {
            body.extend_from_slice(&tensor.bytes);
        }
        Self { path: format!("{path}/infer"), header: header.len(), body }
    }

    /// Asks, and reads the whole answer.
    pub fn send(&self, agent: &Agent, address: SocketAddr) -> Result<(), ColdStartError> {
        let failed = |error: &dyn ToString| failed(&self.path, error.to_string());
        let answer = agent
            .post(url(address, &self.path))
            .header("content-type", "application/octet-stream")
            .header("inference-header-content-length", self.header.to_string())
            .send(self.body.as_slice())
            .map_err(|error| failed(&error))?;
        let status = answer.status().as_u16();
        let mut body = answer.into_body();
        if status != 200 {
            let text = body.read_to_string().unwrap_or_default();
            return Err(ColdStartError::Answer { path: self.path.clone(), status, body: shown(&text) });
        }
        let mut reader = body.with_config().limit(u64::MAX).reader();
        io::copy(&mut reader, &mut io::sink()).map_err(|error| failed(&error))?;
        Ok(())
    }
}

fn shown(text: &str) -> String {
    text.trim().chars().take(SHOWN).collect()
}

/// Reads `input_0.pb`, `input_1.pb`, …: one that bears the name of an input is for that input, any other for the input of its number.
fn from_files(folder: &Path, inputs: &[Input]) -> Result<Vec<Tensor>, ColdStartError> {
    let mut found: Vec<Option<Tensor>> = vec![None; inputs.len()];
    for number in 0..inputs.len() {
        let path = folder.join(format!("input_{number}.pb"));
        let bytes = fs::read(&path).map_err(|source| ColdStartError::File { action: "read", path: path.clone(), source })?;
        let (name, tensor) = Tensor::parse(&bytes, &path)?;
        let place = inputs.iter().position(|input| input.name == name).unwrap_or(number);
        if found[place].replace(tensor).is_some() {
            let reason = format!("is for the input `{}`, as another file is", inputs[place].name);
            return Err(ColdStartError::Data { place: format!("`{}`", path.display()), reason });
        }
    }
    Ok(found.into_iter().map(|tensor| tensor.expect("as many files as inputs, and none twice")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_model_is_escaped() {
        assert_eq!(model_path("a b/c"), "/v2/models/a%20b%2Fc");
    }

    #[test]
    fn the_header_says_how_long_the_tensors_are() {
        let input = |name: &str| Input { name: name.to_owned(), datatype: "INT8".to_owned(), shape: vec![2] };
        let inputs = [input("a"), input("b")];
        let tensors = inputs.iter().map(|input| Tensor::zeros(input).expect("zeros")).collect::<Vec<_>>();
        let request = InferRequest::new("/v2/models/m", &inputs, &tensors);
        let header: serde_json::Value = serde_json::from_slice(&request.body[..request.header]).expect("JSON");
        assert_eq!(header["inputs"][1]["name"], "b");
        assert_eq!(header["inputs"][1]["parameters"]["binary_data_size"], 2);
        assert_eq!(request.body.len(), request.header + 4);
        assert_eq!(request.path, "/v2/models/m/infer");
    }
}

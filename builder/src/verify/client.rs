//! A client of the Open Inference Protocol over REST, binary both ways: [`Client`].

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::data::{ModelSpec, Sample, TensorSpec};
use super::error::VerifyError;
use super::tensor::Tensor;

/// The header that says where the JSON ends and the tensors begin.
const HEADER_LENGTH: &str = "Inference-Header-Content-Length";
/// The largest answer that is read.
const LARGEST_ANSWER: u64 = 4 << 30;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Talks to one server. Its connections are kept and shared by clones.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    address: SocketAddr,
    model: String,
}

impl Client {
    /// A client for the model that a server serves under a name.
    #[must_use]
    pub fn new(address: SocketAddr, model: &str) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).proxy(None).build();
        Self { agent: config.into(), address, model: model.to_owned() }
    }

    fn wrong(&self, problem: impl Into<String>) -> VerifyError {
        VerifyError::Server { address: self.address.to_string(), problem: problem.into() }
    }

    /// Asks for the model's inputs and outputs.
    ///
    /// # Errors
    /// Where the server does not answer as the protocol says.
    pub fn model(&self) -> Result<ModelSpec, VerifyError> {
        let url = format!("http://{}/v2/models/{}", self.address, self.model);
        let mut answer = self.agent.get(&url).call().map_err(|error| self.wrong(format!("does not answer: {error}")))?;
        let text = answer.body_mut().read_to_string().map_err(|error| self.wrong(format!("broke off: {error}")))?;
        if answer.status() != 200 {
            return Err(self.wrong(format!("answers {} to {url}: {text}", answer.status().as_u16())));
        }
        let value: Value = serde_json::from_str(&text).map_err(|error| self.wrong(format!("sends no JSON: {error}")))?;
        let specs = |key: &str| -> Result<Vec<TensorSpec>, VerifyError> {
            let list = value[key].as_array().ok_or_else(|| self.wrong(format!("names no {key}")))?;
            list.iter().map(|entry| spec(entry).map_err(|problem| self.wrong(problem))).collect()
        };
        Ok(ModelSpec { name: self.model.clone(), inputs: specs("inputs")?, outputs: specs("outputs")? })
    }

    /// Sends a sample and gives every output.
    ///
    /// # Errors
    /// Where the server refuses the sample or answers in an unknown way.
    pub fn infer(&self, sample: &Sample) -> Result<Vec<Tensor>, VerifyError> {
        let (head, body) = request(&sample.inputs);
        let url = format!("http://{}/v2/models/{}/infer", self.address, self.model);
        let sent = self
            .agent
            .post(&url)
            .header(HEADER_LENGTH, head.to_string())
            .header("Content-Type", "application/octet-stream")
            .send(&body);
        let mut answer = sent.map_err(|error| self.wrong(format!("does not answer `{}`: {error}", sample.name)))?;
        let length = answer.headers().get(HEADER_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let bytes = answer.body_mut().with_config().limit(LARGEST_ANSWER).read_to_vec();
        let bytes = bytes.map_err(|error| self.wrong(format!("broke off while answering `{}`: {error}", sample.name)))?;
        let status = answer.status().as_u16();
        if status != 200 {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let message = serde_json::from_str::<Value>(&text).ok().and_then(|value| Some(value["error"].as_str()?.to_owned()));
            return Err(VerifyError::Refused { sample: sample.name.clone(), status, message: message.unwrap_or(text) });
        }
        outputs(&bytes, length.unwrap_or(bytes.len())).map_err(|problem| self.wrong(problem))
    }
}

fn spec(value: &Value) -> Result<TensorSpec, String> {
    let name = value["name"].as_str().ok_or("names a tensor without a name")?.to_owned();
    let datatype = value["datatype"].as_str().unwrap_or_default().parse()?;
    let shape = serde_json::from_value(value["shape"].clone()).map_err(|_| format!("gives `{name}` no shape"))?;
    Ok(TensorSpec { name, datatype, shape })
}

/// A request: the length of its JSON, and the JSON with the tensors' bytes behind it.
pub(super) fn request(inputs: &[Tensor]) -> (usize, Vec<u8>) {
    let list: Vec<Value> = inputs
        .iter()
        .map(|tensor| {
            json!({
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": tensor.shape,
                "parameters": { "binary_data_size": tensor.data.len() },
            })
        })
        .collect();
    let mut body = json!({ "inputs": list, "parameters": { "binary_data_output": true } }).to_string().into_bytes();
    let head = body.len();
    inputs.iter().for_each(|tensor| body.extend_from_slice(&tensor.data));
    (head, body)
}

/// The outputs of an answer whose JSON has a length.
fn outputs(bytes: &[u8], length: usize) -> Result<Vec<Tensor>, String> {
    let (head, mut rest) = bytes.split_at_checked(length).ok_or("says that its JSON is longer than its answer")?;
    let value: Value = serde_json::from_slice(head).map_err(|error| format!("sends no JSON: {error}"))?;
    let list = value["outputs"].as_array().ok_or("sends no outputs")?;
    let mut tensors = Vec::with_capacity(list.len());
    for entry in list {
        let name = entry["name"].as_str().ok_or("sends an output without a name")?;
        let wrong = |problem: String| format!("sends an output `{name}` that {problem}");
        let datatype = entry["datatype"].as_str().unwrap_or_default().parse().map_err(wrong)?;
        let shape = serde_json::from_value(entry["shape"].clone()).map_err(|_| wrong("has no shape".to_owned()))?;
        let size = entry["parameters"]["binary_data_size"].as_u64().and_then(|size| usize::try_from(size).ok());
        let size = size.ok_or_else(|| wrong("is not binary, as was asked for".to_owned()))?;
        let (data, behind) = rest.split_at_checked(size).ok_or_else(|| wrong("is cut short".to_owned()))?;
        rest = behind;
        tensors.push(Tensor::new(name, datatype, shape, data.to_vec()).map_err(wrong)?);
    }
    if rest.is_empty() { Ok(tensors) } else { Err(format!("sends {} bytes behind its outputs", rest.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::tensor::Datatype;

    #[test]
    fn an_answer_is_read_to_its_last_byte_and_no_further() {
        let head = json!({ "outputs": [
            { "name": "a", "datatype": "FP32", "shape": [1], "parameters": { "binary_data_size": 4 } },
            { "name": "b", "datatype": "BYTES", "shape": [1], "parameters": { "binary_data_size": 5 } },
        ] });
        let head = head.to_string().into_bytes();
        let body = [head.clone(), vec![0, 0, 128, 63, 1, 0, 0, 0, b'x']].concat();
        let tensors = outputs(&body, head.len()).expect("an answer");
        assert_eq!(tensors[0].floats(), [1.0]);
        assert_eq!(tensors[1].texts().expect("texts"), [b"x"]);
        assert!(outputs(&body[..body.len() - 1], head.len()).expect_err("it is cut").contains("cut short"));
        assert!(outputs(&[body, vec![0]].concat(), head.len()).expect_err("it is longer").contains("1 bytes behind"));
        assert!(outputs(b"{}", 9).is_err());
    }

    #[test]
    fn a_request_carries_its_tensors_behind_its_json() {
        let tensor = Tensor::new("x", Datatype::Int8, vec![2], vec![1, 2]).expect("a tensor");
        let (head, body) = request(&[tensor]);
        assert_eq!(&body[head..], [1, 2]);
        let value: Value = serde_json::from_slice(&body[..head]).expect("JSON");
        assert_eq!(value["inputs"][0]["parameters"]["binary_data_size"], 2);
    }
}

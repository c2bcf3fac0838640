//! A client of the Open Inference Protocol over REST, binary both ways: [`Client`].

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use url::Url;

use super::error::InferenceError;
use super::tensor::{Datatype, Tensor};

/// The header that says where the JSON ends and the tensors begin.
const HEADER_LENGTH: &str = "Inference-Header-Content-Length";
/// The largest answer that is kept.
const LARGEST_ANSWER: u64 = 4 << 30;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// The most bytes of zeros that are made for one input.
const MOST_ZEROS: u64 = 64 << 20;
/// Connections that are kept between requests, for as many threads at a time.
const CONNECTIONS: usize = 256;
/// What is shown of an answer that is an error.
const SHOWN: usize = 300;

/// What the server says of one input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// What its elements are.
    pub datatype: Datatype,
    /// Its dimensions, −1 where dynamic.
    pub shape: Vec<i64>,
}

/// What the server says of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// The name it is served under.
    pub name: String,
    /// Its inputs.
    pub inputs: Vec<TensorSpec>,
    /// Its outputs.
    pub outputs: Vec<TensorSpec>,
}

impl TensorSpec {
    /// Zeros of the shape, with 1 for each dynamic dimension; empty texts for texts.
    ///
    /// # Errors
    /// Where they would have more than 64 MiB.
    pub fn zeros(&self) -> Result<Tensor, InferenceError> {
        let shape: Vec<u64> = self.shape.iter().map(|dimension| u64::try_from(*dimension).unwrap_or(1)).collect();
        // An empty text is its length, four bytes.
        let width = self.datatype.width().unwrap_or(4) as u64;
        let bytes =
            shape.iter().try_fold(width, |bytes, dimension| bytes.checked_mul(*dimension)).filter(|bytes| *bytes <= MOST_ZEROS);
        let wrong = |problem: String| InferenceError::Zeros { input: self.name.clone(), problem };
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let bytes =
            bytes.ok_or_else(|| wrong(format!("is of shape {shape:?}, of which zeros have more than {MOST_ZEROS} bytes")))?;
        Tensor::new(&self.name, self.datatype, shape, vec![0; bytes]).map_err(wrong)
    }
}

/// An inference in the protocol's binary form: made once, sent as often as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferRequest {
    /// Bytes of the JSON at the body's head.
    head: usize,
    body: Vec<u8>,
}

impl InferRequest {
    /// A request for every output.
    #[must_use]
    pub fn new(inputs: &[Tensor]) -> Self {
        let described = |tensor: &Tensor| {
            json!({
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": tensor.shape,
                "parameters": { "binary_data_size": tensor.data.len() },
            })
        };
        let list: Vec<Value> = inputs.iter().map(described).collect();
        let mut body = json!({ "inputs": list, "parameters": { "binary_data_output": true } }).to_string().into_bytes();
        let head = body.len();
        inputs.iter().for_each(|tensor| body.extend_from_slice(&tensor.data));
        Self { head, body }
    }
}

/// Talks to one server about one model. Its connections are kept, and shared by its clones.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    address: SocketAddr,
    model: String,
    /// The model's path, its name escaped.
    path: String,
}

impl Client {
    /// A client for the model that a server serves under a name.
    #[must_use]
    pub fn new(address: SocketAddr, model: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .max_idle_connections(CONNECTIONS)
            .max_idle_connections_per_host(CONNECTIONS)
            .proxy(None);
        Self { agent: config.build().into(), address, model: model.to_owned(), path: model_path(model) }
    }

    fn wrong(&self, problem: impl Into<String>) -> InferenceError {
        InferenceError::Server { address: self.address.to_string(), problem: problem.into() }
    }

    /// Asks for the model's inputs and outputs.
    ///
    /// # Errors
    /// Where the server does not answer as the protocol says.
    pub fn model(&self) -> Result<ModelSpec, InferenceError> {
        let sent = self.agent.get(format!("http://{}{}", self.address, self.path)).call();
        let mut answer = sent.map_err(|error| self.wrong(format!("does not answer: {error}")))?;
        let text = answer.body_mut().read_to_vec().map_err(|error| self.wrong(format!("broke off: {error}")))?;
        if answer.status() != 200 {
            return Err(refused(&self.path, answer.status().as_u16(), &text));
        }
        let value: Value = serde_json::from_slice(&text).map_err(|error| self.wrong(format!("sends no JSON: {error}")))?;
        let specs = |key: &str| -> Result<Vec<TensorSpec>, InferenceError> {
            let list = value[key].as_array().ok_or_else(|| self.wrong(format!("names no {key}")))?;
            list.iter().map(|entry| spec(entry).map_err(|problem| self.wrong(problem))).collect()
        };
        Ok(ModelSpec { name: self.model.clone(), inputs: specs("inputs")?, outputs: specs("outputs")? })
    }

    fn ask(&self, request: &InferRequest) -> Result<ureq::http::Response<ureq::Body>, InferenceError> {
        let path = format!("{}/infer", self.path);
        let sent = self
            .agent
            .post(format!("http://{}{path}", self.address))
            .header(HEADER_LENGTH, request.head.to_string())
            .header("Content-Type", "application/octet-stream")
            .send(request.body.as_slice());
        let mut answer = sent.map_err(|error| self.wrong(format!("does not answer: {error}")))?;
        if answer.status() == 200 {
            return Ok(answer);
        }
        let text = answer.body_mut().read_to_vec().unwrap_or_default();
        Err(refused(&path, answer.status().as_u16(), &text))
    }

    /// Sends a request and gives every output.
    ///
    /// # Errors
    /// Where the server refuses the request or answers otherwise than the protocol says.
    pub fn infer(&self, request: &InferRequest) -> Result<Vec<Tensor>, InferenceError> {
        let mut answer = self.ask(request)?;
        let length = answer.headers().get(HEADER_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let bytes = answer.body_mut().with_config().limit(LARGEST_ANSWER).read_to_vec();
        let bytes = bytes.map_err(|error| self.wrong(format!("broke off: {error}")))?;
        outputs(&bytes, length.unwrap_or(bytes.len())).map_err(|problem| self.wrong(problem))
    }

    /// Sends a request, and reads the answer without a look at it.
    ///
    /// # Errors
    /// Where the server refuses the request or breaks off.
    pub fn time(&self, request: &InferRequest) -> Result<(), InferenceError> {
        let mut reader = self.ask(request)?.into_body().into_with_config().limit(u64::MAX).reader();
        io::copy(&mut reader, &mut io::sink()).map_err(|error| self.wrong(format!("broke off: {error}")))?;
        Ok(())
    }
}

fn model_path(model: &str) -> String {
    let mut url = Url::parse("http://server/v2/models").expect("a fixed address");
    url.path_segments_mut().expect("an address with a path").push(model);
    url.path().to_owned()
}

fn refused(path: &str, status: u16, answer: &[u8]) -> InferenceError {
    let text = String::from_utf8_lossy(answer);
    let said = serde_json::from_slice::<Value>(answer).ok().and_then(|value| Some(value["error"].as_str()?.to_owned()));
    let message = said.unwrap_or_else(|| text.trim().to_owned()).chars().take(SHOWN).collect();
    InferenceError::Refused { path: path.to_owned(), status, message }
}

fn spec(value: &Value) -> Result<TensorSpec, String> {
    let name = value["name"].as_str().ok_or("names a tensor without a name")?.to_owned();
    let datatype = value["datatype"].as_str().unwrap_or_default().parse()?;
    let shape = serde_json::from_value(value["shape"].clone()).map_err(|_| format!("gives `{name}` no shape"))?;
    Ok(TensorSpec { name, datatype, shape })
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
        let InferRequest { head, body } = InferRequest::new(&[tensor]);
        assert_eq!(&body[head..], [1, 2]);
        let value: Value = serde_json::from_slice(&body[..head]).expect("JSON");
        assert_eq!(value["inputs"][0]["parameters"]["binary_data_size"], 2);
    }

    #[test]
    fn zeros_have_the_shape_of_the_metadata() {
        let spec = |datatype, shape: &[i64]| TensorSpec { name: "x".to_owned(), datatype, shape: shape.to_vec() };
        let zeros = |datatype, shape: &[i64]| spec(datatype, shape).zeros().expect("zeros");
        assert_eq!(zeros(Datatype::Fp32, &[-1, 3]), Tensor::new("x", Datatype::Fp32, vec![1, 3], vec![0; 12]).expect("a tensor"));
        assert_eq!(zeros(Datatype::Bytes, &[2]).data, [0; 8]);
        assert_eq!(zeros(Datatype::Bool, &[]).data, [0]);
        for shape in [&[1 << 40][..], &[1 << 40, 1 << 40]] {
            spec(Datatype::Fp64, shape).zeros().expect_err("it is refused");
        }
    }

    #[test]
    fn the_path_of_a_model_is_escaped() {
        assert_eq!(model_path("a b/c"), "/v2/models/a%20b%2Fc");
    }
}

//! The inference that is asked for, made of the model's test data or of zeros: [`Question`].

use std::net::SocketAddr;
use std::path::Path;

use super::error::ColdStartError;
use crate::inference::{Client, InferRequest, InferenceError, TensorSpec, read_folder};

/// What every server that is started is asked, and for which model.
#[derive(Debug, Clone)]
pub(super) struct Question {
    model: String,
    pub request: InferRequest,
}

impl Question {
    /// Makes the request for a running server's model: of the files `input_N.pb` in a folder, or of zeros.
    pub fn for_model(address: SocketAddr, model: &str, data: Option<&Path>) -> Result<Self, ColdStartError> {
        let inputs = Client::new(address, model).model()?.inputs;
        let tensors = match data {
            None => inputs.iter().map(TensorSpec::zeros).collect::<Result<Vec<_>, _>>()?,
            Some(folder) => {
                let tensors = read_folder(folder, "input_", &inputs)?;
                if let Some(missing) = inputs.iter().find(|input| !tensors.iter().any(|tensor| tensor.name == input.name)) {
                    let problem = format!("holds no file for the input `{}`", missing.name);
                    return Err(InferenceError::Data { path: folder.to_owned(), problem }.into());
                }
                tensors
            }
        };
        Ok(Self { model: model.to_owned(), request: InferRequest::new(&tensors) })
    }

    /// A client of a server, with connections of its own.
    pub fn client(&self, address: SocketAddr) -> Client {
        Client::new(address, &self.model)
    }
}

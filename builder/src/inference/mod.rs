//! Asking a running server: tensors, ONNX's files of them, and a client of the Open Inference Protocol.
//!
//! [`Client`] asks a server for its model and sends [`InferRequest`]s, binary both ways; [`Tensor`] is what travels. Cold starts and verification share them.

mod client;
mod error;
mod proto;
mod tensor;

pub use client::{Client, InferRequest, ModelSpec, TensorSpec};
pub use error::InferenceError;
pub use proto::{read_folder, tensor_files, write_tensor};
pub use tensor::{Datatype, Tensor};

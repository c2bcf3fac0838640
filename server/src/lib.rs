//! The inference server that goes into images.
//!
//! One process serves one model. [`run`] reads the [`config`], opens the runtime and the model behind the
//! [`backend::Backend`] seam, and answers the Open Inference Protocol over HTTP. The contract with whoever starts it
//! (options, paths, ports, lines on standard error, exit codes) is in `docs/spec/server.md`.

pub mod backend;
pub mod config;
pub mod log;
pub mod phases;
pub mod protocol;
pub mod tensor;
pub mod tensor_proto;

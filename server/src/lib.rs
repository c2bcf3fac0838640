//! The inference server that goes into images.
//!
//! One process serves one model. [`run`] reads the [`config`], opens the runtime and the model behind the
//! [`backend::Backend`] seam, and answers the Open Inference Protocol over [`http`]. The contract with whoever starts it
//! (options, paths, ports, lines on standard error, exit codes) is in `docs/spec/server.md`.

pub mod backend;
pub mod cli;
mod compare;
pub mod config;
mod cpu;
mod heap;
pub mod http;
pub mod log;
pub mod phases;
pub mod protocol;
mod start;
pub mod tensor;
pub mod tensor_proto;
pub mod warm_up;

pub use start::run;

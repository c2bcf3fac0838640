//! Tests of the whole product; a line per subject.

mod bad_input;
mod base_image;
mod bench;
mod choose;
mod cold_start;
mod command;
mod compare;
mod custom_operators;
mod determinism;
mod doctor;
mod engine;
mod fatbin;
mod golden;
mod image;
mod onnx_cuda;
mod onnx_tensorrt;
mod operators;
mod optimize;
mod platforms;
mod providers;
mod registry;
mod saved_model;
mod supply_chain;
mod template;
mod vendor;
mod verify;

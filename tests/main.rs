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
mod fatbin;
mod golden;
mod image;
mod operators;
mod optimize;
mod platforms;
mod registry;
mod saved_model;
mod saved_model_aot;
mod supply_chain;
mod template;
mod vendor;
mod verify;

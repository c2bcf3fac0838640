//! Tests of the whole product; a line per subject.

mod bad_input;
mod base_image;
mod cold_start;
mod bench;
mod command;
mod custom_operators;
mod compare;
mod determinism;
mod golden;
mod image;
mod platforms;
mod vendor;
mod template;

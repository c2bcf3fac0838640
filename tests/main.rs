//! Tests of the whole product; a line per subject.

mod bad_input;
mod command;
mod determinism;
mod image;
mod saved_model;

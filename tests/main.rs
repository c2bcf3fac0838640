//! Tests of the whole product; a line per subject.

mod bad_input;
mod cold_start;
mod command;
mod determinism;
mod image;

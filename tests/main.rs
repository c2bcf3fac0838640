//! Tests of the whole product; a line per subject.

mod bad_input;
mod bench;
mod command;
mod determinism;
mod image;
mod template;

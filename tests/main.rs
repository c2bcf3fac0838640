//! Tests of the whole product; a line per subject.

mod bad_input;
mod command;
mod compare;
mod determinism;
mod image;

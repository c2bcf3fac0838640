//! Tests of the whole product; a line per subject.

mod build;

//! Measuring how long an image takes from nothing to its first answer: [`measure()`] makes a
//! [`ColdStartReport`](crate::report::cold_start::ColdStartReport).
//!
//! Each run is a real one: `pull` brings the image from a registry into an empty store (`serve` is one for local images), `start`
//! starts it and asks it once, `files` sees to the page cache, `steady` puts it under load, `predict` computes other links.
//! `docs/spec/cold-start-report.md` says what each figure means and how the clocks are joined.

mod error;
mod files;
mod machine;
mod measure;
mod predict;
mod pull;
mod request;
mod serve;
mod start;
mod steady;

pub use error::ColdStartError;
pub use measure::{Origin, Request, measure, measure_together};
pub use pull::Starter;
pub use steady::Load;

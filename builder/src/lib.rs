//! Builds OCI images for inference.

/// Models: their format, operators, inputs, outputs and external data.
pub mod model;

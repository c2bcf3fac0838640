//! Builds the smallest OCI image that serves a model.
//!
//! The data goes one way: recipe → model → lock → runtime → tree → plan → layers → image → report.
//! `docs/ARCHITECTURE.md` names each stage and what it gives the next one.
//! Builds OCI images for inference.

pub mod digest;
pub mod elf;
pub mod image;
pub mod layer;
pub mod link;
pub mod model;
pub mod platform;
pub mod progress;
pub mod reference;
pub mod registry;
pub mod runner;
pub mod source;
pub mod store;
pub mod template;
pub mod transport;
pub mod tree;

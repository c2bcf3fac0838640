//! Builds the smallest OCI image that serves a model.
//!
//! The data goes one way: recipe → model → lock → runtime → tree → plan → layers → image → report.
//! `docs/ARCHITECTURE.md` names each stage and what it gives the next one.

pub mod digest;
pub mod image;
pub mod platform;
pub mod progress;
pub mod reference;
pub mod runner;
pub mod store;
pub mod tree;

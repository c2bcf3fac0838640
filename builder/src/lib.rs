//! Builds the smallest OCI image that serves a model.
//!
//! The data goes one way: recipe → model → lock → runtime → tree → plan → layers → image → report.
//! `docs/ARCHITECTURE.md` names each stage and what it gives the next one.

pub mod attest;
pub mod build;
pub mod choose;
pub mod cli;
pub mod cold_start;
pub mod compare;
pub mod compiled;
pub mod digest;
pub mod doctor;
pub mod elf;
pub mod engine;
pub mod exit_code;
pub mod fatbin;
pub mod files;
pub mod image;
pub mod inference;
pub mod layer;
pub mod link;
pub mod lock;
pub mod model;
pub mod optimize;
mod page;
pub mod parent;
pub mod plan;
pub mod platform;
pub mod progress;
pub mod recipe;
pub mod reference;
pub mod registry;
pub mod report;
pub mod rewrite;
pub mod runner;
pub mod runtime;
pub mod source;
pub mod store;
pub mod template;
pub mod transport;
pub mod tree;
pub mod units;
pub mod verify;

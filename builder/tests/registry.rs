//! The registry client against Debian's `docker-registry`, a small registry of our own, and a proxy that breaks things.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

// Helpers.
#[path = "registry/docker.rs"]
mod docker;
#[path = "registry/http.rs"]
mod http;
#[path = "registry/images.rs"]
mod images;
#[path = "registry/mini.rs"]
mod mini;
#[path = "registry/proxy.rs"]
mod proxy;

// Tests.
#[path = "registry/faults.rs"]
mod faults;
#[path = "registry/memory.rs"]
mod memory;
#[path = "registry/protocol.rs"]
mod protocol;
#[path = "registry/real.rs"]
mod real;
#[path = "registry/resume.rs"]
mod resume;
#[path = "registry/seeded.rs"]
mod seeded;
#[path = "registry/tokens.rs"]
mod tokens;

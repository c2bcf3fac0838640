//! Where the files of an image come from: choosing versions ([`Source::lock`]) and obtaining what was chosen ([`Source::obtain`]).
//!
//! | source | names | fetched by |
//! |---|---|---|
//! | [`Pip`] | wheels | `pip download`, with hashes for what is locked |
//! | [`Apt`] | Debian packages | `apt-get download`, without root and without a change to the system |
//! | [`Local`] | files, archives and directories of the recipe | reading them |
//!
//! [`Sources`] has one of each and sends every [`Pin`] to the right one. Mirrors, proxies and credentials are those that `pip`
//! and `apt` are configured with. [`package::Package`] reads what was obtained.

mod apt;
pub mod debian;
mod error;
mod glob;
mod local;
mod obtain;
pub mod package;
mod pin;
mod pip;
mod tool;

#[cfg(test)]
mod tests;

pub use apt::Apt;
pub use error::SourceError;
pub use glob::{Glob, GlobError};
pub use local::Local;
pub use obtain::{Reach, Request, Source, Sources, WheelTags};
pub use pin::{DebName, NameError, Pin, SourceKind, WheelName};
pub use pip::Pip;
pub(crate) use tool::Ended;
pub use tool::Environment;
pub(crate) use tool::mask;

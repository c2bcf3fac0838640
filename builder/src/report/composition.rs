//! What is in an image and why, small enough to travel in a label of its config: [`Composition`].
//!
//! It is in the config so that `imgbuild why` and `inspect` answer for an image in a registry without fetching a layer,
//! and because a label survives every transport. It holds no compressed sizes: the config's digest must not depend on them.

use serde::{Deserialize, Serialize};

use super::{Links, Omission};

/// The label that holds it, as compact JSON.
pub const LABEL: &str = "io.imgbuild.composition";

/// What is in an image and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Composition {
    /// Version of this format.
    pub version: u32,
    /// Name of the stack.
    pub stack: String,
    /// Name or reference of the base.
    pub base: String,
    /// The name the model is served under.
    pub model: String,
    /// Executables and libraries, by path.
    pub libraries: Vec<Library>,
    /// What was left out.
    pub omitted: Vec<Omission>,
    /// The proof that the image links.
    pub links: Links,
}

/// One executable or library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    /// Where it is in the image.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// Package and version, or whose it is.
    pub from: String,
    /// The chain that brought it in, from the entry point on.
    pub chain: Vec<String>,
}

impl Composition {
    /// Reads the label's text.
    ///
    /// # Errors
    /// Where it is no composition.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The label's text.
    #[must_use]
    pub fn to_label(&self) -> String {
        serde_json::to_string(self).expect("a composition has string keys only")
    }
}

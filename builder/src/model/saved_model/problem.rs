//! What can be wrong with a SavedModel.

use crate::model::error::ExternalProblem;

/// Why a SavedModel cannot be used, as a verb phrase that follows its name.
#[derive(Debug, thiserror::Error)]
pub enum SavedModelProblem {
    /// It is in the text form.
    #[error("has only `saved_model.pbtxt`, expected the binary `saved_model.pb`")]
    Text,
    /// No graph has the tags.
    #[error("has no graph tagged {}, expected {}", list(tags), alternatives(known))]
    Tags {
        /// The tags that were asked for.
        tags: Vec<String>,
        /// The tags of each graph that is there.
        known: Vec<Vec<String>>,
    },
    /// No signature has the key.
    #[error("has no signature `{signature}`, expected one of: {}", list(known))]
    Signature {
        /// The key that was asked for.
        signature: String,
        /// The keys that are there.
        known: Vec<String>,
    },
    /// There is no signature at all.
    #[error("has no signature, expected at least `serving_default`")]
    NoSignature,
    /// A signature has nothing to answer with.
    #[error("has a signature `{signature}` without outputs")]
    NoOutputs {
        /// The signature's key.
        signature: String,
    },
    /// An input or output that no request can carry.
    #[error(
        "has {what} `{name}` of signature `{signature}`, which is {found}, expected a dense tensor of numbers, booleans or strings"
    )]
    Tensor {
        /// `input` or `output`, with its article.
        what: &'static str,
        /// The signature's key.
        signature: String,
        /// Its name.
        name: String,
        /// What it is.
        found: String,
    },
    /// A file is missing or may not travel.
    #[error("needs the file `{location}`, {problem}")]
    File {
        /// The path relative to the model.
        location: String,
        /// What is wrong with it.
        problem: ExternalProblem,
    },
    /// The checkpoint's index makes no sense.
    #[error("has a damaged `{location}`: it {problem}")]
    Index {
        /// The path relative to the model.
        location: String,
        /// What is wrong, as a verb phrase.
        problem: &'static str,
    },
    /// A file of weights is cut off.
    #[error("has a truncated `{location}`: `{tensor}` ends at byte {expected}, the file has {found}")]
    Shard {
        /// The path relative to the model.
        location: String,
        /// The tensor that lies beyond its end.
        tensor: String,
        /// Bytes that it needs.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// The runtime does not know an operator.
    #[error("uses operators that {runtime} does not have: {}", list(operators))]
    Operators {
        /// The runtime and its version.
        runtime: String,
        /// The operators.
        operators: Vec<String>,
    },
}

impl SavedModelProblem {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Text => "write it in the binary form with `tf.saved_model.save`",
                Self::Tags { .. } => "choose a graph with `saved-model.tags` in the recipe",
                Self::Signature { .. } => "choose one with `saved-model.signature` in the recipe",
                Self::NoSignature | Self::NoOutputs { .. } => {
                    "export it with signatures: `tf.saved_model.save(model, folder, signatures=…)`, or Keras' `model.export`"
                }
                Self::Tensor { .. } => "export a signature that takes and gives dense tensors",
                Self::File { .. } | Self::Index { .. } | Self::Shard { .. } => {
                    "copy the whole folder: `saved_model.pb`, `variables/` and `assets/` belong together"
                }
                Self::Operators { .. } => {
                    "operators of a library of one's own cannot be served; export the model without them, or with a newer TensorFlow's names"
                }
            }
            .to_owned(),
        )
    }
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

fn alternatives(graphs: &[Vec<String>]) -> String {
    if graphs.is_empty() {
        return "a file with at least one graph".to_owned();
    }
    graphs.iter().map(|tags| if tags.is_empty() { "no tag".to_owned() } else { list(tags) }).collect::<Vec<_>>().join(" or ")
}

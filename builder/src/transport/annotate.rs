//! Annotations that are added on the way: another manifest, and so another digest.

use std::collections::BTreeMap;

use serde_json::Value;

use super::content::{Content, ImageIndex};
use crate::image::Image;

impl Content {
    /// The same image or index with annotations added to its manifest or to the index itself; those of the same name are replaced.
    #[must_use]
    pub fn annotated(&self, annotations: &BTreeMap<String, String>) -> Self {
        if annotations.is_empty() {
            return self.clone();
        }
        match self {
            Self::Image(image) => {
                let manifest = with_annotations(&image.manifest, annotations);
                let mut parsed = image.parsed.clone();
                parsed.annotations.extend(annotations.clone());
                Self::Image(Image { manifest, parsed, ..image.clone() })
            }
            Self::Index(index) => {
                let bytes = with_annotations(&index.bytes, annotations);
                let mut parsed = index.parsed.clone();
                parsed.annotations.extend(annotations.clone());
                Self::Index(ImageIndex { bytes, parsed, children: index.children.clone() })
            }
        }
    }
}

/// A document with more annotations. Whatever else is in it stays, whether it is known here or not.
fn with_annotations(bytes: &[u8], annotations: &BTreeMap<String, String>) -> Vec<u8> {
    let mut document: Value = serde_json::from_slice(bytes).expect("it was read as a manifest or index");
    let all = &mut document["annotations"];
    if !all.is_object() {
        *all = Value::Object(serde_json::Map::new());
    }
    for (name, value) in annotations {
        all[name] = Value::from(value.clone());
    }
    serde_json::to_vec(&document).expect("a JSON value becomes JSON")
}

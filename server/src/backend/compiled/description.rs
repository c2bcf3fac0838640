//! `model.json`: what a compiled model takes and gives, and what a processor must have to run it.

use serde::Deserialize;

use crate::tensor::{Datatype, element_count};

/// The newest format that is read.
const FORMAT: u64 = 1;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    format: u64,
    /// What compiled the model, and its version.
    pub runtime: String,
    /// The key of the signature that was compiled.
    pub signature: String,
    /// The processor that it was compiled for.
    pub cpu: Processor,
    /// The file of weights beside the description.
    pub weights: String,
    /// Inputs in the signature's order.
    pub inputs: Vec<Port>,
    /// Outputs in the order of the library.
    pub outputs: Vec<Port>,
    /// The sizes of batches that were compiled, rising.
    pub variants: Vec<Variant>,
}

/// A processor.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Processor {
    /// Its name.
    pub name: String,
    /// What it must have.
    pub features: Vec<String>,
}

/// An input or output.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    /// Its name in the signature.
    pub name: String,
    /// The type of its elements.
    #[serde(deserialize_with = "datatype")]
    pub datatype: Datatype,
    /// Its dimensions; a first one of -1 stands for the rows of the batch.
    pub shape: Vec<i64>,
    /// Which argument of the library it is; an input that no output depends on is none.
    #[serde(default)]
    pub argument: Option<usize>,
}

/// One compiled size.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Variant {
    /// Rows of a batch; 0 for a model that has none.
    pub rows: usize,
}

impl Port {
    /// Whether its first dimension is that of the batch.
    pub fn has_rows(&self) -> bool {
        self.shape.first() == Some(&-1)
    }

    /// Its dimensions with so many rows.
    pub fn dimensions(&self, rows: usize) -> Vec<usize> {
        self.shape.iter().map(|&size| usize::try_from(size).unwrap_or(rows)).collect()
    }

    /// Its bytes with so many rows.
    pub fn bytes(&self, rows: usize) -> Option<usize> {
        element_count(&self.dimensions(rows)).ok()?.checked_mul(self.datatype.size()?)
    }
}

impl Description {
    /// Reads the file, or says what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let description: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        description.check()?;
        Ok(description)
    }

    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("its format is {}, expected {FORMAT}", self.format));
        }
        for port in self.inputs.iter().chain(&self.outputs) {
            let dynamic = port.shape.iter().skip(1).any(|&size| size < 0);
            if dynamic || port.shape.first().is_some_and(|&size| size < -1) || port.datatype.size().is_none() {
                return Err(format!("`{}` is {} of shape {:?}, which cannot be compiled", port.name, port.datatype, port.shape));
            }
        }
        let rows: Vec<usize> = self.variants.iter().map(|variant| variant.rows).collect();
        let batched = self.inputs.iter().any(Port::has_rows);
        let sound = if batched { rows.first().is_some_and(|&rows| rows > 0) } else { rows == [0] };
        if !sound || !rows.is_sorted_by(|a, b| a < b) {
            return Err(format!("its variants have {rows:?} rows, expected {}", if batched { "rising numbers" } else { "[0]" }));
        }
        if self.weights.contains('/') || self.outputs.is_empty() {
            return Err("it has no outputs, or its weights are not a file beside it".to_owned());
        }
        Ok(())
    }
}

fn datatype<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Datatype, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"{"format":1,"runtime":"xla","signature":"s","cpu":{"name":"c","features":["avx"]},"weights":"weights",
        "inputs":[{"name":"x","datatype":"FP32","shape":[-1,3],"argument":0}],"outputs":[{"name":"y","datatype":"FP32","shape":[-1]}],
        "variants":[{"rows":1},{"rows":8}]}"#;

    #[test]
    fn a_description_is_read() {
        let description = Description::parse(SOUND.as_bytes()).expect("it is sound");
        assert_eq!(description.inputs[0].bytes(8), Some(96));
        assert_eq!(description.variants[1].rows, 8);
    }

    #[test]
    fn unsound_descriptions_are_refused() {
        for (old, new, expected) in [
            ("\"format\":1", "\"format\":2", "format is 2"),
            ("[-1,3]", "[-1,-1]", "cannot be compiled"),
            ("[-1,3]", "[2,3]", "expected [0]"),
            ("\"FP32\"", "\"BYTES\"", "cannot be compiled"),
            ("\"FP32\"", "\"F\"", "unknown"),
            ("{\"rows\":1},", "{\"rows\":9},", "rising numbers"),
            ("\"weights\":\"w", "\"weights\":\"../w", "beside it"),
            ("\"format\"", "\"formt\"", "formt"),
        ] {
            let error = Description::parse(SOUND.replacen(old, new, 1).as_bytes()).expect_err(new);
            assert!(error.contains(expected), "{error}");
        }
    }
}

//! For which sizes of batches a model is compiled: [`Batch`].

use std::path::Path;

use super::CompileError;
use crate::model::{Dimension, SavedModel, Value, ValueType};

/// The sizes of batches to compile for, rising; none where all shapes are static.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch(Vec<u64>);

impl Batch {
    /// Checks that the signature's shapes are static once the first dimensions that are dynamic are those of a batch of a size
    /// that was asked for. Compiled code has no other.
    ///
    /// # Errors
    /// [`CompileError::Refused`] with the input and its shape; [`CompileError::Batch`] where sizes are given and nothing is dynamic.
    pub fn of(model: &SavedModel, path: &Path, asked: &[u64]) -> Result<Self, CompileError> {
        let refused = |reason: String| CompileError::Refused { model: path.to_owned(), reason };
        let signature = &model.signatures[&model.signature];
        let mut dynamic = None;
        for (what, value) in
            signature.inputs.iter().map(|value| ("input", value)).chain(signature.outputs.iter().map(|value| ("output", value)))
        {
            let ValueType::Tensor { datatype, shape } = &value.r#type else {
                return Err(refused(format!("{what} `{}` is {}", value.name, value.r#type)));
            };
            if datatype.bytes_of(1).is_none() {
                return Err(refused(format!("{what} `{}` is a tensor of {datatype}, which XLA does not have", value.name)));
            }
            if what == "output" {
                continue;
            }
            let Some(shape) = shape else {
                return Err(refused(format!("the rank of input `{}` is unknown", value.name)));
            };
            if let Some(place) = shape.iter().skip(1).position(|size| !matches!(size, Dimension::Fixed(_))) {
                let shape = shown(shape);
                return Err(refused(format!("dimension {} of input `{}` of shape {shape} is dynamic", place + 1, value.name)));
            }
            if has_rows(value) {
                dynamic.get_or_insert_with(|| {
                    format!("the first dimension of input `{}` of shape {} is dynamic", value.name, shown(shape))
                });
            }
        }
        match dynamic {
            Some(reason) if asked.is_empty() => Err(refused(reason)),
            None if !asked.is_empty() => {
                let batch = asked.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let reason = "the first dimension of none of its inputs is dynamic";
                Err(CompileError::Batch { model: path.to_owned(), batch, reason })
            }
            _ => Ok(Self(asked.to_vec())),
        }
    }

    /// The sizes.
    #[must_use]
    pub fn sizes(&self) -> &[u64] {
        &self.0
    }
}

/// Whether the first dimension of a value is that of the batch.
pub(super) fn has_rows(value: &Value) -> bool {
    match &value.r#type {
        ValueType::Tensor { shape: Some(shape), .. } => shape.first().is_some_and(|size| !matches!(size, Dimension::Fixed(_))),
        ValueType::Tensor { shape: None, .. } => true,
        _ => false,
    }
}

fn shown(shape: &[Dimension]) -> String {
    format!("[{}]", shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

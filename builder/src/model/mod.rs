//! Opens a model and tells what it is: format, operators, inputs and outputs, external data.
//!
//! [`Model::open`] reads a model's structure and never its weights, so its time and memory depend on
//! the graph and not on the size of the file. [`check_operators`] compares it with an
//! [`OperatorTable`], the list of what a release of a runtime can execute, so that a model which the
//! runtime would refuse is refused when the image is built.

use std::path::{Path, PathBuf};

use serde::Serialize;

mod check;
mod error;
mod external;
mod externalize;
mod format;
mod onnx;
mod operators;
mod problem;
mod proto;
#[cfg(test)]
mod tests;
mod value;
mod wire;

pub use check::{OperatorCheck, check_operators};
pub use error::{ExternalProblem, ModelError, SINGLE_FILE_LIMIT};
pub use external::ExternalFile;
pub(crate) use externalize::Externalized;
pub use format::{Format, Found, detect, identify};
pub use onnx::{IR_VERSION_LIMIT, Initializers, ONNX_DOMAIN, OnnxModel, OperatorId, OpsetImport};
pub use operators::OperatorTable;
pub use problem::OperatorProblem;
pub use value::{DataType, Dimension, Value, ValueType};

/// A model on disk, and what it says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct Model {
    /// The file.
    #[serde(skip)]
    pub path: PathBuf,
    /// The file's name without its extension: the name under which the model is served by default.
    pub name: String,
    /// The format that was recognised.
    pub format: Format,
    /// The file's size in bytes, external data not counted.
    pub size: u64,
    /// The model's content.
    pub onnx: OnnxModel,
}

impl Model {
    /// Opens a model, whatever its file is called.
    ///
    /// # Errors
    ///
    /// If the path is not a readable ONNX model, or external data is missing, cut off, or outside the
    /// model's folder. SavedModel directories are recognised and refused as such.
    pub fn open(path: &Path) -> Result<Model, ModelError> {
        let (bytes, size) = match format::open(path)? {
            format::Opened::SavedModel => {
                return Err(ModelError::SavedModel { path: path.to_owned() });
            }
            format::Opened::File { bytes, size } => (bytes, size),
        };
        match identify(&bytes) {
            Found::Onnx => {}
            found => {
                return Err(ModelError::NotOnnx { path: path.to_owned(), found });
            }
        }
        if size > SINGLE_FILE_LIMIT {
            return Err(ModelError::TooLarge { path: path.to_owned(), size });
        }
        Ok(Model {
            path: path.to_owned(),
            name: path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()),
            format: Format::Onnx,
            size,
            onnx: OnnxModel::parse(&bytes, path)?,
        })
    }

    /// Returns the bytes of the model and all its external data files.
    #[must_use]
    pub fn total_size(&self) -> u64 {
        self.onnx.external.iter().fold(self.size, |total, file| total.saturating_add(file.size))
    }
}

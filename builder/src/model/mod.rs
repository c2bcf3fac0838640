//! Opens a model and tells what it is: format, operators, inputs and outputs, and the files that belong to it.
//!
//! [`Model::open`] reads a model's structure and never its weights, so its time and memory depend on
//! the graph and not on the size of the file. [`check_operators`] compares an ONNX model with an
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
mod saved_model;
#[cfg(test)]
mod tests;
mod value;
mod wire;

pub use check::{OperatorCheck, check_operators, nodes_without_kernel};
pub use error::{ExternalProblem, ModelError, SINGLE_FILE_LIMIT};
pub use external::ExternalFile;
pub(crate) use externalize::Externalized;
pub use format::{Format, Found, detect, identify};
pub use onnx::{IR_VERSION_LIMIT, Initializers, ONNX_DOMAIN, OnnxModel, OperatorId, OpsetImport};
pub use operators::OperatorTable;
pub use problem::OperatorProblem;
pub(crate) use saved_model::{Deduplicated, INDEX as CHECKPOINT_INDEX, ONLY_SHARD as CHECKPOINT_SHARD};
pub use saved_model::{SavedModel, SavedModelProblem, Selection, Signature, TensorFlowOperators, Variables};
pub use value::{DataType, Dimension, Value, ValueType};

/// A model on disk, and what it says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct Model {
    /// The file, or the folder of a SavedModel.
    #[serde(skip)]
    pub path: PathBuf,
    /// The file's name without its extension: the name under which the model is served by default.
    pub name: String,
    /// The format that was recognised.
    pub format: Format,
    /// The size in bytes of the file with the graph, other files not counted.
    pub size: u64,
    /// The model's content.
    #[serde(flatten)]
    pub content: Content,
}

/// What a model says of itself, by its format.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// An ONNX file.
    Onnx(Box<OnnxModel>),
    /// A TensorFlow SavedModel.
    SavedModel(SavedModel),
}

impl Model {
    /// Opens a model, whatever its file is called; of a SavedModel the graph for serving.
    ///
    /// # Errors
    ///
    /// If the path is neither a readable ONNX model nor a SavedModel, or a file that belongs to it is missing, cut off, or
    /// outside the model's folder.
    pub fn open(path: &Path) -> Result<Model, ModelError> {
        Model::open_selected(path, &Selection::default())
    }

    /// Opens a model; `selection` says which graph and signature of a SavedModel are wanted.
    ///
    /// # Errors
    ///
    /// As [`Model::open`], and if a SavedModel has no such graph or signature.
    pub fn open_selected(path: &Path, selection: &Selection) -> Result<Model, ModelError> {
        let (format, size, content) = match format::open(path)? {
            format::Opened::SavedModel => {
                let model = SavedModel::open(path, selection)?;
                let size = model.files.iter().find(|file| file.location == saved_model::GRAPH_FILE).map_or(0, |file| file.size);
                (Format::SavedModel, size, Content::SavedModel(model))
            }
            format::Opened::File { bytes, size } => (Format::Onnx, size, Content::Onnx(Box::new(open_onnx(path, &bytes, size)?))),
        };
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Ok(Model { path: path.to_owned(), name, format, size, content })
    }

    /// Returns what an ONNX model says of itself.
    #[must_use]
    pub fn onnx(&self) -> Option<&OnnxModel> {
        match &self.content {
            Content::Onnx(onnx) => Some(onnx.as_ref()),
            Content::SavedModel(_) => None,
        }
    }

    /// Whether the model uses an operator, in whatever domain.
    #[must_use]
    pub fn uses_operator(&self, name: &str) -> bool {
        match &self.content {
            Content::Onnx(onnx) => onnx.operators.keys().any(|used| used.name == name),
            Content::SavedModel(model) => model.operators.contains_key(name),
        }
    }

    /// Returns the files that the model is made of, by the places that they must have to each other.
    #[must_use]
    pub fn files(&self) -> Vec<ExternalFile> {
        match &self.content {
            Content::Onnx(onnx) => {
                let location = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                let mut files = vec![ExternalFile { location, path: self.path.clone(), size: self.size }];
                files.extend(onnx.external.iter().cloned());
                files
            }
            Content::SavedModel(model) => model.files.clone(),
        }
    }

    /// Returns the bytes of all files of the model.
    #[must_use]
    pub fn total_size(&self) -> u64 {
        self.files().iter().fold(0, |total, file| total.saturating_add(file.size))
    }
}

fn open_onnx(path: &Path, bytes: &[u8], size: u64) -> Result<OnnxModel, ModelError> {
    match identify(bytes) {
        Found::Onnx => {}
        found => return Err(ModelError::NotOnnx { path: path.to_owned(), found }),
    }
    if size > SINGLE_FILE_LIMIT {
        return Err(ModelError::TooLarge { path: path.to_owned(), size });
    }
    OnnxModel::parse(bytes, path)
}

//! What can be wrong with a model.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use super::format::Found;
use super::problem::OperatorProblem;
use super::saved_model::SavedModelProblem;

/// The largest single file that protobuf readers, and so ONNX Runtime, can parse, in bytes.
pub const SINGLE_FILE_LIMIT: u64 = i32::MAX as u64;

/// Why a model cannot be opened, or cannot be served by a runtime.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The file does not exist, or may not be read.
    #[error("cannot read model `{}`", path.display())]
    Read {
        /// The model.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The path names a directory that is no model.
    #[error("`{}` is a directory without `saved_model.pb`, expected an ONNX file or a SavedModel", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Up to five ONNX files in it.
        models: Vec<String>,
    },
    /// The path names a device, a pipe or a socket.
    #[error("`{}` is not a regular file", path.display())]
    NotRegular {
        /// What was named.
        path: PathBuf,
    },
    /// The file has no bytes.
    #[error("`{}` is empty, expected an ONNX model", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A SavedModel cannot be used.
    #[error("SavedModel `{}` {problem}", path.display())]
    SavedModel {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: Box<SavedModelProblem>,
    },
    /// The file is something else.
    #[error("`{}` is {found}, expected an ONNX model", path.display())]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: Found,
    },
    /// The file ends before a field does.
    #[error(
        "model `{}` is truncated: field {field} at byte {offset} claims {claimed} bytes, only {remaining} remain",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The field's path, such as `graph.initializer[3]`.
        field: String,
        /// Where the field starts in the file.
        offset: u64,
        /// The length that the field has by its own account, in bytes.
        claimed: u64,
        /// What is left of the file, or of the message around the field, in bytes.
        remaining: u64,
    },
    /// The file is not well-formed protobuf.
    #[error("model `{}` is damaged: field {field} at byte {offset} {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The field's path.
        field: String,
        /// Where the field starts in the file.
        offset: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// The file is too large for one protobuf message.
    #[error("model `{}` has {size} bytes in one file, the runtime reads at most {SINGLE_FILE_LIMIT}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The model has no graph.
    #[error("model `{}` has no graph", path.display())]
    NoGraph {
        /// The file.
        path: PathBuf,
    },
    /// The model does not say which operator sets it uses.
    #[error("model `{}` has no opset_import, expected at least one operator set and its version", path.display())]
    NoOpsetImport {
        /// The file.
        path: PathBuf,
    },
    /// The IR version is missing or makes no sense.
    #[error(
        "model `{}` has {}, expected a number from 1 to {}",
        path.display(),
        found.map_or_else(|| "no ir_version".to_owned(), |version| format!("ir_version {version}")),
        super::onnx::IR_VERSION_LIMIT
    )]
    IrVersion {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: Option<i64>,
    },
    /// Two functions of the model have one name.
    #[error("model `{}` defines function {function} twice", path.display())]
    DuplicateFunction {
        /// The file.
        path: PathBuf,
        /// The function.
        function: String,
    },
    /// A tensor's dimensions make no sense.
    #[error("tensor `{tensor}` of model `{}` has the shape {dims:?}, expected sizes that fit 64 bits together", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        dims: Vec<i64>,
    },
    /// A tensor's external data cannot be used.
    #[error("tensor `{tensor}` of model `{}` has its data in `{location}`, {problem}", path.display())]
    External {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The location that the tensor names.
        location: String,
        /// What is wrong with it.
        problem: ExternalProblem,
    },
    /// The runtime does not read this IR version.
    #[error("model `{}` has IR version {found}, {runtime} reads up to {highest}", path.display())]
    IrVersionTooNew {
        /// The file.
        path: PathBuf,
        /// The model's IR version.
        found: i64,
        /// The runtime and its version.
        runtime: String,
        /// The highest IR version that it reads.
        highest: i64,
    },
    /// The runtime does not know this version of an operator set.
    #[error("model `{}` imports opset {found} of {domain}, {runtime} knows up to {highest}", path.display())]
    OpsetTooNew {
        /// The file.
        path: PathBuf,
        /// The operator set's domain.
        domain: String,
        /// The version that the model imports.
        found: i64,
        /// The runtime and its version.
        runtime: String,
        /// The highest version that it knows.
        highest: i64,
    },
    /// The runtime knows nothing of a domain whose operators the model uses.
    #[error(
        "model `{}` uses operators of the domain {domain}, which {runtime} does not have: {}",
        path.display(),
        operators.join(", ")
    )]
    UnknownDomain {
        /// The file.
        path: PathBuf,
        /// The domain.
        domain: String,
        /// The operators of the domain that the model uses.
        operators: Vec<String>,
        /// The runtime and its version.
        runtime: String,
    },
    /// The model uses a domain without importing it.
    #[error("{user} of model `{}` uses {operator}, but has no opset_import for the domain {domain}", path.display())]
    DomainNotImported {
        /// The file.
        path: PathBuf,
        /// The graph, or the function.
        user: String,
        /// The domain.
        domain: String,
        /// An operator of the domain.
        operator: String,
    },
    /// Two nodes of one graph have one name, which the runtime refuses.
    #[error("model `{}` has two nodes named `{node}` in one graph", path.display())]
    DuplicateNode {
        /// The file.
        path: PathBuf,
        /// The name.
        node: String,
    },
    /// A function of the model calls itself, perhaps by way of others.
    #[error("function {function} of model `{}` calls itself", path.display())]
    RecursiveFunction {
        /// The file.
        path: PathBuf,
        /// The function.
        function: String,
    },
    /// The runtime cannot execute some operators.
    #[error("model `{}` cannot run on {runtime}: {}", path.display(), listed(problems))]
    Operators {
        /// The file.
        path: PathBuf,
        /// The runtime, its version and its provider.
        runtime: String,
        /// What is wrong, each once, in the order of the graph.
        problems: Vec<OperatorProblem>,
    },
    /// An operator table cannot be read.
    #[error("cannot read operator table `{}`", path.display())]
    TableRead {
        /// The table.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// An operator table is not what it should be.
    #[error("operator table{} is not valid", path.as_ref().map(|path| format!(" `{}`", path.display())).unwrap_or_default())]
    TableParse {
        /// The table, if it came from a file.
        path: Option<PathBuf>,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// An operator table was written for a newer builder.
    #[error("operator table has format {found}, expected {expected}")]
    TableFormat {
        /// The format in the table.
        found: u32,
        /// The only format that this version reads.
        expected: u32,
    },
    /// An operator table contradicts itself.
    #[error("operator table is not valid: {operator} refers to {reference}, which is not there")]
    TableReference {
        /// The operator.
        operator: String,
        /// What it refers to.
        reference: String,
    },
}

/// What is wrong with a tensor's external data; fits after "has its data in `x`, ".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExternalProblem {
    /// The tensor says that its data is external, but not where.
    #[error("but names no location")]
    NoLocation,
    /// The location is not UTF-8 or holds a NUL.
    #[error("which cannot be a file name")]
    BadName,
    /// The location is an absolute path.
    #[error("which is absolute, expected a path relative to the model's folder")]
    Absolute,
    /// The location has a `..`.
    #[error("which has a `..`, expected a path inside the model's folder")]
    ParentDirectory,
    /// A symbolic link leads out of the folder.
    #[error("which leads to `{}`, outside the model's folder `{}`", target.display(), folder.display())]
    Escapes {
        /// Where it leads.
        target: PathBuf,
        /// The folder that it must stay in.
        folder: PathBuf,
    },
    /// The file is not there.
    #[error("which does not exist in `{}`", folder.display())]
    Missing {
        /// The model's folder.
        folder: PathBuf,
    },
    /// The file cannot be read.
    #[error("which cannot be read: {source}")]
    Unreadable {
        /// What the operating system says.
        source: io::Error,
    },
    /// It is a directory or a device.
    #[error("which is {found}, expected a regular file")]
    NotRegular {
        /// What it is.
        found: &'static str,
    },
    /// The offset or the length is not a number.
    #[error("with {key} `{value}`, expected a number of bytes")]
    BadNumber {
        /// `offset` or `length`.
        key: &'static str,
        /// What is there instead.
        value: String,
    },
    /// The length is not what the tensor's shape and type need.
    #[error("with a length of {found} bytes, its shape and type need {expected}")]
    Length {
        /// The length that the model gives.
        found: u64,
        /// The length by shape and type.
        expected: u64,
    },
    /// The range runs beyond the end of the file.
    #[error("bytes {offset} to {end}, but the file has {size}")]
    OutOfRange {
        /// The first byte.
        offset: u64,
        /// The byte after the last one.
        end: u128,
        /// The file's size in bytes.
        size: u64,
    },
}

fn listed(problems: &[OperatorProblem]) -> String {
    const SHOWN: usize = 5;
    let mut text = String::new();
    for (index, problem) in problems.iter().take(SHOWN).enumerate() {
        let _ = write!(text, "{}{problem}", if index == 0 { "" } else { "; " });
    }
    if problems.len() > SHOWN {
        let _ = write!(text, "; and {} more", problems.len() - SHOWN);
    }
    text
}

impl ModelError {
    /// Returns what the user can do about it, as an imperative sentence.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            ModelError::Directory { models, .. } => match models.as_slice() {
                [] => Some("give the path of the `.onnx` file itself, or of the folder that has `saved_model.pb`".to_owned()),
                names => Some(format!("give the path of the file itself: the directory has {}", names.join(", "))),
            },
            ModelError::SavedModel { problem, .. } => problem.hint(),
            ModelError::NotOnnx { found, .. } => found.hint().map(str::to_owned),
            ModelError::Empty { .. } | ModelError::Truncated { .. } | ModelError::Damaged { .. } => {
                Some("fetch or export the file again, and compare its size or digest with the original".to_owned())
            }
            ModelError::TooLarge { .. } => {
                Some("save it with external data: `onnx.save_model(model, path, save_as_external_data=True)`".to_owned())
            }
            ModelError::NoGraph { .. } | ModelError::NoOpsetImport { .. } | ModelError::IrVersion { .. } => Some(
                "if the exporter wrote it so, `onnx.checker.check_model` says more; if not, the file may be cut off".to_owned(),
            ),
            ModelError::External { problem, .. } => problem.hint(),
            ModelError::IrVersionTooNew { highest, .. } => Some(format!(
                "set the model's `ir_version` to {highest} or lower, export it with an older onnx package, or pin a newer runtime"
            )),
            ModelError::OpsetTooNew { domain, highest, .. } => Some(format!(
                "export the model for opset {highest} of {domain} or lower (`onnx.version_converter` lowers it too), or pin a newer runtime"
            )),
            ModelError::UnknownDomain { domain, .. } => Some(format!(
                "if a library implements these operators, name it in the recipe's `custom_op_libraries`, with the domain {domain}"
            )),
            ModelError::DomainNotImported { domain, .. } => {
                Some(format!("add an opset_import for {domain} where it is used; the runtime refuses the model without"))
            }
            ModelError::Operators { problems, .. } => problems.iter().find_map(OperatorProblem::hint),
            _ => None,
        }
    }
}

impl ExternalProblem {
    fn hint(&self) -> Option<String> {
        Some(
            match self {
                ExternalProblem::Missing { .. } => "copy the data file beside the model, under the name that the model gives it",
                ExternalProblem::OutOfRange { .. } => "the data file is cut off or belongs to another model: fetch or export both again",
                ExternalProblem::Absolute | ExternalProblem::ParentDirectory | ExternalProblem::Escapes { .. } => {
                    "save the model again with its data beside it: `onnx.save_model(model, path, save_as_external_data=True, location=\"weights.bin\")`"
                }
                _ => return None,
            }
            .to_owned(),
        )
    }
}

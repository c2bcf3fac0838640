//! The first run, before the model is ready: kernels are chosen and memory is taken while nobody waits.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::backend::{Backend, Cancel, ModelInterface, RunError, ShapeSpec, TensorSpec};
use crate::config::WarmUp;
use crate::tensor::{Datatype, Tensor, TensorError};
use crate::tensor_proto::{self, TensorProtoError};

/// How the first run went, where it does not keep the server from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was run; the times, where there were further runs.
    Ran(Option<Times>),
    /// It was not run, and why.
    Skipped(String),
    /// It failed on made-up inputs that the model need not accept.
    Failed(String),
}

/// How long runs took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The first run.
    pub first: Duration,
    /// The median of the further ones.
    pub median: Duration,
}

/// Why the first run keeps the server from starting.
#[derive(Debug, thiserror::Error)]
pub enum WarmUpError {
    /// A file of inputs cannot be read.
    #[error("failed to read `{}`: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of inputs is no tensor.
    #[error("failed to read `{}`: {source}", path.display())]
    NotATensor {
        /// The file.
        path: PathBuf,
        /// Why.
        source: TensorProtoError,
    },
    /// A file of inputs is not for this model.
    #[error("`{}` is {found_datatype} of shape {found_shape:?}, expected {expected_datatype} of shape {expected_shape} for input `{input}`", path.display())]
    WrongTensor {
        /// The file.
        path: PathBuf,
        /// The model's input.
        input: String,
        /// The file's element type.
        found_datatype: Datatype,
        /// The file's dimensions.
        found_shape: Vec<usize>,
        /// The model's element type.
        expected_datatype: Datatype,
        /// What the model declares.
        expected_shape: ShapeSpec,
    },
    /// A file of inputs bears another input's name, or one that the model does not have.
    #[error("`{}` is named for input `{found}`, expected an input of the model that has no file yet", path.display())]
    WrongName {
        /// The file.
        path: PathBuf,
        /// The name in it.
        found: String,
    },
    /// The model cannot be run.
    #[error("failed to run the model on {inputs}: {source}")]
    Run {
        /// What it was run on.
        inputs: String,
        /// Why.
        source: RunError,
    },
}

/// Runs the model once; inputs of zeros are made only up to `largest` bytes.
///
/// # Errors
/// When given inputs cannot be read or run; and when zeros cannot be run because the runtime lacks a kernel or its GPU fails,
/// so that no request could be answered. Any other failure on zeros says little: a model may well refuse a shape or an index of 0.
pub fn warm_up(backend: &dyn Backend, warm_up: &WarmUp, repeats: usize, largest: usize) -> Result<Outcome, WarmUpError> {
    let interface = backend.interface();
    let outputs: Vec<usize> = (0..interface.outputs.len()).collect();
    match warm_up {
        WarmUp::Off => Ok(Outcome::Skipped("it is off".into())),
        WarmUp::Folder(folder) => {
            let inputs = read_folder(folder, interface)?;
            run(backend, &inputs, &outputs, repeats)
                .map(Outcome::Ran)
                .map_err(|source| WarmUpError::Run { inputs: format!("`{}`", folder.display()), source })
        }
        WarmUp::Zeros => {
            let inputs = match zeros(interface, largest) {
                Ok(Some(inputs)) => inputs,
                Ok(None) => return Ok(Outcome::Skipped(format!("zeros of its shapes take more than {largest} bytes"))),
                Err(error) => return Ok(Outcome::Skipped(error.to_string())),
            };
            match run(backend, &inputs, &outputs, repeats) {
                Ok(times) => Ok(Outcome::Ran(times)),
                Err(source @ (RunError::NotImplemented { .. } | RunError::Provider { .. })) => {
                    Err(WarmUpError::Run { inputs: "zeros".into(), source })
                }
                Err(error) => Ok(Outcome::Failed(error.to_string())),
            }
        }
    }
}

/// Runs the model once, and then as often as is said; gives times where that is at all.
fn run(backend: &dyn Backend, inputs: &[Tensor], outputs: &[usize], repeats: usize) -> Result<Option<Times>, RunError> {
    let started = Instant::now();
    backend.run(inputs.to_vec(), outputs, &Cancel::default())?;
    let first = started.elapsed();
    let mut times = Vec::with_capacity(repeats);
    for _ in 0..repeats {
        let started = Instant::now();
        backend.run(inputs.to_vec(), outputs, &Cancel::default())?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(times.len() / 2).map(|&median| Times { first, median }))
}

fn zeros(interface: &ModelInterface, largest: usize) -> Result<Option<Vec<Tensor>>, TensorError> {
    let mut tensors = Vec::with_capacity(interface.inputs.len());
    let mut total = 0_usize;
    for input in &interface.inputs {
        let shape: Vec<usize> = match &input.shape {
            ShapeSpec::Ranked(dimensions) => dimensions.iter().map(|dimension| dimension.unwrap_or(1)).collect(),
            ShapeSpec::Unranked => Vec::new(),
        };
        let bytes = crate::tensor::element_count(&shape)?.saturating_mul(input.datatype.size().unwrap_or(32));
        total = total.saturating_add(bytes);
        if total > largest {
            return Ok(None);
        }
        tensors.push(Tensor::zeros(input.datatype, shape)?);
    }
    Ok(Some(tensors))
}

/// Reads `input_0.pb` and so on; a file that bears an input's name is for that input, any other for the next in order.
pub(crate) fn read_folder(folder: &Path, interface: &ModelInterface) -> Result<Vec<Tensor>, WarmUpError> {
    let mut tensors: Vec<Option<Tensor>> = vec![None; interface.inputs.len()];
    for index in 0..interface.inputs.len() {
        let path = folder.join(format!("input_{index}.pb"));
        let bytes = std::fs::read(&path).map_err(|source| WarmUpError::Unreadable { path: path.clone(), source })?;
        let named = tensor_proto::parse(&bytes).map_err(|source| WarmUpError::NotATensor { path: path.clone(), source })?;
        let place = interface.inputs.iter().position(|input| input.name == named.name).unwrap_or(index);
        if tensors[place].is_some() {
            return Err(WarmUpError::WrongName { path, found: named.name });
        }
        tensors[place] = Some(checked(path, named.tensor, &interface.inputs[place])?);
    }
    // As many files as inputs, each in a place of its own.
    Ok(tensors.into_iter().flatten().collect())
}

fn checked(path: PathBuf, tensor: Tensor, input: &TensorSpec) -> Result<Tensor, WarmUpError> {
    if tensor.datatype() == input.datatype && input.shape.accepts(tensor.shape()) {
        return Ok(tensor);
    }
    Err(WarmUpError::WrongTensor {
        path,
        input: input.name.clone(),
        found_datatype: tensor.datatype(),
        found_shape: tensor.shape().to_vec(),
        expected_datatype: input.datatype,
        expected_shape: input.shape.clone(),
    })
}

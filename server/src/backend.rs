//! The seam between the server and a runtime.
//!
//! A [`Backend`] holds one loaded model. The server asks it what the model takes and gives ([`ModelInterface`]) and runs
//! it on [`Tensor`]s that were checked against that. No type of a runtime's library crosses this seam.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::tensor::{Datatype, Tensor};

pub mod compiled;
mod library;
pub mod onnx;
pub mod tensorflow;

/// One input or output of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in the model.
    pub name: String,
    /// The type of its elements.
    pub datatype: Datatype,
    /// What the model says about its dimensions.
    pub shape: ShapeSpec,
}

/// What a model says about the dimensions of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShapeSpec {
    /// The number of dimensions is known; `None` stands for a dynamic one.
    Ranked(Vec<Option<usize>>),
    /// The runtime names no dimension: a scalar, or a tensor of any rank. It checks the rank itself.
    Unranked,
}

impl ShapeSpec {
    /// The dimensions as the protocol writes them, -1 for a dynamic one.
    pub fn to_protocol(&self) -> Vec<i64> {
        match self {
            Self::Ranked(dimensions) => {
                dimensions.iter().map(|dimension| dimension.and_then(|size| i64::try_from(size).ok()).unwrap_or(-1)).collect()
            }
            Self::Unranked => Vec::new(),
        }
    }

    /// Whether a tensor of this shape may be given.
    pub fn accepts(&self, shape: &[usize]) -> bool {
        match self {
            Self::Ranked(dimensions) => {
                dimensions.len() == shape.len()
                    && dimensions.iter().zip(shape).all(|(declared, &size)| declared.is_none_or(|known| known == size))
            }
            Self::Unranked => true,
        }
    }

    /// Whether every dimension is fixed by the model.
    pub fn is_static(&self) -> bool {
        matches!(self, Self::Ranked(dimensions) if dimensions.iter().all(Option::is_some))
    }
}

impl fmt::Display for ShapeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Ranked(_) = self else { return f.write_str("(any)") };
        f.write_str("[")?;
        for (index, dimension) in self.to_protocol().iter().enumerate() {
            write!(f, "{}{dimension}", if index > 0 { "," } else { "" })?;
        }
        f.write_str("]")
    }
}

/// An output that the model has and the protocol cannot carry, such as a sequence of maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnservedOutput {
    /// Its name in the model.
    pub name: String,
    /// Its type in words.
    pub kind: String,
}

/// What a loaded model takes and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInterface {
    /// The protocol's name of the runtime and format, such as `onnx_onnxv1`.
    pub platform: &'static str,
    /// The runtime's name and version.
    pub runtime: String,
    /// Inputs in the model's order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs in the model's order.
    pub outputs: Vec<TensorSpec>,
    /// Outputs that cannot be asked for.
    pub unserved: Vec<UnservedOutput>,
}

/// Why a run gave no outputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The runtime refused the inputs.
    #[error("the runtime refused the inputs: {message}")]
    Refused {
        /// The runtime's own words.
        message: String,
    },
    /// The runtime has no kernel for what the model does with these inputs.
    #[error("the runtime cannot run this: {message}")]
    NotImplemented {
        /// The runtime's own words.
        message: String,
    },
    /// The run was stopped by its [`Cancel`].
    #[error("the run was stopped before it ended")]
    Cancelled,
    /// The run failed.
    #[error("the runtime failed: {message}")]
    Failed {
        /// The runtime's own words.
        message: String,
    },
    /// The runtime gave an output that the protocol cannot carry.
    #[error("output `{name}` is {kind}, which cannot be served")]
    Unserved {
        /// The output's name.
        name: String,
        /// Its type in words.
        kind: String,
    },
}

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The loader refused a library.
    #[error("failed to open `{}`: {message}", library.display())]
    LibraryNotOpened {
        /// The library that was asked for.
        library: PathBuf,
        /// The library, symbol or symbol version that the loader did not find.
        missing: Missing,
        /// The loader's own words.
        message: String,
    },
    /// The library is another version than this server works with.
    #[error("`{}` is version {found}, expected {expected}", library.display())]
    LibraryVersion {
        /// The library.
        library: PathBuf,
        /// Its version.
        found: String,
        /// The versions that serve.
        expected: String,
    },
    /// The runtime refused to initialise, or an option.
    #[error("the runtime refused {what}: {message}")]
    Option {
        /// What it refused.
        what: String,
        /// The runtime's own words.
        message: String,
    },
    /// The model file cannot be read.
    #[error("failed to read the model `{}`: {source}", path.display())]
    ModelUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The runtime refused the model.
    #[error("the runtime refused the model `{}`: {message}", path.display())]
    ModelRefused {
        /// The model.
        path: PathBuf,
        /// The operator that it stumbled over, as `domain:Name` or `Name`.
        operator: Option<String>,
        /// The file beside the model that it stumbled over.
        file: Option<String>,
        /// The locale that an operator asked for and the system lacks.
        locale: Option<String>,
        /// The runtime's own words.
        message: String,
    },
    /// The provider that was asked for cannot run the model.
    #[error("the provider `{provider}` cannot run the model: {message}")]
    Provider {
        /// Its name.
        provider: &'static str,
        /// Whether that is for parts of the model that would run on the CPU.
        on_cpu: bool,
        /// The runtime's own words.
        message: String,
    },
    /// The processor cannot run the code that the model was compiled to.
    #[error("the model was compiled for {cpu} processors, and this one lacks {}", .missing.join(", "))]
    Processor {
        /// The description of the model.
        path: PathBuf,
        /// The processor that it was compiled for.
        cpu: String,
        /// What this one lacks.
        missing: Vec<String>,
    },
    /// An input that the protocol cannot carry.
    #[error("input `{input}` of the model `{}` is {kind}, expected a tensor of a datatype of the protocol", path.display())]
    InputUnserved {
        /// The model.
        path: PathBuf,
        /// The input's name.
        input: String,
        /// Its type in words.
        kind: String,
    },
    /// The model has no such signature.
    #[error("the model `{}` has no signature `{signature}`, expected one of: {}", path.display(), .known.join(", "))]
    Signature {
        /// The model.
        path: PathBuf,
        /// The signature that was asked for.
        signature: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// No output that the protocol can carry.
    #[error("the model `{}` has no output that can be served: {}", path.display(), .outputs.join(", "))]
    OutputsUnserved {
        /// The model.
        path: PathBuf,
        /// The outputs and their types in words.
        outputs: Vec<String>,
    },
}

impl LoadError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ModelRefused { locale: Some(locale), .. } => {
                Some(format!("the operator needs the locale `{locale}`, so put it into the image under /usr/lib/locale"))
            }
            Self::LibraryNotOpened { missing: Missing { library: Some(library), .. }, .. } => {
                Some(format!("put `{library}` into the image where the loader searches"))
            }
            Self::Provider { on_cpu: true, .. } => {
                Some("`session_config` with `session.disable_cpu_ep_fallback` = `0` lets these parts run on the CPU".into())
            }
            Self::Processor { .. } => {
                Some("run it on a newer processor, or build it with `--cpu` for an older one, such as `--cpu x86-64-v2`".into())
            }
            Self::Provider { .. } => {
                Some("start the container with a GPU (`--gpus all`, or the device plug-in of the cluster) and a driver that is new enough".into())
            }
            _ => None,
        }
    }
}

/// What the loader did not find.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missing {
    /// A library.
    pub library: Option<String>,
    /// A symbol.
    pub symbol: Option<String>,
    /// A version of a library's symbols, such as `GLIBC_2.38`.
    pub symbol_version: Option<String>,
}

/// The name of the signature of models that have no names for them.
pub const DEFAULT_SIGNATURE: &str = "serving_default";

/// A loaded model.
pub trait Backend: Send + Sync {
    /// What the model takes and gives.
    fn interface(&self) -> &ModelInterface;

    /// The name of the signature that this is.
    fn signature(&self) -> &str {
        DEFAULT_SIGNATURE
    }

    /// The same model by its other signatures.
    fn others(&self) -> &[Arc<dyn Backend>] {
        &[]
    }

    /// Runs the model once; many threads may do so at a time.
    ///
    /// `inputs` has one tensor for each of the interface's inputs, in its order, each accepted by its specification.
    /// `outputs` are places in the interface's outputs; the tensors come back in that order.
    ///
    /// # Errors
    /// See [`RunError`].
    fn run(&self, inputs: Vec<Tensor>, outputs: &[usize], cancel: &Cancel) -> Result<Vec<Tensor>, RunError>;
}

/// Stops a run from another thread.
///
/// Cloning gives another handle on the same run.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Mutex<CancelState>>);

#[derive(Default)]
struct CancelState {
    cancelled: bool,
    stop: Option<Box<dyn Fn() + Send>>,
}

impl Cancel {
    /// Stops the run now, or as soon as it starts.
    pub fn cancel(&self) {
        let mut state = self.state();
        state.cancelled = true;
        if let Some(stop) = state.stop.take() {
            stop();
        }
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.state().cancelled
    }

    /// Does `work`, during which a cancellation calls `stop`; `None` when it was cancelled before.
    pub fn during<T>(&self, stop: impl Fn() + Send + 'static, work: impl FnOnce() -> T) -> Option<T> {
        {
            let mut state = self.state();
            if state.cancelled {
                return None;
            }
            state.stop = Some(Box::new(stop));
        }
        let result = work();
        self.state().stop = None;
        Some(result)
    }

    fn state(&self) -> MutexGuard<'_, CancelState> {
        // A panic between two assignments leaves nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn shapes_accept_what_the_model_declares() {
        let spec = ShapeSpec::Ranked(vec![None, Some(3)]);
        assert!(spec.accepts(&[1, 3]) && spec.accepts(&[0, 3]));
        assert!(!spec.accepts(&[1, 4]) && !spec.accepts(&[3]) && !spec.accepts(&[1, 3, 1]));
        assert_eq!(spec.to_string(), "[-1,3]");
        assert!(!spec.is_static() && ShapeSpec::Ranked(vec![]).is_static() && !ShapeSpec::Unranked.is_static());
    }

    #[test]
    fn a_cancelled_run_stops_once() {
        let cancel = Cancel::default();
        let stops = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&stops);
        let other = cancel.clone();
        let result = cancel.during(
            move || {
                counted.fetch_add(1, Ordering::SeqCst);
            },
            || {
                other.cancel();
                other.cancel();
                7
            },
        );
        assert_eq!((result, stops.load(Ordering::SeqCst)), (Some(7), 1));
        assert_eq!(cancel.during(|| (), || 8), None);
    }
}

//! The seam between the server and a runtime.
//!
//! A [`Backend`] holds one loaded model. The server asks it what the model takes and gives ([`ModelInterface`]) and runs
//! it on [`Tensor`]s that were checked against that. No type of a runtime's library crosses this seam.

use std::collections::BTreeMap;
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
    /// The provider cannot run it, on whatever inputs.
    #[error("the provider `{provider}` failed: {message}{}", seen(found.as_ref()))]
    Provider {
        /// Its name.
        provider: &'static str,
        /// What it is about.
        fault: ProviderFault,
        /// The runtime's own words.
        message: String,
        /// The GPU and the driver that are there, in words.
        found: Option<String>,
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
    #[error("the provider `{provider}` cannot run the model: {message}{}", seen(found.as_ref()))]
    Provider {
        /// Its name.
        provider: &'static str,
        /// What it is about.
        fault: ProviderFault,
        /// The runtime's own words.
        message: String,
        /// The GPU and the driver that are there, in words.
        found: Option<String>,
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
            Self::Processor { .. } => {
                Some("run it on a newer processor, or build it with `--cpu` for an older one, such as `--cpu x86-64-v2`".into())
            }
            Self::LibraryNotOpened { missing: Missing { library: Some(library), others, .. }, .. } => {
                Some(match (is_the_drivers(library), others.as_slice()) {
                    (true, _) => format!("`{library}` is the driver's and no image's: {START}"),
                    (false, []) => format!("put `{library}` into the image where the loader searches"),
                    (false, others) => {
                        format!("there is `{}`, another version: use the one that `{library}` belongs to", others.join("`, `"))
                    }
                })
            }
            Self::Provider { fault, .. } => fault.hint(),
            _ => None,
        }
    }
}

/// What a provider's failure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderFault {
    /// It leaves parts of the model to the CPU.
    OnCpu,
    /// It takes nothing of the model.
    Nothing,
    /// The runtime was built without it.
    Absent,
    /// There is no GPU that it can use.
    NoDevice,
    /// The driver is too old, or does not answer.
    Driver,
    /// Its libraries have no code for the GPU.
    Code,
    /// Anything else.
    Other,
}

/// How a container gets a GPU.
const START: &str = "start the container with a GPU (`--gpus all`, or the device plug-in of the cluster)";

impl ProviderFault {
    /// The word for it in a line of the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnCpu => "on_cpu",
            Self::Nothing => "nothing_taken",
            Self::Absent => "absent",
            Self::NoDevice => "no_device",
            Self::Driver => "driver",
            Self::Code => "no_code",
            Self::Other => "other",
        }
    }

    /// What to do about it.
    pub fn hint(self) -> Option<String> {
        match self {
            Self::OnCpu => Some(
                "`cpu_fallback` = `report` lets these parts run on the CPU, but for operators in `gpu_operators`: those need a \
                 library that the image was built without, which `imgbuild build --keep LIBRARY` keeps; a runtime older than 1.24, which cannot name them, \
                 needs `session_config` with `session.disable_cpu_ep_fallback` = `0`"
                    .to_owned(),
            ),
            Self::Absent => Some("build the image with a runtime that has it: stacks such as `onnx-cuda` have it".to_owned()),
            Self::NoDevice => Some(START.to_owned()),
            Self::Driver => Some(format!("{START} on a host with a driver that is new enough for the libraries in the image")),
            Self::Code => Some("build the image for the GPU that is there: `imgbuild doctor` compares both".to_owned()),
            Self::Nothing | Self::Other => None,
        }
    }
}

/// What was found, behind a message.
fn seen(found: Option<&String>) -> String {
    found.map(|found| format!(" (there is {found})")).unwrap_or_default()
}

/// Whether a library comes with the GPU's driver, which the host puts into the container.
fn is_the_drivers(library: &str) -> bool {
    library.starts_with("libcuda.so") || library.starts_with("libnvidia-")
}

/// Which provider runs how much of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// Nodes by the runtime's name of the provider.
    pub nodes: BTreeMap<String, usize>,
    /// Nodes that run on the CPU: their operator, and their name where they have one.
    pub on_cpu: Vec<String>,
}

/// What the loader did not find.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missing {
    /// A library.
    pub library: Option<String>,
    /// Other versions of the library that are where it was looked for.
    pub others: Vec<String>,
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

    /// Which provider runs what, where the runtime says so.
    fn placement(&self) -> Option<&Placement> {
        None
    }

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

//! What options may be.

use std::path::PathBuf;
use std::time::Duration;

/// Declares a choice between words, each of which stands for a variant.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// Every word and what it stands for.
            pub(super) const ALL: &[(&str, Self)] = &[$(($word, Self::$variant)),+];

            /// The word, as in the configuration.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }
    };
}

words! {
    /// How hard the runtime works on the graph before it runs.
    GraphOptimization {
        /// Everything, including what suits this very CPU.
        All = "all",
        /// Portable fusions too.
        Extended = "extended",
        /// Only what keeps the graph's operators.
        Basic = "basic",
        /// Nothing, for a model that was optimised before.
        Disable = "disable",
    }
}

words! {
    /// The runtime that executes the model.
    RuntimeKind {
        /// ONNX Runtime.
        OnnxRuntime = "onnxruntime",
        /// TensorFlow.
        TensorFlow = "tensorflow",
        /// None: the model was compiled into a library of its own.
        Compiled = "compiled",
    }
}

impl RuntimeKind {
    /// The name of its library.
    pub(super) fn library(self) -> &'static str {
        match self {
            Self::OnnxRuntime => "libonnxruntime.so.1",
            Self::TensorFlow => "libtensorflow_cc.so.2",
            Self::Compiled => "libmodel.so",
        }
    }
}

words! {
    /// Whether TensorFlow compiles clusters of operators with XLA.
    Xla {
        /// Only what the model itself asks to be compiled.
        Off = "off",
        /// Whatever TensorFlow finds worth it.
        Auto = "auto",
    }
}

words! {
    /// What runs the model.
    Provider {
        /// The processor.
        Cpu = "cpu",
        /// A GPU, by CUDA.
        Cuda = "cuda",
        /// A GPU, by TensorRT, and by CUDA what that cannot take.
        TensorRt = "tensorrt",
        /// A GPU, by TensorRT for RTX, a plug-in of the runtime.
        NvTensorRtRtx = "nv-tensorrt-rtx",
    }
}

words! {
    /// What becomes of parts of a model that the provider leaves to the processor.
    CpuFallback {
        /// They are counted and named, as long as the provider takes some part.
        Report = "report",
        /// The server does not start.
        Refuse = "refuse",
    }
}

/// What the model is run on once before it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WarmUp {
    /// It is not run.
    Off,
    /// Zeros of the declared shapes, 1 for each dynamic dimension.
    Zeros,
    /// The `input_N.pb` of this folder.
    Folder(PathBuf),
}

/// Clusters that XLA compiled before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XlaCache {
    /// The folder.
    pub folder: PathBuf,
    /// Whether new ones are written to it.
    pub writable: bool,
}

/// Limits on requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one body.
    pub body_bytes: usize,
    /// Bytes of all bodies held at a time.
    pub buffered_bytes: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Open connections.
    pub connections: usize,
    /// Runs at a time.
    pub concurrency: usize,
    /// Requests that wait for a run.
    pub queue: usize,
    /// From a request's head to its answer.
    pub request_timeout: Duration,
    /// For a head to arrive.
    pub idle_timeout: Duration,
    /// For requests in flight to end after SIGTERM.
    pub drain_timeout: Duration,
}

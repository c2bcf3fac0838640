//! What a stack says of the GPU that its models run on: [`Gpu`].

use serde::{Deserialize, Serialize};

use crate::fatbin::Sm;

/// What runs a stack's models on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Gpu {
    /// The server's name for it: the value of its option `provider`.
    pub provider: String,
    /// The file in `templates/operators/` with the provider's kernels, where they are known.
    pub kernels: Option<String>,
    /// Operators that the provider runs and the runtime itself does not have.
    #[serde(default)]
    pub operators: Vec<String>,
    /// The lowest major version of the driver that runs it.
    pub driver: String,
    /// The version of CUDA that its libraries are built for.
    pub cuda: String,
    /// The GPUs that it runs on, where it does not run on all that its libraries have code for.
    #[serde(default)]
    pub architectures: Vec<Sm>,
    /// What the vendor's licence says about pruning its libraries.
    pub vendor_licence: Option<String>,
}

/// Whose the device code in a library is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceCode {
    /// The licence lets anyone change it: it is pruned where GPUs are named.
    Free,
    /// The vendor's licence restricts changes: it is pruned on request only.
    Vendor,
}

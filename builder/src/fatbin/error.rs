use std::io;
use std::path::PathBuf;

use super::sm::{Architecture, Sm};
use crate::rewrite::RewriteError;

/// Why the device code of a library cannot be listed or pruned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FatbinError {
    /// The file cannot be opened or mapped.
    #[error("cannot read `{}`: {source}", path.display())]
    Unreadable {
        /// The file on disk.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is no shared library, is damaged, or cannot be written anew.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// There is nothing to list or prune.
    #[error("the library has no section `.nv_fatbin`, expected one with CUDA device code")]
    NoDeviceCode,
    /// The device code lies where the library may write to it.
    #[error("`.nv_fatbin` at {address:#x} is in writable memory, expected read-only memory")]
    Writable {
        /// Its address.
        address: u64,
    },
    /// No GPU was named.
    #[error("no GPU is named, expected at least one")]
    NoGpu,
    /// A GPU can run nothing of the library.
    #[error("the library has no device code that runs on {gpu}, only {}", architectures(available))]
    NoCode {
        /// The GPU.
        gpu: Sm,
        /// What there is code for.
        available: Vec<Architecture>,
    },
    /// The pruned library is not what it should be.
    #[error("the pruned library is not the same for the GPUs that it is for: {0}")]
    Verification(#[from] FatbinDifference),
}

impl FatbinError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoCode { available, .. } => {
                Some(format!("name a GPU that can run {}, or take a build of the library for yours", architectures(available)))
            }
            Self::NoDeviceCode => Some(
                "some libraries keep device code in other sections: `imgbuild fatbin list` names it, and it is not pruned".into(),
            ),
            _ => None,
        }
    }
}

fn architectures(available: &[Architecture]) -> String {
    let names: Vec<String> = available.iter().map(Architecture::to_string).collect();
    if names.is_empty() { "none at all".to_owned() } else { names.join(", ") }
}

/// The first difference between what a pruned library holds and what it must hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatbinDifference {
    /// An entry that a GPU would use is not there, or not unchanged.
    #[error("the code for {architecture} of the container at {container:#x} is missing or changed, which {gpu} would use")]
    Missing {
        /// Address of the container in the original.
        container: u64,
        /// What the entry is for.
        architecture: Architecture,
        /// Who would use it.
        gpu: Sm,
    },
    /// An entry that the original's container has not.
    #[error("the container at {container:#x} holds code for {architecture} that it did not hold, or in another order")]
    Foreign {
        /// Address of the container in the original.
        container: u64,
        /// What the entry is for.
        architecture: Architecture,
    },
    /// What is left whole was changed.
    #[error("the {bytes} bytes at {address:#x} that must stay as they are were changed")]
    Changed {
        /// Address.
        address: u64,
        /// Length.
        bytes: u64,
    },
    /// A wrapper points at something that is no container.
    #[error("the wrapper's word at {address:#x} points at {target:#x}, where no intact container is")]
    Astray {
        /// Address of the word.
        address: u64,
        /// Where it points.
        target: u64,
    },
}

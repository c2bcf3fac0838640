//! The GPUs of a recipe, and which of them one image is for.

use super::{RecipeError, field};
use crate::fatbin::{Sm, SmError};

/// Which of the recipe's GPUs one image has device code for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GpuPart {
    /// All of them; there is no other image.
    #[default]
    Only,
    /// All of them, beside images for one GPU each.
    All,
    /// This one, beside others.
    One(Sm),
}

/// What stands for the GPU in tags and outputs of an image for one GPU.
pub const GPU_PLACE: &str = "{gpu}";

/// The GPUs that were typed, or else written, each once.
pub(super) fn gpus(typed: Vec<Sm>, written: &[String]) -> Result<Vec<Sm>, RecipeError> {
    let parse = |text: &String| text.parse().map_err(|error: SmError| field("runtime.gpu", &error.found, SM));
    let mut gpus = if typed.is_empty() { written.iter().map(parse).collect::<Result<_, _>>()? } else { typed };
    gpus.sort_unstable();
    gpus.dedup();
    Ok(gpus)
}

/// The tags or outputs of one image: those with `{gpu}` are for the images for one GPU, the others for what is for all of them.
pub(super) fn of_part(name: &str, texts: Vec<String>, part: GpuPart) -> Result<Vec<String>, RecipeError> {
    let (for_one, for_all): (Vec<String>, Vec<String>) = texts.into_iter().partition(|text| text.contains(GPU_PLACE));
    match part {
        GpuPart::One(gpu) => Ok(for_one.into_iter().map(|text| text.replace(GPU_PLACE, &gpu.to_string())).collect()),
        GpuPart::Only if !for_one.is_empty() => {
            Err(field(name, &for_one[0], "no `{gpu}` unless there is an image for each GPU (`--per-gpu`)"))
        }
        GpuPart::All | GpuPart::Only => Ok(for_all),
    }
}

/// What names of GPUs look like.
const SM: &str = "`sm_` and the compute capability without its dot, such as `sm_75` or `sm_120`";

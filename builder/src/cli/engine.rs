//! `imgbuild engine`: compiles a model ahead of time.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::failure::Failure;
use super::{Context, print, print_json};
use crate::engine::{self, Engine, EngineError, PACKAGE_VERSION, Request};
use crate::exit_code;
use crate::fatbin::Sm;
use crate::source::Environment;
use crate::units::ByteSize;

/// `imgbuild engine`
#[derive(Debug, Args)]
#[command(
    after_help = "The engines are those of TensorRT for RTX, which compiles for GPUs that are not there: sm_86, sm_89, sm_120
and sm_121. The result is an ONNX model that the provider `nv-tensorrt-rtx` runs, and OUT.json beside
it says what it was made of and for. Python and pip are needed, a GPU is not.

Engines of TensorRT itself are compiled by the image, on the GPU that will run them:
  docker run --gpus all -v \"$PWD:/out\" IMAGE --engine /out/engine.onnx

Examples:
  imgbuild engine model.onnx --gpu sm_86,sm_89
  imgbuild engine model.onnx --gpu sm_120 --dynamic 32 -o model.rtx.onnx --json"
)]
pub struct EngineArgs {
    /// The model, in ONNX
    #[arg(value_hint = ValueHint::FilePath)]
    pub model: PathBuf,

    /// GPUs to compile for, such as sm_86 or sm_86,sm_89 (may be repeated)
    #[arg(long, value_name = "SM", required = true, value_delimiter = ',')]
    pub gpu: Vec<Sm>,

    /// Dimensions that the model leaves open are 1 to N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub dynamic: Option<u32>,

    /// Where the result goes [default: MODEL.engine.onnx beside the model]
    #[arg(long, short, value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,

    /// Version of the packages: that of the library in the image that runs the engine
    #[arg(long, value_name = "VERSION", default_value = PACKAGE_VERSION)]
    pub packages: String,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn engine(context: &Context, args: EngineArgs) -> Result<u8, Failure> {
    let output = args.output.unwrap_or_else(|| args.model.with_extension("engine.onnx"));
    let mut gpus = args.gpu;
    gpus.sort();
    gpus.dedup();
    let request = Request { model: args.model, gpus, dynamic: args.dynamic, version: args.packages, output };
    let scratch = context.store()?.scratch_folder()?;
    let task = context.progress.task("compile the model".to_owned(), None);
    let made = engine::compile(&request, &Environment::of_process(), scratch.path());
    drop(task);
    let made = made.map_err(failure)?;
    if args.json {
        print_json(&made);
    } else {
        let Engine { gpus, engine_bytes, packages, .. } = &made;
        let gpus = gpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let (size, packages) = (ByteSize(*engine_bytes), packages.join(", "));
        print(&format!("wrote {}: an engine of {size} for {gpus}, by {packages}\n", request.output.display()));
    }
    Ok(exit_code::SUCCESS)
}

fn failure(error: EngineError) -> Failure {
    let code = match &error {
        EngineError::Install { .. } => exit_code::FETCH,
        EngineError::File { action: "write", .. } => exit_code::STORAGE,
        EngineError::NoPython | EngineError::Start { .. } => exit_code::FAILURE,
        _ => exit_code::UNUSABLE_INPUT,
    };
    let hint = error.hint();
    let failure = Failure::new(error, code);
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

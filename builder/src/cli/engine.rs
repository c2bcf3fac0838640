//! `imgbuild engine`: compiles a model ahead of time.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};

use super::args::RegistryArgs;
use super::failure::Failure;
use super::{Context, images, print, print_json};
use crate::doctor::{Demands, Finding, Host, Verdict, examine};
use crate::engine::{self, Engine, EngineError, ImageEngine, Request, Where};
use crate::exit_code;
use crate::fatbin::Sm;
use crate::runner::docker::Docker;
use crate::source::Environment;
use crate::template::Data;
use crate::transport::Transport;
use crate::units::ByteSize;

/// Providers whose engines an image compiles.
const PROVIDERS: [&str; 2] = ["tensorrt", "nv-tensorrt-rtx"];

/// `imgbuild engine`
#[derive(Debug, Args)]
#[command(
    after_help = "Without a GPU, for GPUs that are not there: engines of TensorRT for RTX, for sm_86, sm_89, sm_120 and sm_121.
Python and pip are needed; the packages are pinned by version and digest.

With --image, on the GPU of this machine: the image compiles its own model, with the TensorRT that is in it and will
run the engine. Docker and NVIDIA's container toolkit are needed; what is missing is said before anything starts.

The result is an ONNX model of `EPContext` nodes, and OUT.json beside it says what it was made of and for. `imgbuild
build OUT` makes an image of it: `--stack onnx-tensorrt` leaves out what builds engines.

Examples:
  imgbuild engine model.onnx --gpu sm_86,sm_89
  imgbuild engine model.onnx --gpu sm_120 --dynamic 32 -o model.rtx.onnx --json
  imgbuild engine --image docker-daemon:bert:1 -o bert.engine.onnx"
)]
pub struct EngineArgs {
    /// The model, in ONNX
    #[arg(value_hint = ValueHint::FilePath, required_unless_present = "image")]
    pub model: Option<PathBuf>,

    /// GPUs to compile for, such as sm_86 or sm_86,sm_89 (may be repeated)
    #[arg(long, value_name = "SM", required_unless_present = "image", value_delimiter = ',')]
    pub gpu: Vec<Sm>,

    /// Dimensions that the model leaves open are 1 to N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub dynamic: Option<u32>,

    /// Have this image compile its own model on the GPU of this machine: docker-daemon:NAME:TAG or docker://HOST/NAME:TAG
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["model", "gpu", "dynamic", "compiler"])]
    pub image: Option<String>,

    /// Where the result goes [default: MODEL.engine.onnx beside the model, or here under the name that the image serves]
    #[arg(long, short, value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,

    /// What compiles: a file of `templates/engines/`, or a file of one's own that pins other versions
    #[arg(long, value_name = "NAME|FILE", default_value = "tensorrt-rtx")]
    pub compiler: String,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

pub(super) fn engine(context: &Context, args: EngineArgs) -> Result<u8, Failure> {
    if let Some(image) = &args.image {
        return by_image(context, &args, image);
    }
    let compiler = Data::locate().engine_compiler(&args.compiler)?.value;
    let model = args.model.expect("required where there is no image");
    let output = args.output.unwrap_or_else(|| model.with_extension("engine.onnx"));
    let mut gpus = args.gpu;
    gpus.sort();
    gpus.dedup();
    let request = Request { model, gpus, dynamic: args.dynamic, compiler, output };
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

/// Has an image compile its model on this machine, if the machine can run it.
fn by_image(context: &Context, args: &EngineArgs, text: &str) -> Result<u8, Failure> {
    let (transport, image) = images::open(context, text, None, &args.registry)?;
    let config = images::config_of(&image)?;
    let composition = images::required_composition(&config, text)?;
    let demands = Demands::of(&image).map_err(|error| Failure::new(error, exit_code::UNUSABLE_INPUT))?;
    let provider = demands.gpu.as_ref().map_or("cpu", |gpu| gpu.provider.as_str()).to_owned();
    if !PROVIDERS.contains(&provider.as_str()) {
        return Err(Failure::new(
            format!("`{text}` runs its model with `{provider}`, which has no engines, expected {}", PROVIDERS.join(" or ")),
            exit_code::UNUSABLE_INPUT,
        )
        .with_hint("build the image with `--stack onnx-tensorrt` or `--stack onnx-tensorrt-rtx`"));
    }
    let digest = image.descriptor().digest;
    let name = match &transport {
        Transport::DockerDaemon { name } => name.to_string(),
        Transport::Registry(reference) => format!("{}@{digest}", reference.name()),
        _ => {
            return Err(Failure::new(
                format!("`{text}` is nowhere that Docker starts images from, expected docker-daemon:NAME:TAG or docker://HOST/NAME:TAG"),
                exit_code::UNUSABLE_INPUT,
            )
            .with_hint(format!("put it there: `imgbuild push {text} docker-daemon:{}:1`", composition.model)));
        }
    };
    let mut host = Host::read(Path::new("/"));
    host.engine = Docker::find().and_then(|engine| engine.version()).ok();
    let unfit: Vec<String> = examine(&demands, &host).findings.iter().filter_map(in_words).collect();
    if !unfit.is_empty() {
        let what =
            format!("engines are compiled on the GPU that runs them, and `{text}` does not run here:\n  {}", unfit.join("\n  "));
        return Err(Failure::new(what, exit_code::UNFIT_HOST)
            .with_hint("run the same command on a machine with the GPU; `imgbuild doctor IMAGE` tells what it lacks"));
    }
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.engine.onnx", composition.model)));
    let scratch = context.store()?.scratch_folder()?;
    let task = context.progress.task("compile the model on the GPU".to_owned(), None);
    let place = Where { name: &name, digest, output: &output };
    let environment = Environment::of_process();
    let options = demands.provider_options;
    let made = engine::compile_in_image(&place, &provider, &host, &composition, options, &environment, scratch.path());
    drop(task);
    let made = made.map_err(failure)?;
    if args.json {
        print_json(&made);
    } else {
        let ImageEngine { gpu, engine_bytes, driver, .. } = &made;
        let size = ByteSize(*engine_bytes);
        print(&format!("wrote {}: engines of {size} for {gpu}, driver {driver}\n", output.display()));
    }
    Ok(exit_code::SUCCESS)
}

/// What keeps an image from running, and what to do about it.
fn in_words(finding: &Finding) -> Option<String> {
    let Finding { subject, verdict: Verdict::Unfit, found, expected, advice } = finding else { return None };
    let advice = advice.as_ref().map(|advice| format!(" ({advice})")).unwrap_or_default();
    Some(format!("{subject}: {found}, expected {expected}{advice}"))
}

fn failure(error: EngineError) -> Failure {
    let code = match &error {
        EngineError::Install { .. } | EngineError::Pin { .. } => exit_code::FETCH,
        EngineError::File { action: "write", .. } => exit_code::STORAGE,
        EngineError::NoPython | EngineError::NoDocker | EngineError::Start { .. } => exit_code::FAILURE,
        EngineError::Image { .. } => exit_code::CONTAINER,
        _ => exit_code::UNUSABLE_INPUT,
    };
    let hint = error.hint();
    let failure = Failure::new(error, code);
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

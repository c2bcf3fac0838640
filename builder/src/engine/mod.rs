//! Engines compiled ahead of time, without a GPU: [`compile`].
//!
//! TensorRT for RTX compiles a model for GPUs that are not there. Its interface outside C++ is that of its Python package, so
//! the compiling itself is a short program for Python ([`PROGRAM`]), run in a process of its own on the packages of one
//! version. What comes out is wrapped as ONNX Runtime wraps engines: a model of one node, `EPContext` ([`context`]).
//!
//! TensorRT proper compiles on the GPU that will run the engine and nowhere else; that is the server's `--engine`, in the image
//! itself (`docs/decisions/0011-providers.md`).

mod context;
mod image;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::fatbin::Sm;
use crate::source::Environment;
use crate::template::EngineCompiler;

pub use context::ContextError;
pub use image::{ImageEngine, Where, compile_in_image};

/// Version of the record as JSON.
pub const VERSION: u32 = 1;
/// The provider that runs the engines, as the runtime and as the server name it.
const PROVIDER: &str = "NvTensorRTRTXExecutionProvider";
/// The program for Python.
const PROGRAM: &str = include_str!("compile.py");
/// An engine of more bytes lies beside its model, which as a message is limited to 2 GB.
const LARGEST_INSIDE: u64 = 1 << 30;

/// What is compiled, and for what.
#[derive(Debug, Clone)]
pub struct Request {
    /// The model, in ONNX.
    pub model: PathBuf,
    /// The GPUs.
    pub gpus: Vec<Sm>,
    /// The largest size of dimensions that the model leaves open.
    pub dynamic: Option<u32>,
    /// What compiles it.
    pub compiler: EngineCompiler,
    /// Where the result goes.
    pub output: PathBuf,
}

/// What was compiled, as it is kept beside the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// Version of this format.
    pub version: u32,
    /// What runs it, as the server names it.
    pub provider: String,
    /// The GPUs that it was compiled for.
    pub gpus: Vec<Sm>,
    /// The packages that compiled it: a runtime of the same version runs it.
    pub packages: Vec<String>,
    /// The library's version as it tells it, a number.
    pub library: u64,
    /// The model that it was compiled from.
    pub model: Digest,
    /// The engine.
    pub engine: Digest,
    /// Bytes of the engine.
    pub engine_bytes: u64,
    /// The engine's file beside the result, where it is not inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_file: Option<String>,
    /// Inputs with dimensions that the model leaves open, and the largest size that the engine takes for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<u32>,
}

/// Why no engine was compiled.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A GPU that there are no engines for.
    #[error("TensorRT for RTX has no engines for {found}, only for {}", known.iter().map(Sm::to_string).collect::<Vec<_>>().join(", "))]
    Gpu {
        /// The GPU.
        found: Sm,
        /// Those that there are engines for.
        known: Vec<Sm>,
    },
    /// A package's file is another than the pinned one.
    #[error("a file of {packages} is not the pinned one: {output}")]
    Pin {
        /// The packages, with their version.
        packages: String,
        /// What pip found and expected.
        output: String,
    },
    /// Python is not there.
    #[error("`python3` is not installed, and the compiler's interface is a package for it")]
    NoPython,
    /// A program does not start.
    #[error("failed to start `{}`", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The packages cannot be had.
    #[error("failed to install {packages}: {output}")]
    Install {
        /// The packages, with their version.
        packages: String,
        /// What pip wrote last.
        output: String,
    },
    /// Dimensions that the model leaves open, and nobody said how large they get.
    #[error("the model leaves dimensions open ({}), for which an engine needs limits", inputs.join(", "))]
    Open {
        /// The inputs, with their shapes.
        inputs: Vec<String>,
    },
    /// The compiler refused the model.
    #[error("TensorRT for RTX does not compile `{}`: {message}", model.display())]
    Refused {
        /// The model.
        model: PathBuf,
        /// Its own words.
        message: String,
    },
    /// The model or the engine cannot be made into a model.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// Docker is not there.
    #[error("`docker` is not installed, and the image that compiles is started by it")]
    NoDocker,
    /// An image did not compile its model.
    #[error("`{image}` compiled nothing ({status}): {message}")]
    Image {
        /// The image.
        image: String,
        /// What it said last.
        message: String,
        /// How it ended.
        status: String,
    },
    /// A file cannot be read or written.
    #[error("failed to {action} `{}`", path.display())]
    File {
        /// What was done with it.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl EngineError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Gpu { .. } => {
                Some("for other GPUs let the image compile its engines on the GPU itself: `imgbuild engine --image IMAGE`".to_owned())
            }
            Self::Install { .. } => {
                Some("there must be one for this Python; `--compiler FILE` names and pins other versions".to_owned())
            }
            Self::Pin { .. } => Some(
                "check what serves the packages; a release of your own is pinned in a file like templates/engines/tensorrt-rtx.toml, which \
                 `--compiler FILE` takes"
                    .to_owned(),
            ),
            Self::Open { .. } => Some("`--dynamic N` lets them be from 1 to N".to_owned()),
            _ => None,
        }
    }
}

/// What the program prints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// It compiled the model.
    Compiled { library: u64, inputs: Vec<String>, outputs: Vec<String> },
    /// Dimensions are open.
    Open { inputs: Vec<String> },
    /// It did not, and why.
    Refused { message: String },
}

/// Compiles a model for GPUs, writes the model that holds the engine, and beside it, in `OUTPUT.json`, what it is.
///
/// # Errors
/// See [`EngineError`]. Nothing is written then.
pub fn compile(request: &Request, environment: &Environment, scratch: &Path) -> Result<Engine, EngineError> {
    let compiler = &request.compiler;
    if let Some(found) = request.gpus.iter().find(|gpu| !compiler.gpus.contains(gpu)) {
        return Err(EngineError::Gpu { found: *found, known: compiler.gpus.clone() });
    }
    let file = |action, path: &Path| {
        let path = path.to_owned();
        move |source| EngineError::File { action, path, source }
    };
    let model = fs::canonicalize(&request.model).map_err(file("read", &request.model))?;
    let original = context::Original::read(&model)?;
    // What would be written at the end is tried first.
    let folder = request.output.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    tempfile::tempfile_in(folder).map_err(file("write", &request.output))?;
    let python = environment.find("python3").ok_or(EngineError::NoPython)?;
    let packages: Vec<String> = compiler.versions().iter().map(|(name, version)| format!("{name}=={version}")).collect();
    let site = scratch.join("site");
    let requirements = scratch.join("requirements.txt");
    fs::write(&requirements, compiler.requirements()).map_err(file("write", &requirements))?;
    install(&python, &packages, &requirements, &site)?;

    let engine = scratch.join("engine");
    let mut arguments: Vec<OsString> = vec![site.into(), model.clone().into(), engine.clone().into()];
    arguments.push(request.dynamic.unwrap_or(0).to_string().into());
    arguments.extend(request.gpus.iter().map(|gpu| OsString::from(gpu.number().to_string())));
    let (library, inputs, outputs) = match run(&python, &arguments, &request.model)? {
        Answer::Compiled { library, inputs, outputs } => (library, inputs, outputs),
        Answer::Open { inputs } => return Err(EngineError::Open { inputs }),
        Answer::Refused { message } => return Err(EngineError::Refused { model: request.model.clone(), message }),
    };

    let digest = |path: &Path| fs::File::open(path).and_then(Digest::of_reader).map_err(file("read", path));
    let (engine_digest, engine_bytes) = digest(&engine)?;
    let beside = (engine_bytes > LARGEST_INSIDE).then(|| request.output.with_extension("engine"));
    let engine_file = beside.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let mut made = Engine {
        version: VERSION,
        provider: compiler.provider.clone(),
        gpus: request.gpus.clone(),
        packages,
        library,
        model: digest(&model)?.0,
        engine: engine_digest,
        engine_bytes,
        engine_file,
        dynamic: request.dynamic,
    };
    if inputs.is_empty() {
        made.dynamic = None;
    }
    let content = match &made.engine_file {
        Some(name) => context::Content::Beside(name.clone()),
        None => context::Content::Inside(fs::read(&engine).map_err(file("read", &engine))?),
    };
    let wrapped = context::wrap(&original, &inputs, &outputs, content, &made)?;
    let write = |path: &Path, bytes: &[u8]| crate::files::write_atomically(path, bytes).map_err(file("write", path));
    if let Some(beside) = &beside {
        copy(&engine, beside).map_err(file("write", beside))?;
    }
    write(&request.output, &wrapped)?;
    let record = serde_json::to_string_pretty(&made).expect("it has string keys only");
    write(&record_of(&request.output), format!("{record}\n").as_bytes())?;
    Ok(made)
}

/// Where the record of a result lies.
#[must_use]
pub fn record_of(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

/// Installs the pinned files, and no others.
fn install(python: &Path, packages: &[String], requirements: &Path, site: &Path) -> Result<(), EngineError> {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]);
    pip.arg("--require-hashes").arg("--target").arg(site).arg("--requirement").arg(requirements).stdin(Stdio::null());
    let output = pip.output().map_err(|source| EngineError::Start { program: python.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("DO NOT MATCH THE HASHES") {
        let told = said
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("Expected") || line.starts_with("Got") || line.contains("=="));
        let output = crate::source::mask(&told.collect::<Vec<_>>().join("; "));
        return Err(EngineError::Pin { packages: packages.join(" and "), output });
    }
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("ERROR")).collect();
    let output = if lines.is_empty() { said.lines().last().unwrap_or_default().to_owned() } else { lines.join("; ") };
    Err(EngineError::Install { packages: packages.join(" and "), output: crate::source::mask(&output) })
}

fn run(python: &Path, arguments: &[OsString], model: &Path) -> Result<Answer, EngineError> {
    let mut program = Command::new(python);
    program.args(["-I", "-c", PROGRAM]).args(arguments).stdin(Stdio::null());
    let output = program.output().map_err(|source| EngineError::Start { program: python.to_owned(), source })?;
    // Its last line; the library may have written others before.
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().last().and_then(|line| serde_json::from_str(line).ok()).ok_or_else(|| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let message = format!("the compiler ended with {}: {}", output.status, stderr.lines().last().unwrap_or_default());
        EngineError::Refused { model: model.to_owned(), message }
    })
}

/// Copies a file to its place under another name first.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let folder = to.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".imgbuild-").tempfile_in(folder)?;
    io::copy(&mut fs::File::open(from)?, file.as_file_mut())?;
    file.as_file_mut().flush()?;
    file.as_file().sync_data()?;
    file.persist(to).map(drop).map_err(|error| error.error)
}

//! The command line as it is typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};

use crate::exit_code;
use crate::fatbin::Sm;
use crate::platform::Platform;
use crate::recipe::{Minimize, Optimize, PackageEntry, XlaChoice};

/// Builds the smallest OCI image that serves a machine-learning model.
#[derive(Debug, Parser)]
#[command(name = "imgbuild", version, about, after_help = exit_code::HELP, max_term_width = 110, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Where everything fetched and built is kept [default: $XDG_CACHE_HOME/imgbuild or ~/.cache/imgbuild]
    #[arg(long, global = true, env = "IMGBUILD_STORE", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub store: Option<PathBuf>,

    /// Say more on stderr; twice for every step
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Say nothing on stderr but errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image from a model
    Build(BuildArgs),
    /// Pin every input by name, version, file, sha256 and size in imgbuild.lock
    Lock(LockArgs),
    /// Write a commented imgbuild.toml
    Init(InitArgs),
    /// Show what is in an image
    Inspect(InspectArgs),
    /// Show what brought a library into an image, or why it was left out
    Why(WhyArgs),
    /// Hold images against one another and against limits
    Compare(super::compare::CompareArgs),
    /// Show the trend of many reports or of a repository's tags
    History(super::compare::HistoryArgs),
    /// Start an image and print its address
    Run(RunArgs),
    /// Measure how long an image takes from nothing to its first answer, phase by phase
    Coldstart(super::coldstart::ColdstartArgs),

    /// Build, verify and measure a model in several forms, and recommend one
    Choose(super::choose::ChooseArgs),
    /// Tell whether an image will run on this host
    Doctor(super::doctor::DoctorArgs),
    /// Check that an image answers as it should on a fixed test set
    Verify(super::verify::VerifyArgs),
    /// Write what an image answers to a test set, for later verification
    Record(super::verify::RecordArgs),
    /// Copy an image from one place to another
    Push(super::push::PushArgs),
    /// Put the layers that every model of a stack shares into a registry, once
    PublishRuntime(super::publish::PublishArgs),
    /// Attach a file to an image: a bill of materials, a signature, a report
    Attach(super::attach::AttachArgs),
    /// List what is attached to an image, and fetch it
    Referrers(super::attach::ReferrersArgs),
    /// Keep credentials for a registry, in Docker's file
    Login(LoginArgs),
    /// Forget credentials for a registry
    Logout(LogoutArgs),
    /// List or prune the store
    Cache(CacheArgs),
    /// Print a file for a pipeline or a cluster, filled in for an image
    Template(super::template::TemplateArgs),
    /// List or prune the CUDA device code of a library
    Fatbin(super::fatbin::FatbinArgs),
    /// Compile a model ahead of time for a GPU that need not be there
    Engine(super::engine::EngineArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// What is to be built, as `build` and `lock` share it.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// The model: an ONNX file or the folder of a SavedModel [default: the model of imgbuild.toml]
    #[arg(value_hint = ValueHint::FilePath)]
    pub model: Option<PathBuf>,

    /// Recipe file [default: imgbuild.toml here, where no MODEL is given]
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,

    /// Runtime stack: auto, onnx-cpu, onnx-cuda, onnx-tensorrt, onnx-tensorrt-rtx, tf-xla, tf-xla-aot or tf-xla-gpu
    #[arg(long, value_name = "STACK")]
    pub stack: Option<String>,

    /// What lies at the bottom: debian-12, scratch, or an image (oci:DIR, oci-archive:FILE, docker://HOST/NAME), pinned by digest
    #[arg(long, value_name = "BASE")]
    pub base: Option<String>,

    /// Platform, linux/amd64 or linux/arm64; several, separated by commas, give an index [default: this machine's]
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    pub platform: Vec<Platform>,

    /// Server binary; `{arch}` in it stands for amd64 or arm64 [default: imgserve beside imgbuild, imgserve-arm64 for another platform]
    #[arg(long, env = "IMGBUILD_SERVER", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub server: Option<PathBuf>,

    /// GPUs to keep device code for, such as sm_75 or sm_80,sm_86 [default: all that the libraries have code for]
    #[arg(long, value_name = "SM", value_delimiter = ',')]
    pub gpu: Vec<Sm>,

    /// Prune NVIDIA's own libraries too, whose licences restrict changes
    #[arg(long)]
    pub prune_vendor: bool,

    /// Package of the stack in another version, or a folder or archive in its place, such as nvidia-cudnn-cu13=9.15.1.9 or tensorrt-cu13-libs=./TensorRT (may be repeated)
    #[arg(long, value_name = "NAME=VERSION|PATH", value_parser = package)]
    pub package: Vec<(String, PackageEntry)>,

    /// Use the store alone; fetch nothing
    #[arg(long)]
    pub offline: bool,
}

/// Reads `NAME=VERSION` or `NAME=PATH`, which has a slash in it.
fn package(text: &str) -> Result<(String, PackageEntry), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && value.contains('/') => {
            Ok((name.to_owned(), PackageEntry { version: None, path: Some(value.into()) }))
        }
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), PackageEntry { version: Some(value.to_owned()), path: None }))
        }
        _ => Err("expected NAME=VERSION, or NAME=PATH with a slash in the path".to_owned()),
    }
}

/// Options for talking to registries.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryArgs {
    /// Registry that may be reached over http or with a certificate that is not checked (may be repeated)
    #[arg(long, value_name = "HOST[:PORT]")]
    pub insecure: Vec<String>,

    /// Certificate authority of the registry, PEM
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub ca_file: Option<PathBuf>,

    /// Certificate to show to the registry, PEM
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "client_key")]
    pub client_cert: Option<PathBuf>,

    /// Private key of that certificate, PEM and not encrypted
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "client_cert")]
    pub client_key: Option<PathBuf>,
}

/// `imgbuild build`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild build model.onnx
      writes an OCI layout `model.oci` beside the model
  imgbuild build model.onnx -t localhost:5000/acme/magika:1 --push --report size.json
      sends the image to a registry and writes its size report
  imgbuild build model.onnx -o docker-daemon:magika:1 -o oci-archive:magika.tar
      loads it in Docker and writes an archive as well
  imgbuild build saved_model --xla off
      serves a SavedModel with TensorFlow, compiled by XLA if that is faster
  imgbuild build model.onnx --stack onnx-cuda --gpu sm_75
      runs the model on a T4, with the device code of that GPU alone
  imgbuild build model.onnx --stack onnx-cuda --gpu sm_75,sm_86 --per-gpu -t localhost:5000/acme/bert:1 -t localhost:5000/acme/bert:1-{gpu} --push
      sends an index at `1` with an image for both GPUs and one for each, and those for one GPU at `1-sm_75` and `1-sm_86` too
  imgbuild build saved_model --stack tf-xla-aot --batch 1,8
      compiles a SavedModel into a library of its own, for batches of 1 and 8 rows
  imgbuild build saved_model --stack tf-xla-gpu --gpu sm_80
      runs a SavedModel on an A100, with TensorFlow and the device code of that GPU alone
  imgbuild build --locked --offline
      builds imgbuild.toml from the store alone, with exactly the pinned inputs
  imgbuild build model.onnx --platform linux/amd64,linux/arm64 --server imgserve-{arch} -t localhost:5000/acme/magika:1 --push
      sends an image for each platform and one index over them")]
pub struct BuildArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,

    /// Name the model is served under [default: the file's name without its ending]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Reference of the image, HOST/NAME:TAG (may be repeated)
    #[arg(long, short, value_name = "REF")]
    pub tag: Vec<String>,

    /// Where to write it: oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, docker-daemon:NAME:TAG or docker://HOST/NAME:TAG (may be repeated)
    #[arg(long, short, value_name = "TRANSPORT")]
    pub output: Vec<String>,

    /// Send it to the registries of its references
    #[arg(long)]
    pub push: bool,

    /// Write the size report here
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,

    #[command(flatten)]
    pub attest: super::attest::AttestArgs,

    #[command(flatten)]
    pub runtime: super::publish::RuntimeFromArgs,

    /// Build an image for all of the GPUs and one for each, and an index over them; `{gpu}` in a reference or output stands for an image's GPU
    #[arg(long)]
    pub per_gpu: bool,

    /// Refuse to build unless the lock is there and up to date
    #[arg(long)]
    pub locked: bool,

    /// auto, hard, zstd[:LEVEL], gzip[:LEVEL] or none [default: auto, which takes pains with what models share]
    #[arg(long, value_name = "CODEC")]
    pub compression: Option<String>,

    /// How much is left out [default: model]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub minimize: Option<Minimize>,

    /// How the model is made to start fast [default: weights]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub optimize: Option<Optimize>,

    /// Do not pack weights for the runtime's kernels at start: starts faster, answers slower
    #[arg(long)]
    pub no_prepack: bool,

    /// Keep this library whatever the rules say (may be repeated)
    #[arg(long, value_name = "LIBRARY")]
    pub keep: Vec<String>,

    /// Strip the stack's libraries only; do not bind lookups within them
    #[arg(long)]
    pub no_bind: bool,

    /// Whether XLA compiles a SavedModel [default: measure]
    #[arg(long, value_enum, value_name = "MODE")]
    pub xla: Option<XlaChoice>,

    /// Sizes of batches that a SavedModel is compiled for ahead of time, such as 1,8,32; a request gets the smallest that holds it
    #[arg(long, value_name = "ROWS", value_delimiter = ',')]
    pub batch: Vec<u64>,

    /// Processor that a SavedModel is compiled for ahead of time: x86-64-v2, x86-64-v3, x86-64-v4, or native, the highest of them that this machine is [default: x86-64-v3]
    #[arg(long, value_name = "LEVEL")]
    pub cpu: Option<String>,

    /// Do not run the image while it is built, so that nothing is compiled ahead
    #[arg(long)]
    pub no_warm: bool,

    /// Say what would be built, and write nothing but the store
    #[arg(long)]
    pub dry_run: bool,

    /// Print the size report as JSON instead of a table
    #[arg(long)]
    pub json: bool,

    /// Threads for compression [default: one per core]; they never change the bytes
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `imgbuild lock`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild lock              pins what is not pinned yet
  imgbuild lock --update     chooses every version anew, within the template's rules")]
pub struct LockArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,

    /// Choose every version anew
    #[arg(long)]
    pub update: bool,

    /// Print the lock as JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `imgbuild init`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  imgbuild init model.onnx   writes imgbuild.toml for that model")]
pub struct InitArgs {
    /// The model that the recipe names
    #[arg(value_hint = ValueHint::FilePath)]
    pub model: Option<PathBuf>,

    /// Replace an existing recipe
    #[arg(long)]
    pub force: bool,
}

/// An image to read.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// The image: a transport such as oci:DIR or docker://HOST/NAME:TAG, or the path of a layout or archive
    #[arg(value_hint = ValueHint::AnyPath)]
    pub image: String,

    /// Platform to choose from an index [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,

    /// GPU to choose from an index, such as sm_75 [default: the first image, as container engines do]
    #[arg(long = "gpu", value_name = "SM")]
    pub gpu: Option<Sm>,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `imgbuild inspect`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild inspect oci:model.oci
  imgbuild inspect docker://localhost:5000/acme/magika:1 --json")]
pub struct InspectArgs {
    #[command(flatten)]
    pub image: ImageArgs,

    /// Read every blob and check digests, sizes and diff_ids
    #[arg(long)]
    pub verify: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `imgbuild why`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild why oci:model.oci libstdc++.so.6
  imgbuild why docker://localhost:5000/acme/magika:1 libonnxruntime_providers_shared.so")]
pub struct WhyArgs {
    #[command(flatten)]
    pub image: ImageArgs,

    /// A library's file name, or a part of it
    pub library: String,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which program starts containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RunnerChoice {
    /// Docker where a daemon answers and the image is in it, the embedded one otherwise
    Auto,
    /// Docker or podman, by its socket
    Docker,
    /// The one inside imgbuild, which needs no daemon
    Embedded,
}

/// `imgbuild run`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild run oci:model.oci               prints http://127.0.0.1:PORT and runs until Ctrl-C
  imgbuild run oci:model.oci --port 9000 --cpus 2 --memory 1GiB
  imgbuild run docker-daemon:magika:1")]
pub struct RunArgs {
    #[command(flatten)]
    pub image: ImageArgs,

    /// What starts it
    #[arg(long, value_enum, default_value = "auto")]
    pub runner: RunnerChoice,

    /// Port on this machine's loopback [default: a free one]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,

    /// Environment of the container (may be repeated)
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,

    /// Limit of processors
    #[arg(long, value_name = "N")]
    pub cpus: Option<f64>,

    /// Limit of memory, such as 512MiB
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<crate::units::ByteSize>,

    /// Seconds to wait until the server is ready
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub wait: u64,

    /// Print one JSON object with address and seconds instead of the address alone
    #[arg(long)]
    pub json: bool,
}

/// `imgbuild login`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  echo \"$TOKEN\" | imgbuild login registry.example.com -u ci --password-stdin")]
pub struct LoginArgs {
    /// The registry's host and port
    pub registry: String,

    /// User
    #[arg(long, short)]
    pub username: String,

    /// Read the password from stdin; there is no option that takes it from the command line, where others could see it
    #[arg(long, required = true)]
    pub password_stdin: bool,

    #[command(flatten)]
    pub options: RegistryArgs,
}

/// `imgbuild logout`
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// The registry's host and port
    pub registry: String,
}

/// `imgbuild cache`
#[derive(Debug, Args)]
pub struct CacheArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List what the store holds, largest first
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove blobs that were not used for a while, and leftovers of killed builds
    #[command(after_help = "Examples:
  imgbuild cache prune                removes what was idle for 30 days
  imgbuild cache prune --days 0       removes everything")]
    Prune {
        /// Keep what was used within so many days
        #[arg(long, default_value_t = 30)]
        days: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `imgbuild completions`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  imgbuild completions bash > /etc/bash_completion.d/imgbuild")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

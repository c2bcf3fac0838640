//! `imgbuild verify` and `imgbuild record`: the promotion gate, on the image that ships.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, ValueHint};

use super::args::{ImageArgs, RunnerChoice};
use super::failure::Failure;
use super::images::Choice;
use super::serve::{Serving, Start};
use super::{Context, attach, print, print_json};
use crate::exit_code;
use crate::inference::Client;
use crate::transport::Transport;
use crate::verify::report::{DataIdentity, SCHEMA, VERSION};
use crate::verify::{
    Names, Policy, TestSet, VerificationReport, VerifyError, VerifyOptions, record as record_all, render_html, render_markdown,
    render_text, verify as verify_all, write_protos,
};

/// How a verification is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for a terminal or a log
    Text,
    /// The report
    Json,
    /// A comment for a pull request
    Markdown,
    /// One page with plots that needs no network
    Html,
}

/// How test data is sent, as `verify` and `record` share it.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// The test set: a folder of ONNX test data, .npz, .npy or .json files, or one such file
    #[arg(long, value_name = "DIR|FILE", value_hint = ValueHint::AnyPath)]
    pub data: PathBuf,

    /// Rows of arrays in a request, where the model leaves that open
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub batch: u64,

    /// Requests at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub clients: usize,

    /// What starts it
    #[arg(long, value_enum, default_value = "auto")]
    pub runner: RunnerChoice,

    /// Seconds to wait until a server is ready
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub wait: u64,
}

/// `imgbuild verify`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild verify oci:model.oci --data test_data
      sends ONNX's test data through the image and compares with the expected outputs
  imgbuild verify oci:new.oci --reference oci:old.oci --data inputs.npz --policy policy.toml --report verification.json
      compares two images on the same inputs
  imgbuild verify oci:onnx.oci --reference oci:savedmodel.oci --data inputs.npz --rename note=StatefulPartitionedCall:1
      says what the reference's output `note` is called in the image
  imgbuild verify docker://localhost:5000/acme/magika:1 --data test_data --attach
      attaches the result to the image's digest, where `imgbuild push --require verified` looks for it
  imgbuild verify oci:model.oci --data test_data --format html -o verification.html
      writes a page with the errors' histogram and what came over what was expected

Exit code 7 where an output differs more than the policy allows.")]
pub struct VerifyArgs {
    #[command(flatten)]
    pub image: ImageArgs,

    #[command(flatten)]
    pub data: DataArgs,

    /// The image to compare with, in place of expected outputs in the test set
    #[arg(long, value_name = "IMAGE", value_hint = ValueHint::AnyPath)]
    pub reference: Option<String>,

    /// What outputs may differ by [default: limits by datatype, see docs/spec/verify.md]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,

    /// What the test set or the reference calls an input or output, and what the image calls it (may be repeated)
    #[arg(long, value_name = "NAME=NAME")]
    pub rename: Vec<String>,

    /// Write the report here
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,

    /// Attach the report to the image, where `imgbuild push --require verified` looks for it; the image lies in a registry or a layout
    #[arg(long)]
    pub attach: bool,

    /// How it is shown
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,

    /// Write what is shown here instead of to stdout
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

/// `imgbuild record`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  imgbuild record oci:reference.oci --data inputs.npz -o expected
      writes each sample with the image's outputs as expected/test_data_set_N, ONNX's own form")]
pub struct RecordArgs {
    #[command(flatten)]
    pub image: ImageArgs,

    #[command(flatten)]
    pub data: DataArgs,

    /// The folder that is made
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Starts an image and gives it with a client for its model.
fn serve(context: &Context, image: &ImageArgs, data: &DataArgs) -> Result<(Serving, Client), Failure> {
    let start = Start { runner: data.runner, wait: data.wait, ..Start::for_data() };
    let serving = Serving::start(context, image, &start)?;
    let model = super::images::required_composition(&serving.config, &image.image)?.model;
    let client = Client::new(serving.address(), &model);
    Ok((serving, client))
}

fn options(data: &DataArgs) -> VerifyOptions {
    VerifyOptions { batch: data.batch, clients: data.clients }
}

pub(super) fn names(renamed: &[String]) -> Result<Names, Failure> {
    let pair = |text: &String| {
        let (set, image) = text.split_once('=').filter(|(set, image)| !set.is_empty() && !image.is_empty())?;
        Some((set.to_owned(), image.to_owned()))
    };
    let pairs = renamed.iter().map(|text| {
        pair(text).ok_or_else(|| Failure::new(format!("`{text}` names no two tensors, expected NAME=NAME"), exit_code::USAGE))
    });
    Ok(Names { renamed: pairs.collect::<Result<_, _>>()? })
}

pub(super) fn verify(context: &Context, args: &VerifyArgs) -> Result<u8, Failure> {
    // What can be wrong without an image is told before one is started.
    let names = names(&args.rename)?;
    let policy = match &args.policy {
        None => Policy::default(),
        Some(path) => Policy::load(path)?,
    };
    let place = Transport::guess_for_reading(&args.image.image)?;
    if args.attach {
        place.check_referrers()?;
    }
    let set = TestSet::open(&args.data.data)?;
    let (serving, client) = serve(context, &args.image, &args.data)?;
    let reference = match &args.reference {
        None => None,
        Some(image) => {
            let registry = args.image.registry.clone();
            let Choice { platform, gpu } = args.image.choice();
            Some(serve(context, &ImageArgs { image: image.clone(), platform, gpu, registry }, &args.data)?)
        }
    };
    let findings = verify_all(
        &set,
        &client,
        reference.as_ref().map(|(_, client)| client),
        &names,
        &policy,
        &options(&args.data),
        &context.progress,
    )?;
    let report = VerificationReport {
        schema: SCHEMA.to_owned(),
        version: VERSION,
        imgbuild: env!("CARGO_PKG_VERSION").to_owned(),
        passed: findings.outputs.iter().all(|output| output.passed),
        image: serving.manifest.digest,
        model: client.model().map_err(VerifyError::from)?.name,
        reference: reference.as_ref().map(|(serving, _)| serving.manifest.digest),
        data: DataIdentity { name: base_name(&args.data.data), digest: set.digest, samples: findings.samples },
        runner: serving.runner.clone(),
        policy_digest: policy.digest(),
        policy,
        outputs: findings.outputs,
    };
    if let Some(path) = &args.report {
        crate::files::write_atomically(path, report.to_json().as_bytes())
            .map_err(|source| VerifyError::Write { path: path.clone(), source })?;
    }
    let shown = match args.format {
        Format::Text => render_text(&report),
        Format::Json => report.to_json(),
        Format::Markdown => render_markdown(&report),
        Format::Html => render_html(&report),
    };
    match &args.output {
        None => print(&shown),
        Some(path) => crate::files::write_atomically(path, shown.as_bytes())
            .map_err(|source| VerifyError::Write { path: path.clone(), source })?,
    }
    if args.attach {
        let artifact = report.document().artifact().attached_to(&serving.manifest);
        attach::put(context, &place, &artifact, &args.image.registry)?;
        context.progress.note(format!("attached {} to {}", artifact.descriptor().digest, report.image));
    }
    if report.passed {
        return Ok(exit_code::SUCCESS);
    }
    let failed: Vec<&str> = report.outputs.iter().filter(|output| !output.passed).map(|output| output.name.as_str()).collect();
    Err(Failure::new(
        format!("the image answers otherwise than the policy allows: {}", failed.join(", ")),
        exit_code::OVER_BUDGET,
    ))
}

pub(super) fn record(context: &Context, args: &RecordArgs) -> Result<u8, Failure> {
    let set = TestSet::open(&args.data.data)?;
    if args.output.exists() {
        return Err(Failure::new(format!("`{}` is already there", args.output.display()), exit_code::UNUSABLE_INPUT)
            .with_hint("name a folder that is not there yet: recorded samples are not mixed with others"));
    }
    let (serving, client) = serve(context, &args.image, &args.data)?;
    // Written beside its place and renamed, so that a half-recorded set is never taken for a whole one.
    let beside = args.output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = |source| VerifyError::Write { path: args.output.clone(), source };
    let scratch = tempfile::Builder::new().prefix(".record-").tempdir_in(beside).map_err(write)?;
    let samples = record_all(&set, &client, &options(&args.data), &context.progress, |number, sample| {
        write_protos(&scratch.path().join(format!("test_data_set_{number}")), &sample)
    })?;
    // Temporary folders are their owner's alone; a test set is not.
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755)).map_err(write)?;
    std::fs::rename(scratch.path(), &args.output).map_err(write)?;
    let _ = scratch.keep();
    if args.json {
        print_json(&serde_json::json!({ "image": serving.manifest.digest, "output": args.output, "samples": samples }));
    } else {
        print(&format!("wrote {samples} samples to {}\n", args.output.display()));
    }
    Ok(exit_code::SUCCESS)
}

pub(super) fn base_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

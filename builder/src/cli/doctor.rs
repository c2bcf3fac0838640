//! `imgbuild doctor`: whether an image will run on this host.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::args::ImageArgs;
use super::failure::Failure;
use super::{Context, images, print, print_json};
use crate::doctor::{Demands, Diagnosis, Finding, Host, Verdict, examine};
use crate::exit_code;
use crate::runner::docker::Docker;

/// `imgbuild doctor`
#[derive(Debug, Args)]
#[command(
    after_help = "A line each for the architecture, what the model wants of the CPU and, for an image that runs on a GPU, the driver, the GPU,
its device nodes, the driver's libraries and the container toolkit; then the container engine and the kernel. What is not as
the image wants it says what to do. Nothing is started, and nothing on the host is changed.

Exit code 0: it will run, as far as can be told; 11: it will not; 3: the image cannot be used.

Examples:
  imgbuild doctor oci:model.oci
  imgbuild doctor docker://localhost:5000/acme/resnet:1 --json"
)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub image: ImageArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Read the host below this folder and ask no container engine; for tests
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub host_root: Option<PathBuf>,
}

/// The diagnosis, with what it is about.
#[derive(Serialize)]
struct Report<'a> {
    image: &'a str,
    #[serde(flatten)]
    diagnosis: &'a Diagnosis,
    host: &'a Host,
}

pub(super) fn doctor(context: &Context, args: &DoctorArgs) -> Result<u8, Failure> {
    let (_, image) = images::open(context, &args.image.image, args.image.platform, &args.image.registry)?;
    let unusable = |error: Box<dyn std::error::Error>| Failure::new(error, exit_code::UNUSABLE_INPUT);
    let demands = Demands::of(&image).map_err(|error| unusable(error.into()))?;
    let mut host = Host::read(args.host_root.as_deref().unwrap_or(Path::new("/")));
    if args.host_root.is_none() {
        // An engine that does not answer is one that is not there.
        host.engine = Docker::find().and_then(|engine| engine.version()).ok();
    }
    let diagnosis = examine(&demands, &host);
    if args.json {
        print_json(&Report { image: &args.image.image, diagnosis: &diagnosis, host: &host });
    } else {
        print(&render(&args.image.image, &diagnosis));
    }
    Ok(if diagnosis.runs { exit_code::SUCCESS } else { exit_code::UNFIT_HOST })
}

fn render(image: &str, diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    for Finding { subject, verdict, found, expected, advice } in &diagnosis.findings {
        let mark = match verdict {
            Verdict::Fits => "ok",
            Verdict::Note => "note",
            Verdict::Unknown => "?",
            Verdict::Unfit => "no",
        };
        text.push_str(&format!("{mark:<5} {subject:<19} {found}"));
        if *verdict != Verdict::Fits && !expected.is_empty() {
            text.push_str(&format!("; expected {expected}"));
        }
        text.push('\n');
        if let Some(advice) = advice {
            text.push_str(&format!("{:26}{advice}\n", ""));
        }
    }
    let unknown = diagnosis.findings.iter().any(|finding| finding.verdict == Verdict::Unknown);
    text.push_str(&match (diagnosis.runs, unknown) {
        (true, false) => format!("\n{image} will run here\n"),
        (true, true) => {
            format!("\nnothing was found that keeps {image} from running here; what `?` stands before cannot be told\n")
        }
        (false, _) => format!("\n{image} will not run here\n"),
    });
    text
}

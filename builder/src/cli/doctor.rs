//! `imgbuild doctor`: whether an image will run on this host.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::args::ImageArgs;
use super::failure::Failure;
use super::push::open_all;
use super::{Context, images, print, print_json};
use crate::digest::Digest;
use crate::doctor::{Demands, Diagnosis, Entry, Finding, Host, Verdict, best, entries, examine};
use crate::exit_code;
use crate::fatbin::Sm;
use crate::image::Image;
use crate::platform::Platform;
use crate::runner::docker::Docker;
use crate::transport::{Transport, gpus_of};

/// `imgbuild doctor`
#[derive(Debug, Args)]
#[command(
    after_help = "A line each for the architecture, what the model wants of the CPU and, for an image that runs on a GPU, the driver, the GPU,
its device nodes, the driver's libraries and the container toolkit; then the container engine and the kernel. What is not as
the image wants it says what to do. Nothing is started, and nothing on the host is changed.

Of an index with an image for each GPU the one for this host's GPUs is looked at, and its digest is printed.

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

/// Which image of an index was looked at.
#[derive(Serialize)]
struct Index {
    /// The one that suits the host's GPUs best, or the first where none does, or that of `--gpu`.
    chosen: Digest,
    /// The one that container engines take.
    first: Digest,
    /// All for the platform, in their order.
    images: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    digest: Digest,
    /// GPUs that it has device code for.
    gpus: Option<String>,
    /// Whether it has code for every GPU of the host; null where that cannot be told.
    fits: Option<bool>,
}

/// The diagnosis, with what it is about.
#[derive(Serialize)]
struct Report<'a> {
    image: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<&'a Index>,
    #[serde(flatten)]
    diagnosis: &'a Diagnosis,
    host: &'a Host,
}

pub(super) fn doctor(context: &Context, args: &DoctorArgs) -> Result<u8, Failure> {
    let (transport, image) = images::open(context, &args.image.image, args.image.choice(), &args.image.registry)?;
    let unusable = |error: Box<dyn std::error::Error>| Failure::new(error, exit_code::UNUSABLE_INPUT);
    let mut host = Host::read(args.host_root.as_deref().unwrap_or(Path::new("/")));
    if args.host_root.is_none() {
        // An engine that does not answer is one that is not there.
        host.engine = Docker::find().and_then(|engine| engine.version()).ok();
    }
    let (image, index) = choose(context, args, &transport, image, &host);
    let demands = Demands::of(&image).map_err(|error| unusable(error.into()))?;
    let diagnosis = examine(&demands, &host);
    if args.json {
        print_json(&Report { image: &args.image.image, index: index.as_ref(), diagnosis: &diagnosis, host: &host });
    } else {
        let chosen = index.as_ref().map(|index| in_words(index, &transport)).unwrap_or_default();
        print(&format!("{chosen}{}", render(&args.image.image, &diagnosis)));
    }
    Ok(if diagnosis.runs { exit_code::SUCCESS } else { exit_code::UNFIT_HOST })
}

/// Where an index has several images for GPUs, the one for this host's, and the list of them. What cannot be read whole is an image
/// alone, the one that was opened.
fn choose(context: &Context, args: &DoctorArgs, transport: &Transport, opened: Image, host: &Host) -> (Image, Option<Index>) {
    if gpus_of(&opened).is_none() {
        return (opened, None);
    }
    let platform = args.image.platform.unwrap_or_else(Platform::host);
    let content = match open_all(context, transport, &args.image.registry) {
        Ok(content) => content,
        Err(failure) => {
            context.progress.note(format!("only one image was looked at: {}", failure.error));
            return (opened, None);
        }
    };
    let all = entries(&content, platform);
    let [first, _, ..] = all.as_slice() else { return (opened, None) };
    let gpus: Vec<Sm> = host.gpus.iter().filter_map(|gpu| gpu.sm).collect();
    let for_one = || gpus.iter().find_map(|gpu| best(&all, &[*gpu]));
    let chosen = match args.image.gpu {
        Some(_) => opened,
        None => best(&all, &gpus).or_else(for_one).unwrap_or(first).image.clone(),
    };
    let fits = |entry: &Entry<'_>| (!gpus.is_empty()).then(|| best(std::slice::from_ref(entry), &gpus).is_some());
    let listed =
        all.iter().map(|entry| Listed { digest: entry.image.descriptor().digest, gpus: entry.gpus.clone(), fits: fits(entry) });
    let index = Index { chosen: chosen.descriptor().digest, first: first.image.descriptor().digest, images: listed.collect() };
    (chosen, Some(index))
}

/// What was chosen, out of what, and how an engine is told.
fn in_words(index: &Index, transport: &Transport) -> String {
    let mut text = String::new();
    for Listed { digest, gpus, .. } in &index.images {
        let gpus = gpus.as_deref().unwrap_or("no GPU that it names");
        let chosen = if *digest == index.chosen { ", looked at here" } else { "" };
        let first = if *digest == index.first { ", taken by container engines" } else { "" };
        text.push_str(&format!("{digest} for {gpus}{chosen}{first}\n"));
    }
    if let Some(reference) = transport.registry().filter(|_| index.chosen != index.first) {
        text.push_str(&format!("engines take the chosen one by its digest: {}@{}\n", reference.name(), index.chosen));
    }
    text + "\n"
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

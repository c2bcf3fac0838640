//! `imgbuild compare` and `imgbuild history`: images held against one another, and over time.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::args::RegistryArgs;
use super::failure::Failure;
use super::{Context, images, print};
use crate::compare::{self, Argument, Comparisons, DEFAULT_STRICTNESS, History, Limits, Options, Subject, render};
use crate::exit_code;
use crate::page::clean;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::transport::Transport;
use crate::units::{ByteSize, Milliseconds, Percent};

/// How a comparison is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables for a terminal or a log
    Text,
    /// The format of docs/spec/compare.md
    Json,
    /// For a comment on a pull request
    Markdown,
    /// One page with plots that needs no network
    Html,
}

/// How a history is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HistoryFormat {
    /// A table and a line of bars
    Text,
    /// The format of docs/spec/compare.md
    Json,
    /// One page with plots that needs no network
    Html,
}

/// What the heads are held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Baseline {
    /// The first image
    First,
    /// The image that installs the whole packages
    Package,
}

/// `imgbuild compare`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild compare base.json head.json
      what grew, shrank, came and went
  imgbuild compare base.json+base-cold.json head.json+head-cold.json --max-growth 5% --format markdown -o comment.md
      sizes and cold starts; ends with 7 where something grew by more than 5 % and beyond the noise
  imgbuild compare docker://localhost:5000/acme/magika:1 docker://localhost:5000/acme/magika:2
      two images in a registry, by their manifests and labels
  imgbuild compare size.json --budget budgets.toml
      one image against absolute limits
  imgbuild compare size.json --baseline package
      against installing the whole packages
  imgbuild compare cpu.json cuda.json tensorrt.json --allow-different --format html -o stacks.html
      several images side by side")]
pub struct CompareArgs {
    /// Size reports, cold-start reports, SIZE+COLD, folders with both, or images; the first is the base
    #[arg(required = true, value_name = "BASE|HEAD", value_hint = ValueHint::AnyPath)]
    images: Vec<String>,

    /// How it is shown
    #[arg(long, value_enum, default_value = "text")]
    format: Format,

    /// Write it here instead of to stdout
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,

    /// Most that the image, compressed or unpacked, or a phase beyond its noise may grow, such as 5%
    #[arg(long, value_name = "PERCENT")]
    max_growth: Option<Percent>,

    /// Most that all layers may be compressed, such as 60MB
    #[arg(long, value_name = "SIZE")]
    max_size: Option<ByteSize>,

    /// Most that all files may be unpacked, such as 160MB
    #[arg(long, value_name = "SIZE")]
    max_unpacked: Option<ByteSize>,

    /// Most that it may take from nothing to the first answer, such as 2s or 800ms
    #[arg(long, value_name = "TIME")]
    max_cold_start: Option<Milliseconds>,

    /// Limits per total, layer, package, library and phase; the options above override it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    budget: Option<PathBuf>,

    /// What the images are held against
    #[arg(long, value_enum, default_value = "first")]
    baseline: Baseline,

    /// Standard errors that a difference of times must exceed to count
    #[arg(long, value_name = "N", default_value_t = DEFAULT_STRICTNESS, value_parser = strictness)]
    noise: f64,

    /// Compare unlike models, platforms, machines and runners
    #[arg(long)]
    allow_different: bool,

    /// Platform to choose from an image's index [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,

    #[command(flatten)]
    registry: RegistryArgs,
}

fn strictness(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.0..=1000.0).contains(&value) { Ok(value) } else { Err(format!("{value} is not from 0 to 1000")) }
}

/// `imgbuild history`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild history reports/
      a folder of size and cold-start reports, ordered by name
  imgbuild history docker://localhost:5000/acme/magika
      every tag of a repository
  imgbuild history reports/ --format html -o history.html")]
pub struct HistoryArgs {
    /// A folder of reports, report files, or a repository `docker://HOST/NAME`
    #[arg(required = true, value_name = "DIR|FILE|REF", value_hint = ValueHint::AnyPath)]
    sources: Vec<String>,

    /// How it is shown
    #[arg(long, value_enum, default_value = "text")]
    format: HistoryFormat,

    /// Write it here instead of to stdout
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,

    /// Show unlike models and platforms in one history
    #[arg(long)]
    allow_different: bool,

    /// Platform to choose from an image's index [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,

    #[command(flatten)]
    registry: RegistryArgs,
}

pub(super) fn compare(context: &Context, args: &CompareArgs) -> Result<u8, Failure> {
    let limits = limits(args)?;
    let package = args.baseline == Baseline::Package;
    if args.images.len() < 2 && !package && (limits.is_empty() || limits.growth != compare::Growth::default()) {
        return Err(Failure::new("there is one image and nothing to hold it against", exit_code::USAGE)
            .with_hint("name a base before it, an absolute limit such as `--max-size 60MB`, or `--baseline package`"));
    }
    let mut subjects = Vec::new();
    for text in &args.images {
        subjects.push(subject(context, text, args.platform, &args.registry)?);
    }
    if package {
        let head = &subjects[0];
        let whole = head.whole_packages().ok_or_else(|| compare::CompareError::NoBaseline { name: head.name.clone() })?;
        subjects.insert(0, whole);
    }
    let options = Options { allow_different: args.allow_different, strictness: args.noise, limits };
    let (base, heads) = subjects.split_first().expect("clap asks for one image at least");
    let compared = compare::compare(base, heads, &options)?;
    let text = match args.format {
        Format::Text => render::text(&compared),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&compared).expect("a comparison has string keys only")),
        Format::Markdown => render::markdown(&compared),
        Format::Html => render::html(&compared, &subjects),
    };
    write(args.output.as_deref(), &text)?;
    verdict(&compared)
}

/// Over a limit, the command fails as a build over its budget does.
fn verdict(compared: &Comparisons) -> Result<u8, Failure> {
    if compared.over.is_empty() {
        return Ok(exit_code::SUCCESS);
    }
    let several = compared.images.len() > 2;
    let line = |excess: &compare::Excess| if several { format!("{}: {excess}", excess.image) } else { excess.to_string() };
    let lines: Vec<String> = compared.over.iter().map(|excess| clean(&line(excess))).collect();
    let failure = Failure::new(format!("over budget:\n  {}", lines.join("\n  ")), exit_code::OVER_BUDGET);
    let about_sizes = compared.over.iter().any(|excess| excess.what.contains("compressed") || excess.what.contains("unpacked"));
    Err(if about_sizes { failure.with_hint("`imgbuild why IMAGE LIBRARY` tells what brought a library in") } else { failure })
}

/// The budget file's limits, overridden by the options.
fn limits(args: &CompareArgs) -> Result<Limits, Failure> {
    let mut limits = args.budget.as_deref().map(Limits::load).transpose()?.unwrap_or_default();
    limits.compressed = args.max_size.or(limits.compressed);
    limits.unpacked = args.max_unpacked.or(limits.unpacked);
    limits.cold_start = args.max_cold_start.or(limits.cold_start);
    limits.growth.total = args.max_growth.or(limits.growth.total);
    Ok(limits)
}

/// Reads one side: its reports, or the image itself.
fn subject(context: &Context, text: &str, platform: Option<Platform>, registry: &RegistryArgs) -> Result<Subject, Failure> {
    match Argument::of(text)? {
        Argument::Reports(files) => Ok(Subject::load(text, &files)?),
        Argument::Image(image) => {
            let (_, image) = images::open(context, &image, platform, registry)?;
            Ok(Subject::of_image(text, &image)?)
        }
    }
}

pub(super) fn history(context: &Context, args: &HistoryArgs) -> Result<u8, Failure> {
    let mut subjects = Vec::new();
    for source in &args.sources {
        match source.parse() {
            Ok(Transport::Registry(reference)) if is_repository(&reference) => {
                subjects.extend(tags(context, &reference, args)?);
                continue;
            }
            _ => {}
        }
        match Argument::of(source)? {
            Argument::Reports(files) => {
                for file in files {
                    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
                    subjects.push(Subject::load(&name, &[file])?);
                }
            }
            Argument::Image(_) => subjects.push(subject(context, source, args.platform, &args.registry)?),
        }
    }
    let history = History::of(subjects, args.allow_different)?;
    let text = match args.format {
        HistoryFormat::Text => render::history_text(&history),
        HistoryFormat::Json => format!("{}\n", serde_json::to_string_pretty(&history).expect("a history has string keys only")),
        HistoryFormat::Html => render::history_html(&history),
    };
    write(args.output.as_deref(), &text)?;
    Ok(exit_code::SUCCESS)
}

fn is_repository(reference: &Reference) -> bool {
    reference.tag.is_none() && reference.digest.is_none()
}

/// Every tag of a repository, by its manifest and labels. A tag that is no image for the platform is left out with a warning.
fn tags(context: &Context, repository: &Reference, args: &HistoryArgs) -> Result<Vec<Subject>, Failure> {
    let client = images::client(context, &args.registry, Some(&repository.registry));
    let platform = args.platform.unwrap_or_else(Platform::host);
    let mut subjects = Vec::new();
    for tag in client.list_tags(repository)? {
        let reference = Reference { tag: Some(tag.clone()), ..repository.clone() };
        match client.open(&reference, platform) {
            Ok(image) => subjects.push(Subject::of_image(&tag, &image)?),
            Err(error) => context.progress.warn(format!("tag `{tag}` is left out: {error}")),
        }
    }
    if subjects.is_empty() {
        return Err(Failure::new(format!("`{repository}` has no tag with an image for {platform}"), exit_code::UNUSABLE_INPUT));
    }
    Ok(subjects)
}

fn write(output: Option<&std::path::Path>, text: &str) -> Result<(), Failure> {
    match output {
        None => print(text),
        Some(path) => crate::files::write_atomically(path, text.as_bytes())
            .map_err(|source| crate::report::ReportError::Write { path: path.to_owned(), source })?,
    }
    Ok(())
}

//! `imgbuild fatbin list` and `imgbuild fatbin prune`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueHint};

use super::failure::Failure;
use super::{print, print_json};
use crate::exit_code;
use crate::fatbin::{self, CodeKind, Elsewhere, FatbinError, LeftWhole, Listing, PruneReport, Share, Sm};
use crate::rewrite::RewriteError;
use crate::units::ByteSize;

/// Parts left as they are that are shown one by one; the rest is counted.
const ROWS: usize = 8;

/// `imgbuild fatbin`
#[derive(Debug, Args)]
pub struct FatbinArgs {
    /// What to do
    #[command(subcommand)]
    pub command: FatbinCommand,
}

/// What can be done with device code.
#[derive(Debug, Subcommand)]
pub enum FatbinCommand {
    /// Show for which GPUs a library carries CUDA device code, and how much
    List(FatbinListArgs),
    /// Write a library with the device code of some GPUs alone
    Prune(FatbinPruneArgs),
}

/// `imgbuild fatbin list`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild fatbin list libonnxruntime_providers_cuda.so
      a line for each architecture; cubins are sm_XX, PTX is compute_XX
  imgbuild fatbin list libcublas.so.13 --json
      every container and entry, with addresses and sizes")]
pub struct FatbinListArgs {
    /// The library
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `imgbuild fatbin prune`
#[derive(Debug, Args)]
#[command(
    after_help = "Of each fatbin stays, for each GPU, the machine code (cubin) for the highest architecture that it runs: the same
number, or else a lower one of the same major version; PTX only where there is no such cubin. A fatbin with nothing for any
of the GPUs shares a small cubin that none of them runs, so that the driver finds what it found before: no code.
What is damaged or unknown stays whole and is reported. The result is verified before it gets its name.

The licences of NVIDIA's own libraries (cuBLAS, cuDNN, …) restrict modification: read them before you prune these.

Examples:
  imgbuild fatbin prune libonnxruntime_providers_cuda.so -o pruned.so --gpu sm_75
      for a T4: 76 MB of 284
  imgbuild fatbin prune libonnxruntime_providers_cuda.so -o pruned.so --gpu sm_80,sm_86 --json"
)]
pub struct FatbinPruneArgs {
    /// The library
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// Where the result goes
    #[arg(long, short, value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,

    /// GPUs to keep code for, such as sm_75 or sm_80,sm_86 (may be repeated)
    #[arg(long, value_name = "SM", required = true, value_delimiter = ',')]
    pub gpu: Vec<Sm>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn fatbin(args: &FatbinArgs) -> Result<u8, Failure> {
    match &args.command {
        FatbinCommand::List(args) => list(args),
        FatbinCommand::Prune(args) => prune(args),
    }
}

fn list(args: &FatbinListArgs) -> Result<u8, Failure> {
    let listing = fatbin::map(&args.file).and_then(|library| fatbin::list(&library));
    let listing = listing.map_err(|error| failure("list", &args.file, error))?;
    if args.json {
        print_json(&listing);
    } else {
        print(&render_listing(&listing));
    }
    Ok(exit_code::SUCCESS)
}

fn prune(args: &FatbinPruneArgs) -> Result<u8, Failure> {
    let library = fatbin::map(&args.file).map_err(|error| failure("prune", &args.file, error))?;
    let storage = |error| Failure::new(format!("cannot write `{}`: {error}", args.output.display()), exit_code::STORAGE);
    let folder = args.output.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".imgbuild-").tempfile_in(folder).map_err(storage)?;
    let report = fatbin::prune(&library, &args.gpu, file.as_file_mut()).map_err(|error| failure("prune", &args.file, error))?;
    let permissions = fs::metadata(&args.file).map_err(storage)?.permissions();
    file.as_file().set_permissions(permissions).map_err(storage)?;
    file.as_file().sync_data().map_err(storage)?;
    file.persist(&args.output).map_err(|error| storage(error.error))?;
    if args.json {
        print_json(&report);
    } else {
        print(&render_report(&report));
    }
    Ok(exit_code::SUCCESS)
}

fn failure(verb: &str, path: &Path, error: FatbinError) -> Failure {
    let code = match &error {
        FatbinError::Rewrite(RewriteError::Write(_)) => exit_code::STORAGE,
        FatbinError::Verification(_) | FatbinError::Rewrite(RewriteError::Verification(_)) => exit_code::FAILURE,
        _ => exit_code::UNUSABLE_INPUT,
    };
    let hint = error.hint();
    let failure = Failure::new(format!("failed to {verb} `{}`: {error}", path.display()), code);
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

fn render_listing(listing: &Listing) -> String {
    let mut text = format!(
        "{} of {} are device code, in {} containers\n",
        ByteSize(listing.device_code_bytes),
        ByteSize(listing.bytes),
        listing.containers.len()
    );
    shares(&mut text, &listing.architectures);
    left_whole(&mut text, &listing.left_whole);
    for Elsewhere { section, containers, bytes, architectures, reason } in &listing.elsewhere {
        let bytes = ByteSize(*bytes);
        let _ = writeln!(text, "in {section}, which is not pruned ({reason}): {bytes} in {containers} containers");
        shares(&mut text, architectures);
    }
    text
}

fn render_report(report: &PruneReport) -> String {
    let mut text = format!("{} of {}\n", ByteSize(report.bytes_after), ByteSize(report.bytes_before));
    text.push_str("kept:\n");
    shares(&mut text, &report.kept);
    if !report.dropped.is_empty() {
        text.push_str("dropped:\n");
        shares(&mut text, &report.dropped);
    }
    if report.containers_without_code > 0 {
        let _ = writeln!(
            text,
            "{} of {} containers have no code for these GPUs, and had none",
            report.containers_without_code, report.containers
        );
    }
    left_whole(&mut text, &report.left_whole);
    text
}

fn shares(text: &mut String, shares: &[Share]) {
    for share in shares {
        let name = match share.kind {
            CodeKind::Elf => share.architecture.clone(),
            CodeKind::Ptx => share.architecture.replace("sm_", "compute_"),
        };
        let entries = if share.entries == 1 { "entry" } else { "entries" };
        let _ = writeln!(
            text,
            "  {name:<12} {:>6} {entries:<7} {:>10}, {:>10} uncompressed",
            share.entries,
            ByteSize(share.bytes),
            ByteSize(share.uncompressed_bytes)
        );
    }
}

fn left_whole(text: &mut String, parts: &[LeftWhole]) {
    if parts.is_empty() {
        return;
    }
    let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
    let _ = writeln!(text, "left as it is: {}", ByteSize(bytes));
    for part in parts.iter().take(ROWS) {
        let _ = writeln!(text, "  {:>10} at {:#x}: {}", ByteSize(part.bytes), part.address, part.reason);
    }
    if parts.len() > ROWS {
        let _ = writeln!(text, "  and {} more parts", parts.len() - ROWS);
    }
}

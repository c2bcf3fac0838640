//! `imgbuild choose`: one model in several forms, built, held against the first and measured.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::args::RegistryArgs;
use super::failure::Failure;
use super::serve::{Serving, Start};
use super::verify::names;
use super::{Context, coldstart, images, print};
use crate::build::{BuildOptions, build, epoch_of_environment};
use crate::choose::{Choice, Form, SCHEMA, Size, Speed, VERSION, Verdict, markdown, recommend, text};
use crate::cold_start::{Load, Origin, Request, Starter, measure, measure_together};
use crate::exit_code;
use crate::image::Image;
use crate::inference::Client;
use crate::lock::LockMode;
use crate::platform::Platform;
use crate::recipe::{Optimize, Overrides, Recipe};
use crate::report::cold_start::{ColdStartReport, Machine};
use crate::runner::embedded::Embedded;
use crate::source::Reach;
use crate::store::Store;
use crate::verify::report::DataIdentity;
use crate::verify::{Names, Policy, TestSet, VerifyOptions, first_sample, verify, write_protos};

/// How a choice is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for a terminal or a log
    Text,
    /// The format of docs/spec/choose.md
    Json,
    /// A comment for a pull request
    Markdown,
}

/// `imgbuild choose`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild choose model.onnx saved_model --data test_data
      builds both forms of one model, holds the second against the first, and measures both
  imgbuild choose model.onnx --optimize weights,extended --data inputs.npz --runs 5
      one model at two levels of optimisation
  imgbuild choose model.onnx --format markdown -o choice.md
      sizes and speed alone: without a test set, nothing says that forms answer alike

Nothing but the store is written. What cannot be measured on this machine is left blank, with the reason.")]
pub struct ChooseArgs {
    /// Forms of one model; the others are held against the first
    #[arg(required = true, value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    models: Vec<PathBuf>,

    /// Stacks that each form is built on
    #[arg(long, value_name = "STACK,…", value_delimiter = ',', default_value = "auto")]
    stack: Vec<String>,

    /// Levels of optimisation that each form is built at [default: weights]
    #[arg(long, value_enum, value_name = "LEVEL,…", value_delimiter = ',')]
    optimize: Vec<Optimize>,

    /// The test set that forms are held against one another with, as for `imgbuild verify`
    #[arg(long, value_name = "DIR|FILE", value_hint = ValueHint::AnyPath)]
    data: Option<PathBuf>,

    /// Rows of arrays in a request, where the model leaves that open
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: u64,

    /// What outputs may differ by [default: limits by datatype, see docs/spec/verify.md]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    policy: Option<PathBuf>,

    /// What the first form calls an input or output, and what the others call it (may be repeated)
    #[arg(long, value_name = "NAME=NAME")]
    rename: Vec<String>,

    /// How often each is pulled and started
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    runs: u64,

    /// Numbers of clients for the steady load
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,4", value_parser = clap::value_parser!(u64).range(1..=4096))]
    clients: Vec<u64>,

    /// Seconds of load for each number of clients
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    seconds: f64,

    /// What lies at the bottom
    #[arg(long, value_name = "BASE")]
    base: Option<String>,

    /// Server binary [default: imgserve beside imgbuild]
    #[arg(long, env = "IMGBUILD_SERVER", value_name = "FILE", value_hint = ValueHint::FilePath)]
    server: Option<PathBuf>,

    /// Use the store alone; fetch nothing
    #[arg(long)]
    offline: bool,

    /// Seconds to wait until a server is ready
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    wait: u64,

    /// How it is shown
    #[arg(long, value_enum, default_value = "text", conflicts_with = "json")]
    format: Format,

    /// Print JSON, as `--format json`
    #[arg(long)]
    json: bool,

    /// Write it here instead of to stdout
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,

    #[command(flatten)]
    registry: RegistryArgs,
}

/// What is built.
struct Variant<'a> {
    name: String,
    model: &'a Path,
    stack: &'a str,
    optimize: Option<Optimize>,
}

/// Everything that the steps share.
struct Session<'a> {
    context: &'a Context,
    args: &'a ChooseArgs,
    policy: Policy,
    names: Names,
    set: Option<TestSet>,
    load: Load,
    interrupted: std::sync::Arc<AtomicBool>,
    /// Locks and samples; removed at the end.
    scratch: tempfile::TempDir,
}

/// Which variant an image is of, and a folder with its first sample.
type Built = (usize, Image, Option<PathBuf>);
/// Which variant was measured, and what came of it.
type Measured = (usize, Result<ColdStartReport, Failure>);
/// A server with a client for its model.
type Served = (Serving, Client);

pub(super) fn choose(context: &Context, args: &ChooseArgs) -> Result<u8, Failure> {
    let variants = variants(args);
    if variants.len() < 2 {
        return Err(Failure::new("there is one form and nothing to choose from", exit_code::USAGE)
            .with_hint("name a second model, two stacks, or two levels such as `--optimize weights,extended`"));
    }
    let session = Session {
        context,
        args,
        policy: args.policy.as_deref().map(Policy::load).transpose()?.unwrap_or_default(),
        names: names(&args.rename)?,
        set: args.data.as_deref().map(TestSet::open).transpose()?,
        load: Load::Time(Duration::try_from_secs_f64(args.seconds).map_err(|error| Failure::new(error, exit_code::USAGE))?),
        interrupted: coldstart::interruption()?,
        scratch: context.store()?.scratch_folder()?,
    };
    let choice = session.run(&variants)?;
    let shown = match if args.json { Format::Json } else { args.format } {
        Format::Text => text(&choice),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&choice).expect("a choice has string keys only")),
        Format::Markdown => markdown(&choice),
    };
    match &args.output {
        None => print(&shown),
        Some(path) => crate::files::write_atomically(path, shown.as_bytes())
            .map_err(|source| crate::report::ReportError::Write { path: path.clone(), source })?,
    }
    Ok(exit_code::SUCCESS)
}

/// Every model on every stack at every level; a name says what differs.
fn variants(args: &ChooseArgs) -> Vec<Variant<'_>> {
    let levels: Vec<Option<Optimize>> =
        if args.optimize.is_empty() { vec![None] } else { args.optimize.iter().copied().map(Some).collect() };
    let mut variants = Vec::new();
    for model in &args.models {
        for stack in &args.stack {
            for optimize in &levels {
                let mut name = model.display().to_string();
                if args.stack.len() > 1 || stack != "auto" {
                    name.push_str(&format!(" on {stack}"));
                }
                if let Some(level) = optimize {
                    name.push_str(&format!(", {level}"));
                }
                variants.push(Variant { name, model, stack, optimize: *optimize });
            }
        }
    }
    variants
}

/// An error as one line.
fn line(failure: &Failure) -> String {
    failure.render().lines().map(|line| line.trim_start_matches("error: ").trim()).collect::<Vec<_>>().join("; ")
}

impl Session<'_> {
    fn run(&self, variants: &[Variant<'_>]) -> Result<Choice, Failure> {
        let mut forms = Vec::with_capacity(variants.len());
        let mut machine: Option<Machine> = None;
        let mut data = None;
        let mut first: Option<Image> = None;
        let mut built: Vec<Built> = Vec::new();
        for (index, variant) in variants.iter().enumerate() {
            self.context.progress.note(format!("form {} of {}: {}", index + 1, variants.len(), variant.name));
            let mut form = Form {
                name: variant.name.clone(),
                image: None,
                stack: None,
                size: None,
                speed: None,
                verdict: if index == 0 { Verdict::Reference } else { Verdict::Unknown },
                missing: Vec::new(),
            };
            match self.build(index, variant, &mut form) {
                // Without the first, there is nothing to hold the others against.
                Err(failure) if index == 0 => return Err(failure),
                Err(failure) => form.missing.push(format!("not built: {}", line(&failure))),
                Ok(image) => {
                    let reference = first.get_or_insert_with(|| image.clone()).clone();
                    let (sample, found) = self.hold_against(&reference, &image, index, &mut form)?;
                    data = found.or(data);
                    built.push((index, image, sample));
                }
            }
            forms.push(form);
        }
        for (index, measured) in self.measure(&built)? {
            match measured {
                Ok(report) => {
                    forms[index].speed = Speed::of(&report);
                    machine = machine.or(Some(report.machine));
                }
                Err(failure) => forms[index].missing.push(format!("not started: {}", line(&failure))),
            }
        }
        let recommendation = recommend(&forms, self.set.is_some());
        Ok(Choice { schema: SCHEMA, version: VERSION, imgbuild: env!("CARGO_PKG_VERSION"), machine, data, forms, recommendation })
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Builds a form into the store, with a lock of its own beside none of the user's files.
    fn build(&self, index: usize, variant: &Variant<'_>, form: &mut Form) -> Result<Image, Failure> {
        let overrides = Overrides {
            model: Some(variant.model.to_owned()),
            stack: Some(variant.stack.to_owned()),
            base: self.args.base.clone(),
            optimize: variant.optimize,
            server: self.args.server.clone(),
            ..Overrides::default()
        };
        let mut recipe = Recipe::load(None, overrides)?;
        let written = recipe.lock_path();
        recipe.folder = self.scratch.path().join(index.to_string());
        let storage = |error: std::io::Error| Failure::new(error, exit_code::STORAGE);
        std::fs::create_dir_all(&recipe.folder).map_err(storage)?;
        if written.exists() {
            std::fs::copy(written, recipe.lock_path()).map_err(storage)?;
        }
        let options = BuildOptions {
            lock: LockMode::Complete,
            reach: if self.args.offline { Reach::Offline } else { Reach::Online },
            threads: available_parallelism().map_or(1, usize::from),
            epoch: epoch_of_environment()?,
            client: images::client(self.context, &self.args.registry, None),
            server: super::build::server(&recipe)?,
            dry_run: false,
            published: None,
        };
        let built = build(&recipe, &options, &self.context.store()?, &self.context.progress)?;
        let total = built.report.totals.image;
        form.image = Some(built.report.image.digest);
        form.stack = Some(built.report.stack.clone());
        form.size = Some(Size { compressed: total.compressed, unpacked: total.unpacked });
        Ok(built.image)
    }

    fn serve(&self, image: &Image, name: &str) -> Result<Served, Failure> {
        let start = Start { wait: self.args.wait, ..Start::for_data() };
        let serving = Serving::of_image(self.context, image, None, name, &start)?;
        let model = images::required_composition(&serving.config, name)?.model;
        let client = Client::new(serving.address(), &model);
        Ok((serving, client))
    }

    /// Verifies a form against the first one, and gives a folder with its first sample and what the test set is.
    fn hold_against(
        &self,
        reference: &Image,
        image: &Image,
        index: usize,
        form: &mut Form,
    ) -> Result<(Option<PathBuf>, Option<DataIdentity>), Failure> {
        let Some(set) = &self.set else {
            if index > 0 {
                form.missing.push("not verified: there is no test set, name one by `--data`".to_owned());
            }
            return Ok((None, None));
        };
        let options = VerifyOptions { batch: self.args.batch, clients: 2 };
        let servers = self.serve(image, &form.name).and_then(|candidate| {
            let first = if index == 0 { None } else { Some(self.serve(reference, "the first form")?) };
            Ok((candidate, first))
        });
        let ((_serving, client), first) = match servers {
            Ok(servers) => servers,
            Err(failure) => {
                form.missing.push(format!("not verified: {}", line(&failure)));
                return Ok((None, None));
            }
        };
        let answers = first.as_ref().map_or(&client, |(_, client)| client);
        let renamed = if index == 0 { &Names::default() } else { &self.names };
        let sample = first_sample(set, answers, &client, renamed, &options);
        let sample = match sample {
            Ok(sample) => sample,
            // The test set must fit the first form, which the user chose.
            Err(error) if index == 0 => return Err(error.into()),
            Err(error) => {
                form.missing.push(format!("not verified: {}", line(&error.into())));
                return Ok((None, None));
            }
        };
        let folder = self.scratch.path().join(format!("sample-{index}"));
        write_protos(&folder, &sample)?;
        if index == 0 {
            return Ok((Some(folder), None));
        }
        let mut data = None;
        match verify(set, &client, Some(answers), renamed, &self.policy, &options, &self.context.progress) {
            Ok(findings) => {
                form.verdict = Verdict::of(&findings.outputs);
                let path = self.args.data.as_deref().unwrap_or(Path::new(""));
                data = Some(DataIdentity { name: super::verify::base_name(path), digest: set.digest, samples: findings.samples });
            }
            Err(error) => form.missing.push(format!("not verified: {}", line(&error.into()))),
        }
        Ok((Some(folder), data))
    }

    /// Measures images as `imgbuild coldstart --against` does, a run of each in turn. Where one does not start, each by itself.
    fn measure(&self, built: &[Built]) -> Result<Vec<Measured>, Failure> {
        let store = self.context.store()?;
        let requests = built.iter().map(|(_, image, sample)| self.request(image, sample.clone(), &store));
        let requests = requests.collect::<Result<Vec<_>, _>>()?;
        let indices = built.iter().map(|(index, ..)| *index);
        if let Ok(reports) = measure_together(&requests, &self.context.progress) {
            return Ok(indices.zip(reports.into_iter().map(Ok)).collect());
        }
        let mut measured = Vec::new();
        for (index, request) in indices.zip(&requests) {
            let report = measure(request, &self.context.progress).map_err(Failure::from);
            if self.is_interrupted() {
                return report.map(|_| Vec::new());
            }
            measured.push((index, report));
        }
        Ok(measured)
    }

    fn request<'a>(&'a self, image: &'a Image, sample: Option<PathBuf>, store: &'a Store) -> Result<Request<'a>, Failure> {
        Ok(Request {
            image,
            origin: Origin::Served,
            platform: Platform::host(),
            starter: Starter::Embedded(Embedded::new()?),
            settings: images::settings(&self.args.registry, None),
            store,
            runs: usize::try_from(self.args.runs).unwrap_or(usize::MAX),
            link: None,
            clients: self.args.clients.clone(),
            load: self.load,
            data: sample,
            patience: Duration::from_secs(self.args.wait),
            interrupted: &self.interrupted,
        })
    }
}

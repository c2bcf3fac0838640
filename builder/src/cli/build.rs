//! `imgbuild build` and `imgbuild lock`.

use std::path::PathBuf;
use std::thread::available_parallelism;

use super::args::{BuildArgs, LockArgs, RecipeArgs};
use super::failure::Failure;
use super::publish::Search;
use super::{Context, attest, images, print, print_json, push, several};
use crate::attest::Document;
use crate::build::{BuildError, BuildOptions, Built, Inputs, build as build_image, epoch_of_environment};
use crate::exit_code;
use crate::lock::LockMode;
use crate::platform::Platform;
use crate::recipe::{Budgets, GpuPart, Overrides, Recipe};
use crate::reference::Reference;
use crate::report::{self, SizeReport};
use crate::source::Reach;
use crate::transport::{Content, Put, Transport};
use crate::units::ByteSize;

pub(super) fn build(context: &Context, args: BuildArgs) -> Result<u8, Failure> {
    if args.recipe.platform.len() > 1 || args.per_gpu {
        return several::build(context, &args);
    }
    let platform = args.recipe.platform.first().copied();
    let recipe = Recipe::load(args.recipe.file.as_deref(), overrides_of(&args, platform, GpuPart::Only))?;
    let references = references_of(&recipe, args.push)?;
    // Every place is understood before anything is built.
    let places = places(&recipe, &references, args.push)?;
    let Finished { built, runtime, documents } = build_one(context, &recipe, &args, &places)?;
    tell_lock_changes(context, &recipe, &built.lock_changes, args.dry_run);
    let over = over_budget(&built.report, &recipe.budgets);
    let mut sent = Vec::new();
    if !args.dry_run && over.is_empty() {
        let way = Way { registry: &args.registry, documents: &documents, runtime: runtime.as_ref() };
        sent = put_everywhere(context, &built, &places, &references, &way)?;
    }
    if let Some(path) = &args.report {
        built.report.save(path)?;
    }
    args.attest.write("", &documents)?;
    if args.json {
        print(&built.report.to_json());
    } else {
        print(&report::render(&built.report));
        if args.dry_run {
            print("\ndry run: nothing was written but the store\n");
        } else if over.is_empty() {
            let mut text = String::from("\n");
            for (place, sent) in places.iter().zip(&sent) {
                text.push_str(&format!("wrote {place}: {sent}\n"));
            }
            print(&text);
        }
    }
    if over.is_empty() {
        return Ok(exit_code::SUCCESS);
    }
    Err(Failure::new(
        format!("the image is over its budget, and was put nowhere:\n  {}", over.join("\n  ")),
        exit_code::OVER_BUDGET,
    )
    .with_hint("`imgbuild why IMAGE LIBRARY` tells what brought a library in; budgets are in the recipe under [budgets]"))
}

/// What was typed, for one platform or the recipe's, and for some of the GPUs.
pub(super) fn overrides_of(args: &BuildArgs, platform: Option<Platform>, part: GpuPart) -> Overrides {
    Overrides {
        part,
        name: args.name.clone(),
        compression: args.compression.clone(),
        minimize: args.minimize,
        optimize: args.optimize,
        prepack: args.no_prepack.then_some(false),
        tags: args.tag.clone(),
        outputs: args.output.clone(),
        keep: args.keep.clone(),
        bind: args.no_bind.then_some(false),
        xla: args.xla,
        warm: args.no_warm.then_some(false),
        batch: (!args.batch.is_empty()).then(|| args.batch.clone()),
        cpu: args.cpu.clone(),
        ..overrides(&args.recipe, platform)
    }
}

/// How one image is built.
pub(super) fn options_of(context: &Context, recipe: &Recipe, args: &BuildArgs, lock: LockMode) -> Result<BuildOptions, Failure> {
    Ok(BuildOptions {
        lock,
        reach: reach(args.recipe.offline),
        threads: args.threads.unwrap_or_else(|| available_parallelism().map_or(1, usize::from)),
        epoch: epoch_of_environment()?,
        client: images::client(context, &args.registry, None),
        server: server(recipe)?,
        dry_run: args.dry_run,
        published: None,
    })
}

/// The references of a recipe; with `--push` there must be one.
pub(super) fn references_of(recipe: &Recipe, push: bool) -> Result<Vec<Reference>, Failure> {
    let references = recipe.tags.iter().map(|tag| tag.parse()).collect::<Result<Vec<Reference>, _>>();
    let references = references.map_err(|error| Failure::new(error, exit_code::UNUSABLE_INPUT))?;
    if push && references.is_empty() {
        return Err(Failure::new("there is nowhere to push to: the image has no reference", exit_code::UNUSABLE_INPUT)
            .with_hint("name one with `-t HOST/NAME:TAG`"));
    }
    Ok(references)
}

pub(super) fn lock(context: &Context, args: LockArgs) -> Result<u8, Failure> {
    let platforms: Vec<Option<Platform>> = match args.recipe.platform.as_slice() {
        [] => vec![None],
        several => several.iter().copied().map(Some).collect(),
    };
    platforms.into_iter().try_for_each(|platform| lock_one(context, &args, platform))?;
    Ok(exit_code::SUCCESS)
}

fn lock_one(context: &Context, args: &LockArgs, platform: Option<Platform>) -> Result<(), Failure> {
    let recipe = Recipe::load(args.recipe.file.as_deref(), overrides(&args.recipe, platform))?;
    let options = BuildOptions {
        lock: if args.update { LockMode::Update } else { LockMode::Complete },
        reach: reach(args.recipe.offline),
        threads: 1,
        epoch: 0,
        client: images::client(context, &args.registry, None),
        server: server(&recipe)?,
        dry_run: false,
        published: None,
    };
    let inputs = Inputs::obtain(&recipe, &options, &context.store()?, &context.progress)?;
    inputs.lock.save(&recipe.lock_path()).map_err(crate::build::BuildError::from)?;
    if args.json {
        print_json(&inputs.lock);
    } else if inputs.lock_changes.is_empty() {
        print(&format!("{} is up to date\n", recipe.lock_path().display()));
    } else {
        print(&format!("{}\n", inputs.lock_changes.join("\n")));
    }
    Ok(())
}

fn overrides(args: &RecipeArgs, platform: Option<Platform>) -> Overrides {
    Overrides {
        model: args.model.clone(),
        stack: args.stack.clone(),
        base: args.base.clone(),
        platform,
        one_of_several: args.platform.len() > 1,
        server: args.server.clone(),
        gpus: args.gpu.clone(),
        prune_vendor: args.prune_vendor.then_some(true),
        packages: args.package.clone(),
        // The lock is the same whether there is one image or one for each GPU.
        part: GpuPart::All,
        ..Overrides::default()
    }
}

fn reach(offline: bool) -> Reach {
    if offline { Reach::Offline } else { Reach::Online }
}

/// The server that goes into the image: the recipe's, or the one beside this program, which has the platform's name where that
/// is not this machine's.
pub(super) fn server(recipe: &Recipe) -> Result<PathBuf, Failure> {
    if let Some(path) = &recipe.server {
        return Ok(path.clone());
    }
    let own = std::env::current_exe().map_err(|error| Failure::new(error, exit_code::STORAGE))?;
    Ok(match recipe.platform {
        platform if platform == Platform::host() => own.with_file_name("imgserve"),
        other => own.with_file_name(format!("imgserve-{}", other.architecture())),
    })
}

/// Where the image goes: the outputs, the registries of the references with `--push`, or a layout beside the model.
pub(super) fn places(recipe: &Recipe, references: &[Reference], push: bool) -> Result<Vec<Transport>, Failure> {
    let mut places = recipe.outputs.iter().map(|output| output.parse()).collect::<Result<Vec<Transport>, _>>()?;
    if push {
        places.extend(references.iter().cloned().map(Transport::Registry));
    }
    if places.is_empty() {
        let folder = recipe.folder.join(format!("{}.oci", recipe.name));
        let tag = references.first().and_then(Reference::tag_or_latest).unwrap_or("latest");
        places.push(format!("oci:{}:{tag}", folder.display()).parse()?);
    }
    Ok(places)
}

/// An image that was built, and what goes with it.
pub(super) struct Finished {
    pub built: Built,
    /// Where the layers below the model were published, if they were not made here.
    pub runtime: Option<Reference>,
    pub documents: Vec<Document>,
}

/// Builds the image of one recipe, on published layers where there are some for it.
pub(super) fn build_one(context: &Context, recipe: &Recipe, args: &BuildArgs, places: &[Transport]) -> Result<Finished, Failure> {
    let lock = if args.locked { LockMode::Locked } else { LockMode::Complete };
    let mut options = options_of(context, recipe, args, lock)?;
    let pushed_to: Vec<Reference> = places.iter().filter_map(Transport::registry).cloned().collect();
    let search = Search {
        recipe,
        compression: recipe.compression.parse().map_err(BuildError::from)?,
        epoch: options.epoch,
        pushed_to: &pushed_to,
        registry: &args.registry,
    };
    let found = args.runtime.find(context, &search)?;
    options.published = found.as_ref().map(|found| found.runtime.clone());
    let store = context.store()?;
    let built = match build_image(recipe, &options, &store, &context.progress) {
        Err(BuildError::Published(error)) if found.as_ref().is_some_and(|found| !found.named) => {
            context.progress.note(format!("not used: {error}"));
            options.published = None;
            build_image(recipe, &options, &store, &context.progress)?
        }
        built => built?,
    };
    let runtime = found.filter(|_| options.published.is_some()).map(|found| found.place);
    let documents = args.attest.documents(recipe, &built, options.epoch);
    Ok(Finished { built, runtime, documents })
}

/// How an image is put where it goes.
struct Way<'a> {
    registry: &'a super::args::RegistryArgs,
    documents: &'a [Document],
    /// Where the layers below the model were published.
    runtime: Option<&'a Reference>,
}

/// The repositories on a place's registry from which layers are mounted.
pub(super) fn near<'a>(place: &Transport, known: impl Iterator<Item = &'a Reference>) -> Vec<String> {
    let same = |of: &&Reference| place.registry().is_some_and(|to| to.registry == of.registry);
    known.filter(same).map(|of| of.repository.clone()).collect()
}

/// Puts the image where it goes, and gives for each place what that took.
fn put_everywhere(
    context: &Context,
    built: &Built,
    places: &[Transport],
    references: &[Reference],
    way: &Way<'_>,
) -> Result<Vec<String>, Failure> {
    let store = context.store()?;
    let content = Content::from(built.image.clone());
    let mut sent = Vec::with_capacity(places.len());
    for place in places {
        let request = Put { name: references.first(), platform: None, store: Some(&store), progress: &context.progress };
        // Layers that lie in the same registry are mounted from there.
        let mount_from = near(place, built.base_reference.iter().chain(way.runtime));
        let choices = push::PushChoices { mount_from, ..push::PushChoices::default() };
        let placed = push::put(context, place, &content, &request, way.registry, &choices)?;
        sent.push(placed.text);
        if let Some(reference) = place.registry() {
            attest::attach(context, reference, &built.image.descriptor(), way.documents, way.registry)?;
        }
    }
    Ok(sent)
}

pub(super) fn tell_lock_changes(context: &Context, recipe: &Recipe, changes: &[String], dry_run: bool) {
    if changes.is_empty() {
        return;
    }
    let verb = if dry_run { "would change" } else { "wrote" };
    context.progress.note(format!("{verb} {}: {}", recipe.lock_path().display(), changes.join(", ")));
}

/// The budgets that a report is over, in words.
pub(super) fn over_budget(report: &SizeReport, budgets: &Budgets) -> Vec<String> {
    let mut over = Vec::new();
    let mut check = |what: String, actual: u64, limit: Option<&ByteSize>| {
        if let Some(limit) = limit.filter(|limit| actual > limit.0) {
            over.push(format!("{what}: {} ({actual} bytes), budget {limit} ({} bytes)", ByteSize(actual), limit.0));
        }
    };
    check("image, compressed".to_owned(), report.totals.image.compressed, budgets.compressed.as_ref());
    check("image, unpacked".to_owned(), report.totals.image.unpacked, budgets.unpacked.as_ref());
    for layer in &report.layers {
        check(format!("layer {}, compressed", layer.name), layer.compressed, budgets.layers.get(&layer.name));
    }
    for file in &report.files {
        let name = file.path.rsplit('/').next().unwrap_or(&file.path);
        check(format!("library {name}, unpacked"), file.unpacked, budgets.libraries.get(name));
    }
    over
}

//! `imgbuild build --platform A,B` and `--per-gpu`: an image for each platform and GPU, and one index over them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::args::BuildArgs;
use super::build::{Finished, build_one, near, over_budget, overrides_of, places, references_of, tell_lock_changes};
use super::failure::Failure;
use super::{Context, attest, print, print_json, push};
use crate::digest::Digest;
use crate::exit_code;
use crate::platform::Platform;
use crate::recipe::{GPU_PLACE, GpuPart, Recipe};
use crate::reference::Reference;
use crate::report;
use crate::store::Store;
use crate::transport::{Content, ImageIndex, Put, Transport};
use crate::units::ByteSize;

/// One of the images.
struct One {
    recipe: Recipe,
    /// What tells it from the others, such as `arm64`, `sm_75` or nothing; part of the names of its files.
    suffix: String,
    /// Where it goes by itself, beside the index.
    places: Vec<Transport>,
    finished: Finished,
}

impl One {
    fn in_words(&self) -> String {
        match self.recipe.part {
            GpuPart::One(gpu) => format!("{} and {gpu}", self.recipe.platform),
            _ => self.recipe.platform.to_string(),
        }
    }
}

/// The recipes in the order of the index. The first image for a platform is the one that container engines take, so it is the one that
/// runs on every GPU that was named.
fn recipes(args: &BuildArgs) -> Result<Vec<(Recipe, String)>, Failure> {
    let platforms: Vec<Option<Platform>> = match args.recipe.platform.as_slice() {
        [] => vec![None],
        several => several.iter().copied().map(Some).collect(),
    };
    let mut recipes = Vec::new();
    for platform in &platforms {
        let load = |part| Recipe::load(args.recipe.file.as_deref(), overrides_of(args, *platform, part));
        let whole = load(if args.per_gpu { GpuPart::All } else { GpuPart::Only })?;
        let architecture = if platforms.len() > 1 { whole.platform.architecture() } else { "" };
        let gpus = if args.per_gpu { whole.gpus.clone() } else { Vec::new() };
        if args.per_gpu && gpus.len() < 2 {
            let found = gpus.first().map_or_else(|| "no GPU is named".to_owned(), |gpu| format!("{gpu} alone is named"));
            return Err(Failure::new(
                format!("{found}, expected two or more for an image each (`--per-gpu`)"),
                exit_code::UNUSABLE_INPUT,
            )
            .with_hint("name them, `--gpu sm_75,sm_86`, or leave `--per-gpu` out"));
        }
        recipes.push((whole, architecture.to_owned()));
        for gpu in gpus {
            let joint = if architecture.is_empty() { "" } else { "-" };
            recipes.push((load(GpuPart::One(gpu))?, format!("{architecture}{joint}{gpu}")));
        }
    }
    Ok(recipes)
}

/// Where an image for one GPU goes by itself: where it has a reference or an output of its own.
fn own_places(recipe: &Recipe, args: &BuildArgs) -> Result<Vec<Transport>, Failure> {
    let references = references_of(recipe, false)?;
    let push = args.push && !references.is_empty();
    if !matches!(recipe.part, GpuPart::One(_)) || (recipe.outputs.is_empty() && !push) {
        return Ok(Vec::new());
    }
    places(recipe, &references, push)
}

/// Where the index goes.
fn index_places(first: &Recipe, args: &BuildArgs) -> Result<(Vec<Reference>, Vec<Transport>), Failure> {
    let references = references_of(first, args.push).map_err(|failure| match args.per_gpu {
        true => failure.with_hint(format!("name one for the index with `-t HOST/NAME:TAG`, without `{GPU_PLACE}`")),
        false => failure,
    })?;
    let places = places(first, &references, args.push)?;
    Ok((references, places))
}

/// Builds all images before any is put anywhere: an index is put whole or not at all.
pub(super) fn build(context: &Context, args: &BuildArgs) -> Result<u8, Failure> {
    let store = context.store()?;
    let recipes = recipes(args)?;
    // Every place is understood before anything is built.
    let (references, places) = index_places(&recipes[0].0, args)?;
    let mut built: Vec<One> = Vec::new();
    for (recipe, suffix) in recipes {
        let own = own_places(&recipe, args)?;
        let finished = build_one(context, &recipe, args, &[places.as_slice(), &own].concat())?;
        tell_lock_changes(context, &recipe, &finished.built.lock_changes, args.dry_run);
        built.push(One { recipe, suffix, places: own, finished });
    }
    let over: Vec<String> = built.iter().flat_map(over_of).collect();
    let index = Content::Index(ImageIndex::of(built.iter().map(|one| one.finished.built.image.clone()).collect()));
    for one in &built {
        if let Some(path) = &args.report {
            one.finished.built.report.save(&path_for(path, &one.suffix))?;
        }
        args.attest.write(&one.suffix, &one.finished.documents)?;
    }
    if args.json {
        print_json(&built.iter().map(|one| &one.finished.built.report).collect::<Vec<_>>());
    } else {
        let tables: Vec<String> = built.iter().map(|one| report::render(&one.finished.built.report)).collect();
        print(&format!("{}\nindex {}: {}\n", tables.join("\n"), index.descriptor().digest, layers_of(&built)));
    }
    if !over.is_empty() {
        let what = format!("the image is over its budget, and was put nowhere:\n  {}", over.join("\n  "));
        return Err(Failure::new(what, exit_code::OVER_BUDGET));
    }
    if args.dry_run {
        return Ok(exit_code::SUCCESS);
    }
    let mut attached = BTreeSet::new();
    let all: Vec<&One> = built.iter().collect();
    for place in &places {
        put(context, args, &store, (place, &references), &index, &all, &mut attached)?;
    }
    for one in &built {
        let references = references_of(&one.recipe, false)?;
        for place in &one.places {
            let image = Content::from(one.finished.built.image.clone());
            put(context, args, &store, (place, &references), &image, &[one], &mut attached)?;
        }
    }
    Ok(exit_code::SUCCESS)
}

/// Puts an index, or one of its images, at a place, with what is said of each image.
fn put(
    context: &Context,
    args: &BuildArgs,
    store: &Store,
    (place, references): (&Transport, &[Reference]),
    content: &Content,
    images: &[&One],
    attached: &mut BTreeSet<(String, Digest)>,
) -> Result<(), Failure> {
    // Docker's archives and daemons hold one image: the first for this machine.
    let platform = Some(Platform::host()).filter(|_| matches!(content, Content::Index(_)));
    let request = Put { name: references.first(), platform, store: Some(store), progress: &context.progress };
    let known = images.iter().flat_map(|one| one.finished.built.base_reference.iter().chain(&one.finished.runtime));
    let choices = push::PushChoices { mount_from: near(place, known), ..push::PushChoices::default() };
    let placed = push::put(context, place, content, &request, &args.registry, &choices)?.text;
    if let Some(reference) = place.registry() {
        // What is said of an image belongs to it, not to the index; in one repository it is said once.
        for one in images {
            let Finished { built, documents, .. } = &one.finished;
            let subject = built.image.descriptor();
            if attached.insert((reference.name(), subject.digest)) {
                attest::attach(context, reference, &subject, documents, &args.registry)?;
            }
        }
    }
    if !args.json {
        print(&format!("wrote {place}: {placed}\n"));
    }
    Ok(())
}

/// How many images and layers there are, and which layers all images share.
fn layers_of(built: &[One]) -> String {
    let mut layers: BTreeMap<Digest, (&str, u64, usize)> = BTreeMap::new();
    for layer in built.iter().flat_map(|one| &one.finished.built.report.layers) {
        layers.entry(layer.digest).or_insert((&layer.name, layer.compressed, 0)).2 += 1;
    }
    let mut shared: Vec<&str> = layers.values().filter(|(.., times)| *times == built.len()).map(|(name, ..)| *name).collect();
    shared.sort_unstable();
    let bytes = ByteSize(layers.values().map(|(_, bytes, _)| bytes).sum());
    let in_all = if shared.is_empty() { String::new() } else { format!(", of them in every image: {}", shared.join(", ")) };
    format!("{} images, {} layers with {bytes}{in_all}", built.len(), layers.len())
}

fn over_of(one: &One) -> Vec<String> {
    let over = over_budget(&one.finished.built.report, &one.recipe.budgets).into_iter();
    over.map(|what| format!("{}: {what}", one.in_words())).collect()
}

/// `size.json` for arm64 is `size-arm64.json`.
fn path_for(path: &Path, suffix: &str) -> PathBuf {
    if suffix.is_empty() {
        return path.to_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = path.extension().map(|ending| format!(".{}", ending.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}-{suffix}{ending}"))
}

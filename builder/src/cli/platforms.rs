//! `imgbuild build --platform A,B`: an image for each platform, and one index over them.

use std::path::{Path, PathBuf};

use super::args::BuildArgs;
use super::build::{options_of, over_budget, overrides_of, places, references_of, tell_lock_changes};
use super::failure::Failure;
use super::{Context, images, print, print_json};
use crate::build::{Built, build as build_image};
use crate::exit_code;
use crate::lock::LockMode;
use crate::platform::Platform;
use crate::recipe::Recipe;
use crate::report;
use crate::transport::{Content, ImageIndex, Put, Transport};

/// Builds all images before any is put anywhere: an index is put whole or not at all.
pub(super) fn build(context: &Context, args: &BuildArgs) -> Result<u8, Failure> {
    let store = context.store()?;
    let mut built: Vec<(Recipe, Built)> = Vec::new();
    for platform in &args.recipe.platform {
        let recipe = Recipe::load(args.recipe.file.as_deref(), overrides_of(args, Some(*platform)))?;
        let lock = if args.locked { LockMode::Locked } else { LockMode::Complete };
        let options = options_of(context, &recipe, args, lock)?;
        let one = build_image(&recipe, &options, &store, &context.progress)?;
        tell_lock_changes(context, &recipe, &one.lock_changes, args.dry_run);
        built.push((recipe, one));
    }
    let (first, _) = built.first().expect("several platforms were given");
    let references = references_of(first, args.push)?;
    let places = places(first, &references, args.push)?;
    let over: Vec<String> = built.iter().flat_map(|(recipe, one)| over_of(recipe, one)).collect();
    let index = Content::Index(ImageIndex::of(built.iter().map(|(_, one)| one.image.clone()).collect()));
    for (recipe, one) in &built {
        if let Some(path) = &args.report {
            one.report.save(&path_for(path, recipe.platform))?;
        }
    }
    if args.json {
        print_json(&built.iter().map(|(_, one)| &one.report).collect::<Vec<_>>());
    } else {
        let tables: Vec<String> = built.iter().map(|(_, one)| report::render(&one.report)).collect();
        print(&format!("{}\nindex {}\n", tables.join("\n"), index.descriptor().digest));
    }
    if !over.is_empty() {
        let what = format!("the image is over its budget, and was put nowhere:\n  {}", over.join("\n  "));
        return Err(Failure::new(what, exit_code::OVER_BUDGET));
    }
    if args.dry_run {
        return Ok(exit_code::SUCCESS);
    }
    for place in &places {
        // Docker's archives and daemons hold one image: that for this machine.
        let request =
            Put { name: references.first(), platform: Some(Platform::host()), store: Some(&store), progress: &context.progress };
        let bases = built.iter().filter_map(|(_, one)| one.base_reference.as_ref());
        let near = bases.filter(|base| matches!(place, Transport::Registry(reference) if reference.registry == base.registry));
        let mount_from = near.map(|base| base.repository.clone()).collect();
        let choices = images::PushChoices { mount_from, ..Default::default() };
        let placed = images::put(context, place, &index, &request, &args.registry, &choices)?;
        if !args.json {
            print(&format!("wrote {place}: {placed}\n"));
        }
    }
    Ok(exit_code::SUCCESS)
}

fn over_of(recipe: &Recipe, built: &Built) -> Vec<String> {
    let over = over_budget(&built.report, &recipe.budgets).into_iter();
    over.map(|what| format!("{}: {what}", recipe.platform)).collect()
}

/// `size.json` for arm64 is `size-arm64.json`.
fn path_for(path: &Path, platform: Platform) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = path.extension().map(|ending| format!(".{}", ending.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}-{}{ending}", platform.architecture()))
}

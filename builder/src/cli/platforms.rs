//! `imgbuild build --platform A,B`: an image for each platform, and one index over them.

use std::path::{Path, PathBuf};

use super::args::BuildArgs;
use super::build::{Finished, build_one, near, over_budget, overrides_of, places, references_of, tell_lock_changes};
use super::failure::Failure;
use super::{Context, attest, print, print_json, push};
use crate::build::Built;
use crate::exit_code;
use crate::platform::Platform;
use crate::recipe::Recipe;
use crate::report;
use crate::transport::{Content, ImageIndex, Put};

/// Builds all images before any is put anywhere: an index is put whole or not at all.
pub(super) fn build(context: &Context, args: &BuildArgs) -> Result<u8, Failure> {
    let store = context.store()?;
    let mut built: Vec<(Recipe, Finished)> = Vec::new();
    for platform in &args.recipe.platform {
        let recipe = Recipe::load(args.recipe.file.as_deref(), overrides_of(args, Some(*platform)))?;
        let places = places(&recipe, &references_of(&recipe, args.push)?, args.push)?;
        let one = build_one(context, &recipe, args, &places)?;
        tell_lock_changes(context, &recipe, &one.built.lock_changes, args.dry_run);
        built.push((recipe, one));
    }
    let (first, _) = built.first().expect("several platforms were given");
    let references = references_of(first, args.push)?;
    let places = places(first, &references, args.push)?;
    let over: Vec<String> = built.iter().flat_map(|(recipe, one)| over_of(recipe, &one.built)).collect();
    let index = Content::Index(ImageIndex::of(built.iter().map(|(_, one)| one.built.image.clone()).collect()));
    for (recipe, one) in &built {
        if let Some(path) = &args.report {
            one.built.report.save(&path_for(path, recipe.platform))?;
        }
        args.attest.write(Some(recipe.platform), &one.documents)?;
    }
    if args.json {
        print_json(&built.iter().map(|(_, one)| &one.built.report).collect::<Vec<_>>());
    } else {
        let tables: Vec<String> = built.iter().map(|(_, one)| report::render(&one.built.report)).collect();
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
        let known = built.iter().flat_map(|(_, one)| one.built.base_reference.iter().chain(&one.runtime));
        let choices = push::PushChoices { mount_from: near(place, known), ..push::PushChoices::default() };
        let placed = push::put(context, place, &index, &request, &args.registry, &choices)?.text;
        if let Some(reference) = place.registry() {
            // What is said of an image belongs to it, not to the index.
            for (_, one) in &built {
                attest::attach(context, reference, &one.built.image.descriptor(), &one.documents, &args.registry)?;
            }
        }
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

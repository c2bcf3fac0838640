//! The report of a finished build, from what its stages found out.

use std::collections::BTreeMap;

use super::{Inputs, Written, gpu};
use crate::image::Image;
use crate::model::Model;
use crate::recipe::{Minimize, Recipe};
use crate::report::{
    BASE_IMAGE, Bytes, Composition, FileSize, ImageIdentity, LayerSize, Level, ModelIdentity, Optimization, PackageSize, SCHEMA,
    SizeReport, Totals, VERSION, XlaReport,
};
use crate::runtime::Runtime;
use crate::tree::{LayerName, Origin, Tree};

/// What travels in the image's label.
pub(super) fn composition(recipe: &Recipe, inputs: &Inputs, runtime: &Runtime) -> Composition {
    Composition {
        version: 1,
        stack: inputs.stack.name.clone(),
        base: recipe.base.to_string(),
        model: recipe.name.clone(),
        libraries: runtime.libraries.clone(),
        omitted: runtime.omitted.clone(),
        links: runtime.links.clone(),
    }
}

/// What other stages found out about the model.
#[derive(Debug)]
pub(super) struct Findings {
    /// How it was made to start fast.
    pub optimization: Optimization,
    /// What XLA does.
    pub xla: Option<XlaReport>,
}

/// The size report.
pub(super) fn report(
    recipe: &Recipe,
    inputs: &Inputs,
    runtime: &Runtime,
    found: Findings,
    tree: &Tree,
    written: &Written,
    image: &Image,
) -> SizeReport {
    let files = files(tree, written);
    let mut layers = Vec::with_capacity(written.len());
    let mut totals = Totals { metadata: (image.manifest.len() + image.config.len()) as u64, ..Totals::default() };
    if let Some(parent) = &inputs.parent {
        for (layer, held) in parent.layers().into_iter().zip(parent.listing.totals()) {
            let bytes = Bytes { unpacked: held.bytes, compressed: layer.descriptor.size };
            totals.image.add(bytes);
            totals.without_model.add(bytes);
            layers.push(LayerSize {
                name: BASE_IMAGE.to_owned(),
                digest: layer.descriptor.digest,
                diff_id: layer.diff_id,
                media_type: layer.descriptor.media_type,
                compressed: bytes.compressed,
                unpacked: bytes.unpacked,
                files: held.files,
            });
        }
    }
    for (name, outcome) in written {
        let bytes =
            Bytes { unpacked: outcome.files.iter().map(|file| file.size).sum(), compressed: outcome.layer.descriptor.size };
        totals.image.add(bytes);
        if !matches!(name, LayerName::Model | LayerName::Compiled) {
            totals.without_model.add(bytes);
        }
        layers.push(LayerSize {
            name: name.to_string(),
            digest: outcome.layer.descriptor.digest,
            diff_id: outcome.layer.diff_id,
            media_type: outcome.layer.descriptor.media_type.clone(),
            compressed: bytes.compressed,
            unpacked: bytes.unpacked,
            files: outcome.files.len() as u64,
        });
    }
    SizeReport {
        schema: SCHEMA.to_owned(),
        version: VERSION,
        imgbuild: env!("CARGO_PKG_VERSION").to_owned(),
        image: ImageIdentity {
            digest: image.descriptor().digest,
            config: image.parsed.config.digest,
            platform: recipe.platform.to_string(),
        },
        model: ModelIdentity {
            name: recipe.name.clone(),
            format: inputs.model.as_ref().map_or_else(String::new, |model| model.format.to_string()),
            size: inputs.model.as_ref().map_or(0, Model::total_size),
        },
        optimization: Some(found.optimization),
        stack: inputs.stack.name.clone(),
        base: recipe.base.to_string(),
        minimize: recipe.minimize,
        totals,
        levels: levels(recipe.minimize, inputs.stack.depends_on_model(), runtime, &files),
        layers,
        packages: packages(inputs, runtime),
        files,
        omitted: runtime.omitted.clone(),
        links: runtime.links.clone(),
        gpu: gpu::report(recipe, inputs),
        xla: found.xla,
        compiled: inputs.compiled.as_ref().map(|compiled| compiled.report.clone()),
        not_compiled: inputs.not_compiled.clone(),
    }
}

/// The packages that files are from, that of which parts are linked into a compiled model among them.
fn packages(inputs: &Inputs, runtime: &Runtime) -> Vec<PackageSize> {
    let mut packages = runtime.packages.clone();
    if let Some(compiled) = &inputs.compiled {
        let pin = &compiled.package.pin;
        packages.push(PackageSize {
            name: pin.name.clone(),
            version: pin.version.clone(),
            digest: pin.sha256,
            license: Some(compiled.package.spdx.clone()),
            download: pin.size,
            installed: compiled.package.installed,
            taken: compiled.licences.iter().map(|(_, text)| text.size).sum(),
        });
    }
    packages
}

fn files(tree: &Tree, written: &Written) -> Vec<FileSize> {
    let mut files: BTreeMap<String, FileSize> = BTreeMap::new();
    for (layer, outcome) in written {
        for file in &outcome.files {
            let Some(entry) = tree.entries.get(&file.path) else { continue };
            let size = FileSize {
                path: file.path.to_string(),
                layer: *layer,
                unpacked: file.size,
                compressed: file.compressed,
                digest: file.digest,
                origin: entry.origin.clone(),
                reason: entry.reason.clone(),
            };
            files.insert(size.path.clone(), size);
        }
    }
    files.into_values().collect()
}

/// The packages' part at the levels that this build measured: every file of the packages, and what this image took.
///
/// Where no rule of the template looks at operators, the closure and the model's level are the same set and both are given.
fn levels(minimize: Minimize, depends_on_model: bool, runtime: &Runtime, files: &[FileSize]) -> Vec<Level> {
    let mut taken = Bytes::default();
    for file in files.iter().filter(|file| matches!(file.origin, Origin::Package { .. })) {
        taken.add(Bytes { unpacked: file.unpacked, compressed: file.compressed });
    }
    let level = |minimize| Level { minimize, unpacked: taken.unpacked, compressed: taken.compressed };
    let mut levels = vec![runtime.package_level.clone()];
    match minimize {
        Minimize::Package => {}
        Minimize::Closure => levels.push(level(Minimize::Closure)),
        Minimize::Model if depends_on_model => levels.push(level(Minimize::Model)),
        Minimize::Model => levels.extend([level(Minimize::Closure), level(Minimize::Model)]),
    }
    levels
}

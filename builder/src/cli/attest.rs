//! What `imgbuild build` says of an image besides its size: bills of materials and provenance, attached where it is pushed to.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::args::RegistryArgs;
use super::failure::Failure;
use super::{Context, images};
use crate::attest::{Document, Facts, LOCAL_BUILDER, Sbom, documents};
use crate::build::Built;
use crate::exit_code;
use crate::image::Descriptor;
use crate::recipe::Recipe;
use crate::reference::Reference;
use crate::units::ByteSize;

/// Options of `imgbuild build` about its documents.
#[derive(Debug, Args)]
pub struct AttestArgs {
    /// Bill of materials that is attached where the image is pushed to
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "cyclonedx")]
    pub sbom: Sbom,

    /// Attach nothing: no bill of materials, no provenance, no size report
    #[arg(long, conflicts_with = "attestations")]
    pub no_attest: bool,

    /// Write the documents into this folder as well
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub attestations: Option<PathBuf>,

    /// Who builds, a URI for the provenance
    #[arg(long, value_name = "URI", env = "IMGBUILD_BUILDER_ID", default_value = LOCAL_BUILDER)]
    pub builder_id: String,
}

impl AttestArgs {
    /// Makes the documents of a finished build.
    pub(super) fn documents(&self, recipe: &Recipe, built: &Built, epoch: u64) -> Vec<Document> {
        if self.no_attest {
            return Vec::new();
        }
        let facts = Facts {
            report: &built.report,
            lock: &built.lock,
            distribution: built.distribution.as_ref().map(|rule| (rule.id.as_str(), rule.version.as_str())),
            compression: &recipe.compression,
            keep: &recipe.keep,
            epoch,
            builder: &self.builder_id,
        };
        documents(&facts, self.sbom)
    }

    /// Writes the documents where they were asked for; those of one of several images in a folder within, where it has a name.
    pub(super) fn write(&self, name: &str, documents: &[Document]) -> Result<(), Failure> {
        let Some(folder) = &self.attestations else { return Ok(()) };
        let folder = &folder.join(name);
        let failed = |path: &std::path::Path| {
            let text = format!("failed to write `{}`", path.display());
            move |error: std::io::Error| Failure::new(format!("{text}: {error}"), exit_code::STORAGE)
        };
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
        for document in documents {
            let path = folder.join(document.file);
            crate::files::write_atomically(&path, &document.bytes).map_err(failed(&path))?;
        }
        Ok(())
    }
}

/// Attaches documents to an image in a registry.
pub(super) fn attach(
    context: &Context,
    place: &Reference,
    subject: &Descriptor,
    documents: &[Document],
    registry: &RegistryArgs,
) -> Result<(), Failure> {
    if documents.is_empty() {
        return Ok(());
    }
    let client = images::client(context, registry, Some(&place.registry));
    for document in documents {
        let attached = client.attach(place, subject, &document.artifact())?;
        let by = attached.fallback_tag.map(|tag| format!(", listed in `{tag}`")).unwrap_or_default();
        let sent = ByteSize(attached.bytes_sent);
        context.progress.note(format!("attached {} as {} ({sent} sent{by})", document.file, attached.descriptor.digest));
    }
    Ok(())
}

//! What a build says of its image besides the image: bills of materials, provenance and the size report, as [`Document`]s.
//!
//! Everything is made of the [`SizeReport`] and the [`Lock`] alone, so equal builds give equal bytes: the only time in a document is
//! `SOURCE_DATE_EPOCH`. `docs/spec/supply-chain.md` describes the documents and how they are attached.

mod cyclonedx;
mod licence;
mod provenance;
mod spdx;

pub use provenance::{BUILD_TYPE, LOCAL_BUILDER};

use std::collections::BTreeMap;

use packageurl::PackageUrl;

use crate::digest::Digest;
use crate::image::{Artifact, ArtifactPart, timestamp};
use crate::lock::Lock;
use crate::report::{FileSize, PackageSize, SizeReport};
use crate::source::{Pin, SourceKind};
use crate::tree::Origin;

/// What of the C++ compiler's own libraries becomes part of a model that is compiled ahead of time.
const COMPILER_RUNTIME: &str = "libstdc++ and libgcc";
/// Their licence, whose exception is for programs that were compiled.
const COMPILER_RUNTIME_LICENCE: &str = "GPL-3.0-or-later WITH GCC-exception-3.1";

/// Which bills of materials are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Sbom {
    /// CycloneDX 1.6.
    #[default]
    Cyclonedx,
    /// SPDX 2.3.
    Spdx,
    /// One of each.
    Both,
    /// None.
    None,
}

/// What the documents are made of.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The report of the build.
    pub report: &'a SizeReport,
    /// The lock that it was built with.
    pub lock: &'a Lock,
    /// The distribution of its Debian packages, as id and version.
    pub distribution: Option<(&'a str, &'a str)>,
    /// How layers were compressed, as asked for.
    pub compression: &'a str,
    /// Libraries that were kept by request.
    pub keep: &'a [String],
    /// Seconds since 1970 for the documents' time.
    pub epoch: u64,
    /// Who builds, as a URI.
    pub builder: &'a str,
}

/// One document about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its media type, which is its kind as well.
    pub media_type: &'static str,
    /// The name of a file that holds it.
    pub file: &'static str,
    /// Its bytes, JSON.
    pub bytes: Vec<u8>,
    /// Annotations of the artifact that it becomes.
    pub annotations: BTreeMap<String, String>,
}

/// Media type of the size report.
pub const SIZE_REPORT: &str = "application/vnd.imgbuild.size.v1+json";

impl Document {
    fn new(media_type: &'static str, file: &'static str, content: &serde_json::Value) -> Self {
        let mut bytes = serde_json::to_vec_pretty(content).expect("a JSON value becomes JSON");
        bytes.push(b'\n');
        Self { media_type, file, bytes, annotations: BTreeMap::new() }
    }

    /// The document as something that is attached to an image.
    #[must_use]
    pub fn artifact(&self) -> Artifact {
        let title = BTreeMap::from([("org.opencontainers.image.title".to_owned(), self.file.to_owned())]);
        Artifact {
            artifact_type: self.media_type.to_owned(),
            parts: vec![ArtifactPart { media_type: self.media_type.to_owned(), bytes: self.bytes.clone(), annotations: title }],
            annotations: self.annotations.clone(),
        }
    }
}

/// Makes the documents of a build: the bills of materials that were asked for, the provenance, the size report.
#[must_use]
pub fn documents(facts: &Facts<'_>, sbom: Sbom) -> Vec<Document> {
    let mut documents = Vec::new();
    if matches!(sbom, Sbom::Cyclonedx | Sbom::Both) {
        documents.push(Document::new(cyclonedx::MEDIA_TYPE, "sbom.cdx.json", &cyclonedx::document(facts)));
    }
    if matches!(sbom, Sbom::Spdx | Sbom::Both) {
        documents.push(Document::new(spdx::MEDIA_TYPE, "sbom.spdx.json", &spdx::document(facts)));
    }
    let mut provenance = Document::new(provenance::MEDIA_TYPE, "provenance.json", &provenance::statement(facts));
    provenance.annotations.insert("in-toto.io/predicate-type".to_owned(), provenance::PREDICATE_TYPE.to_owned());
    documents.push(provenance);
    documents.push(Document {
        media_type: SIZE_REPORT,
        file: "size.json",
        bytes: facts.report.to_json().into_bytes(),
        annotations: BTreeMap::new(),
    });
    documents
}

impl Facts<'_> {
    fn time(&self) -> String {
        timestamp(self.epoch)
    }

    /// An identifier that follows from the image alone.
    fn uuid(&self) -> String {
        // Version 8 is for identifiers that are made by a rule of one's own.
        let hex = self.report.image.digest.hex();
        format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
    }

    fn image_address(&self) -> String {
        let digest = self.report.image.digest.to_string();
        address("oci", None, &self.report.model.name, Some(&digest), &[("arch", self.architecture())])
    }

    fn architecture(&self) -> &str {
        self.lock.platform.rsplit('/').next().unwrap_or_default()
    }

    /// Packages that files were taken from, each with its pin.
    fn packages(&self) -> impl Iterator<Item = (&PackageSize, Option<&Pin>)> {
        let used = self.report.packages.iter().filter(|package| package.taken > 0);
        used.map(|package| (package, self.lock.packages().find(|pin| pin.sha256 == package.digest)))
    }

    fn files_of(&self, package: &PackageSize) -> impl Iterator<Item = &FileSize> {
        let digest = package.digest;
        self.report
            .files
            .iter()
            .filter(move |file| matches!(&file.origin, Origin::Package { digest: from, .. } if *from == digest))
    }

    /// The model's own files.
    fn model_files(&self) -> impl Iterator<Item = &FileSize> {
        let folder = self.model_folder();
        self.report.files.iter().filter(move |file| is_user(file) && file.path.starts_with(&folder))
    }

    /// Files of the user's that are not the model, and files that the builder made.
    fn other_files(&self) -> impl Iterator<Item = &FileSize> {
        let folder = self.model_folder();
        self.report.files.iter().filter(move |file| match file.origin {
            Origin::User { .. } => !file.path.starts_with(&folder),
            Origin::Generated => true,
            Origin::Package { .. } | Origin::Server { .. } | Origin::BaseImage => false,
        })
    }

    fn server_files(&self) -> impl Iterator<Item = &FileSize> {
        self.report.files.iter().filter(|file| matches!(file.origin, Origin::Server { .. }))
    }

    fn model_folder(&self) -> String {
        format!("/models/{}/", self.report.model.name)
    }

    /// The address of a pinned package, as package URLs are written.
    fn package_address(&self, name: &str, version: &str, digest: Digest, pin: Option<&Pin>) -> String {
        match pin.map(|pin| (pin.kind, &pin.file)) {
            Some((SourceKind::Pip, file)) => address("pypi", None, name, Some(version), &[("file_name", file)]),
            Some((SourceKind::Apt, file)) => {
                let architecture = if file.ends_with("_all.deb") { "all" } else { self.architecture() };
                let (id, release) = self.distribution.unwrap_or(("debian", ""));
                let distribution = format!("{id}-{release}");
                let mut qualifiers = vec![("arch", architecture)];
                if !release.is_empty() {
                    qualifiers.push(("distro", &distribution));
                }
                address("deb", Some(id), name, Some(version), &qualifiers)
            }
            Some((SourceKind::File | SourceKind::Directory, _)) | None => {
                address("generic", None, name, Some(version), &[("checksum", &digest.to_string())])
            }
        }
    }
}

fn is_user(file: &FileSize) -> bool {
    matches!(file.origin, Origin::User { .. })
}

/// A package URL; where one of its parts cannot be in one, a generic one of the name alone.
fn address(kind: &str, namespace: Option<&str>, name: &str, version: Option<&str>, qualifiers: &[(&str, &str)]) -> String {
    let make = || -> Result<String, packageurl::Error> {
        let mut url = PackageUrl::new(kind, name)?;
        if let Some(namespace) = namespace {
            url.with_namespace(namespace)?;
        }
        if let Some(version) = version {
            url.with_version(version)?;
        }
        for (key, value) in qualifiers {
            url.add_qualifier((*key).to_owned(), (*value).to_owned())?;
        }
        Ok(url.to_string())
    };
    make().unwrap_or_else(|_| format!("pkg:generic/{}", name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")))
}

//! Runtime layers that a registry has already: [`RuntimeRecord`] says all that a build needs to know of them.
//!
//! `imgbuild publish-runtime` writes the layers below the model once and puts the record into a label of their image. A build
//! that is given a [`PublishedRuntime`] fetches no package and no layer: it lays out the recorded tree, checks the model against
//! it, writes the model's layer, and names the others by digest. The image is byte for byte the one of an ordinary build.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BuildOptions, Written};
use crate::digest::Digest;
use crate::image::{Blobs, Descriptor, Image, ImageConfig, Layer};
use crate::layer::{CompressionChoice, FileBytes, LayerOutcome};
use crate::lock::{Lock, RewritingPin};
use crate::recipe::{Minimize, Recipe};
use crate::report::{Level, Library, Links, Omission, PackageSize};
use crate::runtime::{Runtime, Taken};
use crate::tree::{Content, Entry, ImagePath, ImagePathError, Kind, LayerName, Origin, Provenance, Tree};

/// The label that holds a [`RuntimeRecord`], as compact JSON.
pub const RUNTIME_LABEL: &str = "io.imgbuild.runtime";
/// The newest version of the record.
const VERSION: u32 = 1;

/// Layers without a model, and what a build needs to know of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeRecord {
    /// Version of the record's format.
    pub version: u32,
    /// What it was built from.
    pub lock: Lock,
    /// What decides the layers besides.
    pub settings: RuntimeSettings,
    layers: Vec<RecordedLayer>,
    entries: Vec<RecordedEntry>,
    libraries: Vec<Library>,
    omitted: Vec<Omission>,
    links: Links,
    packages: Vec<PackageSize>,
    package_level: Level,
}

/// What decides the layers below the model besides the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeSettings {
    compression: CompressionChoice,
    epoch: u64,
    minimize: Minimize,
    keep: Vec<String>,
    user: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedLayer {
    name: LayerName,
    descriptor: Descriptor,
    diff_id: Digest,
    unpacked: u64,
    compression: CompressionChoice,
    overhead: u64,
    /// Path, bytes, bytes in the blob, digest.
    files: Vec<(String, u64, u64, Digest)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedEntry {
    path: String,
    mode: u32,
    layer: LayerName,
    origin: Origin,
    reason: String,
    kind: RecordedKind,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum RecordedKind {
    Directory,
    File { size: u64, digest: Digest },
    Symlink { target: String },
}

/// A record with the place where its layers are.
#[derive(Debug, Clone)]
pub struct PublishedRuntime {
    /// What errors call it.
    pub name: String,
    /// The record.
    pub record: RuntimeRecord,
    /// Where the layers can be read, should the image go to a place that lacks them.
    pub blobs: Arc<dyn Blobs>,
}

/// Why published layers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PublishedError {
    /// The image holds no record.
    #[error("`{name}` is no published runtime: {reason}")]
    NoRecord {
        /// The image.
        name: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// It was written by a newer version.
    #[error("`{name}` has record version {found}, and this version of imgbuild knows up to {VERSION}")]
    Newer {
        /// The image.
        name: String,
        /// Its version.
        found: u64,
    },
    /// It is another runtime than the build asks for.
    #[error("`{name}` was published with {what} {found}, expected {expected}")]
    Mismatch {
        /// The image.
        name: String,
        /// What differs.
        what: &'static str,
        /// What it was published with.
        found: String,
        /// What the build asks for.
        expected: String,
    },
    /// The recipe needs layers of its own.
    #[error("`{name}` cannot serve for a recipe with {what}")]
    Recipe {
        /// The image.
        name: String,
        /// Which part of the recipe.
        what: &'static str,
    },
    /// A path in the record is none.
    #[error("`{name}` has a record with a path that is none")]
    Path {
        /// The image.
        name: String,
        /// What is wrong with it.
        source: ImagePathError,
    },
}

impl PublishedError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoRecord { .. } => Some("`imgbuild publish-runtime STACK REF` makes one".to_owned()),
            Self::Newer { .. } => Some("use the version of imgbuild that published it, or a newer one".to_owned()),
            Self::Mismatch { what: "a lock of", .. } => {
                Some("publish the runtime again from this lock, or remove the lock to take the published one".to_owned())
            }
            Self::Mismatch { .. } => {
                Some("publish a runtime with the same choices, or build without `--runtime-from`".to_owned())
            }
            Self::Recipe { .. } => Some("build without `--runtime-from`".to_owned()),
            Self::Path { .. } => None,
        }
    }
}

impl RuntimeSettings {
    /// What a recipe and the options ask for.
    #[must_use]
    pub fn new(recipe: &Recipe, compression: CompressionChoice, epoch: u64) -> Self {
        let mut keep = recipe.keep.clone();
        keep.sort();
        Self {
            compression,
            epoch,
            minimize: recipe.minimize,
            keep,
            user: recipe.user.map_or_else(|| "of the base".to_owned(), |user| user.to_string()),
        }
    }

    /// The tag under which a runtime of this lock and these settings is found.
    #[must_use]
    pub fn tag(&self, lock: &Lock) -> String {
        let settings = serde_json::to_string(self).expect("settings have string keys only");
        let lock = shared_part(lock).to_text();
        format!("runtime-{}", &Digest::of(format!("{VERSION}\n{lock}\n{settings}").as_bytes()).hex()[..16])
    }
}

/// A lock without what belongs to one model.
pub(super) fn shared_part(lock: &Lock) -> Lock {
    Lock { optimized: None, xla: None, ..lock.clone() }
}

impl RuntimeRecord {
    /// Records layers that were written.
    pub(super) fn new(lock: Lock, settings: RuntimeSettings, runtime: &Runtime, tree: &Tree, written: &Written) -> Self {
        let layers = written.iter().map(|(name, outcome)| RecordedLayer::of(*name, outcome)).collect();
        let digests: std::collections::BTreeMap<&ImagePath, Digest> =
            written.iter().flat_map(|(_, outcome)| outcome.files.iter().map(|file| (&file.path, file.digest))).collect();
        let entries = tree.entries.iter().map(|(path, entry)| RecordedEntry::of(path, entry, digests.get(path))).collect();
        Self {
            version: VERSION,
            lock: shared_part(&lock),
            settings,
            layers,
            entries,
            libraries: runtime.libraries.clone(),
            omitted: runtime.omitted.clone(),
            links: runtime.links.clone(),
            packages: runtime.packages.clone(),
            package_level: runtime.package_level.clone(),
        }
    }

    /// The label's text.
    #[must_use]
    pub fn to_label(&self) -> String {
        serde_json::to_string(self).expect("a record has string keys only")
    }
}

impl RecordedLayer {
    fn of(name: LayerName, outcome: &LayerOutcome) -> Self {
        Self {
            name,
            descriptor: outcome.layer.descriptor.clone(),
            diff_id: outcome.layer.diff_id,
            unpacked: outcome.layer.unpacked,
            compression: outcome.compression.into(),
            overhead: outcome.overhead,
            files: outcome.files.iter().map(|file| (file.path.to_string(), file.size, file.compressed, file.digest)).collect(),
        }
    }

    fn outcome(&self) -> Result<Option<LayerOutcome>, ImagePathError> {
        let files = self.files.iter().map(|(path, size, compressed, digest)| {
            Ok(FileBytes { path: path.parse()?, size: *size, compressed: *compressed, digest: *digest })
        });
        let layer = Layer { descriptor: self.descriptor.clone(), diff_id: self.diff_id, unpacked: self.unpacked, path: None };
        let files = files.collect::<Result<_, ImagePathError>>()?;
        let outcome = |compression| LayerOutcome { layer, compression, reused: true, files, overhead: self.overhead };
        Ok(self.compression.fixed().map(outcome))
    }
}

impl RecordedEntry {
    fn of(path: &ImagePath, entry: &Entry, digest: Option<&Digest>) -> Self {
        let kind = match &entry.kind {
            Kind::Directory => RecordedKind::Directory,
            Kind::Symlink { target } => RecordedKind::Symlink { target: target.clone() },
            Kind::File { size, digest: known, .. } => {
                let digest = *known.as_ref().or(digest).expect("a written layer knows the digest of each of its files");
                RecordedKind::File { size: *size, digest }
            }
        };
        let (path, mode, layer) = (path.to_string(), entry.mode, entry.layer);
        Self { path, mode, layer, origin: entry.origin.clone(), reason: entry.reason.clone(), kind }
    }

    fn entry(&self) -> Result<(ImagePath, Entry), ImagePathError> {
        let kind = match &self.kind {
            RecordedKind::Directory => Kind::Directory,
            RecordedKind::Symlink { target } => Kind::Symlink { target: target.clone() },
            RecordedKind::File { size, digest } => Kind::File { content: Content::Elsewhere, size: *size, digest: Some(*digest) },
        };
        let (mode, layer) = (self.mode, self.layer);
        Ok((self.path.parse()?, Entry { kind, mode, layer, origin: self.origin.clone(), reason: self.reason.clone() }))
    }
}

impl PublishedRuntime {
    /// Reads the record of an image, and checks that the image has the layers that the record speaks of.
    ///
    /// # Errors
    /// Where there is no record, it is from a newer version, or speaks of other layers.
    pub fn of_image(name: &str, image: &Image) -> Result<Self, PublishedError> {
        let no_record = |reason: String| PublishedError::NoRecord { name: name.to_owned(), reason };
        let config: ImageConfig =
            serde_json::from_slice(&image.config).map_err(|error| no_record(format!("its config cannot be read: {error}")))?;
        let label = config.config.labels.as_ref().and_then(|labels| labels.get(RUNTIME_LABEL));
        let label = label.ok_or_else(|| no_record(format!("it has no label `{RUNTIME_LABEL}`")))?;
        let damaged = |error| no_record(format!("its label `{RUNTIME_LABEL}` cannot be read: {error}"));
        let value: serde_json::Value = serde_json::from_str(label).map_err(damaged)?;
        let found = value["version"].as_u64().unwrap_or(0);
        if found > u64::from(VERSION) {
            return Err(PublishedError::Newer { name: name.to_owned(), found });
        }
        let record: RuntimeRecord = serde_json::from_value(value).map_err(damaged)?;
        let same = |a: &Descriptor, b: &Descriptor| (a.digest, a.size, &a.media_type) == (b.digest, b.size, &b.media_type);
        let layers = &image.parsed.layers;
        let speaks_of = layers.len() == record.layers.len()
            && layers.iter().zip(&record.layers).all(|(layer, recorded)| same(layer, &recorded.descriptor))
            && config.rootfs.diff_ids.iter().eq(record.layers.iter().map(|layer| &layer.diff_id));
        if !speaks_of {
            return Err(no_record("its record speaks of other layers than it has".to_owned()));
        }
        Ok(Self { name: name.to_owned(), record, blobs: Arc::clone(&image.blobs) })
    }

    /// Checks that the layers are those that an ordinary build would make.
    pub(super) fn check(
        &self,
        recipe: &Recipe,
        options: &BuildOptions,
        compression: CompressionChoice,
        needed: &Needed<'_>,
    ) -> Result<(), PublishedError> {
        for (what, present) in [
            ("custom operators", !recipe.custom_operators.is_empty()),
            ("a runtime of its own (`runtime.path`)", recipe.runtime.is_some()),
        ] {
            if present {
                return Err(PublishedError::Recipe { name: self.name.clone(), what });
            }
        }
        let same = |what, found: String, expected: String| {
            if found == expected {
                Ok(())
            } else {
                Err(PublishedError::Mismatch { name: self.name.clone(), what, found, expected })
            }
        };
        let (lock, settings) = (&self.record.lock, &self.record.settings);
        let wanted = RuntimeSettings::new(recipe, compression, options.epoch);
        same("stack", lock.stack.clone(), needed.stack.to_owned())?;
        same("base", lock.base.clone(), recipe.base.to_string())?;
        same("platform", lock.platform.clone(), recipe.platform.to_string())?;
        same("layer format", lock.format.to_string(), crate::layer::FORMAT_VERSION.to_string())?;
        same("data of stack and base", lock.request.to_string(), needed.request.to_string())?;
        same("compression", settings.compression.to_string(), wanted.compression.to_string())?;
        same("SOURCE_DATE_EPOCH", settings.epoch.to_string(), wanted.epoch.to_string())?;
        same("minimize", settings.minimize.to_string(), wanted.minimize.to_string())?;
        let rewriting = |pin: Option<RewritingPin>| pin.map_or_else(|| "none".to_owned(), |pin| pin.to_string());
        same("rewriting of libraries", rewriting(lock.rewriting), rewriting(needed.rewriting))?;
        let device_code = |lock: &Lock| lock.device_code.as_ref().map_or_else(|| "kept whole".to_owned(), ToString::to_string);
        same("device code", device_code(lock), needed.device_code.clone())?;
        same("kept libraries", settings.keep.join(", "), wanted.keep.join(", "))?;
        same("user", settings.user.clone(), wanted.user)?;
        if let Some(own) = needed.lock {
            same("a lock of", pins(lock), pins(own))?;
        }
        Ok(())
    }

    /// The tree, the written layers and what is known of them, as the stages of an ordinary build give them.
    pub(super) fn unpack(&self) -> Result<(Runtime, Tree, Written), PublishedError> {
        let path = |source| PublishedError::Path { name: self.name.clone(), source };
        let mut tree = Tree::default();
        for recorded in &self.record.entries {
            let (at, entry) = recorded.entry().map_err(path)?;
            tree.entries.insert(at, entry);
        }
        let mut written = Written::new();
        for recorded in &self.record.layers {
            let outcome = recorded.outcome().map_err(path)?.ok_or_else(|| PublishedError::NoRecord {
                name: self.name.clone(),
                reason: format!("its record does not say how the layer {} is compressed", recorded.name),
            })?;
            written.push((recorded.name, outcome));
        }
        let record = self.record.clone();
        let taken = |(path, entry): (&ImagePath, &Entry)| Taken {
            path: path.clone(),
            kind: entry.kind.clone(),
            mode: entry.mode,
            provenance: Provenance { layer: entry.layer, origin: entry.origin.clone(), reason: entry.reason.clone() },
        };
        let runtime = Runtime {
            taken: tree.entries.iter().map(taken).collect(),
            libraries: record.libraries,
            omitted: record.omitted,
            links: record.links,
            packages: record.packages,
            package_level: record.package_level,
            custom_operators: Vec::new(),
        };
        Ok((runtime, tree, written))
    }
}

/// What a build needs of published layers.
pub(super) struct Needed<'a> {
    /// The stack's name.
    pub stack: &'a str,
    /// What the lock's `request` must be.
    pub request: Digest,
    /// How libraries are rewritten.
    pub rewriting: Option<RewritingPin>,
    /// How device code is pruned, in words.
    pub device_code: String,
    /// The lock that is there.
    pub lock: Option<&'a Lock>,
}

/// The pins of a lock, in words.
fn pins(lock: &Lock) -> String {
    let pins = lock.inputs.iter().map(|pin| format!("{} {} ({})", pin.name, pin.version, pin.sha256.short()));
    let server = format!("imgserve {}", lock.server.sha256.short());
    pins.chain([server]).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::image::{ContainerConfig, ImageParts};
    use crate::platform::Platform;

    fn image(label: Option<&str>) -> Image {
        let labels = label.map(|label| BTreeMap::from([(RUNTIME_LABEL.to_owned(), label.to_owned())]));
        Image::assemble(ImageParts {
            platform: Platform::LinuxAmd64,
            epoch: 0,
            container: ContainerConfig { labels, ..ContainerConfig::default() },
            base_history: Vec::new(),
            base_layers: Vec::new(),
            base_blobs: None,
            layers: Vec::new(),
            annotations: BTreeMap::new(),
        })
    }

    fn record(layers: &str, path: &str) -> String {
        let digest = Digest::of(b"x");
        format!(
            r#"{{"version":1,"lock":{{"version":1,"format":1,"stack":"s","base":"b","platform":"linux/amd64","request":"{digest}",
            "server":{{"sha256":"{digest}","size":1}},"input":[]}},"settings":{{"compression":"auto","epoch":0,"minimize":"model","keep":[],
            "user":"1:1"}},"layers":[{layers}],"entries":[{{"path":"{path}","mode":493,"layer":"base","origin":{{"kind":"generated"}},
            "reason":"","kind":"directory"}}],"libraries":[],"omitted":[],"links":{{"objects":0,"symbols":0,"versions":0,"injected":[],
            "dead":[]}},"packages":[],"package_level":{{"minimize":"package","unpacked":0,"compressed":0}}}}"#
        )
    }

    #[test]
    fn a_record_is_read_and_anything_else_is_refused_in_words() {
        let read = |label: &str| PublishedRuntime::of_image("r/n:1", &image(Some(label)));
        let runtime = read(&record("", "/usr")).expect("a record");
        let (_, tree, written) = runtime.unpack().expect("it fits together");
        assert_eq!((tree.entries.len(), written.len()), (1, 0));

        let without = PublishedRuntime::of_image("r/n:1", &image(None)).expect_err("no label");
        assert!(without.to_string().contains(RUNTIME_LABEL), "{without}");
        for (label, reason) in [
            ("", "cannot be read"),
            ("[]", "cannot be read"),
            (r#"{"version":1}"#, "missing field"),
            (r#"{"version":2,"more":1}"#, "record version 2"),
        ] {
            let error = read(label).expect_err(label).to_string();
            assert!(error.contains(reason) && error.contains("r/n:1"), "{label}: {error}");
        }
        let digest = Digest::of(b"y");
        let layer = format!(
            r#"{{"name":"base","descriptor":{{"mediaType":"m","digest":"{digest}","size":1}},"diff_id":"{digest}","unpacked":1,"compression":"none","overhead":0,"files":[]}}"#
        );
        let error = read(&record(&layer, "/usr")).expect_err("the image has no layer");
        assert!(error.to_string().contains("other layers"), "{error}");
        for path in ["/usr/../etc", "usr", "/a/.wh.b"] {
            let error = read(&record("", path)).expect("read").unpack().expect_err(path);
            assert!(matches!(error, PublishedError::Path { .. }), "{error}");
        }
    }

    #[test]
    fn the_tag_follows_from_everything_that_decides_the_layers() {
        let runtime = PublishedRuntime::of_image("r", &image(Some(&record("", "/usr")))).expect("a record");
        let RuntimeRecord { lock, settings, .. } = runtime.record;
        let tag = settings.tag(&lock);
        assert!(crate::reference::is_tag(&tag), "{tag}");
        let others = [
            settings_with(&settings, |other| other.epoch = 1),
            settings_with(&settings, |other| other.minimize = Minimize::Package),
            settings_with(&settings, |other| other.keep = vec!["x".to_owned()]),
            settings_with(&settings, |other| other.user = "2:2".to_owned()),
            settings_with(&settings, |other| other.compression = CompressionChoice::None),
        ];
        assert!(others.iter().all(|other| other.tag(&lock) != tag));
        // What is pinned for one model does not decide the layers of all.
        let optimized = crate::lock::OptimizedPin { from: Digest::of(b"a"), sha256: Digest::of(b"b") };
        assert_eq!(settings.tag(&Lock { optimized: Some(optimized), ..lock.clone() }), tag);
        let other = Lock { base: "other".to_owned(), ..lock };
        assert_ne!(settings.tag(&other), tag);
    }

    fn settings_with(settings: &RuntimeSettings, change: impl Fn(&mut RuntimeSettings)) -> RuntimeSettings {
        let mut settings = settings.clone();
        change(&mut settings);
        settings
    }
}

//! What is compared: [`Subject`], read from reports or from an image, in one form.

use std::path::{Path, PathBuf};

use super::CompareError;
use crate::digest::Digest;
use crate::image::{Image, ImageConfig};
use crate::report::cold_start::{self, ColdStartReport};
use crate::report::{self, BASE_IMAGE, Composition, LABEL, ReportError, SizeReport};
use crate::tree::Origin;

/// What an image's layer says of itself in the history of its config, before and behind its name.
const CREATED_BY: (&str, &str) = ("imgbuild: ", " layer");

/// Bytes of one thing; `None` where its source does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Amount {
    /// Bytes as they travel.
    pub compressed: Option<u64>,
    /// Bytes of the files.
    pub unpacked: Option<u64>,
}

impl Amount {
    /// Both are known.
    #[must_use]
    pub fn known(compressed: u64, unpacked: u64) -> Self {
        Self { compressed: Some(compressed), unpacked: Some(unpacked) }
    }

    /// Adds what both know.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let add = |one: Option<u64>, other: Option<u64>| Some(one?.saturating_add(other?));
        Self { compressed: add(self.compressed, other.compressed), unpacked: add(self.unpacked, other.unpacked) }
    }
}

/// A layer, a package or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name, for a file its path.
    pub name: String,
    /// A package's version.
    pub version: Option<String>,
    /// The layer a file is in.
    pub layer: Option<String>,
    /// The package a file is from.
    pub package: Option<String>,
    /// Its bytes.
    pub amount: Amount,
}

impl Part {
    fn new(name: impl Into<String>, amount: Amount) -> Self {
        Self { name: name.into(), version: None, layer: None, package: None, amount }
    }
}

/// The sizes of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// The whole image.
    pub total: Amount,
    /// Its layers, lowest first.
    pub layers: Vec<Part>,
    /// The packages, with what was taken of each.
    pub packages: Vec<Part>,
    /// The files; only executables and libraries where it was read from an image.
    pub files: Vec<Part>,
    /// Every file is listed.
    pub complete: bool,
    /// The same image with the whole packages in it, and those packages.
    pub whole_packages: Option<(Amount, Vec<Part>)>,
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// As the user named it.
    pub name: String,
    /// Digest of the manifest.
    pub digest: Option<Digest>,
    /// For instance `linux/amd64`.
    pub platform: Option<String>,
    /// The name the model is served under.
    pub model: Option<String>,
    /// Name of the stack.
    pub stack: Option<String>,
    /// How big it is.
    pub sizes: Option<Sizes>,
    /// How fast it starts.
    pub cold_start: Option<ColdStartReport>,
    /// What its source does not say, in words.
    pub unknown: Vec<String>,
}

/// What an argument names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// Report files of one image.
    Reports(Vec<PathBuf>),
    /// An image: a transport, a layout's folder or an archive.
    Image(String),
}

impl Argument {
    /// Tells reports from images: `FILE+FILE` and folders with reports in them are reports, what begins with `{` or ends in `.json` is one.
    ///
    /// # Errors
    /// Where a folder cannot be read or holds no report.
    pub fn of(text: &str) -> Result<Self, CompareError> {
        let path = Path::new(text);
        if path.is_dir() && !path.join("oci-layout").exists() {
            return Ok(Self::Reports(reports_of_folder(path)?));
        }
        if is_report(path) {
            return Ok(Self::Reports(vec![path.to_owned()]));
        }
        let parts: Vec<PathBuf> = text.split('+').map(PathBuf::from).collect();
        if parts.len() > 1 && !path.exists() && parts.iter().all(|part| is_report(part)) {
            return Ok(Self::Reports(parts));
        }
        Ok(Self::Image(text.to_owned()))
    }
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

fn is_report(path: &Path) -> bool {
    use std::io::Read as _;
    let begins_so = || {
        let mut head = [0; 64];
        let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut head)).unwrap_or(0);
        head[..read].trim_ascii_start().first() == Some(&b'{')
    };
    is_json(path) || (path.is_file() && begins_so())
}

/// The JSON files of a folder, by name.
///
/// # Errors
/// Where it cannot be read or has none.
pub fn reports_of_folder(folder: &Path) -> Result<Vec<PathBuf>, CompareError> {
    let read = |source| CompareError::Report(ReportError::Read { path: folder.to_owned(), source });
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.is_file() && is_json(&path) {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(CompareError::NoReports { folder: folder.to_owned() }) } else { Ok(files) }
}

/// A report of either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyReport {
    /// A size report.
    Size(Box<SizeReport>),
    /// A cold-start report.
    ColdStart(Box<ColdStartReport>),
}

impl AnyReport {
    /// Reads a report and checks that it holds together.
    ///
    /// # Errors
    /// Where it is no report of either kind, of another version, or contradicts itself.
    pub fn load(path: &Path) -> Result<Self, CompareError> {
        let text = std::fs::read_to_string(path).map_err(|source| ReportError::Read { path: path.to_owned(), source })?;
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|source| ReportError::Parse {
            path: path.to_owned(),
            schema: report::SCHEMA,
            source,
        })?;
        match value["schema"].as_str() {
            Some(report::SCHEMA) => Ok(Self::Size(Box::new(SizeReport::parse(&text, path)?))),
            Some(cold_start::SCHEMA) => Ok(Self::ColdStart(Box::new(ColdStartReport::parse(&text, path)?))),
            other => {
                Err(CompareError::Schema { path: path.to_owned(), found: other.unwrap_or("a file without a schema").to_owned() })
            }
        }
    }
}

impl Subject {
    /// Reads the reports of one image.
    ///
    /// # Errors
    /// Where one cannot be used, there are two of a kind, or they are of different images.
    pub fn load(name: &str, files: &[PathBuf]) -> Result<Self, CompareError> {
        let mut subject: Option<Self> = None;
        for file in files {
            let next = match AnyReport::load(file)? {
                AnyReport::Size(report) => Self::of_size_report(name, &report),
                AnyReport::ColdStart(report) => Self::of_cold_start(name, *report),
            };
            subject = Some(match subject {
                None => next,
                Some(subject) => subject.join(next)?,
            });
        }
        subject.ok_or_else(|| CompareError::NoReports { folder: PathBuf::from(name) })
    }

    /// From a size report.
    #[must_use]
    pub fn of_size_report(name: &str, report: &SizeReport) -> Self {
        Self {
            digest: Some(report.image.digest),
            platform: Some(report.image.platform.clone()),
            model: Some(report.model.name.clone()),
            stack: Some(report.stack.clone()),
            sizes: Some(sizes_of_report(report)),
            ..Self::empty(name)
        }
    }

    /// From a cold-start report.
    #[must_use]
    pub fn of_cold_start(name: &str, report: ColdStartReport) -> Self {
        Self {
            digest: Some(report.image.digest),
            platform: Some(report.image.platform.clone()),
            model: Some(report.model.clone()),
            stack: report.stack.clone(),
            cold_start: Some(report),
            ..Self::empty(name)
        }
    }

    /// From an image's manifest and config: layers by their compressed sizes, libraries by their unpacked ones.
    ///
    /// # Errors
    /// Where the config is none.
    pub fn of_image(name: &str, image: &Image) -> Result<Self, CompareError> {
        let config: ImageConfig =
            serde_json::from_slice(&image.config).map_err(|source| CompareError::Config { name: name.to_owned(), source })?;
        let label = config.config.labels.as_ref().and_then(|labels| labels.get(LABEL));
        let composition = label.and_then(|text| Composition::parse(text).ok());
        let mut unknown = vec![format!("`{name}` is an image: it does not say how big its layers are unpacked")];
        match &composition {
            Some(_) => unknown.push(format!("`{name}` is an image: of its files it names only executables and libraries")),
            None => unknown.push(format!("`{name}` was not built by imgbuild: it does not say what is in its layers")),
        }
        Ok(Self {
            digest: Some(image.descriptor().digest),
            platform: Some(format!("{}/{}", config.os, config.architecture)),
            model: composition.as_ref().map(|composition| composition.model.clone()),
            stack: composition.as_ref().map(|composition| composition.stack.clone()),
            sizes: Some(sizes_of_image(image, &config, composition.as_ref())),
            unknown,
            ..Self::empty(name)
        })
    }

    /// The image that installs the whole packages instead of what was taken of them: what `--baseline package` compares with.
    #[must_use]
    pub fn whole_packages(&self) -> Option<Self> {
        let (total, packages) = self.sizes.as_ref()?.whole_packages.clone()?;
        let sizes = Sizes { total, packages, layers: Vec::new(), files: Vec::new(), complete: false, whole_packages: None };
        Some(Self { sizes: Some(sizes), digest: None, cold_start: None, name: "whole packages".to_owned(), ..self.clone() })
    }

    fn empty(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            digest: None,
            platform: None,
            model: None,
            stack: None,
            sizes: None,
            cold_start: None,
            unknown: Vec::new(),
        }
    }

    fn join(self, other: Self) -> Result<Self, CompareError> {
        if self.digest != other.digest {
            let digest = |subject: &Self| subject.digest.map(|digest| digest.to_string()).unwrap_or_default();
            return Err(CompareError::TwoImages { name: self.name.clone(), first: digest(&self), second: digest(&other) });
        }
        if (self.sizes.is_some() && other.sizes.is_some()) || (self.cold_start.is_some() && other.cold_start.is_some()) {
            return Err(CompareError::TwoOfAKind { name: self.name });
        }
        Ok(Self {
            sizes: self.sizes.or(other.sizes),
            cold_start: self.cold_start.or(other.cold_start),
            stack: self.stack.or(other.stack),
            ..self
        })
    }
}

fn sizes_of_report(report: &SizeReport) -> Sizes {
    let mut bases = 0;
    let layers = report.layers.iter().map(|layer| {
        let amount = Amount::known(layer.compressed, layer.unpacked);
        if layer.name != BASE_IMAGE {
            return Part::new(layer.name.clone(), amount);
        }
        bases += 1;
        Part::new(format!("{BASE_IMAGE} {bases}"), amount)
    });
    let files: Vec<Part> = report
        .files
        .iter()
        .map(|file| Part {
            layer: Some(file.layer.to_string()),
            package: Some(match &file.origin {
                Origin::Package { name, .. } => name.clone(),
                Origin::User { .. } => "own files".to_owned(),
                Origin::Server { .. } => "server".to_owned(),
                Origin::BaseImage => "base image".to_owned(),
                Origin::Generated => "generated".to_owned(),
            }),
            ..Part::new(file.path.clone(), Amount::known(file.compressed, file.unpacked))
        })
        .collect();
    let package = |name: &str, version: &str, amount| Part { version: Some(version.to_owned()), ..Part::new(name, amount) };
    let packages = report.packages.iter().map(|found| {
        let own = files.iter().filter(|file| file.package.as_deref() == Some(&found.name));
        let amount = own.fold(Amount::known(0, 0), |sum, file| sum.plus(file.amount));
        package(&found.name, &found.version, amount)
    });
    let packages = packages.collect();
    let level = |minimize| report.levels.iter().find(|level| level.minimize == minimize);
    let image = report.totals.image;
    let whole_packages = level(crate::recipe::Minimize::Package).zip(level(report.minimize)).map(|(whole, own)| {
        let grown = |total: u64, own: u64, whole: u64| total.saturating_sub(own).saturating_add(whole);
        let amount = Amount::known(
            grown(image.compressed, own.compressed, whole.compressed),
            grown(image.unpacked, own.unpacked, whole.unpacked),
        );
        let installed = report
            .packages
            .iter()
            .map(|found| package(&found.name, &found.version, Amount::known(found.download, found.installed)));
        (amount, installed.collect())
    });
    Sizes {
        total: Amount::known(image.compressed, image.unpacked),
        layers: layers.collect(),
        packages,
        files,
        complete: true,
        whole_packages,
    }
}

fn sizes_of_image(image: &Image, config: &ImageConfig, composition: Option<&Composition>) -> Sizes {
    let mut rows = config.history.iter().filter(|row| row.empty_layer != Some(true));
    let layers: Vec<Part> = image
        .parsed
        .layers
        .iter()
        .enumerate()
        .map(|(index, layer)| {
            let created_by = rows.next().and_then(|row| row.created_by.as_deref());
            let own = created_by.and_then(|text| text.strip_prefix(CREATED_BY.0)?.strip_suffix(CREATED_BY.1));
            let name = own.map_or_else(|| format!("{BASE_IMAGE} {}", index + 1), str::to_owned);
            Part::new(name, Amount { compressed: Some(layer.size), unpacked: None })
        })
        .collect();
    let libraries = composition.map(|composition| composition.libraries.as_slice()).unwrap_or_default();
    let files = libraries.iter().map(|library| {
        let package = library.from.rsplit_once(' ').map_or(library.from.as_str(), |(name, _)| name);
        let amount = Amount { compressed: None, unpacked: Some(library.size) };
        Part { package: Some(package.to_owned()), ..Part::new(library.path.clone(), amount) }
    });
    let compressed = layers.iter().filter_map(|layer| layer.amount.compressed).fold(0, u64::saturating_add);
    Sizes {
        total: Amount { compressed: Some(compressed), unpacked: None },
        layers,
        packages: Vec::new(),
        files: files.collect(),
        complete: false,
        whole_packages: None,
    }
}

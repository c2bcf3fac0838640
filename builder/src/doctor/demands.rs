//! What an image wants of a host: [`Demands`].

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;

use crate::fatbin::{Sm, SmError};
use crate::image::{Image, ImageConfig, label, open_verified};
use crate::layer::{LayerReader, Limits, MemberKind, ReadError};

/// The server's options, in the image.
const CONFIG: &str = "etc/imgserve/config.json";
/// What a processor must be able to do to run what XLA compiled, in the image.
const XLA_FLAGS: &str = "var/cache/imgserve/xla/cpu-flags";
/// Layers of more bytes hold libraries or weights: neither of these files is looked for in them.
const LARGEST_LAYER: u64 = 64 << 20;
/// Both files are far smaller.
const LARGEST_FILE: u64 = 1 << 20;

/// Why it cannot be said what an image wants.
#[derive(Debug, thiserror::Error)]
pub enum DemandsError {
    /// The config is no image config.
    #[error("the image's config is not understood")]
    Config(#[source] serde_json::Error),
    /// A layer cannot be read.
    #[error(transparent)]
    Layer(#[from] ReadError),
    /// A label says what is not understood.
    #[error("label `{label}` of the image is `{found}`, expected {expected}")]
    Label {
        /// The label.
        label: &'static str,
        /// What it says.
        found: String,
        /// What it may say.
        expected: &'static str,
    },
    /// The server's options in the image are not understood.
    #[error("`/etc/imgserve/config.json` in the image is not understood")]
    Options(#[source] serde_json::Error),
}

/// GPU architectures that an image has code for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Architectures {
    /// All that its libraries came with.
    All,
    /// These.
    Some(Vec<Sm>),
}

impl FromStr for Architectures {
    type Err = SmError;

    fn from_str(text: &str) -> Result<Self, SmError> {
        match text {
            "all" => Ok(Self::All),
            list => list.split(',').map(|sm| sm.trim().parse()).collect::<Result<_, _>>().map(Self::Some),
        }
    }
}

impl fmt::Display for Architectures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Some(list) => f.write_str(&list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

/// What an image wants of a GPU and its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuDemands {
    /// What runs the model.
    pub provider: String,
    /// Architectures that there is code for; `None` where the image does not say.
    pub architectures: Option<Architectures>,
    /// The lowest major version of the driver; `None` where the image does not say.
    pub driver: Option<u32>,
    /// The version of CUDA of its libraries.
    pub cuda: Option<String>,
}

/// What an image wants of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demands {
    /// The architecture as OCI names it, such as `amd64`.
    pub architecture: String,
    /// The instruction sets that the model was optimised for, as the server names them.
    pub cpu: Option<String>,
    /// Features of the processor that XLA compiled for, as the kernel names them.
    pub xla: Option<String>,
    /// What it wants of a GPU, where it wants one.
    pub gpu: Option<GpuDemands>,
    /// Whether a layer is compressed with zstd.
    pub zstd: bool,
    /// What the provider is told.
    pub provider_options: BTreeMap<String, Value>,
}

/// The part of the server's options that is a demand.
#[derive(Default, Deserialize)]
struct Options {
    provider: Option<String>,
    cpu: Option<String>,
    #[serde(default)]
    provider_options: BTreeMap<String, Value>,
}

impl Demands {
    /// Reads what an image wants, from its config and from those of its layers that are small.
    ///
    /// # Errors
    /// See [`DemandsError`].
    pub fn of(image: &Image) -> Result<Self, DemandsError> {
        let config: ImageConfig = serde_json::from_slice(&image.config).map_err(DemandsError::Config)?;
        let files = small_files(image)?;
        let options = match files.get(CONFIG) {
            Some(text) => serde_json::from_slice(text).map_err(DemandsError::Options)?,
            None => Options::default(),
        };
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).trim().to_owned();
        Ok(Self {
            gpu: gpu(&config.config.labels.unwrap_or_default(), options.provider)?,
            architecture: config.architecture,
            cpu: options.cpu.filter(|cpu| !cpu.is_empty()),
            xla: files.get(XLA_FLAGS).map(text).filter(|flags| !flags.is_empty()),
            provider_options: options.provider_options,
            zstd: image.parsed.layers.iter().any(|layer| layer.media_type.ends_with("zstd")),
        })
    }
}

/// What labels and options say about a GPU.
pub(super) fn gpu(labels: &BTreeMap<String, String>, provider: Option<String>) -> Result<Option<GpuDemands>, DemandsError> {
    let wrong = |label: &'static str, found: &str, expected| DemandsError::Label { label, found: found.to_owned(), expected };
    let Some(provider) = labels.get(label::PROVIDER).cloned().or(provider).filter(|provider| provider != "cpu") else {
        return Ok(None);
    };
    let architectures = labels
        .get(label::SM)
        .map(|text| text.parse().map_err(|_| wrong(label::SM, text, "`all` or GPU architectures such as `sm_75,sm_86`")));
    let driver = labels.get(label::DRIVER).map(|text| {
        text.split('.').next().unwrap_or_default().parse().map_err(|_| wrong(label::DRIVER, text, "a version such as `580`"))
    });
    let (architectures, driver) = (architectures.transpose()?, driver.transpose()?);
    Ok(Some(GpuDemands { provider, architectures, driver, cuda: labels.get(label::CUDA).cloned() }))
}

/// The files that hold demands, from the topmost layer that has them.
fn small_files(image: &Image) -> Result<BTreeMap<&'static str, Vec<u8>>, DemandsError> {
    let mut found = BTreeMap::new();
    for (number, descriptor) in image.parsed.layers.iter().enumerate().filter(|(_, layer)| layer.size <= LARGEST_LAYER) {
        let failed = |source| ReadError::Io { layer: number, place: "its blob".to_owned(), source };
        let blob = open_verified(&*image.blobs, descriptor).map_err(failed)?;
        let mut reader = LayerReader::new(blob, number, Limits::default())?;
        while let Some(member) = reader.next_member()? {
            let Some(name) = [CONFIG, XLA_FLAGS].into_iter().find(|name| member.path.as_os_str() == *name) else { continue };
            if member.kind == MemberKind::File && member.size <= LARGEST_FILE {
                let mut content = Vec::new();
                (&mut reader).take(member.size).read_to_end(&mut content).map_err(failed)?;
                found.insert(name, content);
            }
        }
    }
    Ok(found)
}

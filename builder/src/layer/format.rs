//! What decides a layer's bytes besides its entries: [`LayerFormat`], [`Compression`], [`CompressionChoice`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::image::media_type;
use crate::tree::LayerName;

/// Version of everything that decides a layer's bytes: tar rules, frames, codecs, default levels and the rule of `auto`.
pub const FORMAT_VERSION: u32 = 2;

/// Tar bytes from which a file has frames of its own.
pub(crate) const OWN_FRAME: u64 = 256 << 10;

const ZSTD_DEFAULT: i32 = 9;
const ZSTD_HARD: i32 = 19;
/// Bytes of the files of a layer that `hard` still compresses hard: 10 MB take six seconds of a processor.
const HARD_BYTES: u64 = 64 << 20;
const GZIP_DEFAULT: i32 = 6;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all: the blob is the tar.
    None,
    /// As gzip members.
    Gzip {
        /// 1 to 12.
        level: i32,
    },
    /// As zstd frames.
    Zstd {
        /// 1 to 22.
        level: i32,
    },
}

/// How the user wants a layer compressed; written `auto`, `hard`, `zstd`, `zstd:19`, `gzip`, `gzip:6` or `none`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum CompressionChoice {
    /// By its content: layers that hardly get smaller, such as float weights, are stored as they are, others use zstd. Layers that
    /// models share are compressed as [`Hard`](Self::Hard) says.
    #[default]
    Auto,
    /// As `auto`, but at level 19 where that takes seconds: layers of at most 64 MiB.
    Hard,
    /// zstd at a level of 1 to 22, or at the default one.
    Zstd(Option<i32>),
    /// gzip at a level of 1 to 12, or at the default one.
    Gzip(Option<i32>),
    /// Not at all.
    None,
}

/// What is wrong with a text that should say how to compress.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// No such codec.
    #[error("`{found}` is no compression, expected `auto`, `hard`, `zstd`, `zstd:LEVEL`, `gzip`, `gzip:LEVEL` or `none`")]
    Unknown {
        /// The text as given.
        found: String,
    },
    /// The codec has no such level.
    #[error("level `{found}` of {codec} does not exist, expected a number from 1 to {highest}")]
    Level {
        /// `zstd` or `gzip`.
        codec: &'static str,
        /// The level as given.
        found: String,
        /// The codec's highest level.
        highest: i32,
    },
}

/// What decides a layer's bytes besides its entries, and how many threads may work on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerFormat {
    /// How to compress.
    pub compression: CompressionChoice,
    /// Modification time of every entry, in seconds since 1970; at most 8 589 934 591, which is in the year 2242.
    pub epoch: u64,
    /// Threads that compress; at least one is used. It does not change the bytes.
    pub threads: usize,
}

impl Compression {
    /// The layer's media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => media_type::LAYER,
            Self::Gzip { .. } => media_type::LAYER_GZIP,
            Self::Zstd { .. } => media_type::LAYER_ZSTD,
        }
    }

    /// Most bytes of the tar that one frame holds. zstd finds matches over the whole of it; gzip's reach 32 KiB.
    pub(crate) fn frame_bytes(self) -> usize {
        match self {
            Self::None => 1 << 20,
            Self::Zstd { .. } => 32 << 20,
            Self::Gzip { .. } => 4 << 20,
        }
    }
}

impl CompressionChoice {
    /// What becomes of it for one layer of an image: `auto` takes pains with those that many models share, which are made once.
    #[must_use]
    pub fn for_layer(self, layer: LayerName) -> Self {
        match (self, layer) {
            (Self::Auto, LayerName::Base | LayerName::Runtime | LayerName::Server) => Self::Hard,
            _ => self,
        }
    }

    /// How a layer is compressed whose files have so many bytes and are worth it.
    pub(crate) fn worthwhile(self, bytes: u64) -> Compression {
        let level = if self == Self::Hard && bytes <= HARD_BYTES { ZSTD_HARD } else { ZSTD_DEFAULT };
        self.fixed().unwrap_or(Compression::Zstd { level })
    }

    /// The compression where it does not depend on the content.
    pub(crate) fn fixed(self) -> Option<Compression> {
        match self {
            Self::Auto | Self::Hard => None,
            Self::Zstd(level) => Some(Compression::Zstd { level: level.unwrap_or(ZSTD_DEFAULT) }),
            Self::Gzip(level) => Some(Compression::Gzip { level: level.unwrap_or(GZIP_DEFAULT) }),
            Self::None => Some(Compression::None),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        CompressionChoice::from(*self).fmt(f)
    }
}

impl From<Compression> for CompressionChoice {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Gzip { level } => Self::Gzip(Some(level)),
            Compression::Zstd { level } => Self::Zstd(Some(level)),
        }
    }
}

impl fmt::Display for CompressionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Hard => f.write_str("hard"),
            Self::None => f.write_str("none"),
            Self::Zstd(None) => f.write_str("zstd"),
            Self::Gzip(None) => f.write_str("gzip"),
            Self::Zstd(Some(level)) => write!(f, "zstd:{level}"),
            Self::Gzip(Some(level)) => write!(f, "gzip:{level}"),
        }
    }
}

impl FromStr for CompressionChoice {
    type Err = CompressionError;

    fn from_str(text: &str) -> Result<Self, CompressionError> {
        let level = |codec, found: &str, highest| {
            let canonical = found.bytes().all(|byte| byte.is_ascii_digit()) && !found.starts_with('0');
            match found.parse::<i32>() {
                Ok(level) if canonical && (1..=highest).contains(&level) => Ok(Some(level)),
                _ => Err(CompressionError::Level { codec, found: found.to_owned(), highest }),
            }
        };
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "hard" => Ok(Self::Hard),
            None if text == "none" => Ok(Self::None),
            None if text == "zstd" => Ok(Self::Zstd(None)),
            None if text == "gzip" => Ok(Self::Gzip(None)),
            Some(("zstd", found)) => level("zstd", found, 22).map(Self::Zstd),
            Some(("gzip", found)) => level("gzip", found, 12).map(Self::Gzip),
            _ => Err(CompressionError::Unknown { found: text.to_owned() }),
        }
    }
}

impl Serialize for CompressionChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CompressionChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_round_trip_as_text() {
        for text in ["auto", "hard", "none", "zstd", "zstd:1", "zstd:22", "gzip", "gzip:1", "gzip:12"] {
            let choice: CompressionChoice = text.parse().expect(text);
            assert_eq!(choice.to_string(), text);
            let json = serde_json::to_string(&choice).expect("a string");
            assert_eq!(serde_json::from_str::<CompressionChoice>(&json).expect(&json), choice);
        }
    }

    #[test]
    fn other_texts_are_refused_with_what_is_possible() {
        for bad in ["", "Auto", "xz", "zstd19", "auto:3", "none:1", "zstd :3"] {
            assert_eq!(bad.parse::<CompressionChoice>(), Err(CompressionError::Unknown { found: bad.to_owned() }));
        }
        for bad in ["zstd:", "zstd:0", "zstd:23", "zstd:-1", "zstd:+3", "zstd:03", "gzip:13", "gzip:0", "gzip:fast"] {
            let error = bad.parse::<CompressionChoice>().expect_err(bad);
            assert!(matches!(error, CompressionError::Level { .. }), "{bad}: {error}");
        }
        let error = "gzip:13".parse::<CompressionChoice>().expect_err("too high").to_string();
        assert_eq!(error, "level `13` of gzip does not exist, expected a number from 1 to 12");
    }
}

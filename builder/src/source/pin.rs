//! What the lock says about one file: [`Pin`], and the names that pins are read from: [`WheelName`], [`DebName`].

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::tree::Origin;

/// The kind of source that a file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A wheel, by `pip`.
    Pip,
    /// A Debian package, by `apt-get`.
    Apt,
    /// A file or an archive that the recipe names.
    File,
    /// A directory that the recipe names.
    Directory,
}

impl SourceKind {
    /// The name as users see it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pip => "pip",
            Self::Apt => "apt",
            Self::File => "file",
            Self::Directory => "directory",
        }
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One input of a build, fixed to its last byte. No server's name is in it: the clients of the registries know theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawPin")]
pub struct Pin {
    /// The package's name, for instance `onnxruntime`.
    pub name: String,
    /// Its version as the source writes it, for instance `1.32.0` or `2.36-9+deb12u14`.
    pub version: String,
    /// From where it comes.
    pub kind: SourceKind,
    /// The file's name. That of a wheel or a Debian package says for which platform it is.
    pub file: String,
    /// For [`SourceKind::File`] and [`SourceKind::Directory`]: the path as the recipe writes it, relative to the recipe's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Digest of the file; for a directory, that of the list of its files.
    pub sha256: Digest,
    /// Bytes of the file; for a directory, those of the list of its files.
    pub size: u64,
}

/// A [`Pin`] as the lock holds it, before its names are checked: they go to other programs' command lines.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPin {
    name: String,
    version: String,
    kind: SourceKind,
    file: String,
    path: Option<String>,
    sha256: Digest,
    size: u64,
}

/// What is wrong with a name in a pin or with the name of a package file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no {expected}")]
pub struct NameError {
    /// The text as given.
    pub found: String,
    /// What it should be.
    pub expected: &'static str,
}

impl TryFrom<RawPin> for Pin {
    type Error = NameError;

    fn try_from(raw: RawPin) -> Result<Self, NameError> {
        let RawPin { name, version, kind, file, path, sha256, size } = raw;
        check_name(&name)?;
        check_version(&version)?;
        check_file(&file)?;
        match (kind, &path) {
            (SourceKind::Pip, _) => drop(file.parse::<WheelName>()?),
            (SourceKind::Apt, _) => drop(file.parse::<DebName>()?),
            (SourceKind::File | SourceKind::Directory, None) => {
                return Err(NameError { found: name, expected: "pin of a file or directory, for which `path` is missing" });
            }
            (SourceKind::File | SourceKind::Directory, Some(_)) => {}
        }
        Ok(Self { name, version, kind, file, path, sha256, size })
    }
}

impl Pin {
    /// From where entries of the image that are made of this pin's files come.
    #[must_use]
    pub fn origin(&self) -> Origin {
        match &self.path {
            Some(path) => Origin::User { path: path.clone() },
            None => Origin::Package { name: self.name.clone(), version: self.version.clone(), digest: self.sha256 },
        }
    }
}

/// Checks the name of a package: it goes to other programs' command lines.
pub(crate) fn check_name(name: &str) -> Result<(), NameError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    if name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric()) && name.bytes().all(good) {
        return Ok(());
    }
    Err(NameError { found: name.to_owned(), expected: "package name (letters, digits, `.`, `_`, `+` and `-`)" })
}

/// Checks a version for the same reason.
pub(crate) fn check_version(version: &str) -> Result<(), NameError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~!:-".contains(&byte);
    if version.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric()) && version.bytes().all(good) {
        return Ok(());
    }
    Err(NameError { found: version.to_owned(), expected: "version (letters, digits, `.`, `_`, `+`, `~`, `!`, `:` and `-`)" })
}

fn check_file(file: &str) -> Result<(), NameError> {
    let plain = Path::new(file).file_name().is_some_and(|name| name == file);
    if plain && !file.starts_with('-') && !file.contains(|c: char| c.is_control()) {
        return Ok(());
    }
    Err(NameError { found: file.to_owned(), expected: "plain file name" })
}

/// The name of a wheel: `name-version[-build]-python-abi-platform.whl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WheelName {
    /// The distribution's name as the file writes it, for instance `nvidia_cublas`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The build tag, where there is one.
    pub build: Option<String>,
    /// The Python tag, for instance `cp312` or `py3`; several are joined by `.`.
    pub python: String,
    /// The ABI tag, for instance `cp312` or `none`; several are joined by `.`.
    pub abi: String,
    /// The platform tag, for instance `manylinux_2_28_x86_64`; several are joined by `.`.
    pub platform: String,
}

impl WheelName {
    /// Whether it was made for a version of CPython such as `3.11`, for every one, or with the stable interface.
    pub(crate) fn runs_on(&self, python: &str) -> bool {
        let this = format!("cp{}", python.replace('.', ""));
        self.abi.split('.').any(|abi| matches!(abi, "abi3" | "none") || *abi == this)
    }
}

impl FromStr for WheelName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || NameError { found: text.to_owned(), expected: "name of a wheel (`name-version-python-abi-platform.whl`)" };
        let stem = text.strip_suffix(".whl").ok_or_else(error)?;
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._+!".contains(&byte);
        let parts: Vec<&str> = stem.split('-').collect();
        if parts.iter().any(|part| part.is_empty() || !part.bytes().all(good)) {
            return Err(error());
        }
        let (name, version, build, tags) = match parts[..] {
            [name, version, ref tags @ ..] if tags.len() == 3 => (name, version, None, tags),
            [name, version, build, ref tags @ ..] if tags.len() == 3 => (name, version, Some(build.to_owned()), tags),
            _ => return Err(error()),
        };
        check_name(name).map_err(|_| error())?;
        check_version(version).map_err(|_| error())?;
        Ok(Self {
            name: name.to_owned(),
            version: version.to_owned(),
            build,
            python: tags[0].to_owned(),
            abi: tags[1].to_owned(),
            platform: tags[2].to_owned(),
        })
    }
}

impl fmt::Display for WheelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-", self.name, self.version)?;
        if let Some(build) = &self.build {
            write!(f, "{build}-")?;
        }
        write!(f, "{}-{}-{}.whl", self.python, self.abi, self.platform)
    }
}

/// A distribution's name in the form in which two spellings of one name are equal.
pub(crate) fn normalised(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for part in name.split(['-', '_', '.']).filter(|part| !part.is_empty()) {
        if !out.is_empty() {
            out.push('-');
        }
        out.push_str(&part.to_ascii_lowercase());
    }
    out
}

/// The name of a Debian package file: `name_version_architecture.deb`, an epoch's colon in it written `%3a`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebName {
    /// The package's name.
    pub name: String,
    /// Its version, for instance `1:1.2.13.dfsg-1`.
    pub version: String,
    /// Its architecture, for instance `amd64` or `all`.
    pub architecture: String,
}

impl FromStr for DebName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error =
            || NameError { found: text.to_owned(), expected: "name of a Debian package (`name_version_architecture.deb`)" };
        let stem = text.strip_suffix(".deb").ok_or_else(error)?;
        let mut parts = stem.split('_');
        let (Some(name), Some(version), Some(architecture), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(error());
        };
        let version = version.replace("%3a", ":");
        check_name(name).map_err(|_| error())?;
        check_version(&version).map_err(|_| error())?;
        if architecture.is_empty() || !architecture.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(error());
        }
        Ok(Self { name: name.to_owned(), version, architecture: architecture.to_owned() })
    }
}

impl fmt::Display for DebName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_wheels_round_trip() {
        for name in [
            "onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl",
            "magika-0.6.1-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "a_b-1!2.0+local-3build-py2.py3-none-any.whl",
        ] {
            assert_eq!(name.parse::<WheelName>().expect(name).to_string(), name);
        }
        for bad in ["", "a.whl", "a-1-py3-none.whl", "a-1-b-py3-none-any-x.whl", "a--py3-none-any.whl", "../a-1-py3-none-any.whl"]
        {
            assert!(bad.parse::<WheelName>().is_err(), "{bad}");
        }
        assert_eq!(normalised("NVIDIA__cublas.Cu12"), "nvidia-cublas-cu12");
    }

    #[test]
    fn names_of_debian_packages_round_trip() {
        for (name, version) in [
            ("libc6_2.36-9+deb12u14_amd64.deb", "2.36-9+deb12u14"),
            ("zlib1g_1%3a1.2.13.dfsg-1_arm64.deb", "1:1.2.13.dfsg-1"),
            ("tzdata_2025b-0+deb12u1_all.deb", "2025b-0+deb12u1"),
        ] {
            let parsed = name.parse::<DebName>().expect(name);
            assert_eq!(parsed.version, version);
            assert_eq!(parsed.to_string(), name);
        }
        for bad in ["libc6.deb", "libc6_1.deb", "libc6_1_amd64_x.deb", "-x_1_amd64.deb", "a_1_am d.deb", "a_-1_amd64.deb"] {
            assert!(bad.parse::<DebName>().is_err(), "{bad}");
        }
    }

    fn pin(change: impl Fn(&mut toml::Table)) -> Result<Pin, toml::de::Error> {
        let mut table = toml::toml! {
            name = "libc6"
            version = "2.36"
            kind = "apt"
            file = "libc6_2.36_amd64.deb"
            sha256 = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            size = 3
        };
        change(&mut table);
        toml::Value::Table(table).try_into()
    }

    #[test]
    fn a_pin_round_trips_and_refuses_names_that_could_be_options() {
        let good = pin(|_| {}).expect("valid");
        assert_eq!(toml::from_str::<Pin>(&toml::to_string(&good).expect("plain data")).expect("what was written"), good);
        for (key, value) in [
            ("name", "-o"),
            ("name", "a\n--index-url x"),
            ("name", ""),
            ("version", "1 --hash"),
            ("version", "-1"),
            ("file", "../libc6_2.36_amd64.deb"),
            ("file", "libc6.deb"),
            ("sha256", "ba78"),
            ("kind", "npm"),
            ("kind", "file"),
            ("url", "x"),
        ] {
            let changed = pin(|table| drop(table.insert(key.to_owned(), value.into())));
            assert!(changed.is_err(), "{key} = {value:?}");
        }
    }
}

//! What lies at the bottom of an image: [`BaseImage`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::path::filled;
use super::strict::parse_versioned;
use super::{PathTemplate, TemplateError};
use crate::platform::Platform;
use crate::source::debian::Release;
use crate::source::{Glob, Request};
use crate::tree::{ImagePath, ImagePathError};

/// The newest format of base images that is read.
const FORMAT: i64 = 1;

/// What lies at the bottom of an image: packages of which chosen files are taken, another image, or nothing; and what surrounds
/// them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BaseImage {
    /// The format of the file.
    pub format: i64,
    /// Its name, for instance `debian-12`.
    pub name: String,
    /// What it is, in a phrase.
    pub summary: String,
    /// An image that everything is put upon: a transport's name with a digest.
    pub oci: Option<String>,
    /// The distribution that the packages must be from.
    pub release: Option<ReleaseRule>,
    /// The user that containers run as.
    pub user: User,
    /// Variables of the image's environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The packages that files are taken from.
    #[serde(default, rename = "package")]
    pub packages: Vec<BasePackage>,
    /// Directories.
    #[serde(default, rename = "directory")]
    pub directories: Vec<Directory>,
    /// Symbolic links.
    #[serde(default, rename = "link")]
    pub links: Vec<Link>,
    /// Files whose content stands here.
    #[serde(default, rename = "file")]
    pub files: Vec<GeneratedFile>,
    /// What the base's libraries open while they run.
    #[serde(default)]
    pub opens: Vec<super::Opens>,
}

/// What the lowest files of an image are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents<'a> {
    /// Files of packages, and what the base describes besides.
    Packages(&'a [BasePackage]),
    /// Another image, named by transport and digest.
    Oci(&'a str),
    /// Nothing but what the base describes.
    Nothing,
}

/// A distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ReleaseRule {
    /// The package that holds `usr/lib/os-release`.
    pub package: String,
    /// `ID` in it.
    pub id: String,
    /// `VERSION_ID` in it.
    pub version: String,
}

/// The user that containers run as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct User {
    /// Its name in `/etc/passwd`.
    pub name: String,
    /// Its number; not 0.
    pub uid: u32,
    /// The number of its group; not 0.
    pub gid: u32,
}

/// A package that files are taken from. One with `reached` patterns of which the closure reaches no file stays out altogether.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BasePackage {
    /// Its name.
    pub name: String,
    /// The platforms that it is for; all, where none is named.
    #[serde(default)]
    pub platforms: Vec<Platform>,
    /// Files that are taken whenever the package is used.
    #[serde(default)]
    pub always: Vec<Glob>,
    /// Files that are taken where the closure of libraries reaches them.
    #[serde(default)]
    pub reached: Vec<Glob>,
    /// What it is for.
    pub reason: String,
}

/// A directory of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Directory {
    /// Where it is.
    pub path: PathTemplate,
    /// Its permissions in octal, for instance `1777`.
    #[serde(default = "ordinary", deserialize_with = "octal", serialize_with = "to_octal")]
    pub mode: u32,
    /// What it is for.
    pub reason: String,
}

/// A symbolic link of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Link {
    /// Where it is.
    pub path: PathTemplate,
    /// What it points at.
    pub target: String,
    /// The platforms that it is for; all, where none is named.
    #[serde(default)]
    pub platforms: Vec<Platform>,
    /// What it is for.
    pub reason: String,
}

/// A file whose content stands in the base image's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GeneratedFile {
    /// Where it is.
    pub path: PathTemplate,
    /// What is in it; `{user}`, `{uid}` and `{gid}` stand for the user's.
    pub content: String,
    /// What it is for.
    pub reason: String,
}

/// When a file of a package is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSource {
    /// Whenever the package is used.
    Always,
    /// Where the closure reaches it.
    Reached,
}

fn ordinary() -> u32 {
    0o755
}

fn octal<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no mode, expected octal digits such as `1777`")))
}

fn to_octal<S: serde::Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{mode:04o}"))
}

impl BaseImage {
    /// Parses a base image's description. `file` is what errors call it.
    ///
    /// # Errors
    /// Where it is not one, or does not fit together.
    pub fn parse(text: &str, file: &str) -> Result<Self, TemplateError> {
        let base: Self = parse_versioned(text, file, FORMAT)?;
        let inconsistent = |reason: String| TemplateError::Inconsistent { file: file.to_owned(), reason };
        if base.user.uid == 0 || base.user.gid == 0 {
            return Err(inconsistent("`user` is root, expected another number than 0".to_owned()));
        }
        if let Some(oci) = &base.oci {
            if !base.packages.is_empty() {
                return Err(inconsistent("it has both `oci` and packages, expected one of them".to_owned()));
            }
            if !oci.contains("@sha256:") {
                return Err(inconsistent(format!("`oci` is `{oci}`, expected a name that ends in `@sha256:…`")));
            }
        }
        if let Some(rule) = &base.release
            && !base.packages.iter().any(|package| package.name == rule.package)
        {
            return Err(inconsistent(format!("`release` names the package `{}`, which is not in it", rule.package)));
        }
        Ok(base)
    }

    /// What its lowest files are.
    #[must_use]
    pub fn contents(&self) -> Contents<'_> {
        match &self.oci {
            Some(oci) => Contents::Oci(oci),
            None if self.packages.is_empty() => Contents::Nothing,
            None => Contents::Packages(&self.packages),
        }
    }

    /// What should be locked: its packages for a platform, in the version that `apt` would install.
    #[must_use]
    pub fn requests(&self, platform: Platform) -> Vec<Request> {
        let fitting = self.packages.iter().filter(|package| fits(&package.platforms, platform));
        fitting.map(|package| Request::Debian { name: package.name.clone(), version: None }).collect()
    }

    /// Its links for a platform.
    pub fn links(&self, platform: Platform) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(move |link| fits(&link.platforms, platform))
    }

    /// Checks that packages are from the right distribution.
    ///
    /// # Errors
    /// [`TemplateError::Release`] where they are not.
    pub fn check_release(&self, found: &Release) -> Result<(), TemplateError> {
        match &self.release {
            Some(rule) if rule.id != found.id || rule.version != found.version => Err(TemplateError::Release {
                name: self.name.clone(),
                found: format!("{} {}", found.id, found.version),
                expected: format!("{} {}", rule.id, rule.version),
            }),
            _ => Ok(()),
        }
    }

    /// Where a package's file lies in the image: below the directory that a link of the base stands for, where one does.
    ///
    /// With the link `/lib` → `usr/lib`, the file `lib/libc.so.6` lies at `/usr/lib/libc.so.6`.
    ///
    /// # Errors
    /// Where the path is none that an image can have.
    pub fn place(&self, path: &str, platform: Platform) -> Result<ImagePath, ImagePathError> {
        let mut placed = path.to_owned();
        for link in self.links(platform) {
            let from = link.path.at(platform);
            let Some(rest) = placed.strip_prefix(from.as_str()).and_then(|rest| rest.strip_prefix('/')) else { continue };
            let target = filled(&link.target, platform);
            placed = match (target.strip_prefix('/'), from.parent()) {
                (Some(absolute), _) => format!("{absolute}/{rest}"),
                (None, Some(parent)) => format!("{}/{target}/{rest}", parent.as_str()),
                (None, None) => format!("{target}/{rest}"),
            };
        }
        format!("/{placed}").parse()
    }
}

fn fits(platforms: &[Platform], platform: Platform) -> bool {
    platforms.is_empty() || platforms.contains(&platform)
}

impl BasePackage {
    /// Whether the package is used although the closure may reach no file of it.
    #[must_use]
    pub fn is_always_used(&self) -> bool {
        self.reached.is_empty()
    }

    /// When a file of the package is taken; `None`: never.
    #[must_use]
    pub fn rule(&self, path: &str) -> Option<FileSource> {
        let any = |patterns: &[Glob]| patterns.iter().any(|pattern| pattern.matches(path));
        if any(&self.always) {
            return Some(FileSource::Always);
        }
        any(&self.reached).then_some(FileSource::Reached)
    }
}

impl GeneratedFile {
    /// Its bytes for a user.
    #[must_use]
    pub fn bytes(&self, user: &User) -> Vec<u8> {
        let content = self.content.replace("{user}", &user.name);
        content.replace("{uid}", &user.uid.to_string()).replace("{gid}", &user.gid.to_string()).into_bytes()
    }
}

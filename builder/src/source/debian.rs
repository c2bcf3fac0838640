//! What image scanners read about Debian packages: `/var/lib/dpkg/status.d`, and the release in `os-release`.

use super::package::{Package, PackageError};
use crate::store::Store;

/// Where the metadata of packages lies in images without a package manager.
const STATUS_FOLDER: &str = "/var/lib/dpkg/status.d";

/// A file that tells scanners about a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannerFile {
    /// Where it lies in the image.
    pub path: String,
    /// What is in it.
    pub content: Vec<u8>,
}

/// Makes the files that tell scanners about a Debian package: its control file, and the MD5 digests of those of its files that
/// are in the image. Empty for other packages.
#[must_use]
pub fn scanner_files(package: &Package, taken: &[&str]) -> Vec<ScannerFile> {
    let Some(control) = package.control() else { return Vec::new() };
    let name = &package.pin().name;
    let mut content = control.trim_end().to_owned();
    content.push('\n');
    let mut files = vec![ScannerFile { path: format!("{STATUS_FOLDER}/{name}"), content: content.into_bytes() }];
    let lines = package.md5sums().unwrap_or_default().lines();
    let kept = lines.filter(|line| line.split_once("  ").is_some_and(|(_, path)| taken.contains(&path)));
    let content: String = kept.flat_map(|line| [line, "\n"]).collect();
    files.push(ScannerFile { path: format!("{STATUS_FOLDER}/{name}.md5sums"), content: content.into_bytes() });
    files
}

/// A field of the first paragraph of a control file; its first line only.
pub(crate) fn field<'a>(control: &'a str, name: &str) -> Option<&'a str> {
    let fields = control.lines().take_while(|line| !line.trim().is_empty()).filter(|line| !line.starts_with([' ', '\t']));
    let mut values = fields.filter_map(|line| line.split_once(':')).filter(|(key, _)| key.eq_ignore_ascii_case(name));
    values.next().map(|(_, value)| value.trim())
}

/// The licences that a Debian copyright file names: the short names of its stanzas where machines are to read it, and the
/// common licences that it points at where people are. A text for people says in words whether later versions may be chosen, so
/// its names keep the folder's: `common-licenses/GPL-2`.
#[must_use]
pub fn licences(copyright: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        if !name.is_empty() && !found.iter().any(|known| known == name) {
            found.push(name.to_owned());
        }
    };
    if copyright.trim_start().starts_with("Format:") {
        copyright.lines().filter_map(|line| line.strip_prefix("License:")).for_each(|name| add(name.trim()));
    } else {
        for (at, folder) in copyright.match_indices("/usr/share/common-licenses/") {
            let rest = &copyright[at + folder.len()..];
            let name = rest.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.' | '+')).next();
            let name = name.unwrap_or_default().trim_end_matches('.');
            if !name.is_empty() {
                add(&format!("common-licenses/{name}"));
            }
        }
    }
    found.sort();
    found
}

/// The distribution that packages are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// `ID`, for instance `debian`.
    pub id: String,
    /// `VERSION_ID`, for instance `12`; empty for a rolling release.
    pub version: String,
}

impl Release {
    /// Reads the release from the package that holds `os-release`.
    ///
    /// # Errors
    /// Where the package holds none or cannot be read.
    pub fn of(package: &Package, store: &Store) -> Result<Self, PackageError> {
        let bytes = package.read("usr/lib/os-release", store)?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// Reads an `os-release`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let value = |name: &str| {
            let mut values = text.lines().filter_map(|line| line.split_once('=')).filter(|(key, _)| key.trim() == name);
            values.next().map(|(_, value)| value.trim().trim_matches(['"', '\'']).to_owned()).unwrap_or_default()
        };
        Self { id: value("ID"), version: value("VERSION_ID") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_of_the_first_paragraph() {
        let control = "Package: a\nDescription: b\n Version: 9\nVersion: 1:2\n\nHomepage: x\n";
        assert_eq!(field(control, "Version"), Some("1:2"));
        assert_eq!(field(control, "package"), Some("a"));
        assert_eq!(field(control, "Homepage"), None);
    }

    #[test]
    fn licences_are_those_that_a_copyright_file_names() {
        let for_machines =
            "Format: https://x/\n\nFiles: *\nLicense: GPL-2+\n text\n\nFiles: a\nLicense: Expat\n\nLicense: GPL-2+\n";
        assert_eq!(licences(for_machines), ["Expat", "GPL-2+"]);
        let for_people = "see `/usr/share/common-licenses/LGPL-2.1'.\nAnd /usr/share/common-licenses/GPL-3. More";
        assert_eq!(licences(for_people), ["common-licenses/GPL-3", "common-licenses/LGPL-2.1"]);
        assert!(licences("all rights reserved").is_empty());
    }

    #[test]
    fn releases_are_read_with_and_without_quotes() {
        let release = Release::parse("PRETTY_NAME=\"X\"\nID=debian\nVERSION_ID=\"12\"\n");
        assert_eq!(release, Release { id: "debian".into(), version: "12".into() });
        assert_eq!(Release::parse("ID='x'").version, "");
    }
}

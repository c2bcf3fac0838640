//! Licences as packages name them, and as the two formats of bills of materials want them.

use spdx::{Expression, ParseMode};

/// A licence of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Licence {
    /// An expression of SPDX identifiers.
    Expression(String),
    /// A name that SPDX does not have.
    Name(String),
}

impl Licence {
    /// Reads a licence as a package names it.
    pub(super) fn read(text: &str) -> Self {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        // A licence's name in the package index's list of classifiers.
        let text =
            text.strip_suffix(" License").filter(|short| spdx::license_id(short).is_some()).map_or(text.clone(), str::to_owned);
        if let Some(debian) = of_debian(&text) {
            return Self::Expression(debian);
        }
        // It stands for a text that only the package has.
        if text.starts_with("LicenseRef-") {
            return Self::Name(text);
        }
        if Expression::parse_mode(&text, ParseMode::STRICT).is_ok() {
            return Self::Expression(text);
        }
        match spdx::imprecise_license_id(&text) {
            // A name that only begins like a known one is another licence.
            Some((id, length)) if length == text.len() => Self::Expression(id.name.to_owned()),
            _ => Self::Name(text),
        }
    }
}

/// Debian's short names where they say which SPDX identifier they mean: `GPL-2+` is version 2 or later.
fn of_debian(text: &str) -> Option<String> {
    let plain = match text {
        "Expat" => "MIT",
        "zlib" => "Zlib",
        "BSD-2-clause" => "BSD-2-Clause",
        "BSD-3-clause" => "BSD-3-Clause",
        _ => "",
    };
    if !plain.is_empty() {
        return Some(plain.to_owned());
    }
    let (family, version) = text.split_once('-').filter(|(family, _)| matches!(*family, "GPL" | "LGPL" | "AGPL" | "GFDL"))?;
    let (version, suffix) = version.strip_suffix('+').map_or((version, "only"), |version| (version, "or-later"));
    let version = if version.contains('.') { version.to_owned() } else { format!("{version}.0") };
    let id = format!("{family}-{version}-{suffix}");
    spdx::license_id(&id).map(|id| id.name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_identifiers_only_where_they_are_known_to_mean_them() {
        let expression = |text: &str| Licence::Expression(text.to_owned());
        for (text, expected) in [
            ("MIT License", expression("MIT")),
            ("Apache-2.0", expression("Apache-2.0")),
            ("Apache-2.0 OR MIT", expression("Apache-2.0 OR MIT")),
            ("GPL-2+", expression("GPL-2.0-or-later")),
            ("LGPL-2.1", expression("LGPL-2.1-only")),
            ("Expat", expression("MIT")),
            ("Zlib", expression("Zlib")),
            ("LicenseRef-NVIDIA-Proprietary", Licence::Name("LicenseRef-NVIDIA-Proprietary".to_owned())),
            ("public-domain", Licence::Name("public-domain".to_owned())),
            ("MIT License with a twist", Licence::Name("MIT License with a twist".to_owned())),
            ("GPL-99+", Licence::Name("GPL-99+".to_owned())),
        ] {
            assert_eq!(Licence::read(text), expected, "{text}");
        }
    }
}

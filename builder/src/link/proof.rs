//! The verdict on a closure.

use serde::Serialize;

use super::closure::Closure;
use super::error::LinkError;

/// What was checked of an image that links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkProof {
    /// Objects of the closure.
    pub objects: usize,
    /// References to symbols that were looked up, in all processes together.
    pub symbols: u64,
    /// Versions that one object wants of another.
    pub versions: u64,
    /// Libraries that the host must inject.
    pub injected_libraries: Vec<String>,
    /// References to symbols that are left to them.
    pub injected_symbols: u64,
    /// Versions that are left to them.
    pub injected_versions: u64,
    /// Weak references that nothing resolves, as their authors allowed.
    pub weak_unresolved: u64,
    /// Optional libraries that are not in the image.
    pub optional_missing: Vec<String>,
    /// What the loader would accept, and only warn of.
    pub warnings: Vec<LinkWarning>,
}

/// Something odd that does not keep an image from linking.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "warning", rename_all = "kebab-case")]
pub enum LinkWarning {
    /// An object was linked against a library with versions and finds one without.
    NoVersions {
        /// Path of the object.
        object: String,
        /// Soname of the library.
        file: String,
    },
    /// A version that may be absent is.
    WeakVersionMissing {
        /// Path of the object.
        object: String,
        /// Soname of the library.
        file: String,
        /// The version.
        version: String,
    },
}

/// Proves that every program of a closure links: interpreter and needed libraries are there and for the right machine,
/// every wanted version is provided by the library it is wanted of, every strong reference finds its definition.
///
/// # Errors
/// All that the loader would stumble over, in the order in which it would.
pub fn prove(closure: &Closure) -> Result<LinkProof, Vec<LinkError>> {
    let findings = &closure.findings;
    let (optional, required): (Vec<_>, Vec<_>) = closure.missing.iter().partition(|missing| missing.optional);
    let unresolved = |name: &str| findings.unresolved.get(name).copied().unwrap_or(0);
    let mut errors: Vec<LinkError> = required.iter().map(|missing| missing.error(unresolved(&missing.name))).collect();
    errors.extend(findings.errors.iter().cloned());
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(LinkProof {
        objects: closure.objects.len(),
        symbols: findings.symbols,
        versions: findings.versions,
        injected_libraries: closure.injected.clone(),
        injected_symbols: findings.injected_symbols,
        injected_versions: findings.injected_versions,
        weak_unresolved: findings.weak_unresolved,
        optional_missing: optional.iter().map(|missing| missing.name.clone()).collect(),
        warnings: findings.warnings.iter().cloned().collect(),
    })
}

//! Licences of packages: what a wheel's metadata says, or what the copyright file of a Debian package names.

use super::RuntimeError;
use crate::source::debian;
use crate::source::package::{EntryKind, Package};
use crate::store::Store;

/// The licences of a package joined by ` AND `; `None` where it names none. A Debian package may have its copyright file in another
/// one of the same source, which a link in place of its folder says.
pub(super) fn of(package: &Package, beside: &[Package], store: &Store) -> Result<Option<String>, RuntimeError> {
    if let Some(licence) = package.licence() {
        return Ok(Some(licence.to_owned()));
    }
    if package.control().is_none() {
        return Ok(None);
    }
    let folder = |name: &str| format!("usr/share/doc/{name}");
    let own = folder(&package.pin().name);
    let holder = match package.entry(&own).map(|entry| &entry.kind) {
        Some(EntryKind::Symlink { target }) => beside.iter().find(|other| other.pin().name == *target),
        _ => Some(package),
    };
    let Some(holder) = holder else { return Ok(None) };
    let path = format!("{}/copyright", folder(&holder.pin().name));
    if !matches!(holder.entry(&path).map(|entry| &entry.kind), Some(EntryKind::File { .. })) {
        return Ok(None);
    }
    let copyright = holder.read(&path, store)?;
    let licences = debian::licences(&String::from_utf8_lossy(&copyright));
    Ok((!licences.is_empty()).then(|| licences.join(" AND ")))
}

//! Debian packages: an `ar` archive of a format version, a control archive and a data archive.

use std::io::{BufReader, Read};

use super::{Codec, Index, PackageEntry, PackageError, Visit, archive, format_error, open, read_text};
use crate::source::Pin;
use crate::source::debian::field;
use crate::store::Blob;

const FORMAT: &str = "Debian package";

/// Lists what is in a package, and checks that it is the one that its pin names.
pub(super) fn index(pin: &Pin, blob: &Blob) -> Result<Index, PackageError> {
    let file = &pin.file;
    let (mut control, mut md5sums) = (None, None);
    let mut texts = |content: &mut dyn Read| {
        let parts = ["control", "md5sums"].map(|path| PackageEntry {
            path: path.to_owned(),
            mode: 0o644,
            kind: super::EntryKind::File { size: 0, compressed: None, digest: None },
        });
        archive::read(content, file, FORMAT, &[&parts[0], &parts[1]], &mut |entry, content| {
            let slot = if entry.path == "control" { &mut control } else { &mut md5sums };
            *slot = Some(read_text(content, file, &entry.path)?);
            Ok(())
        })
    };
    member(file, blob, "control.tar", &mut texts)?;
    let control = control.ok_or_else(|| format_error(file, FORMAT, "it has no control file"))?;
    let found = |name| field(&control, name).unwrap_or_default().to_owned();
    let (actual, expected) = (format!("{} {}", found("Package"), found("Version")), format!("{} {}", pin.name, pin.version));
    if actual != expected && pin.path.is_none() {
        return Err(PackageError::Identity { file: file.clone(), actual, expected });
    }
    let mut entries = Vec::new();
    member(file, blob, "data.tar", &mut |content| {
        entries = archive::list(content, file, FORMAT)?;
        Ok(())
    })?;
    Ok(Index { licence: None, control: Some(control), md5sums, entries })
}

/// Hands over the files that are wanted.
pub(super) fn read(file: &str, blob: &Blob, wanted: &[&PackageEntry], take: &mut Visit<'_>) -> Result<(), PackageError> {
    member(file, blob, "data.tar", &mut |content| archive::read(content, file, FORMAT, wanted, take))
}

/// Decompresses one member of the `ar` archive, whatever its compression.
fn member(
    file: &str,
    blob: &Blob,
    name: &str,
    visit: &mut dyn FnMut(&mut dyn Read) -> Result<(), PackageError>,
) -> Result<(), PackageError> {
    let mut archive = ar::Archive::new(BufReader::new(open(blob)?));
    let damaged = |error: std::io::Error| format_error(file, FORMAT, error);
    let mut first = true;
    while let Some(entry) = archive.next_entry() {
        let mut entry = entry.map_err(damaged)?;
        let found = String::from_utf8_lossy(entry.header().identifier()).into_owned();
        if first {
            let mut version = String::new();
            (&mut entry).take(16).read_to_string(&mut version).map_err(damaged)?;
            if found != "debian-binary" || !version.starts_with("2.") {
                return Err(format_error(
                    file,
                    FORMAT,
                    format!("it begins with `{found}`, expected `debian-binary` of version 2"),
                ));
            }
            first = false;
            continue;
        }
        let codec = match found.strip_prefix(name) {
            None => continue,
            Some("") => Codec::Plain,
            Some(".gz") => Codec::Gzip,
            Some(".xz") => Codec::Xz,
            Some(".zst") => Codec::Zstd,
            Some(_) => return Err(format_error(file, FORMAT, format!("`{found}` has a compression that is not known"))),
        };
        return visit(&mut archive::decoder(entry, codec));
    }
    Err(format_error(file, FORMAT, format!("it has no `{name}`")))
}

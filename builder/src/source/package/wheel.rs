//! Wheels, and other `zip` archives.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;

use base64::Engine as _;

use super::{ENTRY_LIMIT, EntryKind, Index, PackageEntry, PackageError, Visit};
use super::{checked_mode, checked_path, entry_error, format_error, open as open_blob, read_text};
use crate::digest::Digest;
use crate::source::pin::normalised;
use crate::source::{Pin, WheelName};
use crate::store::Blob;

const FORMAT: &str = "wheel";

pub(super) type Zip = zip::ZipArchive<BufReader<File>>;

/// Opens the archive's directory.
pub(super) fn open(file: &str, blob: &Blob, format: &'static str) -> Result<Zip, PackageError> {
    zip::ZipArchive::new(BufReader::new(open_blob(blob)?)).map_err(|error| format_error(file, format, error))
}

/// Lists what is in an archive.
pub(super) fn list(zip: &mut Zip, file: &str, format: &'static str) -> Result<Vec<PackageEntry>, PackageError> {
    if zip.len() > ENTRY_LIMIT {
        return Err(format_error(file, format, "it has more than a million entries"));
    }
    let mut entries = Vec::with_capacity(zip.len());
    for at in 0..zip.len() {
        let damaged = |error: zip::result::ZipError| format_error(file, format, error);
        let mut entry = zip.by_index(at).map_err(damaged)?;
        let name = entry.name().map_err(damaged)?.into_owned();
        let path = checked_path(file, &name)?;
        let mode = entry.unix_mode().unwrap_or(0o644);
        let (mode, kind) = if entry.is_dir() {
            (0o755, EntryKind::Directory)
        } else if entry.is_symlink() {
            let target = read_text(&mut entry, file, &name)?;
            if target.is_empty() || target.contains('\0') {
                return Err(entry_error(file, &name, "a link to nowhere"));
            }
            (0o777, EntryKind::Symlink { target })
        } else {
            let compressed = Some(entry.compressed_size());
            (checked_mode(mode), EntryKind::File { size: entry.size(), compressed, digest: None })
        };
        entries.push(PackageEntry { path, mode, kind });
    }
    Ok(entries)
}

/// Hands over the files that are wanted.
pub(super) fn read(file: &str, blob: &Blob, wanted: &[&PackageEntry], take: &mut Visit<'_>) -> Result<(), PackageError> {
    let mut zip = open(file, blob, "zip archive")?;
    let mut places = BTreeMap::new();
    for at in 0..zip.len() {
        let entry = zip.by_index_raw(at).map_err(|error| format_error(file, "zip archive", error))?;
        if let Ok(name) = entry.name() {
            places.insert(name.strip_prefix("./").unwrap_or(&name).to_owned(), at);
        }
    }
    for entry in wanted {
        let Some(at) = places.get(&entry.path) else { continue };
        let mut content = zip.by_index(*at).map_err(|error| format_error(file, "zip archive", error))?;
        take(entry, &mut content)?;
    }
    Ok(())
}

/// Lists what is in a wheel with the digests of its `RECORD`, and checks that it is the one that its pin names.
pub(super) fn index(pin: &Pin, blob: &Blob) -> Result<Index, PackageError> {
    let file = &pin.file;
    let name: WheelName = file.parse().map_err(|error| format_error(file, FORMAT, error))?;
    let mut zip = open(file, blob, FORMAT)?;
    let mut entries = list(&mut zip, file, FORMAT)?;
    let information = entries.iter().find_map(|entry| entry.path.strip_suffix(".dist-info/RECORD"));
    let information = information.filter(|folder| !folder.contains('/'));
    let information = information.ok_or_else(|| format_error(file, FORMAT, "it has no `RECORD`"))?.to_owned();
    let mut text = |part: &str| {
        let path = format!("{information}.dist-info/{part}");
        let mut entry = zip.by_name(&path).map_err(|error| format_error(file, FORMAT, format!("`{path}`: {error}")))?;
        read_text(&mut entry, file, &path)
    };
    let record = parse_record(&text("RECORD")?, file)?;
    let metadata = text("METADATA")?;
    check_identity(pin, &name, &metadata)?;
    for entry in &mut entries {
        let EntryKind::File { size, digest, .. } = &mut entry.kind else { continue };
        let part = entry.path.strip_prefix(&information).and_then(|rest| rest.strip_prefix(".dist-info/"));
        if matches!(part, Some("RECORD" | "RECORD.jws" | "RECORD.p7s")) {
            continue;
        }
        match record.get(&entry.path) {
            Some((recorded, length)) if length.is_none_or(|length| length == *size) => *digest = Some(*recorded),
            Some((_, length)) => {
                let (file, entry, expected) = (file.clone(), entry.path.clone(), length.unwrap_or_default());
                return Err(PackageError::Size { file, entry, actual: *size, expected });
            }
            None => return Err(entry_error(file, &entry.path, "which the wheel's `RECORD` does not list")),
        }
    }
    Ok(Index { licence: licence(&metadata), control: None, md5sums: None, entries })
}

fn check_identity(pin: &Pin, wheel: &WheelName, metadata: &str) -> Result<(), PackageError> {
    let found = |name| header(metadata, name).unwrap_or_default();
    let (name, version) = (found("Name"), found("Version"));
    let same = normalised(name) == normalised(&wheel.name) && version == wheel.version;
    let asked = pin.path.is_some() || (normalised(name) == normalised(&pin.name) && version == pin.version);
    if same && asked {
        return Ok(());
    }
    let expected = if same { format!("{} {}", pin.name, pin.version) } else { format!("{} {}", wheel.name, wheel.version) };
    Err(PackageError::Identity { file: pin.file.clone(), actual: format!("{name} {version}"), expected })
}

/// Reads a `RECORD`: lines `path,sha256=…,size`, quoted as in CSV. Lines without a digest are left out.
fn parse_record(text: &str, file: &str) -> Result<BTreeMap<String, (Digest, Option<u64>)>, PackageError> {
    let mut record = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let error =
            || format_error(file, FORMAT, format!("its `RECORD` has the line `{}`", line.chars().take(200).collect::<String>()));
        let (path, rest) = match line.strip_prefix('"') {
            Some(quoted) => {
                let (path, rest) = quoted.split_once("\",").ok_or_else(error)?;
                (path.replace("\"\"", "\""), rest)
            }
            None => {
                let (path, rest) = line.split_once(',').ok_or_else(error)?;
                (path.to_owned(), rest)
            }
        };
        let (hash, size) = rest.rsplit_once(',').ok_or_else(error)?;
        if hash.is_empty() {
            continue;
        }
        let Some(hash) = hash.strip_prefix("sha256=") else { continue };
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(hash.trim_end_matches('=')).map_err(|_| error())?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| error())?;
        let size = if size.is_empty() { None } else { Some(size.parse().map_err(|_| error())?) };
        record.insert(path, (Digest::from_bytes(bytes), size));
    }
    Ok(record)
}

/// A field of the headers that `METADATA` begins with.
fn header<'a>(metadata: &'a str, name: &str) -> Option<&'a str> {
    let headers = metadata.lines().take_while(|line| !line.is_empty());
    let mut values = headers.filter_map(|line| line.split_once(':')).filter(|(key, _)| key.eq_ignore_ascii_case(name));
    values.next().map(|(_, value)| value.trim())
}

/// The licence: an SPDX expression, a name, or a classifier's last part.
fn licence(metadata: &str) -> Option<String> {
    let given = |name| header(metadata, name).filter(|text| !text.is_empty() && *text != "UNKNOWN");
    if let Some(text) = given("License-Expression").or_else(|| given("License")) {
        return Some(text.to_owned());
    }
    let headers = metadata.lines().take_while(|line| !line.is_empty());
    let mut classifiers = headers.filter_map(|line| line.strip_prefix("Classifier: License :: "));
    classifiers.next().map(|text| text.rsplit(" :: ").next().unwrap_or(text).to_owned())
}

//! `tar` archives, as themselves and as parts of Debian packages.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use super::{Codec, ENTRY_LIMIT, EntryKind, PackageEntry, PackageError, Visit};
use super::{checked_mode, checked_path, entry_error, format_error};

/// Bytes that decompressing may use, so that a hostile file does not take all memory.
const XZ_MEMORY: u64 = 512 << 20;

/// Decompresses a stream.
pub(super) fn decoder<'a>(from: impl Read + 'a, codec: Codec) -> Box<dyn Read + 'a> {
    let from = BufReader::with_capacity(128 << 10, from);
    match codec {
        Codec::Plain => Box::new(from),
        Codec::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(from)),
        Codec::Xz => match liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED) {
            Ok(stream) => Box::new(liblzma::bufread::XzDecoder::new_stream(from, stream)),
            Err(error) => Box::new(Failed(std::io::Error::from(error).to_string())),
        },
        Codec::Zstd => match zstd::stream::read::Decoder::with_buffer(from) {
            Ok(decoder) => Box::new(decoder),
            Err(error) => Box::new(Failed(error.to_string())),
        },
    }
}

/// A stream that could not be opened.
struct Failed(String);

impl Read for Failed {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other(self.0.clone()))
    }
}

/// Lists what is in an archive.
pub(super) fn list(from: impl Read, file: &str, format: &'static str) -> Result<Vec<PackageEntry>, PackageError> {
    let mut entries = Vec::new();
    walk(from, file, format, &mut |entry, _| {
        entries.push(entry.clone());
        Ok(true)
    })?;
    Ok(entries)
}

/// Hands over the files that are wanted; stops at the last one.
pub(super) fn read(
    from: impl Read,
    file: &str,
    format: &'static str,
    wanted: &[&PackageEntry],
    take: &mut Visit<'_>,
) -> Result<(), PackageError> {
    let mut wanted: BTreeMap<&str, &PackageEntry> = wanted.iter().map(|entry| (&*entry.path, *entry)).collect();
    walk(from, file, format, &mut |entry, content| {
        if let Some(entry) = wanted.remove(entry.path.as_str()) {
            take(entry, content)?;
        }
        Ok(!wanted.is_empty())
    })
}

/// Goes through the entries until told to stop.
fn walk(
    from: impl Read,
    file: &str,
    format: &'static str,
    visit: &mut dyn FnMut(&PackageEntry, &mut dyn Read) -> Result<bool, PackageError>,
) -> Result<(), PackageError> {
    let mut archive = tar::Archive::new(from);
    let damaged = |error: std::io::Error| format_error(file, format, error);
    let mut count = 0;
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        count += 1;
        if count > ENTRY_LIMIT {
            return Err(format_error(file, format, "it has more than a million entries"));
        }
        let raw = entry.path_bytes().into_owned();
        let text =
            std::str::from_utf8(&raw).map_err(|_| entry_error(file, &String::from_utf8_lossy(&raw), "which is not UTF-8"))?;
        let kind = entry.header().entry_type();
        if matches!(text, "." | "./") || kind.is_pax_global_extensions() {
            continue;
        }
        let path = checked_path(file, text)?;
        let link = || -> Result<String, PackageError> {
            let target = entry.link_name_bytes().ok_or_else(|| entry_error(file, text, "a link to nowhere"))?;
            let target = std::str::from_utf8(&target).map_err(|_| entry_error(file, text, "a link whose target is not UTF-8"))?;
            if target.is_empty() || target.contains('\0') {
                return Err(entry_error(file, text, "a link to nowhere"));
            }
            Ok(target.to_owned())
        };
        let mode = entry.header().mode().map_err(damaged)?;
        let (mode, kind) = match kind {
            tar::EntryType::Directory => (0o755, EntryKind::Directory),
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                (checked_mode(mode), EntryKind::File { size: entry.size(), compressed: None, digest: None })
            }
            tar::EntryType::Symlink => (0o777, EntryKind::Symlink { target: link()? }),
            tar::EntryType::Link => (checked_mode(mode), EntryKind::HardLink { target: checked_path(file, &link()?)? }),
            _ => return Err(entry_error(file, text, "which is neither a file, a directory nor a link")),
        };
        if !visit(&PackageEntry { path, mode, kind }, &mut entry)? {
            return Ok(());
        }
    }
    Ok(())
}

//! Verifies the files beside a model that hold its tensors' data.
//!
//! A location is trusted no further than a file name from a stranger: it must be relative, without
//! `..`, and lead, links followed, to a regular file inside the model's folder. Where the model
//! itself is a symbolic link, the folder of the real file counts too: download caches keep both the
//! model and its data as links into one store. ONNX Runtime holds the same rules.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;

use super::error::{ExternalProblem, ModelError};
use super::proto::{TensorProto, text};

/// A file that holds data of a model's tensors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExternalFile {
    /// The path relative to the model, as it must lie beside it in the image; no `.` or `..` in it.
    pub location: String,
    /// Where the file lies now.
    #[serde(skip)]
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

/// A tensor whose data lies in another file.
#[derive(Clone, Debug)]
pub(crate) struct ExternalTensor {
    tensor: String,
    location: String,
    offset: u64,
    /// The bytes that the tensor takes from the offset on, as far as they are known.
    length: u64,
}

impl ExternalTensor {
    /// Reads what a tensor says of its data; `needed` is its size by type and shape.
    pub(crate) fn from_proto(tensor: &TensorProto, needed: Option<u64>, model: &Path) -> Result<ExternalTensor, ModelError> {
        let mut location = None;
        let mut numbers = [("offset", None), ("length", None)];
        let fail = |location: Option<&Vec<u8>>, problem| ModelError::External {
            path: model.to_owned(),
            tensor: text(&tensor.name),
            location: location.map_or_else(String::new, |location| text(location)),
            problem,
        };
        for entry in &tensor.external_data {
            if entry.key == b"location" {
                location = Some(&entry.value);
            }
        }
        for (key, number) in &mut numbers {
            for entry in tensor.external_data.iter().filter(|entry| entry.key == key.as_bytes()) {
                let value = std::str::from_utf8(&entry.value).ok().and_then(|value| value.parse::<u64>().ok());
                if value.is_none() {
                    return Err(fail(location, ExternalProblem::BadNumber { key, value: text(&entry.value) }));
                }
                *number = value;
            }
        }
        let Some(location) = location.filter(|location| !location.is_empty()) else {
            return Err(fail(None, ExternalProblem::NoLocation));
        };
        let Ok(name) = String::from_utf8(location.clone()) else {
            return Err(fail(Some(location), ExternalProblem::BadName));
        };
        let [(_, offset), (_, length)] = numbers;
        // The runtime takes a length of 0 for one that is not given.
        let length = length.filter(|&length| length != 0);
        if let (Some(found), Some(expected)) = (length, needed)
            && found != expected
        {
            return Err(fail(Some(location), ExternalProblem::Length { found, expected }));
        }
        Ok(ExternalTensor {
            tensor: text(&tensor.name),
            location: name,
            offset: offset.unwrap_or(0),
            length: needed.or(length).unwrap_or(0),
        })
    }
}

/// Checks that every location names a file that may and can travel with the model.
pub(crate) fn verify(model: &Path, tensors: Vec<ExternalTensor>) -> Result<Vec<ExternalFile>, ModelError> {
    if tensors.is_empty() {
        return Ok(Vec::new());
    }
    let folder = match model.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("."),
    };
    let allowed = allowed(folder, model)?;
    let mut files: BTreeMap<String, ExternalFile> = BTreeMap::new();
    for tensor in tensors {
        let checked = normalize(&tensor.location).and_then(|location| {
            let file = match files.entry(location.clone()) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => entry.insert(inspect(folder, location, &allowed)?),
            };
            let end = u128::from(tensor.offset) + u128::from(tensor.length);
            if end > u128::from(file.size) {
                return Err(ExternalProblem::OutOfRange { offset: tensor.offset, end, size: file.size });
            }
            Ok(())
        });
        checked.map_err(|problem| ModelError::External {
            path: model.to_owned(),
            tensor: tensor.tensor,
            location: tensor.location,
            problem,
        })?;
    }
    Ok(files.into_values().collect())
}

/// The folders in which a model's files may lie: its own, and that of the real file where the model is a link.
pub(crate) fn allowed(folder: &Path, model: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let mut allowed = Vec::new();
    for place in [fs::canonicalize(folder), fs::canonicalize(model)] {
        let place = place.map_err(|source| ModelError::Read { path: model.to_owned(), source })?;
        allowed.push(place);
    }
    if let Some(real) = allowed.pop()
        && let Some(parent) = real.parent()
    {
        allowed.push(parent.to_owned());
    }
    Ok(allowed)
}

/// Finds a file that belongs to a model, in one of the allowed folders.
pub(crate) fn place(folder: &Path, location: &str, allowed: &[PathBuf]) -> Result<ExternalFile, ExternalProblem> {
    inspect(folder, normalize(location)?, allowed)
}

/// Returns a location without its `.` parts, or what is wrong with it.
fn normalize(location: &str) -> Result<String, ExternalProblem> {
    if location.contains('\0') {
        return Err(ExternalProblem::BadName);
    }
    let mut parts = Vec::new();
    for component in Path::new(location).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str().ok_or(ExternalProblem::BadName)?),
            Component::CurDir => {}
            Component::ParentDir => return Err(ExternalProblem::ParentDirectory),
            Component::RootDir | Component::Prefix(_) => return Err(ExternalProblem::Absolute),
        }
    }
    if parts.is_empty() {
        return Err(ExternalProblem::NotRegular { found: "the model's folder itself" });
    }
    Ok(parts.join("/"))
}

fn inspect(folder: &Path, location: String, allowed: &[PathBuf]) -> Result<ExternalFile, ExternalProblem> {
    let path = folder.join(&location);
    let real = fs::canonicalize(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ExternalProblem::Missing { folder: folder.to_owned() },
        _ => ExternalProblem::Unreadable { source },
    })?;
    if !allowed.iter().any(|place| real.starts_with(place)) {
        return Err(ExternalProblem::Escapes { target: real, folder: allowed[0].clone() });
    }
    let unreadable = |source| ExternalProblem::Unreadable { source };
    let metadata = fs::metadata(&real).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(ExternalProblem::NotRegular { found: "a directory" });
    }
    if !metadata.is_file() {
        return Err(ExternalProblem::NotRegular { found: "a device, a pipe or a socket" });
    }
    File::open(&real).map_err(unreadable)?;
    Ok(ExternalFile { location, path, size: metadata.len() })
}

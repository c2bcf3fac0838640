//! Tells from a file's own bytes what it is; names and extensions are not consulted.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use memmap2::{Advice, Mmap};
use serde::Serialize;

use super::error::ModelError;
use super::wire;

/// A model format that images can be built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// An ONNX file, with or without external data.
    Onnx,
    /// A TensorFlow SavedModel directory.
    SavedModel,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Onnx => "onnx",
            Format::SavedModel => "saved_model",
        })
    }
}

/// What a file or a directory turned out to be.
///
/// Displays as a noun phrase with its article.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Found {
    /// A protobuf file with the fields of an ONNX model.
    #[error("an ONNX model")]
    Onnx,
    /// A directory with `saved_model.pb`.
    #[error("a TensorFlow SavedModel directory")]
    SavedModel,
    /// The `saved_model.pb` itself.
    #[error("the `saved_model.pb` of a TensorFlow SavedModel")]
    SavedModelFile,
    /// A TensorFlow Lite flatbuffer.
    #[error("a TensorFlow Lite model")]
    TensorFlowLite,
    /// A model in ONNX Runtime's own format.
    #[error("a model in ONNX Runtime's own `.ort` format")]
    Ort,
    /// An archive by `torch.save` or `torch.jit.save`.
    #[error("a PyTorch archive (TorchScript or a checkpoint)")]
    PyTorch,
    /// A Keras 3 archive.
    #[error("a Keras archive (`.keras`)")]
    Keras,
    /// NumPy arrays.
    #[error("a NumPy array file")]
    NumPy,
    /// Another zip archive.
    #[error("a zip archive")]
    Zip,
    /// An HDF5 file.
    #[error("an HDF5 file (Keras `.h5` weights or model)")]
    Hdf5,
    /// A safetensors file.
    #[error("a safetensors file (weights without a graph)")]
    Safetensors,
    /// A GGUF file.
    #[error("a GGUF file")]
    Gguf,
    /// A Python pickle.
    #[error("a Python pickle")]
    Pickle,
    /// A serialised TensorRT engine.
    #[error("a TensorRT engine")]
    TensorRt,
    /// A file compressed with gzip, xz, bzip2 or zstd.
    #[error("a compressed file")]
    Compressed,
    /// A tar archive.
    #[error("a tar archive")]
    Tar,
    /// An ELF executable or library.
    #[error("an ELF executable or library")]
    Elf,
    /// A pointer that Git LFS leaves instead of a file.
    #[error("a Git LFS pointer, not the file that it stands for")]
    GitLfsPointer,
    /// A web page.
    #[error("an HTML page, as a failed download leaves")]
    Html,
    /// XML of another kind, such as OpenVINO's.
    #[error("an XML file")]
    Xml,
    /// JSON.
    #[error("a JSON file")]
    Json,
    /// Text of another kind.
    #[error("a text file")]
    Text,
    /// Nothing but zeros at the front.
    #[error("a file that begins with zeros, as an unfinished download leaves")]
    Zeros,
    /// A protobuf message that is not an ONNX model.
    #[error("a protobuf file that is not an ONNX model (a tensor, a frozen TensorFlow graph)")]
    OtherProtobuf,
    /// None of these.
    #[error("a file of a kind that is not recognised")]
    Unknown,
}

impl Found {
    /// Returns what the user can do with such a file, as an imperative sentence.
    #[must_use]
    pub fn hint(self) -> Option<&'static str> {
        Some(match self {
            Found::Onnx | Found::SavedModel => return None,
            Found::SavedModelFile => "give the directory that holds it: `variables/` and `assets/` beside it belong to the model",
            Found::TensorFlowLite => "convert it to ONNX first: `python -m tf2onnx.convert --tflite FILE --output model.onnx`",
            Found::Ort => "give the `.onnx` file that it was made from; the builder needs its operators and opsets",
            Found::PyTorch | Found::Pickle => {
                "export it to ONNX first, with `torch.onnx.export` (or `skl2onnx` for scikit-learn)"
            }
            Found::Keras | Found::Hdf5 => {
                "export it to ONNX first: load it with Keras and call `model.export(\"model.onnx\", format=\"onnx\")`"
            }
            Found::Safetensors | Found::Gguf => {
                "export the model to ONNX first, for example with `optimum-cli export onnx`; this file has only weights"
            }
            Found::TensorRt => "give the `.onnx` file that the engine was built from",
            Found::Zip | Found::Compressed | Found::Tar => "unpack it and give the `.onnx` file that it holds",
            Found::GitLfsPointer => "run `git lfs pull` to fetch the real file",
            Found::Html | Found::Json => "open it in an editor: it may be the message of a download that failed",
            Found::Zeros => "fetch the file again",
            Found::NumPy | Found::Elf | Found::Xml | Found::Text | Found::OtherProtobuf | Found::Unknown => {
                "give a model in ONNX format; most frameworks export one"
            }
        })
    }
}

/// Tells what lies at a path.
///
/// # Errors
///
/// If the path does not exist, cannot be read, is empty, or is neither a regular file nor a directory.
pub fn detect(path: &Path) -> Result<Found, ModelError> {
    match open(path)? {
        Opened::SavedModel => Ok(Found::SavedModel),
        Opened::File { bytes, .. } => Ok(identify(&bytes)),
    }
}

pub(crate) enum Opened {
    SavedModel,
    File { bytes: Mmap, size: u64 },
}

/// Opens and maps a file; directories are told apart, other things refused.
pub(crate) fn open(path: &Path) -> Result<Opened, ModelError> {
    let read = |source: io::Error| ModelError::Read { path: path.to_owned(), source };
    // The type is asked before opening: opening a pipe would wait for a writer.
    let metadata = fs::metadata(path).map_err(read)?;
    if metadata.is_dir() {
        if path.join("saved_model.pb").is_file() || path.join("saved_model.pbtxt").is_file() {
            return Ok(Opened::SavedModel);
        }
        return Err(ModelError::Directory { path: path.to_owned(), models: models_in(path) });
    }
    if !metadata.is_file() {
        return Err(ModelError::NotRegular { path: path.to_owned() });
    }
    let file = File::open(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    if size == 0 {
        return Err(ModelError::Empty { path: path.to_owned() });
    }
    let bytes = map(&file).map_err(read)?;
    Ok(Opened::File { bytes, size })
}

/// Maps a file whose structure is read and whose weights are skipped.
pub(super) fn map(file: &File) -> io::Result<Mmap> {
    #[expect(unsafe_code, reason = "mapping is what keeps memory flat")]
    // SAFETY: the map is private to this crate, read-only, and dropped before `Model::open` returns.
    // A file that another process shortens meanwhile ends this one with SIGBUS, as for every reader
    // of mapped files; the builder's later stages hash the file and so notice other changes.
    let bytes = unsafe { Mmap::map(file) }?;
    // Without it the kernel reads far ahead into weights that are skipped.
    let _ = bytes.advise(Advice::Random);
    Ok(bytes)
}

fn models_in(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "onnx"))
        .collect();
    names.sort();
    names.truncate(5);
    names
}

/// Tells what a file's content is.
#[must_use]
pub fn identify(bytes: &[u8]) -> Found {
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..offset + magic.len()) == Some(magic);
    if at(4, b"TFL3") {
        return Found::TensorFlowLite;
    }
    if at(4, b"ORTM") {
        return Found::Ort;
    }
    if at(257, b"ustar") {
        return Found::Tar;
    }
    let magics: [(&[u8], Found); 11] = [
        (b"\x89HDF\r\n\x1a\n", Found::Hdf5),
        (b"\x93NUMPY", Found::NumPy),
        (b"GGUF", Found::Gguf),
        (b"ftrt", Found::TensorRt),
        (b"\x1f\x8b", Found::Compressed),
        (b"\xfd7zXZ\0", Found::Compressed),
        (b"BZh", Found::Compressed),
        (b"\x28\xb5\x2f\xfd", Found::Compressed),
        (b"\x7fELF", Found::Elf),
        (b"version https://git-lfs", Found::GitLfsPointer),
        (b"PK\x05\x06", Found::Zip),
    ];
    if let Some((_, found)) = magics.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return *found;
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return zip(bytes);
    }
    // Protocol 2 and later begin with the opcode PROTO and end with STOP.
    if bytes.len() > 2 && bytes[0] == 0x80 && (2..=5).contains(&bytes[1]) {
        return Found::Pickle;
    }
    if safetensors(bytes) {
        return Found::Safetensors;
    }
    let head = &bytes[..bytes.len().min(4096)];
    if head.iter().all(|&byte| byte == 0) {
        return Found::Zeros;
    }
    // Text comes before protobuf: its first letters can pass for the keys of fields.
    if let Some(found) = textual(head, head.len() < bytes.len()) {
        return found;
    }
    protobuf(bytes)
}

/// Tells archives apart by the names in their central directory, which lies at the end.
fn zip(bytes: &[u8]) -> Found {
    const TAIL: usize = 1 << 20;
    let tail = &bytes[bytes.len().saturating_sub(TAIL)..];
    let has = |name: &[u8]| tail.windows(name.len()).any(|window| window == name);
    if has(b"/data.pkl") || has(b"/constants.pkl") {
        Found::PyTorch
    } else if has(b"model.weights.h5") {
        Found::Keras
    } else if has(b".npy") {
        Found::NumPy
    } else {
        Found::Zip
    }
}

fn safetensors(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return false;
    };
    let length = u64::from_le_bytes(*length);
    (2..100 << 20).contains(&length) && rest.starts_with(b"{\"")
}

fn textual(head: &[u8], cut: bool) -> Option<Found> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // A character may be cut in two where the head ends.
        Err(error) if cut && error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let text = text.trim_start_matches('\u{feff}');
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{c}' | '\u{1b}')) {
        return None;
    }
    let trimmed = text.trim_start();
    let lower = trimmed.get(..14).unwrap_or(trimmed).to_ascii_lowercase();
    Some(if lower.starts_with("<!doctype html") || lower.starts_with("<html") || lower.starts_with("<head") {
        Found::Html
    } else if trimmed.starts_with('<') {
        Found::Xml
    } else if trimmed.starts_with('{') || trimmed.starts_with('[') {
        Found::Json
    } else {
        Found::Text
    })
}

fn protobuf(bytes: &[u8]) -> Found {
    const IR_VERSION: u64 = 1;
    const META_GRAPHS: u64 = 2;
    const GRAPH: u64 = 7;
    const OPSET_IMPORT: u64 = 8;
    let outline = wire::outline(bytes);
    let sound = outline.damage.is_none();
    // A SavedModel has `saved_model_schema_version` and `meta_graphs` where a model has its IR
    // version and its producer.
    if sound && outline.fields == [IR_VERSION, META_GRAPHS] && bytes.len() > 256 {
        return Found::SavedModelFile;
    }
    if outline.has(GRAPH) || (outline.has(IR_VERSION) && (outline.has(OPSET_IMPORT) || !wrong_wire_type(&outline))) {
        return Found::Onnx;
    }
    let known = outline.fields.iter().all(|&number| wire::field(wire::Message::Model, number).is_some());
    if sound && known && !outline.fields.is_empty() {
        // All its fields are ones that a model has, though not those that one must have.
        return Found::Onnx;
    }
    if sound || (wrong_wire_type(&outline) && wire::is_message(bytes)) { Found::OtherProtobuf } else { Found::Unknown }
}

fn wrong_wire_type(outline: &wire::Outline) -> bool {
    matches!(&outline.damage, Some(wire::Damage { kind: wire::DamageKind::WireType { .. }, .. }))
}

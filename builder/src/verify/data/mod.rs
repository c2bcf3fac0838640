//! Fixed test sets: [`TestSet`] finds the samples of a folder or file, [`Sample`] is one request with what is expected of it.
//!
//! | form | a sample is |
//! |---|---|
//! | folders `test_data_set_N` with `input_I.pb`, `output_I.pb` | a folder; ONNX's own test data |
//! | a folder of `.npz` files | a file |
//! | one `.npz` file, one `.npy` file, or a folder of `.npy` files | some rows of every array, see [`arrays`] |
//! | `.json` files or lines of a `.jsonl` file | a request of the Open Inference Protocol; `outputs` with `data` are expected |
//!
//! Samples are read one after the other: memory does not grow with their number.

mod arrays;
mod json;
mod npy;
mod proto;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::error::VerifyError;
use super::tensor::{Datatype, Tensor};
use crate::digest::{Digest, HashingReader};

/// One request and what is expected of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Its name: the folder's or file's, or the rows in it.
    pub name: String,
    /// The inputs, named as the model names them.
    pub inputs: Vec<Tensor>,
    /// The expected outputs, named as the model names them; empty where the set holds none.
    pub expected: Vec<Tensor>,
}

/// What the server says of one input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// What its elements are.
    pub datatype: Datatype,
    /// Its dimensions, −1 where dynamic.
    pub shape: Vec<i64>,
}

/// What the server says of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// The name it is served under.
    pub name: String,
    /// Its inputs.
    pub inputs: Vec<TensorSpec>,
    /// Its outputs.
    pub outputs: Vec<TensorSpec>,
}

/// A fixed test set.
#[derive(Debug, Clone)]
pub struct TestSet {
    path: PathBuf,
    form: Form,
    /// Digest over the names and bytes of its files.
    pub digest: Digest,
}

#[derive(Debug, Clone)]
enum Form {
    /// Folders of ONNX's test data.
    Protos(Vec<PathBuf>),
    /// Files of which each is a sample: `.npz` or `.json`.
    Files(Vec<PathBuf>),
    /// Arrays whose rows are samples.
    Arrays(Vec<PathBuf>),
    /// A request a line.
    Lines(PathBuf),
}

/// What iterates over samples.
pub type Samples<'a> = Box<dyn Iterator<Item = Result<Sample, VerifyError>> + Send + 'a>;

impl TestSet {
    /// Looks at a folder or file and hashes what belongs to it.
    ///
    /// # Errors
    /// Where it cannot be read or holds no test data.
    pub fn open(path: &Path) -> Result<Self, VerifyError> {
        let form = Form::find(path)?;
        let digest = form.digest(path)?;
        Ok(Self { path: path.to_owned(), form, digest })
    }

    /// How many samples there are, where that is known before they are read.
    #[must_use]
    pub fn len_hint(&self) -> Option<u64> {
        match &self.form {
            Form::Protos(list) | Form::Files(list) => Some(list.len() as u64),
            Form::Arrays(_) | Form::Lines(_) => None,
        }
    }

    /// The samples in their order, for a model; arrays give `batch` rows at a time where the model leaves that open.
    ///
    /// # Errors
    /// Where the files do not fit the model; each sample that cannot be read is an error of its own.
    pub fn samples<'a>(&'a self, model: &'a ModelSpec, batch: u64) -> Result<Samples<'a>, VerifyError> {
        Ok(match &self.form {
            Form::Protos(folders) => Box::new(folders.iter().map(|folder| read_protos(folder, model))),
            Form::Files(files) => Box::new(files.iter().map(move |file| {
                let name = file_name(file);
                if has_extension(file, "json") {
                    let text = std::fs::read(file).map_err(|source| VerifyError::Read { path: file.clone(), source })?;
                    return json::parse(&text, &name, model).map_err(|problem| data(file, problem));
                }
                arrays::whole(file, &name, model).map_err(|problem| data(file, problem))
            })),
            Form::Arrays(files) => {
                Box::new(arrays::Rows::open(files, model, batch).map_err(|(file, problem)| data(&file, problem))?)
            }
            Form::Lines(file) => {
                let reader = File::open(file).map_err(|source| VerifyError::Read { path: file.clone(), source })?;
                let lines = BufReader::new(reader).lines().enumerate();
                Box::new(lines.filter(|(_, line)| !matches!(line, Ok(text) if text.trim().is_empty())).map(move |(at, line)| {
                    let name = format!("line {}", at + 1);
                    let line = line.map_err(|source| VerifyError::Read { path: file.clone(), source })?;
                    json::parse(line.as_bytes(), &name, model).map_err(|problem| data(file, format!("{name} {problem}")))
                }))
            }
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Form {
    fn find(path: &Path) -> Result<Self, VerifyError> {
        let read = |source| VerifyError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(read)?.is_file() {
            return match extension(path).as_str() {
                "npz" | "npy" => Ok(Self::Arrays(vec![path.to_owned()])),
                "json" => Ok(Self::Files(vec![path.to_owned()])),
                "jsonl" | "ndjson" => Ok(Self::Lines(path.to_owned())),
                _ => Err(data(path, "is no test set, expected .npz, .npy, .json or .jsonl")),
            };
        }
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path).map_err(read)? {
            entries.push(entry.map_err(read)?.path());
        }
        entries.sort_by(|a, b| natural(&file_name(a)).cmp(&natural(&file_name(b))));
        let of = |extension: &str| -> Vec<PathBuf> {
            entries.iter().filter(|entry| has_extension(entry, extension) && entry.is_file()).cloned().collect()
        };
        let folders: Vec<PathBuf> =
            entries.iter().filter(|entry| file_name(entry).starts_with("test_data_set_") && entry.is_dir()).cloned().collect();
        if !folders.is_empty() {
            return Ok(Self::Protos(folders));
        }
        if entries.iter().any(|entry| file_name(entry).starts_with("input_") && has_extension(entry, "pb")) {
            return Ok(Self::Protos(vec![path.to_owned()]));
        }
        let forms = [("npz", of("npz")), ("npy", of("npy")), ("json", of("json"))];
        let mut found = forms.into_iter().filter(|(_, files)| !files.is_empty());
        let (Some((kind, files)), None) = (found.next(), found.next()) else {
            return Err(data(
                path,
                "holds no test set, expected folders test_data_set_N, or files of one kind: .npz, .npy or .json",
            ));
        };
        Ok(if kind == "npy" { Self::Arrays(files) } else { Self::Files(files) })
    }

    /// A digest over names and bytes, in the order in which they are read.
    fn digest(&self, root: &Path) -> Result<Digest, VerifyError> {
        let mut files = Vec::new();
        match self {
            Self::Files(list) | Self::Arrays(list) => files.extend(list.iter().cloned()),
            Self::Lines(file) => files.push(file.clone()),
            Self::Protos(folders) => {
                for folder in folders {
                    files.extend(protos_of(folder, "input_")?);
                    files.extend(protos_of(folder, "output_")?);
                }
            }
        }
        let mut list = String::new();
        for file in files {
            let read = |source| VerifyError::Read { path: file.clone(), source };
            let mut reader = HashingReader::new(File::open(&file).map_err(read)?);
            std::io::copy(&mut reader, &mut std::io::sink()).map_err(read)?;
            let (_, digest) = reader.finish();
            let name = file.strip_prefix(root).unwrap_or(&file);
            list.push_str(&format!("{digest} {}\n", name.display()));
        }
        Ok(Digest::of(list.as_bytes()))
    }
}

/// The files `PREFIX0.pb`, `PREFIX1.pb`, … of a folder, in the order of their numbers.
fn protos_of(folder: &Path, prefix: &str) -> Result<Vec<PathBuf>, VerifyError> {
    let read = |source| VerifyError::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if file_name(&path).starts_with(prefix) && has_extension(&path, "pb") {
            found.push(path);
        }
    }
    found.sort_by(|a, b| natural(&file_name(a)).cmp(&natural(&file_name(b))));
    Ok(found)
}

fn read_protos(folder: &Path, model: &ModelSpec) -> Result<Sample, VerifyError> {
    let read = |prefix: &str, specs: &[TensorSpec], what: &str| -> Result<Vec<Tensor>, VerifyError> {
        let mut tensors = Vec::new();
        for (index, path) in protos_of(folder, prefix)?.into_iter().enumerate() {
            let bytes = std::fs::read(&path).map_err(|source| VerifyError::Read { path: path.clone(), source })?;
            let mut tensor = proto::parse(&bytes).map_err(|problem| data(&path, problem))?;
            if !specs.iter().any(|spec| spec.name == tensor.name) {
                // Files whose tensor has no name, or another one, are in the order of the model's.
                let spec = specs
                    .get(index)
                    .ok_or_else(|| data(&path, format!("is {what} number {index}, and the model has {}", specs.len())))?;
                tensor.name.clone_from(&spec.name);
            }
            tensors.push(tensor);
        }
        Ok(tensors)
    };
    let inputs = read("input_", &model.inputs, "input")?;
    let expected = read("output_", &model.outputs, "output")?;
    Ok(Sample { name: file_name(folder), inputs, expected })
}

/// Writes a sample as ONNX's test data: `input_I.pb` and `output_I.pb`, in the order of the model's inputs and outputs.
///
/// # Errors
/// Where the folder or a file cannot be written.
pub fn write_protos(folder: &Path, sample: &Sample) -> Result<(), VerifyError> {
    std::fs::create_dir_all(folder).map_err(|source| VerifyError::Write { path: folder.to_owned(), source })?;
    for (prefix, tensors) in [("input", &sample.inputs), ("output", &sample.expected)] {
        for (index, tensor) in tensors.iter().enumerate() {
            let path = folder.join(format!("{prefix}_{index}.pb"));
            crate::files::write_atomically(&path, &proto::encode(tensor))
                .map_err(|source| VerifyError::Write { path, source })?;
        }
    }
    Ok(())
}

/// Reads an `.npy` file as one tensor, named as the file.
///
/// # Errors
/// Where the file cannot be read or holds no array of numbers, booleans or strings.
pub fn read_npy(path: &Path) -> Result<Tensor, VerifyError> {
    let mut reader = BufReader::new(File::open(path).map_err(|source| VerifyError::Read { path: path.to_owned(), source })?);
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let read = npy::Header::read(&mut reader).and_then(|header| header.read_tensor(&mut reader, &name, header.shape.clone()));
    read.map_err(|problem| data(path, problem))
}

/// Where a tensor of a name belongs: among the inputs or the outputs.
fn place<'a>(model: &'a ModelSpec, name: &str) -> Result<(&'a TensorSpec, bool), String> {
    if let Some(bare) = name.strip_prefix("output:")
        && let Some(spec) = model.outputs.iter().find(|spec| spec.name == bare)
    {
        return Ok((spec, false));
    }
    if let Some(spec) = model.inputs.iter().find(|spec| spec.name == name) {
        return Ok((spec, true));
    }
    if let Some(spec) = model.outputs.iter().find(|spec| spec.name == name) {
        return Ok((spec, false));
    }
    let names = |specs: &[TensorSpec]| specs.iter().map(|spec| format!("`{}`", spec.name)).collect::<Vec<_>>().join(", ");
    Err(format!(
        "holds `{name}`, which the model does not have: its inputs are {}, its outputs {}",
        names(&model.inputs),
        names(&model.outputs)
    ))
}

fn data(path: &Path, problem: impl Into<String>) -> VerifyError {
    VerifyError::Data { path: path.to_owned(), problem: problem.into() }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn extension(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    extension(path) == wanted
}

/// A key by which names sort as people count: `x2` before `x10`.
fn natural(name: &str) -> (String, u64, String) {
    let start = name.find(|c: char| c.is_ascii_digit()).unwrap_or(name.len());
    let end = name[start..].find(|c: char| !c.is_ascii_digit()).map_or(name.len(), |length| start + length);
    (name[..start].to_owned(), name[start..end].parse().unwrap_or(0), name[end..].to_owned())
}

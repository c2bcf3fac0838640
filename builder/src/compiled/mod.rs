//! Compiles a SavedModel ahead of time: a library with one symbol, its weights in a file of their own, and a description of both.
//!
//! [`Batch`] says for which rows; [`environment`] gives TensorFlow's compiler a Python of its own; [`programs`] finds the C++ compiler,
//! which compiles XLA's runtime once and links each model with it. Every result is kept in the store, by what it was made from, so
//! that only a change costs time (`docs/decisions/0009-ahead-of-time.md`).

mod batch;
mod description;
mod environment;
mod error;
mod link;
mod processor;
mod programs;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

pub use batch::Batch;
pub use error::CompileError;
pub use processor::choose as choose_processor;
pub use programs::Programs;

use self::description::Facts;
use crate::digest::Digest;
use crate::layer;
use crate::lock::Lock;
use crate::model::{Model, SavedModel};
use crate::progress::Progress;
use crate::report::CompiledReport;
use crate::source::{Pin, Reach, Sources};
use crate::store::{Blob, Store};
use crate::template::{CompilerTemplate, Licence, Processor};

/// Version of everything here that decides bytes besides the files that are embedded; part of the keys of results.
const FORMAT: u32 = 1;
/// The program that drives TensorFlow's compiler.
const DRIVER: &str = include_str!("compile.py");

/// What is compiled, for what, and with what.
#[derive(Debug, Clone, Copy)]
pub struct CompileRequest<'a> {
    /// The stack's compiler.
    pub template: &'a CompilerTemplate,
    /// Its pinned packages.
    pub lock: &'a Lock,
    /// The model.
    pub model: &'a Model,
    /// The same, as what it is.
    pub saved_model: &'a SavedModel,
    /// For which rows.
    pub batch: &'a Batch,
    /// For which processor.
    pub processor: &'a Processor,
    /// The programs of this machine.
    pub programs: &'a Programs,
    /// Where packages come from.
    pub sources: &'a Sources,
    /// Whether the network may be used.
    pub reach: Reach,
}

/// A compiled model.
#[derive(Debug)]
pub struct CompiledModel {
    /// The library.
    pub library: Blob,
    /// The weights; none where the model has none.
    pub weights: Option<Blob>,
    /// What the server must know.
    pub description: Vec<u8>,
    /// Licences of what is linked in.
    pub licences: Vec<(Licence, Blob)>,
    /// The package that the compiler and the runtime are from.
    pub package: CompilerSize,
    /// What was done.
    pub report: CompiledReport,
}

/// The package of the compiler, of which parts are linked into the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompilerSize {
    /// Its pin.
    pub pin: Pin,
    /// Licences of what is linked, as SPDX identifiers.
    pub spdx: String,
    /// Bytes of its files.
    pub installed: u64,
}

/// What the store keeps of one compilation.
#[derive(Serialize, Deserialize)]
struct Code {
    library: Digest,
    licences: Vec<Digest>,
    /// Bytes of the files of the compiler's package.
    installed: u64,
    facts: Facts,
}

/// Compiles a model, or finds what was compiled of it before.
///
/// # Errors
/// [`CompileError::Refused`] where the model cannot be compiled; others where something is missing or fails.
pub fn compile(request: &CompileRequest<'_>, store: &Store, progress: &Progress) -> Result<CompiledModel, CompileError> {
    let programs = request.programs;
    let keys = Keys::of(request, store)?;
    let known = keys.code(store)?;
    let weights = match &known {
        Some((code, ..)) if code.facts.has_weights() => keys.weights(store)?,
        _ => None,
    };
    let complete = known.as_ref().is_some_and(|(code, ..)| weights.is_some() || !code.facts.has_weights());
    let (code, library, licences, weights) = match known {
        Some((code, library, licences)) if complete => (code, library, licences, weights),
        known => {
            progress.note(format!("compiling {} for {}", request.model.path.display(), request.processor.name));
            make(request, &keys, known, store, progress)?
        }
    };
    let report = CompiledReport {
        by: request.template.title.clone(),
        linked_by: programs.version.clone(),
        processor: request.processor.name.clone(),
        rows: request.batch.sizes().to_vec(),
        sources: keys.sources,
        library: library.size,
        weights: weights.as_ref().map_or(0, |weights| weights.size),
    };
    let description = code.facts.describe(request)?;
    let licences = request.template.licences.iter().cloned().zip(licences).collect();
    let pin = request.lock.compiler.first().cloned().ok_or_else(|| CompileError::Facts { reason: "no package".to_owned() })?;
    let package = CompilerSize { pin, spdx: request.template.spdx.clone(), installed: code.installed };
    Ok(CompiledModel { library, weights, description, licences, package, report })
}

type Made = (Code, Blob, Vec<Blob>, Option<Blob>);

/// Runs the compiler for what is not known yet: code, weights, or both.
fn make(
    request: &CompileRequest<'_>,
    keys: &Keys,
    known: Option<(Code, Blob, Vec<Blob>)>,
    store: &Store,
    progress: &Progress,
) -> Result<Made, CompileError> {
    let programs = request.programs;
    let packages = environment::obtain(request, store, progress)?;
    let scratch = store.scratch_folder()?;
    let output = scratch.path();
    let wanted: &[&str] = if known.is_some() { &["weights"] } else { &["code", "weights"] };
    let variables = known.as_ref().map(|(code, ..)| code.facts.variables());
    let model =
        std::fs::canonicalize(&request.model.path).map_err(|source| CompileError::io("read", &request.model.path, source))?;
    let rows = if request.batch.sizes().is_empty() { &[0][..] } else { request.batch.sizes() };
    let task = json!({
        "packages": packages, "model": model, "tags": request.saved_model.tags, "signature": request.saved_model.signature,
        "rows": rows, "cpu": request.processor.name, "triple": request.template.triple, "output": output, "wanted": wanted,
        "variables": variables,
    });
    {
        let _task = progress.task(format!("compile {}", request.model.path.display()), None);
        run_driver(request, output, &task)?;
    }
    let facts = Facts::load(&output.join("facts.json"))?;
    let weights = match facts.weights_size() {
        0 => None,
        _ => Some(keys.keep_weights(&output.join("weights"), store)?),
    };
    if let Some((code, library, licences)) = known {
        return Ok((code, library, licences, weights));
    }
    let linker = link::Linker {
        template: request.template,
        programs,
        packages: &packages,
        processor: request.processor,
        model: &request.model.path,
    };
    let library = linker.link(output, &facts, store, progress)?;
    let licences = request.template.licences.iter().map(|licence| add(&packages.join(&licence.from), store));
    let licences = licences.collect::<Result<Vec<_>, _>>()?;
    let installed = environment::size_of_first(request, &packages);
    let code = Code { library: library.digest, licences: licences.iter().map(|blob| blob.digest).collect(), installed, facts };
    keys.keep_code(&code, store)?;
    Ok((code, library, licences, weights))
}

/// Runs the driver in the scratch folder; what it refuses is an error that says why.
fn run_driver(request: &CompileRequest<'_>, folder: &Path, task: &serde_json::Value) -> Result<(), CompileError> {
    let (driver, file) = (folder.join("compile.py"), folder.join("request.json"));
    std::fs::write(&driver, DRIVER).map_err(|source| CompileError::io("write", &driver, source))?;
    std::fs::write(&file, task.to_string()).map_err(|source| CompileError::io("write", &file, source))?;
    let ended = request.programs.run_python(folder, &["-I", "-S", "compile.py", "request.json"])?;
    if ended.success {
        return Ok(());
    }
    let refused: Option<serde_json::Value> =
        std::fs::read(folder.join("refused.json")).ok().and_then(|text| serde_json::from_slice(&text).ok());
    match refused.as_ref().and_then(|refused| refused["reason"].as_str()) {
        Some(reason) => Err(CompileError::Refused { model: request.model.path.clone(), reason: reason.to_owned() }),
        None => {
            Err(CompileError::Driver { model: request.model.path.clone(), status: ended.status.clone(), output: ended.tail() })
        }
    }
}

fn add(path: &Path, store: &Store) -> Result<Blob, CompileError> {
    let file = std::fs::File::open(path).map_err(|source| CompileError::io("read", path, source))?;
    Ok(store.add(file, None)?)
}

/// Under what results are kept: everything that decides them.
struct Keys {
    code: Digest,
    weights: Digest,
    /// The model's files.
    sources: BTreeMap<String, Digest>,
}

const CODE: &str = "compiled-code";
const WEIGHTS: &str = "compiled-weights";

impl Keys {
    fn of(request: &CompileRequest<'_>, store: &Store) -> Result<Self, CompileError> {
        let programs = request.programs;
        let (mut graph, mut checkpoint) = (String::new(), String::new());
        let mut sources = BTreeMap::new();
        for file in request.model.files() {
            let (digest, _) = layer::digest_file(&file.path, store)?;
            sources.insert(file.location.clone(), digest);
            // It tells weights apart, which the code does not.
            if file.location == "fingerprint.pb" {
                continue;
            }
            let is_weights = file.location.starts_with("variables/");
            let list = if is_weights { &mut checkpoint } else { &mut graph };
            list.push_str(&format!("{} {digest}\n", file.location));
        }
        let saved = request.saved_model;
        // Variables of TensorFlow 1 are no resources, and become constants of the code.
        let constants = if saved.has_plain_variables() { checkpoint.as_str() } else { "" };
        let compiler = environment::key(request.lock, programs);
        let graph =
            format!("{FORMAT}\n{graph}{:?}\n{}\n{compiler}\n{}\n", saved.tags, saved.signature, Digest::of(DRIVER.as_bytes()));
        let link = link::key(request.template, programs, request.processor);
        let (rows, processor) = (request.batch.sizes(), &request.processor.name);
        let code = Digest::of(format!("{graph}{constants}{rows:?}\n{processor}\n{link}\n").as_bytes());
        let weights = Digest::of(format!("{graph}{checkpoint}").as_bytes());
        Ok(Self { code, weights, sources })
    }

    /// Code of an earlier compilation, where the store still has all of it.
    fn code(&self, store: &Store) -> Result<Option<(Code, Blob, Vec<Blob>)>, CompileError> {
        let record = store.record(CODE, &self.code).and_then(|body| serde_json::from_slice::<Code>(&body).ok());
        let Some(code) = record else { return Ok(None) };
        let Some(library) = store.find(&code.library)? else { return Ok(None) };
        let licences = code.licences.iter().map(|digest| store.find(digest)).collect::<Result<Option<Vec<_>>, _>>()?;
        Ok(licences.map(|licences| (code, library, licences)))
    }

    fn keep_code(&self, code: &Code, store: &Store) -> Result<(), CompileError> {
        Ok(store.put_record(CODE, &self.code, &serde_json::to_vec(code).expect("a record is plain data"))?)
    }

    fn weights(&self, store: &Store) -> Result<Option<Blob>, CompileError> {
        let digest = store.record(WEIGHTS, &self.weights).and_then(|body| serde_json::from_slice::<Digest>(&body).ok());
        Ok(digest.map(|digest| store.find(&digest)).transpose()?.flatten())
    }

    fn keep_weights(&self, file: &Path, store: &Store) -> Result<Blob, CompileError> {
        let blob = add(file, store)?;
        let body = serde_json::to_vec(&blob.digest).expect("a digest is JSON");
        store.put_record(WEIGHTS, &self.weights, &body)?;
        Ok(blob)
    }
}

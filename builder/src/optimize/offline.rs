//! The model optimised by the very runtime that goes into the image.
//!
//! The image's server is started through the image's own dynamic loader on the image's own libraries: no library of this
//! machine takes part, and no privilege is needed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::OptimizeError;
use crate::build::Inputs;
use crate::digest::Digest;
use crate::elf::ElfObject;
use crate::layer;
use crate::lock::Lock;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::recipe::{Optimize, Recipe};
use crate::runtime::{Runtime, SERVER_PATH};
use crate::store::{Blob, Store, StoreError};
use crate::tree::{Content, ImagePath, Kind};

/// Version of how results are made, part of the key under which they are kept.
const OFFLINE: &str = "1";

/// What is to be optimised, and by what.
pub(super) struct Request<'a> {
    pub recipe: &'a Recipe,
    pub inputs: &'a Inputs,
    pub runtime: &'a Runtime,
    /// Digest of the model's file.
    pub model: Digest,
}

/// An optimised model.
pub(super) struct Optimized {
    /// Digest of everything that it was made from.
    pub key: Digest,
    /// The model, weights inside.
    pub model: Blob,
    /// The runtime that made it.
    pub runtime: String,
    /// What the CPU has on which it was made.
    pub cpu: String,
}

/// What the store keeps of a result.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    model: Digest,
    made: Made,
}

/// What the server prints after `--optimize`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Made {
    runtime: String,
    cpu: String,
}

/// What the server prints after `--compare`.
#[derive(Debug, Deserialize)]
struct Comparison {
    inputs: String,
    runs: u64,
    elements: u64,
    largest: f64,
    difference: Option<String>,
    refused: Option<String>,
}

/// Optimises the model, or says why it is left as it is.
pub(super) fn optimize(
    request: &Request<'_>,
    store: &Store,
    progress: &Progress,
) -> Result<Result<Optimized, String>, OptimizeError> {
    if request.recipe.platform != Platform::host() {
        return Ok(Err(format!("the image is for {}, and this machine is {}", request.recipe.platform, Platform::host())));
    }
    if request.inputs.parent.is_some() {
        return Ok(Err("the base is an image, whose libraries are not laid out here".to_owned()));
    }
    let is_elsewhere = |kind: &Kind| matches!(kind, Kind::File { content: Content::Elsewhere, .. });
    if request.runtime.taken.iter().any(|taken| is_elsewhere(&taken.kind)) {
        return Ok(Err("its libraries are in published layers, which are not on this machine".to_owned()));
    }
    if request.inputs.model().files().len() > 1 {
        return Ok(Err("its weights lie in files of their own, which the runtime would not write anew".to_owned()));
    }
    let data = test_data(&request.inputs.model().path);
    let key = request.key(&data, store)?;
    if let Some(kept) = store.record("optimized", &key).and_then(|body| serde_json::from_slice::<Kept>(&body).ok())
        && let Some(model) = store.find(&kept.model)?
    {
        return Ok(Ok(Optimized { key, model, runtime: kept.made.runtime, cpu: kept.made.cpu }));
    }
    let level = request.recipe.optimize;
    let _task = progress.task(format!("optimise the model at level `{level}`"), None);
    let bench = Bench::lay_out(request, store)?;
    let output = bench.folder.path().join("optimized.onnx");
    let original = bench.config(
        "original",
        &request.inputs.model().path,
        match level {
            Optimize::Basic => "basic",
            Optimize::Extended => "extended",
            _ => "all",
        },
    )?;
    let made = bench.run(level, &["--config", &original, "--optimize", &text(&output)])?;
    if is_unknown_argument(&made) {
        return Ok(Err(format!("the server `{}` does not know how", request.inputs.server.path.display())));
    }
    let made: Made = parse(level, &made)?;
    bench.compare(request, &output, &data, progress)?;
    let file = fs::File::open(&output).map_err(|source| OptimizeError::Read { path: output.clone(), source })?;
    let model = store.add(file, None)?;
    let body = serde_json::to_vec(&Kept { model: model.digest, made: made.clone() }).expect("plain values are JSON");
    store.put_record("optimized", &key, &body)?;
    Ok(Ok(Optimized { key, model, runtime: made.runtime, cpu: made.cpu }))
}

impl Request<'_> {
    /// Everything that decides the result: model, libraries, server, level, custom operators, and the CPU where it matters.
    fn key(&self, data: &[PathBuf], store: &Store) -> Result<Digest, StoreError> {
        let level = self.recipe.optimize;
        // Server and packages; the pin of an earlier result takes no part in this one.
        let lock = Lock { optimized: None, xla: None, ..self.inputs.lock.clone() };
        let mut text = format!("{OFFLINE}\n{level}\n{}\n{}\n", self.model, Digest::of(lock.to_text().as_bytes()));
        for library in &self.recipe.custom_operators {
            text.push_str(&format!("{}\n", layer::digest_file(library, store)?.0));
        }
        for folder in data {
            for input in (0..).map(|number| folder.join(format!("input_{number}.pb"))).take_while(|input| input.is_file()) {
                text.push_str(&format!("{}\n", layer::digest_file(&input, store)?.0));
            }
        }
        if level == Optimize::Hardware {
            let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let line = cpu.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
            text.push_str(line.unwrap_or_default());
        }
        Ok(Digest::of(text.as_bytes()))
    }
}

/// The image's server, loader and libraries, laid out to be run here.
struct Bench {
    folder: tempfile::TempDir,
    loader: PathBuf,
    library_path: String,
    server: PathBuf,
    custom_operators: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Bench {
    fn lay_out(request: &Request<'_>, store: &Store) -> Result<Self, OptimizeError> {
        let folder = store.scratch_folder()?;
        let root = folder.path().join("root");
        let place = |path: &ImagePath| root.join(path.as_str().trim_start_matches('/'));
        let mut folders: Vec<PathBuf> = Vec::new();
        for taken in &request.runtime.taken {
            let at = place(&taken.path);
            let made = match &taken.kind {
                Kind::File { content: Content::Disk(disk), .. } => fs::canonicalize(disk).and_then(|disk| link(&disk, &at)),
                Kind::Symlink { target } if !target.starts_with('/') => link(Path::new(target), &at),
                Kind::Symlink { target } => link(&root.join(target.trim_start_matches('/')), &at),
                _ => continue,
            };
            made.map_err(|source| StoreError::Io { action: "write", path: at.clone(), source })?;
            if let Some(parent) = at.parent().filter(|parent| !folders.iter().any(|known| known == parent)) {
                folders.push(parent.to_owned());
            }
        }
        let level = request.recipe.optimize;
        let failed = |message: String| OptimizeError::Failed { level, message };
        let server = ElfObject::load(&request.inputs.server.path).map_err(|error| failed(error.to_string()))?;
        let interpreter = server.interpreter.unwrap_or_default();
        let name = interpreter.rsplit('/').next().unwrap_or_default();
        let loader = request.runtime.taken.iter().find(|taken| taken.path.file_name() == name);
        let loader = loader.ok_or_else(|| failed(format!("the image has no loader `{interpreter}`")))?;
        // A copy that may be executed: a blob of the store may not.
        let copy = folder.path().join("loader");
        fs::copy(place(&loader.path), &copy)
            .and_then(|_| fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)))
            .map_err(|source| StoreError::Io { action: "write", path: copy.clone(), source })?;
        Ok(Self {
            loader: copy,
            library_path: folders.iter().map(|folder| text(folder)).collect::<Vec<_>>().join(":"),
            server: root.join(SERVER_PATH.trim_start_matches('/')),
            custom_operators: request.runtime.custom_operators.iter().map(|path| text(&place(path))).collect(),
            environment: request.inputs.stack.environment.clone().into_iter().collect(),
            folder,
        })
    }

    /// Writes a file of options for the server. One thread, so that the result depends on no number of cores.
    fn config(&self, name: &str, model: &Path, level: &str) -> Result<String, StoreError> {
        let path = self.folder.path().join(format!("{name}.json"));
        let model = std::path::absolute(model).unwrap_or_else(|_| model.to_owned());
        let options = json!({
            "model_name": "model",
            "model_path": text(&model),
            "custom_op_libraries": self.custom_operators,
            "graph_optimization_level": level,
            "threads": 1,
        });
        fs::write(&path, options.to_string()).map_err(|source| StoreError::Io { action: "write", path: path.clone(), source })?;
        Ok(text(&path))
    }

    fn run(&self, level: Optimize, arguments: &[&str]) -> Result<Output, OptimizeError> {
        Command::new(&self.loader)
            .args(["--inhibit-cache", "--library-path", &self.library_path])
            .arg(&self.server)
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(std::process::Stdio::null())
            .output()
            .map_err(|source| OptimizeError::Start { level, source })
    }

    /// Runs the model before and after on the same inputs.
    fn compare(
        &self,
        request: &Request<'_>,
        optimized: &Path,
        data: &[PathBuf],
        progress: &Progress,
    ) -> Result<(), OptimizeError> {
        let level = request.recipe.optimize;
        let before = self.config("before", &request.inputs.model().path, "all")?;
        let after = self.config("after", optimized, if level == Optimize::Hardware { "disable" } else { "all" })?;
        let folders: Vec<String> = data.iter().map(|folder| text(folder)).collect();
        let mut arguments = vec!["--config", before.as_str(), "--compare", after.as_str()];
        arguments.extend(folders.iter().flat_map(|folder| ["--data", folder.as_str()]));
        let comparison: Comparison = parse(level, &self.run(level, &arguments)?)?;
        if let Some(difference) = comparison.difference {
            return Err(OptimizeError::Differs { level, difference });
        }
        if comparison.runs == 0 {
            return Err(OptimizeError::NotCompared { level, reason: comparison.refused.unwrap_or_default() });
        }
        progress.note(format!(
            "the optimised model gives the same {} elements on {} runs of {} inputs; the largest difference is {:.1e} of an output's magnitude",
            comparison.elements, comparison.runs, comparison.inputs, comparison.largest
        ));
        Ok(())
    }
}

fn link(target: &Path, at: &Path) -> std::io::Result<()> {
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    symlink(target, at)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The folders `test_data_set_N` beside a model, in order.
fn test_data(model: &Path) -> Vec<PathBuf> {
    let folder = std::path::absolute(model).unwrap_or_else(|_| model.to_owned());
    let folder = folder.parent().map(Path::to_owned).unwrap_or_default();
    (0..)
        .map(|number| folder.join(format!("test_data_set_{number}")))
        .take_while(|set| set.join("input_0.pb").is_file())
        .collect()
}

/// The line of the server that says why it ended.
fn error_line(output: &Output) -> Option<Value> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find(|line| line["imgserve"] == "error")
}

/// Tells whether the server is one that knows nothing of optimising.
fn is_unknown_argument(output: &Output) -> bool {
    output.status.code() == Some(2) && error_line(output).is_none_or(|line| line["stage"] == "arguments")
}

fn parse<T: serde::de::DeserializeOwned>(level: Optimize, output: &Output) -> Result<T, OptimizeError> {
    let failed = |message: String| OptimizeError::Failed { level, message };
    if !output.status.success() {
        let said = error_line(output).and_then(|line| line["message"].as_str().map(str::to_owned));
        return Err(failed(said.unwrap_or_else(|| {
            let stderr = String::from_utf8_lossy(&output.stderr);
            format!("the server ended with {}: {}", output.status, stderr.lines().last().unwrap_or_default())
        })));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(format!("the server's answer is no JSON: {error}")))
}

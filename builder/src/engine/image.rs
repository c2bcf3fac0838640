//! Engines that an image compiles itself, on the GPU of this machine: [`compile_in_image`].
//!
//! TensorRT's builder times kernels on the GPU, and an engine runs on that GPU with that version of TensorRT. So the image's own server
//! compiles it (`imgserve --engine`), with the libraries that will run it, in a container that Docker gives the GPU to.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;
use serde_json::Value;

use super::{EngineError, VERSION, copy, record_of};
use crate::digest::Digest;
use crate::doctor::Host;
use crate::report::Composition;
use crate::source::Environment;

/// The folder of the container that results are written to.
const OUT: &str = "/out";

/// Where an image is, and where its engine goes.
#[derive(Debug)]
pub struct Where<'a> {
    /// The image's name, as Docker knows it or finds it in a registry.
    pub name: &'a str,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Where the result goes.
    pub output: &'a Path,
}

/// What an image compiled, as it is kept beside the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageEngine {
    /// Version of this format.
    pub version: u32,
    /// What runs it, as the server names it.
    pub provider: String,
    /// The GPU that it was compiled on, by name.
    pub gpu: String,
    /// Its architecture, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sm: Option<String>,
    /// Version of the driver.
    pub driver: String,
    /// The image that compiled it.
    pub image: Digest,
    /// Packages that the image's libraries come from, which run it too.
    pub packages: Vec<String>,
    /// Options of the provider; those about hardware and version compatibility say where else the engine runs.
    pub provider_options: BTreeMap<String, Value>,
    /// The result, a model of `EPContext` nodes.
    pub engine: Digest,
    /// Its bytes.
    pub engine_bytes: u64,
    /// Files beside it that it refers to, by name.
    pub files: Vec<String>,
}

/// Has an image compile its model on this machine's GPU, and writes the model with the engines, the files that it refers to, and beside
/// them, in `OUTPUT.json`, what it is.
///
/// # Errors
/// See [`EngineError`]. Nothing is written then.
pub fn compile_in_image(
    place: &Where<'_>,
    provider: &str,
    host: &Host,
    composition: &Composition,
    provider_options: BTreeMap<String, Value>,
    environment: &Environment,
    scratch: &Path,
) -> Result<ImageEngine, EngineError> {
    let file = |action, path: &Path| {
        let path = path.to_owned();
        move |source| EngineError::File { action, path, source }
    };
    let folder = place.output.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    tempfile::tempfile_in(folder).map_err(file("write", place.output))?;
    let name = place.output.file_name().unwrap_or_default().to_owned();
    let docker = environment.find("docker").ok_or(EngineError::NoDocker)?;
    // The container's user is nobody here, and has to write.
    let out = scratch.join("out");
    fs::create_dir(&out).map_err(file("create", &out))?;
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).map_err(file("open", &out))?;
    run(&docker, place.name, &out, &name.to_string_lossy())?;

    let model = out.join(&name);
    let digest = fs::File::open(&model).and_then(Digest::of_reader).map_err(file("read", &model))?;
    let mut others: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&out).map_err(file("read", &out))? {
        let path = entry.map_err(file("read", &out))?.path();
        if path != model {
            others.push(path);
        }
    }
    others.sort();
    let gpu = host.gpus.first();
    let made = ImageEngine {
        version: VERSION,
        provider: provider.to_owned(),
        gpu: gpu.map(|gpu| gpu.name.clone()).unwrap_or_default(),
        sm: gpu.and_then(|gpu| gpu.sm).map(|sm| sm.to_string()),
        driver: host.driver.as_ref().map(|driver| driver.version.clone()).unwrap_or_default(),
        image: place.digest,
        packages: packages(composition),
        provider_options,
        engine: digest.0,
        engine_bytes: digest.1,
        files: others.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect(),
    };
    for path in &others {
        let target = folder.join(path.file_name().unwrap_or_default());
        copy(path, &target).map_err(file("write", &target))?;
    }
    copy(&model, place.output).map_err(file("write", place.output))?;
    let record = serde_json::to_string_pretty(&made).expect("it has string keys only");
    let at = record_of(place.output);
    crate::files::write_atomically(&at, format!("{record}\n").as_bytes()).map_err(file("write", &at))?;
    Ok(made)
}

/// The packages of the libraries, each once, in the order of their names.
fn packages(composition: &Composition) -> Vec<String> {
    let mut packages: Vec<String> = composition.libraries.iter().map(|library| library.from.clone()).collect();
    packages.sort();
    packages.dedup();
    packages
}

/// Starts the image's server with `--engine` and waits until it ends.
fn run(docker: &Path, image: &str, out: &Path, name: &str) -> Result<(), EngineError> {
    let mut command = Command::new(docker);
    command.args(["run", "--rm", "--gpus", "all", "--volume"]).arg(format!("{}:{OUT}", out.display()));
    command.args([image, "--engine", &format!("{OUT}/{name}")]).stdin(Stdio::null());
    let output = command.output().map_err(|source: io::Error| EngineError::Start { program: docker.to_owned(), source })?;
    if output.status.success() && out.join(name).is_file() {
        return Ok(());
    }
    Err(EngineError::Image { image: image.to_owned(), message: last_word(&output.stderr), status: output.status.to_string() })
}

/// What the server, or else Docker, said last: the message of its error line where there is one.
fn last_word(stderr: &[u8]) -> String {
    let said = String::from_utf8_lossy(stderr);
    let message = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| line.get(key).and_then(Value::as_str).map(str::to_owned);
        (line.get("imgserve")? == "error").then(|| {
            let words = [text("message"), text("found").map(|found| format!("found {found}")), text("hint")];
            words.into_iter().flatten().collect::<Vec<_>>().join("; ")
        })
    };
    said.lines().rev().find_map(message).unwrap_or_else(|| said.lines().last().unwrap_or("it said nothing").to_owned())
}

#[cfg(test)]
mod tests {
    use super::last_word;

    #[test]
    fn the_servers_own_error_comes_before_what_others_say() {
        let log =
            b"{\"imgserve\":\"start\"}\n{\"imgserve\":\"error\",\"message\":\"no GPU\",\"hint\":\"start it with one\"}\nbye\n";
        assert_eq!(last_word(log), "no GPU; start it with one");
        assert_eq!(last_word(b"docker: could not select device driver\n"), "docker: could not select device driver");
        assert_eq!(last_word(b""), "it said nothing");
    }
}

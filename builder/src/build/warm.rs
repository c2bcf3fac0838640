//! Runs the image once while it is built, so that what XLA compiles is compiled before the image ships.
//!
//! The image runs in the embedded runner as it will run elsewhere, with a folder in memory for what is compiled. What lies there
//! once the server is ready proves that XLA took the graph, and becomes a layer of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::BuildError;
use crate::digest::Digest;
use crate::image::{Image, ImageConfig};
use crate::layer::{self, Limits};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::recipe::{Recipe, XlaChoice};
use crate::report::{XlaMode, XlaReport, XlaTimes};
use crate::runner::embedded::Embedded;
use crate::runner::{ContainerSpec, Runner, RunnerError, wait_until_ready};
use crate::store::{Blob, Store};
use crate::template::Gpu;

/// How long a server may take to compile everything and become ready.
const PATIENCE: Duration = Duration::from_secs(900);
/// How long a line of the server may lag behind what it tells.
const LAG: Duration = Duration::from_secs(5);
/// Runs of which the median is taken where times are compared.
const REPEATS: &str = "15";

/// What XLA does for an image, and what it has compiled.
#[derive(Debug, Clone)]
pub(super) struct Xla {
    /// What the report says of it.
    pub report: XlaReport,
    /// Compiled clusters by file name.
    pub cache: BTreeMap<String, Blob>,
    /// The processor's features that they may use.
    pub cpu_flags: String,
}

impl Xla {
    /// Decides what XLA does, from what was asked for and what the model asks for itself.
    ///
    /// # Errors
    /// Where compilation was required of a model that does not ask for it.
    pub fn choose(recipe: &Recipe, must_compile: bool) -> Result<Self, BuildError> {
        let mode = match recipe.xla {
            XlaChoice::Must if !must_compile => return Err(BuildError::NothingToCompile { model: recipe.model.clone() }),
            // What the model asks to be compiled is compiled whatever else is said.
            _ if must_compile => XlaMode::Model,
            XlaChoice::Auto | XlaChoice::Measure | XlaChoice::Must => XlaMode::Auto,
            XlaChoice::Off => XlaMode::Off,
        };
        let report = XlaReport { mode, clusters: None, cpu: None, left_out: None, milliseconds: None };
        Ok(Self { report, cache: BTreeMap::new(), cpu_flags: String::new() })
    }

    /// Whether there is anything that XLA would compile.
    fn compiles(&self) -> bool {
        self.report.mode != XlaMode::Off
    }
}

/// What one build learned, for later ones of the same image on the same processor.
#[derive(Serialize, Deserialize)]
struct Record {
    report: XlaReport,
    cache: BTreeMap<String, Digest>,
}

/// Runs the image and keeps what is compiled; where that cannot be done, says why not.
///
/// # Errors
/// Where the image does not start: it would not start elsewhere either.
pub(super) fn warm(
    mut xla: Xla,
    recipe: &Recipe,
    gpu: Option<&Gpu>,
    image: &Image,
    store: &Store,
    progress: &Progress,
) -> Result<Xla, BuildError> {
    if !xla.compiles() {
        return Ok(xla);
    }
    if gpu.is_some() {
        return Ok(left_out(xla, "it compiles for the GPU that the image finds when it starts".to_owned(), progress));
    }
    let cpu = match processor(recipe.warm, recipe.platform, Platform::host(), Cpu::of_host()) {
        Ok(cpu) => cpu,
        Err(reason) => return Ok(left_out(xla, reason, progress)),
    };
    let key = Digest::of(format!("{}\n{:?}\n{}", image.descriptor().digest, recipe.xla, cpu.flags).as_bytes());
    xla.cpu_flags = cpu.flags;
    if let Some(known) = recall(&xla, &key, store)? {
        return Ok(known);
    }
    xla.report.cpu = Some(cpu.model);
    match compile(&mut xla, recipe.xla, image, store, progress) {
        Ok(()) => {}
        Err(BuildError::Warm { source, .. }) if !matches!(*source, RunnerError::Exited { .. }) => {
            return Ok(left_out(xla, format!("the image cannot be run here: {source}"), progress));
        }
        Err(error) => return Err(error),
    }
    let cache = xla.cache.iter().map(|(name, blob)| (name.clone(), blob.digest)).collect();
    let record = Record { report: xla.report.clone(), cache };
    store.put_record(KIND, &key, &serde_json::to_vec(&record).expect("a record is plain data"))?;
    Ok(xla)
}

const KIND: &str = "xla-cache";

/// The processor that XLA compiles for; or why it compiles for none: its code would not run on another kind.
fn processor(wanted: bool, image: Platform, host: Platform, cpu: Option<Cpu>) -> Result<Cpu, String> {
    if !wanted {
        return Err("it was not asked for".to_owned());
    }
    if image != host {
        return Err(format!("this machine is {host}, the image is for {image}"));
    }
    cpu.ok_or_else(|| "this machine does not say what its processor can do".to_owned())
}

fn left_out(mut xla: Xla, reason: String, progress: &Progress) -> Xla {
    progress.warn(format!("nothing is compiled ahead for XLA: {reason}"));
    xla.report.left_out = Some(reason);
    xla
}

fn recall(xla: &Xla, key: &Digest, store: &Store) -> Result<Option<Xla>, BuildError> {
    let Some(record) = store.record(KIND, key).and_then(|record| serde_json::from_slice::<Record>(&record).ok()) else {
        return Ok(None);
    };
    let mut cache = BTreeMap::new();
    for (name, digest) in record.cache {
        let Some(blob) = store.find(&digest)? else { return Ok(None) };
        cache.insert(name, blob);
    }
    Ok(Some(Xla { report: record.report, cache, cpu_flags: xla.cpu_flags.clone() }))
}

fn compile(xla: &mut Xla, choice: XlaChoice, image: &Image, store: &Store, progress: &Progress) -> Result<(), BuildError> {
    let root = store.scratch_folder()?;
    layer::unpack(&image.parsed.layers, image.blobs.as_ref(), root.path(), &Limits::default(), progress)
        .map_err(|source| BuildError::Unpack { source: Box::new(source) })?;
    let config: ImageConfig = serde_json::from_slice(&image.config).expect("it was written by this program");
    let measure = choice == XlaChoice::Measure && xla.report.mode == XlaMode::Auto;
    progress.note("running the image once, so that XLA compiles it ahead".to_owned());
    let xla_option = if xla.report.mode == XlaMode::Auto { "auto" } else { "off" };
    let compiled = run(root.path(), &config, xla_option, measure, store)?;
    xla.report.clusters = Some(compiled.files.len() as u64);
    if measure {
        let plain = run(root.path(), &config, "off", true, store)?;
        if let (Some(with), Some(without)) = (compiled.median, plain.median) {
            xla.report.milliseconds = Some(XlaTimes { with, without });
            if without <= with {
                xla.report.mode = XlaMode::Off;
                return Ok(());
            }
        }
    }
    if compiled.files.is_empty() {
        progress.warn("XLA compiled nothing of this model".to_owned());
    }
    xla.cache = compiled.files;
    Ok(())
}

struct Ran {
    files: BTreeMap<String, Blob>,
    /// Milliseconds of one run.
    median: Option<f64>,
}

fn run(root: &Path, config: &ImageConfig, xla: &str, measure: bool, store: &Store) -> Result<Ran, BuildError> {
    let failed = |source: RunnerError| BuildError::Warm { source: Box::new(source) };
    let mut spec = ContainerSpec::unpacked(root, config.clone());
    // `/tmp` is the container's own, in memory.
    let mut variables = vec![("IMGSERVE_XLA_CACHE", "/tmp"), ("IMGSERVE_XLA_CACHE_MODE", "write"), ("IMGSERVE_XLA", xla)];
    if measure {
        variables.push(("IMGSERVE_WARM_UP_REPEATS", REPEATS));
    }
    spec.environment = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut container = Embedded::new().map_err(failed)?.start(&spec).map_err(failed)?;
    wait_until_ready(container.as_mut(), "/v2/health/ready", PATIENCE).map_err(failed)?;
    // The line may lag behind the answer.
    let lines = container.lines();
    let median =
        measure.then(|| std::iter::from_fn(|| lines.recv_timeout(LAG).ok()).find_map(|line| median_of(&line.text))).flatten();
    let mut files = BTreeMap::new();
    if let Some(pid) = container.pid() {
        let folder = PathBuf::from(format!("/proc/{pid}/root/tmp"));
        let read = |source| BuildError::Compiled { source };
        for entry in fs::read_dir(folder).map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("xla_compile_cache__") && entry.file_type().map_err(read)?.is_file() {
                files.insert(name, store.add(fs::File::open(entry.path()).map_err(read)?, None)?);
            }
        }
    }
    container.stop(Duration::from_secs(30)).map_err(failed)?;
    Ok(Ran { files, median })
}

/// The time of one run that the server's line about the warm-up tells.
fn median_of(line: &str) -> Option<f64> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    (line.get("phase")? == "warm_up").then(|| line.get("median_ms")?.as_f64()).flatten()
}

/// A processor, as the kernel describes it.
struct Cpu {
    model: String,
    flags: String,
}

impl Cpu {
    fn of_host() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/cpuinfo").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name))
                .map(|(_, value)| value.trim())
        };
        let mut flags: Vec<&str> = field("flags").or_else(|| field("Features"))?.split_whitespace().collect();
        flags.sort_unstable();
        Some(Self { model: field("model name").unwrap_or("unknown").to_owned(), flags: flags.join(" ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_read() {
        let cpu = Cpu::parse("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: sse2 avx fpu\n\n").expect("a processor");
        assert_eq!((cpu.model.as_str(), cpu.flags.as_str()), ("Some CPU @ 2 GHz", "avx fpu sse2"));
        assert!(Cpu::parse("").is_none());
    }

    #[test]
    fn what_another_kind_of_processor_needs_is_not_compiled_here() {
        let cpu = || Cpu::parse("flags: fpu");
        let (amd64, arm64) = (Platform::LinuxAmd64, Platform::LinuxArm64);
        assert!(processor(true, amd64, amd64, cpu()).is_ok());
        let reason = |wanted, host, cpu| processor(wanted, amd64, host, cpu).err().expect("nothing is compiled");
        assert_eq!(reason(true, arm64, cpu()), "this machine is linux/arm64, the image is for linux/amd64");
        assert!(reason(true, amd64, None).contains("does not say"));
        assert!(reason(false, amd64, cpu()).contains("not asked for"));
    }

    #[test]
    fn the_servers_time_is_found() {
        assert_eq!(median_of(r#"{"imgserve":"phase","phase":"warm_up","took_ms":9.5,"median_ms":1.25}"#), Some(1.25));
        assert_eq!(median_of(r#"{"imgserve":"phase","phase":"warm_up","took_ms":9.5}"#), None);
        assert_eq!(median_of("not JSON"), None);
    }
}

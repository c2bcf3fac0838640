//! Runs the image once while it is built, so that what XLA compiles is compiled before the image ships.
//!
//! The image runs in the embedded runner as it will run elsewhere, with a folder in memory for what is compiled. What lies there
//! once the server is ready proves that XLA took the graph, and becomes a layer of its own.

mod measure;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use self::measure::Sample;
use super::BuildError;
use super::layout::XLA_CACHE as COMPILED;
use crate::digest::Digest;
use crate::image::{Image, ImageConfig};
use crate::layer::{self, Limits};
use crate::lock::{LockMode, XlaPin};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::recipe::{Recipe, XlaChoice};
use crate::report::{XlaChooser, XlaMode, XlaReport, XlaTimes};
use crate::runner::embedded::Embedded;
use crate::runner::{ContainerSpec, Runner, RunnerError, RunningContainer, wait_until_ready};
use crate::store::{Blob, Store};
use crate::template::Gpu;

/// How long a server may take to compile everything and become ready.
const PATIENCE: Duration = Duration::from_secs(900);
/// How long a line of the server may lag behind what it tells.
const LAG: Duration = Duration::from_secs(5);
/// Where a container has the folder of what was compiled.
const WRITTEN: &str = "/tmp";

/// What XLA does for an image, and what it has compiled.
#[derive(Debug, Clone)]
pub(super) struct Xla {
    /// What the report says of it.
    pub report: XlaReport,
    /// Compiled clusters by file name.
    pub cache: BTreeMap<String, Blob>,
    /// The processor's features that they may use.
    pub cpu_flags: String,
    /// Both ways are to be measured.
    measure: bool,
}

impl Xla {
    /// Decides what XLA does, from what was asked for, what the model asks for itself, and what was measured before. Where nothing may be
    /// measured and nothing was, XLA is off: every build says the same then, and images start faster.
    ///
    /// # Errors
    /// Where compilation was required of a model that does not ask for it.
    pub fn choose(
        recipe: &Recipe,
        must_compile: bool,
        pin: Option<XlaPin>,
        lock: LockMode,
        progress: &Progress,
    ) -> Result<Self, BuildError> {
        let mut chosen_by = None;
        let mut measure = false;
        let mode = match recipe.xla {
            XlaChoice::Must if !must_compile => return Err(BuildError::NothingToCompile { model: recipe.model.clone() }),
            // What the model asks to be compiled is compiled whatever else is said.
            _ if must_compile => XlaMode::Model,
            XlaChoice::Auto | XlaChoice::Must => XlaMode::Auto,
            XlaChoice::Off => XlaMode::Off,
            XlaChoice::Measure => match pin {
                Some(pin) => {
                    chosen_by = Some(XlaChooser::Lock);
                    if pin.compile { XlaMode::Auto } else { XlaMode::Off }
                }
                None if lock == LockMode::Locked => {
                    progress.warn("XLA is off: the lock does not say whether it pays for this model, and `--locked` forbids measuring; build once without it");
                    chosen_by = Some(XlaChooser::NotMeasured);
                    XlaMode::Off
                }
                None => {
                    chosen_by = Some(XlaChooser::NotMeasured);
                    measure = true;
                    XlaMode::Auto
                }
            },
        };
        let report = XlaReport { mode, clusters: None, cpu: None, left_out: None, milliseconds: None, chosen_by };
        Ok(Self { report, cache: BTreeMap::new(), cpu_flags: String::new(), measure })
    }

    /// Whether XLA compiles, where that was measured: what the lock is to keep.
    pub fn measured(&self) -> Option<bool> {
        (self.report.chosen_by == Some(XlaChooser::Measured)).then_some(self.report.mode == XlaMode::Auto)
    }
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
    if xla.report.mode == XlaMode::Off {
        return Ok(xla);
    }
    if gpu.is_some() {
        return Ok(left_out(xla, "it compiles for the GPU that the image finds when it starts".to_owned(), progress));
    }
    let cpu = match processor(recipe.warm, recipe.platform, Platform::host(), Cpu::of_host()) {
        Ok(cpu) => cpu,
        Err(reason) => return Ok(left_out(xla, reason, progress)),
    };
    let key = Digest::of(format!("{}\n{}", image.descriptor().digest, cpu.flags).as_bytes());
    xla.cpu_flags = cpu.flags;
    let place = Place { image, store, progress, root: OnceCell::new() };
    let outcome = compiled(&mut xla, cpu.model, &key, &place)
        .and_then(|()| if xla.measure { choose_faster(&mut xla, &key, &place) } else { Ok(()) });
    match outcome {
        Ok(()) => Ok(xla),
        Err(error @ BuildError::NotTimed) => {
            progress.warn(format!("whether XLA pays was not measured: {error}"));
            Ok(xla)
        }
        Err(BuildError::Warm { source, .. }) if !matches!(*source, RunnerError::Exited { .. }) => {
            xla.cache.clear();
            xla.report.clusters = None;
            Ok(left_out(xla, format!("the image cannot be run here: {source}"), progress))
        }
        Err(error) => Err(error),
    }
}

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

/// What one build learned, for later ones of the same image on the same processor.
#[derive(Serialize, Deserialize)]
struct Record {
    cpu: String,
    cache: BTreeMap<String, Digest>,
}

/// A record with its clusters.
type Known = (Record, BTreeMap<String, Blob>);

const KIND: &str = "xla-clusters";
const TIMES: &str = "xla-times";

/// Takes what XLA compiles of the model: an earlier build's result, or that of a run.
fn compiled(xla: &mut Xla, cpu: String, key: &Digest, place: &Place<'_>) -> Result<(), BuildError> {
    let store = place.store;
    let (record, cache) = match recall(key, store)? {
        Some(known) => known,
        None => {
            place.progress.note("running the image once, so that XLA compiles it ahead".to_owned());
            let option = if xla.report.mode == XlaMode::Auto { "auto" } else { "off" };
            let variables = [("IMGSERVE_XLA_CACHE", WRITTEN), ("IMGSERVE_XLA_CACHE_MODE", "write"), ("IMGSERVE_XLA", option)];
            let cache = place.run(&variables, |container| written(container, store))?;
            let record = Record { cpu, cache: cache.iter().map(|(name, blob)| (name.clone(), blob.digest)).collect() };
            store.put_record(KIND, key, &serde_json::to_vec(&record).expect("a record is plain data"))?;
            (record, cache)
        }
    };
    if cache.is_empty() {
        place.progress.warn("XLA compiled nothing of this model");
    }
    xla.report.clusters = Some(cache.len() as u64);
    xla.report.cpu = Some(record.cpu);
    xla.cache = cache;
    Ok(())
}

fn recall(key: &Digest, store: &Store) -> Result<Option<Known>, BuildError> {
    let Some(record) = store.record(KIND, key).and_then(|record| serde_json::from_slice::<Record>(&record).ok()) else {
        return Ok(None);
    };
    let mut cache = BTreeMap::new();
    for (name, digest) in &record.cache {
        let Some(blob) = store.find(digest)? else { return Ok(None) };
        cache.insert(name.clone(), blob);
    }
    Ok(Some((record, cache)))
}

/// The clusters that a ready server has written.
fn written(container: &dyn RunningContainer, store: &Store) -> Result<BTreeMap<String, Blob>, BuildError> {
    let mut files = BTreeMap::new();
    if let Some(pid) = container.pid() {
        let folder = PathBuf::from(format!("/proc/{pid}/root{WRITTEN}"));
        let read = |source| BuildError::Compiled { source };
        for entry in fs::read_dir(folder).map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("xla_compile_cache__") && entry.file_type().map_err(read)?.is_file() {
                files.insert(name, store.add(fs::File::open(entry.path()).map_err(read)?, None)?);
            }
        }
    }
    Ok(files)
}

/// Keeps XLA where it pays.
fn choose_faster(xla: &mut Xla, key: &Digest, place: &Place<'_>) -> Result<(), BuildError> {
    let pays = if xla.cache.is_empty() {
        false
    } else {
        let known = place.store.record(TIMES, key).and_then(|record| serde_json::from_slice::<XlaTimes>(&record).ok());
        let times = match known {
            Some(times) => times,
            None => {
                place.progress.note("starting the image with XLA and without in turn, to keep the faster way".to_owned());
                place.put_compiled(&xla.cache)?;
                let times = measure::measure(|compiled, repeats| {
                    let repeats = repeats.to_string();
                    let variables = [
                        ("IMGSERVE_XLA", if compiled { "auto" } else { "off" }),
                        ("IMGSERVE_XLA_CACHE", if compiled { COMPILED } else { "" }),
                        ("IMGSERVE_WARM_UP_REPEATS", &repeats),
                    ];
                    place.run(&variables, sample)
                })?;
                place.store.put_record(TIMES, key, &serde_json::to_vec(&times).expect("times are plain data"))?;
                times
            }
        };
        xla.report.milliseconds = Some(times);
        measure::pays(&times)
    };
    xla.report.chosen_by = Some(XlaChooser::Measured);
    if !pays {
        xla.report.mode = XlaMode::Off;
        xla.cache.clear();
    }
    Ok(())
}

/// What a ready server says of its start. The line may lag behind the answer.
fn sample(container: &dyn RunningContainer) -> Result<Sample, BuildError> {
    let lines = container.lines();
    std::iter::from_fn(|| lines.recv_timeout(LAG).ok()).find_map(|line| sample_of(&line.text)).ok_or(BuildError::NotTimed)
}

/// The times that the server's line about the warm-up tells.
fn sample_of(line: &str) -> Option<Sample> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let number = |name: &str| line.get(name)?.as_f64();
    if line.get("phase")? != "warm_up" {
        return None;
    }
    // Without the further runs.
    let start = number("at_ms")? - number("took_ms")? + number("first_ms")?;
    Some(Sample { median: number("median_ms")?, start })
}

/// Where the image is run: unpacked when it is first needed.
struct Place<'a> {
    image: &'a Image,
    store: &'a Store,
    progress: &'a Progress,
    root: OnceCell<TempDir>,
}

impl Place<'_> {
    fn root(&self) -> Result<&Path, BuildError> {
        if self.root.get().is_none() {
            let root = self.store.scratch_folder()?;
            let layers = &self.image.parsed.layers;
            layer::unpack(layers, self.image.blobs.as_ref(), root.path(), &Limits::default(), self.progress)
                .map_err(|source| BuildError::Unpack { source: Box::new(source) })?;
            let _ = self.root.set(root);
        }
        Ok(self.root.get().expect("it was just unpacked").path())
    }

    /// Lays what was compiled where the image will have it.
    fn put_compiled(&self, cache: &BTreeMap<String, Blob>) -> Result<(), BuildError> {
        let folder = self.root()?.join(COMPILED.trim_start_matches('/'));
        let failed = |source| BuildError::Compiled { source };
        fs::create_dir_all(&folder).map_err(failed)?;
        for (name, blob) in cache {
            let file = folder.join(name);
            fs::copy(&blob.path, &file).map_err(failed)?;
            // The server runs as another user.
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).map_err(failed)?;
        }
        Ok(())
    }

    /// Starts the image, has it looked at once it is ready, and stops it.
    fn run<T>(
        &self,
        variables: &[(&str, &str)],
        look: impl FnOnce(&dyn RunningContainer) -> Result<T, BuildError>,
    ) -> Result<T, BuildError> {
        let failed = |source: RunnerError| BuildError::Warm { source: Box::new(source) };
        let config: ImageConfig = serde_json::from_slice(&self.image.config).expect("it was written by this program");
        let mut spec = ContainerSpec::unpacked(self.root()?, config);
        spec.environment = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut container = Embedded::new().map_err(failed)?.start(&spec).map_err(failed)?;
        wait_until_ready(container.as_mut(), "/v2/health/ready", PATIENCE).map_err(failed)?;
        let seen = look(container.as_ref())?;
        container.stop(Duration::from_secs(30)).map_err(failed)?;
        Ok(seen)
    }
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
    fn the_servers_times_are_found() {
        let line = r#"{"imgserve":"phase","phase":"warm_up","at_ms":900.0,"took_ms":500.0,"first_ms":300.0,"median_ms":1.25}"#;
        assert_eq!(sample_of(line), Some(Sample { median: 1.25, start: 700.0 }));
        assert_eq!(sample_of(r#"{"imgserve":"phase","phase":"warm_up","at_ms":9.5,"took_ms":9.5}"#), None);
        assert_eq!(sample_of("not JSON"), None);
    }
}

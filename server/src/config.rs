//! Options: from the file inside the image, then from the environment, which wins.
//!
//! [`Config::resolve`] is pure: it takes the file's text and the variables. [`Config::load`] reads both.

mod error;
mod given;
mod keys;
mod reader;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

pub use error::ConfigError;
pub use keys::{KEYS, Key, Kind};
pub use values::{CpuFallback, GraphOptimization, Limits, Provider, RuntimeKind, WarmUp, Xla, XlaCache};

use reader::Reader;

use crate::log::{Format, Level};

/// Where the file lies unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/imgserve/config.json";

/// Every option, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name the model is served by.
    pub model_name: String,
    /// Version the model is served by.
    pub model_version: String,
    /// The model file.
    pub model_path: PathBuf,
    /// The runtime that executes it.
    pub runtime: RuntimeKind,
    /// The runtime's library.
    pub library: PathBuf,
    /// Tags of the graph of a SavedModel.
    pub saved_model_tags: Vec<String>,
    /// Key of the signature that is served.
    pub signature: String,
    /// Whether TensorFlow compiles with XLA.
    pub xla: Xla,
    /// Where compiled clusters lie.
    pub xla_cache: Option<XlaCache>,
    /// Libraries with custom operators.
    pub custom_op_libraries: Vec<PathBuf>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Threads of one run.
    pub threads: usize,
    /// How hard the runtime works on the graph.
    pub graph_optimization: GraphOptimization,
    /// What the CPU must have, exactly; for a model that was optimised for it.
    pub cpu: Option<String>,
    /// Session configuration entries of the runtime.
    pub session_config: BTreeMap<String, String>,
    /// What runs the model.
    pub provider: Provider,
    /// Options of the provider.
    pub provider_options: BTreeMap<String, String>,
    /// Libraries that TensorFlow opens for a GPU by name.
    pub provider_libraries: Vec<String>,
    /// What becomes of parts that the provider leaves to the processor.
    pub cpu_fallback: CpuFallback,
    /// Operators that the provider alone may run, since the image was built without what it needs for others.
    pub gpu_operators: Vec<String>,
    /// Limits on requests.
    pub limits: Limits,
    /// What the model is run on before it is ready.
    pub warm_up: WarmUp,
    /// Runs after the first, of which the median is told.
    pub warm_up_repeats: usize,
    /// How much is logged.
    pub log_level: Level,
    /// How log lines look.
    pub log_format: Format,
    /// Another path of readiness.
    pub health_route: Option<String>,
    /// Another path of inference.
    pub predict_route: Option<String>,
}

/// A configuration, and what was noticed on the way to it.
#[derive(Debug)]
pub struct Resolved {
    /// The options.
    pub config: Config,
    /// Variables that were passed over, in words.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads the file and this process's environment.
    ///
    /// A file that was not named need not exist.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: Option<&Path>) -> Result<Resolved, ConfigError> {
        let named = path.map(Path::to_path_buf).or_else(|| std::env::var_os("IMGSERVE_CONFIG").map(PathBuf::from));
        let path = named.clone().unwrap_or_else(|| DEFAULT_PATH.into());
        let text = match std::fs::read(&path) {
            Ok(text) => Some(text),
            Err(source) if named.is_none() && source.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        };
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::resolve(&path, text.as_deref(), variables)
    }

    /// Puts together a file's text and variables.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn resolve(
        path: &Path,
        text: Option<&[u8]>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Resolved, ConfigError> {
        let (given, warnings) = given::gather(path, text, variables)?;
        Ok(Resolved { config: Reader::new(given).config()?, warnings })
    }

    /// Variables that the runtime reads for itself, to be set before its library is opened. What `present` says that the
    /// user has set stands, flags are added to it.
    pub fn runtime_variables(&self, present: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
        if self.runtime != RuntimeKind::TensorFlow {
            return Vec::new();
        }
        let mut variables = Vec::new();
        if present("TF_CPP_MIN_LOG_LEVEL").is_none() {
            // Its lines are not JSON, errors come through its interface as well, and what XLA compiled for this very processor is called
            // an error of a thousand characters for each cluster.
            // For a GPU its warnings are kept from standard error and read: why it passes one over is said there alone.
            let level = match (self.log_level, self.provider) {
                (Level::Debug, _) => "0",
                (_, Provider::Cuda) => "1",
                _ => "3",
            };
            variables.push(("TF_CPP_MIN_LOG_LEVEL", level.to_owned()));
        }
        if let Some(XlaCache { folder, writable }) = &self.xla_cache {
            let flags = present("TF_XLA_FLAGS").unwrap_or_default();
            let cache = format!("--tf_xla_persistent_cache_directory={}", folder.display());
            let mode = format!("--tf_xla_persistent_cache_read_only={}", !writable);
            variables.push(("TF_XLA_FLAGS", format!("{flags} {cache} {mode}").trim_start().to_owned()));
        }
        variables
    }

    /// The options as a file that gives the same configuration.
    pub fn to_json(&self) -> Value {
        json!({
            "model_name": self.model_name,
            "model_version": self.model_version,
            "model_path": self.model_path,
            "backend": self.runtime.name(),
            "library": self.library,
            "saved_model_tags": self.saved_model_tags,
            "signature": self.signature,
            "xla": self.xla.name(),
            "xla_cache": self.xla_cache.as_ref().map_or(Path::new(""), |cache| &cache.folder),
            "xla_cache_mode": if self.xla_cache.as_ref().is_some_and(|cache| cache.writable) { "write" } else { "read" },
            "custom_op_libraries": self.custom_op_libraries,
            "address": self.listen.ip().to_string(),
            "port": self.listen.port(),
            "threads": self.threads,
            "graph_optimization_level": self.graph_optimization.name(),
            "cpu": self.cpu.as_deref().unwrap_or(""),
            "session_config": self.session_config,
            "provider": self.provider.name(),
            "provider_options": self.provider_options,
            "provider_libraries": self.provider_libraries,
            "cpu_fallback": self.cpu_fallback.name(),
            "gpu_operators": self.gpu_operators,
            "max_body_bytes": self.limits.body_bytes,
            "max_buffered_bytes": self.limits.buffered_bytes,
            "max_header_bytes": self.limits.header_bytes,
            "max_connections": self.limits.connections,
            "max_concurrency": self.limits.concurrency,
            "max_queue": self.limits.queue,
            "request_timeout_ms": whole_milliseconds(self.limits.request_timeout),
            "idle_timeout_ms": whole_milliseconds(self.limits.idle_timeout),
            "drain_timeout_ms": whole_milliseconds(self.limits.drain_timeout),
            "warm_up": match &self.warm_up {
                WarmUp::Off => "off".into(),
                WarmUp::Zeros => "zeros".into(),
                WarmUp::Folder(path) => path.display().to_string(),
            },
            "warm_up_repeats": self.warm_up_repeats,
            "log_level": self.log_level.name(),
            "log_format": self.log_format.name(),
            "health_route": self.health_route.as_deref().unwrap_or(""),
            "predict_route": self.predict_route.as_deref().unwrap_or(""),
        })
    }
}

fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

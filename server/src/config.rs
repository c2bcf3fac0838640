//! Options: from the file inside the image, then from the environment, which wins.
//!
//! [`Config::resolve`] is pure: it takes the file's text and the variables. [`Config::load`] reads both.

mod keys;
mod provider;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

pub use keys::{KEYS, Key, Kind};
pub use provider::Provider;

use crate::backend::DEFAULT_SIGNATURE;
use crate::log::{Format, Level};

/// Where the file lies unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/imgserve/config.json";

/// How hard the runtime works on the graph before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphOptimization {
    /// Everything, including what suits this very CPU.
    All,
    /// Portable fusions too.
    Extended,
    /// Only what keeps the graph's operators.
    Basic,
    /// Nothing, for a model that was optimised before.
    Disable,
}

impl GraphOptimization {
    const ALL: [(&'static str, Self); 4] =
        [("all", Self::All), ("extended", Self::Extended), ("basic", Self::Basic), ("disable", Self::Disable)];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, level)| *level == self).map_or("all", |(name, _)| name)
    }
}

/// The runtime that executes the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeKind {
    /// ONNX Runtime.
    OnnxRuntime,
    /// TensorFlow.
    TensorFlow,
    /// None: the model was compiled into a library of its own.
    Compiled,
}

impl RuntimeKind {
    const ALL: [(&'static str, Self); 3] =
        [("onnxruntime", Self::OnnxRuntime), ("tensorflow", Self::TensorFlow), ("compiled", Self::Compiled)];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("onnxruntime", |(name, _)| name)
    }

    fn library(self) -> &'static str {
        match self {
            Self::OnnxRuntime => "libonnxruntime.so.1",
            Self::TensorFlow => "libtensorflow_cc.so.2",
            Self::Compiled => "libmodel.so",
        }
    }
}

/// Whether TensorFlow compiles clusters of operators with XLA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xla {
    /// Only what the model itself asks to be compiled.
    Off,
    /// Whatever TensorFlow finds worth it.
    Auto,
}

impl Xla {
    const ALL: [(&'static str, Self); 2] = [("off", Self::Off), ("auto", Self::Auto)];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, xla)| *xla == self).map_or("off", |(name, _)| name)
    }
}

/// What the model is run on once before it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WarmUp {
    /// It is not run.
    Off,
    /// Zeros of the declared shapes, 1 for each dynamic dimension.
    Zeros,
    /// The `input_N.pb` of this folder.
    Folder(PathBuf),
}

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

/// Clusters that XLA compiled before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XlaCache {
    /// The folder.
    pub folder: PathBuf,
    /// Whether new ones are written to it.
    pub writable: bool,
}

/// Limits on requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one body.
    pub body_bytes: usize,
    /// Bytes of all bodies held at a time.
    pub buffered_bytes: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Open connections.
    pub connections: usize,
    /// Runs at a time.
    pub concurrency: usize,
    /// Requests that wait for a run.
    pub queue: usize,
    /// From a request's head to its answer.
    pub request_timeout: Duration,
    /// For a head to arrive.
    pub idle_timeout: Duration,
    /// For requests in flight to end after SIGTERM.
    pub drain_timeout: Duration,
}

/// Why the options make no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read `{}`: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no JSON object.
    #[error("failed to read `{}`: {source}", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// An option that does not exist.
    #[error("unknown key `{key}` in `{}`", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The key that was perhaps meant.
        nearest: Option<&'static str>,
    },
    /// An option of the wrong kind, or out of its range.
    #[error("{origin} is {found}, expected {expected}")]
    Value {
        /// The key or variable.
        origin: String,
        /// The value.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// Neither a model's name nor its path is given.
    #[error("neither `model_name` nor `model_path` is set")]
    NoModel,
}

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownKey { nearest: None, .. } => Some("`imgserve --help` lists the keys".into()),
            Self::NoModel => Some("set IMGSERVE_MODEL_PATH to the model file".into()),
            _ => None,
        }
    }
}

/// A configuration, and what was noticed on the way to it.
#[derive(Debug)]
pub struct Resolved {
    /// The options.
    pub config: Config,
    /// Variables that were passed over, in words.
    pub warnings: Vec<String>,
}

/// A value and the key or variable it came from.
struct Given {
    value: Value,
    origin: String,
}

impl Given {
    fn wrong(&self, expected: impl Into<String>) -> ConfigError {
        let mut found = self.value.to_string();
        if found.chars().count() > 80 {
            found = found.chars().take(80).chain(['…']).collect();
        }
        ConfigError::Value { origin: self.origin.clone(), found, expected: expected.into() }
    }
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
        let mut given = BTreeMap::new();
        if let Some(text) = text {
            let file: Map<String, Value> =
                serde_json::from_slice(text).map_err(|source| ConfigError::NotJson { path: path.into(), source })?;
            for (name, value) in file {
                let Some(key) = keys::find(&name) else {
                    let nearest = keys::nearest(&name);
                    return Err(ConfigError::UnknownKey { path: path.into(), key: name, nearest });
                };
                given.insert(key.name, Given { value, origin: format!("key `{name}` in `{}`", path.display()) });
            }
        }
        let mut warnings = Vec::new();
        // A platform's variable is weaker than one of ours, so these come in rising order of strength.
        let mut variables: Vec<_> = variables.into_iter().collect();
        variables.sort_by_key(|(name, _)| (strength(name), name.clone()));
        for (name, value) in variables {
            if let Some((key, value)) = from_variable(&name, value, &mut warnings)? {
                given.insert(key.name, Given { value, origin: format!("variable `{name}`") });
            }
        }
        Ok(Resolved { config: Reader { given }.config()?, warnings })
    }

    /// Variables that the runtime reads for itself, to be set before its library is opened. What `present` says that the
    /// user has set stands, flags are added to it.
    pub fn runtime_variables(&self, present: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
        if self.runtime != RuntimeKind::TensorFlow {
            return Vec::new();
        }
        let mut variables = Vec::new();
        if present("TF_CPP_MIN_LOG_LEVEL").is_none() {
            // Its lines are not JSON; errors come through its interface as well.
            variables.push(("TF_CPP_MIN_LOG_LEVEL", if self.log_level == Level::Debug { "0" } else { "2" }.to_owned()));
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

/// How strong a variable is against another that sets the same option.
fn strength(name: &str) -> u8 {
    match name {
        "SAGEMAKER_BIND_TO_PORT" => 0,
        _ if name.starts_with("AIP_") => 1,
        _ => 2,
    }
}

/// The option that a variable sets, if it sets one.
fn from_variable(name: &str, value: String, warnings: &mut Vec<String>) -> Result<Option<(&'static Key, Value)>, ConfigError> {
    let key_name = match name {
        "SAGEMAKER_BIND_TO_PORT" | "AIP_HTTP_PORT" => "port".to_owned(),
        "AIP_HEALTH_ROUTE" => "health_route".to_owned(),
        "AIP_PREDICT_ROUTE" => "predict_route".to_owned(),
        "IMGSERVE_CONFIG" => return Ok(None),
        _ => match name.strip_prefix("IMGSERVE_") {
            Some(rest) => rest.to_ascii_lowercase(),
            None => return Ok(None),
        },
    };
    let Some(key) = keys::find(&key_name) else {
        // Kubernetes sets such variables for a Service named `imgserve`, so they cannot be errors.
        warnings.push(format!("variable `{name}` names no option and is passed over"));
        return Ok(None);
    };
    if key.name == "port" && value.contains("://") {
        warnings.push(format!("variable `{name}` is `{value}`, which an orchestrator set for a service, and is passed over"));
        return Ok(None);
    }
    if key.kind == Kind::Text {
        return Ok(Some((key, Value::String(value))));
    }
    match serde_json::from_str(&value) {
        Ok(parsed) => Ok(Some((key, parsed))),
        Err(_) => Err(ConfigError::Value {
            origin: format!("variable `{name}`"),
            found: format!("`{value}`"),
            expected: format!("{}, as JSON", key.kind.name()),
        }),
    }
}

struct Reader {
    given: BTreeMap<&'static str, Given>,
}

impl Reader {
    fn config(mut self) -> Result<Config, ConfigError> {
        let runtime = self.one_of("backend", &RuntimeKind::ALL)?.unwrap_or(RuntimeKind::OnnxRuntime);
        let (model_name, model_path) = self.model(runtime)?;
        let writable = self.one_of("xla_cache_mode", &[("read", false), ("write", true)])?.unwrap_or(false);
        let threads = match self.integer("threads", 0, 0..=4096)? {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let limits = self.limits(threads)?;
        let address = self.text("address")?.unwrap_or_else(|| "0.0.0.0".into());
        let address: IpAddr = address
            .trim_matches(['[', ']'])
            .parse()
            .map_err(|_| self.wrong("address", "an IP address such as `0.0.0.0` or `::`"))?;
        let port = u16::try_from(self.integer("port", 8080, 0..=65535)?).unwrap_or(8080);
        let graph_optimization =
            self.one_of("graph_optimization_level", &GraphOptimization::ALL)?.unwrap_or(GraphOptimization::All);
        let provider = self.one_of("provider", &Provider::ALL)?.unwrap_or(Provider::Cpu);
        if provider == Provider::Cuda && runtime != RuntimeKind::OnnxRuntime {
            return Err(self.wrong("provider", "`cpu`, since only `onnxruntime` has others"));
        }
        let log_level = self.choice("log_level", &["error", "warn", "info", "debug"])?;
        let log_format = self.choice("log_format", &["json", "text"])?;
        let warm_up = match self.text("warm_up")?.as_deref() {
            Some("off") => WarmUp::Off,
            Some("zeros") | None => WarmUp::Zeros,
            // A word would be taken for a folder of that name, and a misspelt `zeros` found out late.
            Some(folder) if folder.contains('/') => WarmUp::Folder(folder.into()),
            Some(_) => return Err(self.wrong("warm_up", "`off`, `zeros` or a path with a `/`")),
        };
        Ok(Config {
            model_name,
            model_version: self.segment("model_version", "1")?,
            model_path,
            library: self.text("library")?.unwrap_or_else(|| runtime.library().into()).into(),
            runtime,
            saved_model_tags: match self.list("saved_model_tags")? {
                tags if tags.is_empty() => vec!["serve".to_owned()],
                tags => tags,
            },
            signature: self.text("signature")?.unwrap_or_else(|| DEFAULT_SIGNATURE.to_owned()),
            xla: self.one_of("xla", &Xla::ALL)?.unwrap_or(Xla::Off),
            xla_cache: self.xla_cache(writable)?,
            custom_op_libraries: self.list("custom_op_libraries")?.into_iter().map(PathBuf::from).collect(),
            listen: SocketAddr::new(address, port),
            threads,
            graph_optimization,
            cpu: self.text("cpu")?,
            session_config: self.map("session_config")?,
            provider,
            provider_options: self.map("provider_options")?,
            limits,
            warm_up,
            warm_up_repeats: self.integer("warm_up_repeats", 0, 0..=1000)?,
            log_level: log_level.and_then(|name| name.parse().ok()).unwrap_or(Level::Info),
            log_format: log_format.and_then(|name| name.parse().ok()).unwrap_or(Format::Json),
            health_route: self.route("health_route")?,
            predict_route: self.route("predict_route")?,
        })
    }

    fn xla_cache(&mut self, writable: bool) -> Result<Option<XlaCache>, ConfigError> {
        match self.text("xla_cache")? {
            // The runtime reads it as one of several flags, between which are spaces.
            Some(folder) if folder.contains(char::is_whitespace) => Err(self.wrong("xla_cache", "a path without spaces")),
            folder => Ok(folder.map(|folder| XlaCache { folder: folder.into(), writable })),
        }
    }

    fn model(&mut self, runtime: RuntimeKind) -> Result<(String, PathBuf), ConfigError> {
        let path = self.text("model_path")?.map(PathBuf::from);
        let name = match (&path, self.given.contains_key("model_name")) {
            (_, true) => self.segment("model_name", "")?,
            (Some(path), false) => name_of(path).ok_or_else(|| self.wrong("model_path", "a path that ends in a name"))?,
            (None, false) => return Err(ConfigError::NoModel),
        };
        let path = path.unwrap_or_else(|| {
            let folder = Path::new("/models").join(&name);
            match runtime {
                RuntimeKind::OnnxRuntime => folder.join("model.onnx"),
                RuntimeKind::TensorFlow | RuntimeKind::Compiled => folder,
            }
        });
        Ok((name, path))
    }

    fn limits(&mut self, threads: usize) -> Result<Limits, ConfigError> {
        let milliseconds = |value: usize| Duration::from_millis(value as u64);
        let largest = usize::MAX / 16;
        let body_bytes = self.integer("max_body_bytes", 100 << 20, 1..=largest)?;
        Ok(Limits {
            body_bytes,
            buffered_bytes: self.integer("max_buffered_bytes", body_bytes.saturating_mul(4), body_bytes..=usize::MAX)?,
            // Less than this and the HTTP library refuses to start.
            header_bytes: self.integer("max_header_bytes", 64 << 10, 8192..=(16 << 20))?,
            connections: self.integer("max_connections", 1024, 1..=1 << 20)?,
            concurrency: match self.integer("max_concurrency", 0, 0..=4096)? {
                0 => threads,
                concurrency => concurrency,
            },
            queue: self.integer("max_queue", 256, 0..=1 << 20)?,
            request_timeout: milliseconds(self.integer("request_timeout_ms", 60_000, 1..=86_400_000)?),
            idle_timeout: milliseconds(self.integer("idle_timeout_ms", 75_000, 1..=86_400_000)?),
            drain_timeout: milliseconds(self.integer("drain_timeout_ms", 25_000, 0..=86_400_000)?),
        })
    }

    fn wrong(&self, key: &str, expected: &str) -> ConfigError {
        match self.given.get(key) {
            Some(given) => given.wrong(expected),
            None => ConfigError::Value { origin: format!("key `{key}`"), found: "missing".into(), expected: expected.into() },
        }
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        match self.given.get(key) {
            None => Ok(None),
            Some(Given { value: Value::String(text), .. }) if !text.is_empty() => Ok(Some(text.clone())),
            // A route or a variable may be emptied to say that it is not wanted.
            Some(Given { value: Value::String(_), .. }) => Ok(None),
            Some(given) => Err(given.wrong(Kind::Text.name())),
        }
    }

    /// A text that is one part of a URL's path.
    fn segment(&mut self, key: &str, default: &str) -> Result<String, ConfigError> {
        let text = self.text(key)?.unwrap_or_else(|| default.to_owned());
        if text.is_empty() || text.contains('/') || text.chars().any(char::is_control) {
            return Err(self.wrong(key, "a name without `/`"));
        }
        Ok(text)
    }

    fn route(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        let route = self.text(key)?;
        match route {
            Some(route) if !route.starts_with('/') => Err(self.wrong(key, "a path that starts with `/`")),
            route => Ok(route),
        }
    }

    fn choice(&mut self, key: &str, choices: &[&str]) -> Result<Option<String>, ConfigError> {
        match self.text(key)? {
            Some(text) if !choices.contains(&text.as_str()) => {
                let expected = choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ");
                Err(self.wrong(key, &expected))
            }
            text => Ok(text),
        }
    }

    /// The value that one of the names stands for.
    fn one_of<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>, ConfigError> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let chosen = self.choice(key, &names)?;
        Ok(choices.iter().find(|(name, _)| Some(*name) == chosen.as_deref()).map(|(_, value)| *value))
    }

    fn integer(&mut self, key: &str, default: usize, range: std::ops::RangeInclusive<usize>) -> Result<usize, ConfigError> {
        let Some(given) = self.given.get(key) else { return Ok(default) };
        given
            .value
            .as_u64()
            .and_then(|value| usize::try_from(value).ok())
            .filter(|value| range.contains(value))
            .ok_or_else(|| given.wrong(format!("a whole number from {} to {}", range.start(), range.end())))
    }

    fn list(&mut self, key: &str) -> Result<Vec<String>, ConfigError> {
        let Some(given) = self.given.get(key) else { return Ok(Vec::new()) };
        given
            .value
            .as_array()
            .and_then(|list| list.iter().map(|item| item.as_str().map(ToOwned::to_owned)).collect())
            .ok_or_else(|| given.wrong(Kind::List.name()))
    }

    fn map(&mut self, key: &str) -> Result<BTreeMap<String, String>, ConfigError> {
        let Some(given) = self.given.get(key) else { return Ok(BTreeMap::new()) };
        given
            .value
            .as_object()
            .and_then(|map| map.iter().map(|(name, item)| Some((name.clone(), item.as_str()?.to_owned()))).collect())
            .ok_or_else(|| given.wrong(Kind::Map.name()))
    }
}

/// The name a model gets from its path: the stem, or the folder's name where the stem says nothing.
fn name_of(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_str()?;
    let folder = path.parent().and_then(Path::file_name).and_then(std::ffi::OsStr::to_str);
    Some(if stem == "model" { folder.unwrap_or(stem) } else { stem }.to_owned())
}

#[cfg(test)]
mod tests;

//! Values by key to a [`Config`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::Config;
use super::error::ConfigError;
use super::given::Given;
use super::keys::Kind;
use super::values::{CpuFallback, GraphOptimization, Limits, Provider, RuntimeKind, WarmUp, Xla, XlaCache};
use crate::backend::DEFAULT_SIGNATURE;
use crate::log::{Format, Level};

/// Takes values out by key, each checked against what the option may be.
pub(super) struct Reader {
    given: BTreeMap<&'static str, Given>,
}

impl Reader {
    pub fn new(given: BTreeMap<&'static str, Given>) -> Self {
        Self { given }
    }

    /// Every option, given or by default.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn config(mut self) -> Result<Config, ConfigError> {
        let runtime = self.one_of("backend", RuntimeKind::ALL)?.unwrap_or(RuntimeKind::OnnxRuntime);
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
            self.one_of("graph_optimization_level", GraphOptimization::ALL)?.unwrap_or(GraphOptimization::All);
        let provider = self.one_of("provider", Provider::ALL)?.unwrap_or(Provider::Cpu);
        match (runtime, provider) {
            (_, Provider::Cpu) | (RuntimeKind::OnnxRuntime, _) | (RuntimeKind::TensorFlow, Provider::Cuda) => {}
            (RuntimeKind::TensorFlow, _) => {
                return Err(self.wrong("provider", "`cpu` or `cuda`, since only `onnxruntime` has others"));
            }
            (RuntimeKind::Compiled, _) => {
                return Err(self.wrong("provider", "`cpu`, since only `onnxruntime` and `tensorflow` have others"));
            }
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
            xla: self.one_of("xla", Xla::ALL)?.unwrap_or(Xla::Off),
            xla_cache: self.xla_cache(writable)?,
            custom_op_libraries: self.list("custom_op_libraries")?.into_iter().map(PathBuf::from).collect(),
            listen: SocketAddr::new(address, port),
            threads,
            graph_optimization,
            cpu: self.text("cpu")?,
            session_config: self.map("session_config")?,
            provider,
            provider_options: self.map("provider_options")?,
            provider_libraries: self.list("provider_libraries")?,
            cpu_fallback: self.one_of("cpu_fallback", CpuFallback::ALL)?.unwrap_or(CpuFallback::Report),
            gpu_operators: self.list("gpu_operators")?,
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
pub(super) fn name_of(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_str()?;
    let folder = path.parent().and_then(Path::file_name).and_then(std::ffi::OsStr::to_str);
    Some(if stem == "model" { folder.unwrap_or(stem) } else { stem }.to_owned())
}

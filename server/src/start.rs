//! From the command line to a ready server, and back to an exit status.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::backend::onnx::{self, OnnxBackend};
use crate::backend::tensorflow::{self, TensorFlowBackend};
use crate::backend::{Backend, LoadError};
use crate::cli::{Action, Arguments, UsageError, help};
use crate::compare::compare;
use crate::config::{Config, ConfigError, Resolved, RuntimeKind};
use crate::cpu;
use crate::http::{self, App, Drained};
use crate::log::{self, Level, Line, marked};
use crate::phases::{Phase, Phases};
use crate::warm_up::{Outcome, WarmUpError, warm_up};

/// A stack for the thread that loads the model, whose graph may be nested deeply.
const LOADER_STACK: usize = 16 << 20;

/// Why the server did not start, or ended badly.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("failed to listen on {address}: {source}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Load(Box<LoadError>),
    #[error(transparent)]
    WarmUp(#[from] WarmUpError),
    #[error("the model was optimised for another CPU: this one has `{found}`, expected `{expected}`")]
    Cpu { found: String, expected: String },
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl From<LoadError> for StartError {
    fn from(error: LoadError) -> Self {
        Self::Load(Box::new(error))
    }
}

impl StartError {
    fn exit_status(&self) -> u8 {
        match self {
            Self::Internal(_) => 1,
            Self::Usage(_) | Self::Config(_) => 2,
            Self::Load(error) => match **error {
                LoadError::LibraryNotOpened { .. } | LoadError::LibraryVersion { .. } => 3,
                LoadError::Option { .. } => 2,
                _ => 4,
            },
            Self::Cpu { .. } => 4,
            Self::Listen { .. } => 5,
            Self::WarmUp(_) => 6,
        }
    }

    fn stage(&self) -> &'static str {
        match self {
            Self::Internal(_) => "internal",
            Self::Usage(_) => "arguments",
            Self::Config(_) => "config",
            Self::Load(error) => match **error {
                LoadError::LibraryNotOpened { .. } | LoadError::LibraryVersion { .. } => "dlopen",
                _ => "session",
            },
            Self::Cpu { .. } => "session",
            Self::Listen { .. } => "listen",
            Self::WarmUp(_) => "warm_up",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage(_) => Some("`imgserve --help` lists the arguments".into()),
            Self::Config(error) => error.hint(),
            Self::Load(error) => error.hint(),
            Self::Cpu { .. } => Some("build the image for it, or without `--optimize hardware`".into()),
            _ => None,
        }
    }

    /// Writes the line that says what was missing.
    fn report(&self) {
        let mut line = marked("error").field("stage", self.stage()).field("exit", &self.exit_status());
        if let Self::Load(error) = self {
            line = load_fields(line, error);
        }
        if let Self::Cpu { found, expected } = self {
            line = line.field("found", found).field("expected", expected);
        }
        line.field("message", &self.to_string()).optional("hint", self.hint()).emit();
    }
}

fn load_fields(line: Line, error: &LoadError) -> Line {
    let path = |path: &Path| path.display().to_string();
    match error {
        LoadError::LibraryNotOpened { library, missing, .. } => line
            .field("library", &path(library))
            .optional("missing_library", missing.library.as_ref())
            .optional("missing_symbol", missing.symbol.as_ref())
            .optional("missing_version", missing.symbol_version.as_ref()),
        LoadError::LibraryVersion { library, found, expected } => {
            line.field("library", &path(library)).field("found", found).field("expected", expected)
        }
        LoadError::Option { what, .. } => line.field("option", what),
        LoadError::ModelUnreadable { path: model, .. } => line.field("missing_file", &path(model)),
        LoadError::ModelRefused { path: model, operator, file, locale, .. } => line
            .field("model", &path(model))
            .optional("operator", operator.as_ref())
            .optional("missing_file", file.as_ref())
            .optional("missing_locale", locale.as_ref()),
        LoadError::InputUnserved { path: model, input, .. } => line.field("model", &path(model)).field("input", input),
        LoadError::OutputsUnserved { path: model, .. } | LoadError::Signature { path: model, .. } => {
            line.field("model", &path(model))
        }
    }
}

/// Does what the command line says.
///
/// To be called first, while the process has one thread.
pub fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let phases = Phases::start();
    log::install_panic_hook();
    // SAFETY: the process has one thread yet, by this function's contract.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
    match act(arguments, phases) {
        Ok(code) => code,
        Err(error) => {
            error.report();
            ExitCode::from(error.exit_status())
        }
    }
}

fn act(arguments: impl IntoIterator<Item = std::ffi::OsString>, phases: Phases) -> Result<ExitCode, StartError> {
    let arguments = Arguments::parse(arguments)?;
    match arguments.action {
        Action::Help => print(&help()),
        Action::Version => print(&format!("imgserve {}\n", env!("CARGO_PKG_VERSION"))),
        Action::PrintConfig => {
            let config = Config::load(arguments.config.as_deref())?.config.to_json();
            print(&format!("{config:#}\n"));
        }
        Action::Check => {
            phases.end(Phase::Exec);
            let config = configure(arguments.config.as_deref())?;
            phases.end(Phase::Config);
            // Kept to the end: freeing it is no part of starting.
            let _backend = load(&config, &phases)?;
            phases.end(Phase::Ready);
            exit_now(0);
        }
        Action::Optimize(output) => {
            let config = configure(arguments.config.as_deref())?;
            let runtime = onnx::Runtime::open(&config.library)?;
            OnnxBackend::optimize(&runtime, &config, &output)?;
            print(&format!("{}\n", serde_json::json!({ "runtime": runtime.version(), "cpu": cpu::features() })));
            exit_now(0);
        }
        Action::Compare(other) => {
            let (first, second) = (configure(arguments.config.as_deref())?, configure(Some(&other))?);
            let runtime = onnx::Runtime::open(&first.library)?;
            let first = OnnxBackend::open(&runtime, &first)?;
            let second = OnnxBackend::open(&runtime, &second)?;
            let comparison = serde_json::to_string(&compare(&first, &second, &arguments.data)?);
            print(&format!("{}\n", comparison.map_err(|_| StartError::Internal("a comparison has no form in JSON"))?));
            exit_now(0);
        }
        Action::Serve => {
            phases.end(Phase::Exec);
            let config = configure(arguments.config.as_deref())?;
            serve(config, phases)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn configure(path: Option<&Path>) -> Result<Config, StartError> {
    let Resolved { mut config, warnings } = Config::load(path)?;
    log::configure(config.log_level, config.log_format);
    if let Some(reason) = config.xla_cache.as_ref().and_then(|cache| tensorflow::unfit(&cache.folder)) {
        log::line(Level::Warn, format_args!("what XLA compiled before is not used: {reason}")).emit();
        config.xla_cache = None;
    }
    for (name, value) in config.runtime_variables(|name| std::env::var(name).ok()) {
        // SAFETY: the process has one thread yet, by the contract of `run`.
        unsafe { std::env::set_var(name, value) };
    }
    for warning in warnings {
        log::line(Level::Warn, warning).emit();
    }
    Ok(config)
}

/// Opens the runtime and the model, and runs it once.
fn load(config: &Config, phases: &Phases) -> Result<Arc<dyn Backend>, StartError> {
    if let Some(expected) = &config.cpu {
        let found = cpu::features();
        if found != *expected {
            return Err(StartError::Cpu { found, expected: expected.clone() });
        }
    }
    let opened = |version: &str, path: &Path| {
        phases.end_with(Phase::Dlopen, |line| line.field("runtime", version).field("library", &path.display().to_string()));
    };
    let backend: Arc<dyn Backend> = match config.runtime {
        RuntimeKind::OnnxRuntime => {
            let runtime = onnx::Runtime::open(&config.library)?;
            opened(runtime.version(), runtime.path());
            Arc::new(OnnxBackend::open(&runtime, config)?)
        }
        RuntimeKind::TensorFlow => {
            let runtime = tensorflow::Runtime::open(&config.library)?;
            opened(runtime.version(), runtime.path());
            Arc::new(TensorFlowBackend::open(&runtime, config)?)
        }
    };
    phases.end_with(Phase::Session, |line| line.field("threads", &config.threads));
    let outcome = warm_up(&*backend, &config.warm_up, config.warm_up_repeats, config.limits.body_bytes)?;
    let (word, reason, median) = match &outcome {
        Outcome::Ran(median) => ("ran", None, *median),
        Outcome::Skipped(reason) => ("skipped", Some(reason), None),
        Outcome::Failed(reason) => ("failed", Some(reason), None),
    };
    let median = median.map(crate::phases::milliseconds);
    phases.end_with(Phase::WarmUp, |line| line.field("outcome", word).optional("reason", reason).optional("median_ms", median));
    Ok(backend)
}

fn serve(config: Config, phases: Phases) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(config.limits.concurrency)
        .thread_name("imgserve-run")
        .build()
        .map_err(|_| StartError::Internal("the event loop could not be made"))?;
    runtime.block_on(async {
        // As the first process of a container it has no default action for these, so they are caught before all else.
        let stop = stop_signal()?;
        let address = config.listen;
        let listener = TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })?;
        let bound = listener.local_addr().unwrap_or(address);
        phases.end_with(Phase::Config, |line| line.field("address", &bound.to_string()));

        let app = Arc::new(App::new(&config));
        let server = tokio::spawn(http::serve(Arc::clone(&app), listener, stop));
        tokio::pin!(server);
        let loading = spawn_loader(config, phases)?;
        tokio::select! {
            // Stopped while loading: there is nothing in flight.
            _ = &mut server => exit_now(0),
            loaded = loading => match loaded {
                Err(_) => {
                    StartError::Internal("the thread that loads the model ended").report();
                    exit_now(1);
                }
                Ok(Err(error)) => {
                    error.report();
                    exit_now(error.exit_status());
                }
                Ok(Ok((backend, phases))) => {
                    app.set_backend(backend);
                    phases.end_with(Phase::Ready, |line| line.field("address", &bound.to_string()));
                    // Set once, here.
                    let _ = app.metrics().phases.set(phases.ended());
                }
            },
        }
        match server.await {
            Ok(Drained::Completely) => {
                log::line(Level::Info, "stopped").emit();
                exit_now(0);
            }
            Ok(Drained::TooLate) => {
                log::line(Level::Error, "stopped with requests in flight, after `drain_timeout_ms`").emit();
                exit_now(7);
            }
            Err(_) => {
                StartError::Internal("the accepting task ended").report();
                exit_now(1);
            }
        }
    })
}

type Loaded = Result<(Arc<dyn Backend>, Phases), StartError>;

fn spawn_loader(config: Config, phases: Phases) -> Result<oneshot::Receiver<Loaded>, StartError> {
    let (send, receive) = oneshot::channel();
    std::thread::Builder::new()
        .name("imgserve-load".into())
        .stack_size(LOADER_STACK)
        .spawn(move || {
            let loaded = load(&config, &phases).map(|backend| (backend, phases));
            // Nobody waits for it once the server was told to stop.
            let _ = send.send(loaded);
        })
        .map_err(|_| StartError::Internal("the thread that loads the model could not be made"))?;
    Ok(receive)
}

/// Ends when the process is told to stop; a second signal ends the process.
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static, StartError> {
    let failed = |_| StartError::Internal("signals cannot be caught");
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        log::line(Level::Info, format_args!("stopping after {name}")).emit();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {},
                _ = interrupt.recv() => {},
            }
            log::line(Level::Error, "stopped by a second signal").emit();
            exit_now(7);
        });
    })
}

/// Ends the process without running the runtime's destructors, under which its threads may still run.
fn exit_now(status: u8) -> ! {
    // SAFETY: it has no preconditions.
    unsafe { libc::_exit(i32::from(status)) }
}

fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // A closed pipe is the reader's business.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

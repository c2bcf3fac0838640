//! From the command line to a ready server, and back to an exit status.

use std::io::Write;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::backend::compiled::{self, CompiledBackend};
use crate::backend::onnx::{self, OnnxBackend};
use crate::backend::tensorflow::{self, TensorFlowBackend};
use crate::backend::{Backend, LoadError, RunError};
use crate::cli::{Action, Arguments, UsageError, help};
use crate::compare::compare;
use crate::config::{Config, ConfigError, Provider, Resolved, RuntimeKind};
use crate::cpu;
use crate::heap;
use crate::http::{self, App, Drained};
use crate::log::{self, Level, Line, marked};
use crate::phases::{Phase, Phases};
use crate::warm_up::{Outcome, WarmUpError, warm_up};

/// Bytes of stack for loading the model, whose graph may be nested deeply.
const LOADER_STACK: u64 = 16 << 20;

/// Why the server did not start, or ended badly.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("failed to listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
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
                LoadError::LibraryNotOpened { .. } | LoadError::LibraryVersion { .. } | LoadError::Provider { .. } => 3,
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
                LoadError::LibraryNotOpened { .. } | LoadError::LibraryVersion { .. } | LoadError::Processor { .. } => "dlopen",
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
            Self::WarmUp(WarmUpError::Run { source: RunError::Provider { fault, .. }, .. }) => fault.hint(),
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
        if let Self::WarmUp(WarmUpError::Run { source: RunError::Provider { provider, fault, found, .. }, .. }) = self {
            line = line.field("provider", provider).field("fault", fault.name()).optional("found", found.as_ref());
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
            .optional("missing_version", missing.symbol_version.as_ref())
            .optional("other_versions", Some(&missing.others).filter(|others| !others.is_empty())),
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
        LoadError::Provider { provider, fault, found, .. } => {
            line.field("provider", provider).field("fault", fault.name()).optional("found", found.as_ref())
        }
        LoadError::Processor { path: model, cpu, missing } => {
            line.field("model", &path(model)).field("expected", cpu).field("missing_features", &missing.join(" "))
        }
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
    heap::prepare();
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
        Action::Engine(output) => {
            let config = configure(arguments.config.as_deref())?;
            let runtime = onnx::Runtime::open(&config.library)?;
            let backend = OnnxBackend::compile(&runtime, &config, &output)?;
            let nodes = backend.placement().map(|placement| &placement.nodes);
            let made = serde_json::json!({
                "runtime": runtime.version(),
                "provider": config.provider.name(),
                "found": onnx::gpu(),
                "nodes": nodes,
            });
            print(&format!("{made}\n"));
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
            serve(&config, &phases)?;
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
        RuntimeKind::Compiled => {
            let runtime = compiled::Runtime::open(config)?;
            opened(runtime.version(), runtime.path());
            Arc::new(CompiledBackend::open(runtime, config)?)
        }
    };
    let placed = backend.placement().is_some();
    phases.end_with(Phase::Session, |line| {
        let line = line.field("threads", &config.threads).field("provider", config.provider.name());
        line.optional("nodes", backend.placement().map(|placement| &placement.nodes))
    });
    if placed {
        tell_placement(&*backend, config);
    }
    let outcome = warm_up(&*backend, &config.warm_up, config.warm_up_repeats, config.limits.body_bytes)?;
    let (word, reason, times) = match &outcome {
        Outcome::Ran(times) => ("ran", None, *times),
        Outcome::Skipped(reason) => ("skipped", Some(reason), None),
        Outcome::Failed(reason) => ("failed", Some(reason), None),
    };
    let first = times.map(|times| crate::phases::milliseconds(times.first));
    let median = times.map(|times| crate::phases::milliseconds(times.median));
    // TensorFlow says only now where nodes run.
    let learned = backend.placement().filter(|_| !placed).map(|placement| &placement.nodes);
    phases.end_with(Phase::WarmUp, |line| {
        let line = line.field("outcome", word).optional("reason", reason);
        line.optional("first_ms", first).optional("median_ms", median).optional("nodes", learned)
    });
    if !placed {
        tell_placement(&*backend, config);
    }
    Ok(backend)
}

/// Warns of nodes that run on the CPU although another provider was asked for.
fn tell_placement(backend: &dyn Backend, config: &Config) {
    let placement = backend.placement().filter(|placement| !placement.on_cpu.is_empty() && config.provider != Provider::Cpu);
    let Some(placement) = placement else { return };
    let total: usize = placement.nodes.values().sum();
    let message = format!("{} of {total} nodes of the model run on the CPU", placement.on_cpu.len());
    log::line(Level::Warn, message).field("nodes", &placement.on_cpu).emit();
}

/// Answers requests on a thread of its own while this one, the first, loads the model.
///
/// It has to be the first: its heap was made ready for that ([`heap::prepare`]). That of every other thread grows by
/// one `mprotect` for every few pages, 2,100 of them for a small model.
fn serve(config: &Config, phases: &Phases) -> Result<(), StartError> {
    let app = Arc::new(App::new(config));
    let (listening, bound) = mpsc::channel();
    let answering = {
        let (app, address, concurrency) = (Arc::clone(&app), config.listen, config.limits.concurrency);
        let answering = std::thread::Builder::new().name("imgserve-http".into());
        answering.spawn(move || answer(app, address, concurrency, &listening))
    };
    let answering = answering.map_err(|_| StartError::Internal("the thread that answers requests could not be made"))?;
    let bound = bound.recv().map_err(|_| StartError::Internal("the thread that answers requests ended"))??;
    phases.end_with(Phase::Config, |line| line.field("address", &bound.to_string()));

    grow_stack();
    // Nothing of what a panic leaves behind is used again.
    match catch_unwind(AssertUnwindSafe(|| load(config, phases))) {
        Ok(Ok(backend)) => app.set_backend(backend),
        Ok(Err(error)) => {
            error.report();
            exit_now(error.exit_status());
        }
        Err(_) => {
            StartError::Internal("loading the model panicked").report();
            exit_now(1);
        }
    }
    phases.end_with(Phase::Ready, |line| line.field("address", &bound.to_string()));
    // Set once, here.
    let _ = app.metrics().phases.set(phases.ended());
    // It ends the process itself, unless it panics.
    let _ = answering.join();
    StartError::Internal("the thread that answers requests ended").report();
    exit_now(1);
}

/// Listens, tells where, answers requests until the process is told to stop, and ends it.
fn answer(app: Arc<App>, address: SocketAddr, concurrency: usize, listening: &mpsc::Sender<Result<SocketAddr, StartError>>) {
    let made = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(concurrency)
        .thread_name("imgserve-run")
        .build();
    // Who waits for the address reports and ends the process; it is there as long as nothing was sent.
    let tell = |bound| listening.send(bound).unwrap_or_default();
    let Ok(runtime) = made else {
        tell(Err(StartError::Internal("the event loop could not be made")));
        return;
    };
    runtime.block_on(async {
        // As the first process of a container it has no default action for these, so they are caught before all else.
        let (stop, listener) = match (stop_signal(), TcpListener::bind(address).await) {
            (Ok(stop), Ok(listener)) => (stop, listener),
            (Err(error), _) => return tell(Err(error)),
            (_, Err(source)) => return tell(Err(StartError::Listen { address, source })),
        };
        tell(Ok(listener.local_addr().unwrap_or(address)));
        match http::serve(app, listener, stop).await {
            Drained::Completely => {
                log::line(Level::Info, "stopped").emit();
                exit_now(0);
            }
            Drained::TooLate => {
                log::line(Level::Error, "stopped with requests in flight, after `drain_timeout_ms`").emit();
                exit_now(7);
            }
        }
    });
}

/// Lets the first thread's stack grow to [`LOADER_STACK`], as far as the system allows.
fn grow_stack() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write the one structure, which lives until they return.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) == 0 && limit.rlim_cur < LOADER_STACK {
            limit.rlim_cur = LOADER_STACK.min(limit.rlim_max);
            libc::setrlimit(libc::RLIMIT_STACK, &raw const limit);
        }
    }
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

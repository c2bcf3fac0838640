//! ONNX Runtime, opened with `dlopen`.
//!
//! The crate `ort-sys` declares its functions; the calls are made here, because a session is to run on many threads at a
//! time and to carry every datatype without a copy.

mod api;
mod assignment;
mod call;
mod diagnose;
mod fault;
mod gpu;
mod options;
mod plugin;
mod provider;
mod value;

use std::cell::OnceCell;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use ort_sys as sys;

use self::api::{Code, Status, api, check};
use self::call::{Environment, RunOptions, Session};
use self::options::Output;
use self::value::{Input, Outlet};
use super::library::{Library, not_opened};
use super::{Backend, Cancel, LoadError, ModelInterface, Placement, ProviderFault, RunError, TensorSpec, UnservedOutput};
use crate::config::{Config, Provider};
use crate::log::{self, Level};
use crate::tensor::Tensor;

/// The library, opened and initialised.
pub struct Runtime {
    environment: Arc<Environment>,
    version: String,
    path: PathBuf,
    /// Set once the plug-in is registered, which the runtime allows once.
    plugin: OnceCell<()>,
}

impl Runtime {
    /// Opens the library and initialises it, telemetry off.
    ///
    /// # Errors
    /// [`LoadError::LibraryNotOpened`], [`LoadError::LibraryVersion`] or [`LoadError::Option`].
    pub fn open(library: &Path) -> Result<Self, LoadError> {
        let opened = Library::open(library).map_err(|message| not_opened(library.to_path_buf(), message))?;
        let version = api::take(&opened)?;
        // What lies beside it is found by its path, for which the runtime would take another folder than the working directory.
        let path = std::path::absolute(&opened.path).unwrap_or(opened.path);
        let environment = Environment::create()
            .map_err(|status| LoadError::Option { what: "to initialise".into(), message: status.message })?;
        let version = format!("onnxruntime {version}");
        Ok(Self { environment: Arc::new(environment), version, path, plugin: OnceCell::new() })
    }

    /// The name and version of the runtime.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where the loader found the library.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The GPU and the driver that are there, in words, as far as they are seen.
pub fn gpu() -> Option<String> {
    gpu::seen()
}

/// A session of ONNX Runtime.
pub struct OnnxBackend {
    interface: ModelInterface,
    input_names: Vec<CString>,
    /// In the order of `interface.outputs`.
    output_names: Vec<CString>,
    session: Arc<Session>,
    provider: Provider,
    placement: Option<Placement>,
}

impl OnnxBackend {
    /// Reads the model and makes its session.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open(runtime: &Runtime, config: &Config) -> Result<Self, LoadError> {
        Self::create(runtime, config, Output::None)
    }

    /// Reads the model and writes it, weights inside, as the runtime optimises it for the configuration.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn optimize(runtime: &Runtime, config: &Config, output: &Path) -> Result<(), LoadError> {
        Self::create(runtime, config, Output::Optimized(output)).map(|_| ())
    }

    /// Reads the model, has the provider compile what it takes of it, and writes the model with the engines in it.
    ///
    /// # Errors
    /// See [`LoadError`]; [`LoadError::Provider`] where the provider writes no engine.
    pub fn compile(runtime: &Runtime, config: &Config, output: &Path) -> Result<Self, LoadError> {
        let backend = Self::create(runtime, config, Output::Engine(output))?;
        if output.exists() {
            return Ok(backend);
        }
        Err(LoadError::Provider {
            provider: config.provider.name(),
            fault: ProviderFault::Nothing,
            message: "it compiles no engine".into(),
            found: None,
        })
    }

    fn create(runtime: &Runtime, config: &Config, output: Output<'_>) -> Result<Self, LoadError> {
        let path = &config.model_path;
        // The runtime's own words for these say less.
        let unreadable = |source| LoadError::ModelUnreadable { path: path.clone(), source };
        let metadata = std::fs::File::open(path).and_then(|file| file.metadata()).map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(unreadable(std::io::ErrorKind::IsADirectory.into()));
        }
        let options = options::make(runtime, config, output)?;
        let describe = |status: Status| {
            // A message is about the provider only where there is one.
            let fault = if config.provider == Provider::Cpu { None } else { fault::read(config.provider, &status.message) };
            fault.unwrap_or_else(|| diagnose::model(path.clone(), status.message))
        };
        let session = Session::create(Arc::clone(&runtime.environment), path, &options).map_err(describe)?;
        let placement = assignment::read(&session).map_err(describe)?;
        if let Some(placement) = &placement {
            assignment::judge(placement, config.provider, config.cpu_fallback, &config.gpu_operators)?;
        }

        let mut inputs = Vec::new();
        for outlet in session.inputs().map_err(describe)? {
            inputs.push(served(outlet).map_err(|(input, kind)| LoadError::InputUnserved { path: path.clone(), input, kind })?);
        }
        let (mut outputs, mut unserved) = (Vec::new(), Vec::new());
        for outlet in session.outputs().map_err(describe)? {
            match served(outlet) {
                Ok(spec) => outputs.push(spec),
                Err((name, kind)) => unserved.push(UnservedOutput { name, kind }),
            }
        }
        if outputs.is_empty() && !unserved.is_empty() {
            let outputs = unserved.iter().map(|output| format!("`{}` is {}", output.name, output.kind)).collect();
            return Err(LoadError::OutputsUnserved { path: path.clone(), outputs });
        }
        for output in &unserved {
            log::line(Level::Warn, format_args!("output `{}` is {} and is not served", output.name, output.kind)).emit();
        }
        let names = |specs: &[TensorSpec]| -> Vec<CString> {
            specs.iter().map(|spec| CString::new(spec.name.as_str()).expect("the runtime gave it as a C string")).collect()
        };
        Ok(Self {
            input_names: names(&inputs),
            output_names: names(&outputs),
            interface: ModelInterface { platform: "onnx_onnxv1", runtime: runtime.version.clone(), inputs, outputs, unserved },
            session: Arc::new(session),
            provider: config.provider,
            placement,
        })
    }
}

/// What is served of an input or output, or its name and why it is not.
fn served(outlet: Outlet) -> Result<TensorSpec, (String, String)> {
    match outlet.kind {
        Ok((datatype, shape)) => Ok(TensorSpec { name: outlet.name, datatype, shape }),
        Err(kind) => Err((outlet.name, kind)),
    }
}

impl Backend for OnnxBackend {
    fn interface(&self) -> &ModelInterface {
        &self.interface
    }

    fn placement(&self) -> Option<&Placement> {
        self.placement.as_ref()
    }

    fn run(&self, inputs: Vec<Tensor>, outputs: &[usize], cancel: &Cancel) -> Result<Vec<Tensor>, RunError> {
        // An output may be one of the inputs itself, so they live as long as the outputs do.
        let inputs: Arc<[Input]> =
            inputs.into_iter().map(Input::new).collect::<Result<Vec<_>, _>>().map_err(|status| self.run_error(status))?.into();
        let values: Vec<_> = inputs.iter().map(Input::as_ptr).collect();
        let input_names: Vec<_> = self.input_names.iter().map(|name| name.as_ptr()).collect();
        let output_names: Vec<_> = outputs.iter().map(|&index| self.output_names[index].as_ptr()).collect();
        let mut results: Vec<*mut sys::OrtValue> = vec![ptr::null_mut(); outputs.len()];

        let options = Arc::new(RunOptions::create().map_err(|status| self.run_error(status))?);
        let stop = Arc::clone(&options);
        let status = cancel
            .during(
                move || stop.terminate(),
                // SAFETY: names and values are as many as is said and live through the call; the runtime allows many
                // threads to run one session.
                || unsafe {
                    check(((*api()).Run)(
                        self.session.as_ptr(),
                        options.as_ptr(),
                        input_names.as_ptr(),
                        values.as_ptr(),
                        values.len(),
                        output_names.as_ptr(),
                        output_names.len(),
                        results.as_mut_ptr(),
                    ))
                },
            )
            .ok_or(RunError::Cancelled)?;
        // Whatever it wrote is taken over before anything else may fail.
        let results: Vec<_> = results.into_iter().map(call::Value::from_raw).collect();
        status.map_err(|status| if cancel.is_cancelled() { RunError::Cancelled } else { self.run_error(status) })?;
        results
            .into_iter()
            .zip(outputs)
            .map(|(value, &index)| {
                value::output(value, &inputs, &self.session).map_err(|error| match error {
                    value::OutputError::Status(status) => self.run_error(status),
                    value::OutputError::Kind(kind) => {
                        RunError::Unserved { name: self.interface.outputs[index].name.clone(), kind }
                    }
                    value::OutputError::Tensor(error) => RunError::Failed { message: error.to_string() },
                })
            })
            .collect()
    }
}

impl OnnxBackend {
    fn run_error(&self, status: Status) -> RunError {
        if self.provider != Provider::Cpu
            && let Some((fault, message)) = fault::find(&status.message)
        {
            let found = if fault == ProviderFault::Other { None } else { gpu::seen() };
            return RunError::Provider { provider: self.provider.name(), fault, message, found };
        }
        let message = diagnose::tidy(&status.message);
        match status.code {
            Code::InvalidArgument => RunError::Refused { message },
            Code::NotImplemented => RunError::NotImplemented { message },
            Code::Other => RunError::Failed { message },
        }
    }
}

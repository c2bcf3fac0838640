//! ONNX Runtime, opened with `dlopen`.
//!
//! The crate `ort` opens the library, checks its version and gives the table of functions; the calls themselves are made
//! here, because a session is to run on many threads at a time and to carry every datatype without a copy.

mod call;
mod diagnose;
mod value;

use std::ffi::{CString, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use ort::sys;

use self::call::{Code, Environment, RunOptions, Session, SessionOptions, Status, check};
use self::value::{Input, Outlet};
use super::library::{Library, not_opened};
use super::{Backend, Cancel, LoadError, ModelInterface, RunError, TensorSpec, UnservedOutput};
use crate::config::{Config, GraphOptimization};
use crate::log::{self, Level};
use crate::tensor::Tensor;

/// The oldest minor version of ONNX Runtime that has every function called here.
const OLDEST_MINOR: u32 = ort::MINOR_VERSION;

/// The library, opened and initialised.
pub struct Runtime {
    environment: Arc<Environment>,
    version: String,
    path: PathBuf,
}

impl Runtime {
    /// Opens the library and initialises it, telemetry off.
    ///
    /// # Errors
    /// [`LoadError::LibraryNotOpened`], [`LoadError::LibraryVersion`] or [`LoadError::Option`].
    pub fn open(library: &Path) -> Result<Self, LoadError> {
        // `ort` opens it again by its path: given a mere name, it would look beside the binary first, and panic where `/proc`
        // is not mounted.
        let opened = Library::open(library).map_err(|message| not_opened(library.to_path_buf(), message))?;
        let version = call::version(&opened);
        // A path with a slash is taken from the working directory, as everywhere; `ort` would take another.
        let path = std::path::absolute(&opened.path).unwrap_or(opened.path);
        ort::init_from(&path).map_err(|error| diagnose::library(path.clone(), error, OLDEST_MINOR))?;
        let environment = Environment::create()
            .map_err(|status| LoadError::Option { what: "to initialise".into(), message: status.message })?;
        let version = format!("onnxruntime {}", version.unwrap_or_default());
        Ok(Self { environment: Arc::new(environment), version, path })
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

/// A session of ONNX Runtime.
pub struct OnnxBackend {
    interface: ModelInterface,
    input_names: Vec<CString>,
    /// In the order of `interface.outputs`.
    output_names: Vec<CString>,
    session: Arc<Session>,
}

impl OnnxBackend {
    /// Reads the model and makes its session.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open(runtime: &Runtime, config: &Config) -> Result<Self, LoadError> {
        Self::create(runtime, config, None)
    }

    /// Reads the model and writes it, weights inside, as the runtime optimises it for the configuration.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn optimize(runtime: &Runtime, config: &Config, output: &Path) -> Result<(), LoadError> {
        Self::create(runtime, config, Some(output)).map(|_| ())
    }

    fn create(runtime: &Runtime, config: &Config, optimized: Option<&Path>) -> Result<Self, LoadError> {
        let path = &config.model_path;
        // The runtime's own words for these say less.
        let unreadable = |source| LoadError::ModelUnreadable { path: path.clone(), source };
        let metadata = std::fs::File::open(path).and_then(|file| file.metadata()).map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(unreadable(std::io::ErrorKind::IsADirectory.into()));
        }
        let options = options(config, optimized)?;
        let session = Session::create(Arc::clone(&runtime.environment), path, &options)
            .map_err(|status| diagnose::model(path.clone(), status.message))?;
        let describe = |status: Status| diagnose::model(path.clone(), status.message);

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

fn options(config: &Config, optimized: Option<&Path>) -> Result<SessionOptions, LoadError> {
    let refused = |what: String| move |status: Status| LoadError::Option { what, message: status.message };
    let c_string = |what: &str, text: &[u8]| {
        CString::new(text).map_err(|_| LoadError::Option { what: what.to_owned(), message: "it holds a zero byte".into() })
    };
    let options = SessionOptions::create().map_err(refused("session options".into()))?;
    let level = match config.graph_optimization {
        GraphOptimization::All => sys::GraphOptimizationLevel::ORT_ENABLE_ALL,
        GraphOptimization::Extended => sys::GraphOptimizationLevel::ORT_ENABLE_EXTENDED,
        GraphOptimization::Basic => sys::GraphOptimizationLevel::ORT_ENABLE_BASIC,
        GraphOptimization::Disable => sys::GraphOptimizationLevel::ORT_DISABLE_ALL,
    };
    let threads = c_int::try_from(config.threads).unwrap_or(c_int::MAX);
    // SAFETY: the options are valid, and the strings live through the calls.
    unsafe {
        check((call::api().SetSessionGraphOptimizationLevel)(options.as_ptr(), level))
            .map_err(refused("`graph_optimization_level`".into()))?;
        check((call::api().SetIntraOpNumThreads)(options.as_ptr(), threads)).map_err(refused("`threads`".into()))?;
        for (key, value) in &config.session_config {
            let what = format!("`session_config` entry `{key}`");
            let (key, value) = (c_string(&what, key.as_bytes())?, c_string(&what, value.as_bytes())?);
            check((call::api().AddSessionConfigEntry)(options.as_ptr(), key.as_ptr(), value.as_ptr())).map_err(refused(what))?;
        }
    }
    if let Some(optimized) = optimized {
        let path = c_string("the path of the optimised model", optimized.as_os_str().as_bytes())?;
        // SAFETY: the options are valid, and the path lives through the call.
        unsafe { check((call::api().SetOptimizedModelFilePath)(options.as_ptr(), path.as_ptr())) }
            .map_err(refused("the path of the optimised model".into()))?;
    }
    for library in &config.custom_op_libraries {
        let path = c_string("`custom_op_libraries`", library.as_os_str().as_bytes())?;
        // SAFETY: the options are valid, and the path lives through the call; that the library is one of custom
        // operators is what the configuration says.
        unsafe { check((call::api().RegisterCustomOpsLibrary_V2)(options.as_ptr(), path.as_ptr())) }
            .map_err(|status| not_opened(PathBuf::from(library), status.message))?;
    }
    Ok(options)
}

impl Backend for OnnxBackend {
    fn interface(&self) -> &ModelInterface {
        &self.interface
    }

    fn run(&self, inputs: Vec<Tensor>, outputs: &[usize], cancel: &Cancel) -> Result<Vec<Tensor>, RunError> {
        // An output may be one of the inputs itself, so they live as long as the outputs do.
        let inputs: Arc<[Input]> = inputs.into_iter().map(Input::new).collect::<Result<Vec<_>, _>>().map_err(run_error)?.into();
        let values: Vec<_> = inputs.iter().map(Input::as_ptr).collect();
        let input_names: Vec<_> = self.input_names.iter().map(|name| name.as_ptr()).collect();
        let output_names: Vec<_> = outputs.iter().map(|&index| self.output_names[index].as_ptr()).collect();
        let mut results: Vec<*mut sys::OrtValue> = vec![ptr::null_mut(); outputs.len()];

        let options = Arc::new(RunOptions::create().map_err(run_error)?);
        let stop = Arc::clone(&options);
        let status = cancel
            .during(
                move || stop.terminate(),
                // SAFETY: names and values are as many as is said and live through the call; the runtime allows many
                // threads to run one session.
                || unsafe {
                    check((call::api().Run)(
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
        status.map_err(|status| if cancel.is_cancelled() { RunError::Cancelled } else { run_error(status) })?;
        results
            .into_iter()
            .zip(outputs)
            .map(|(value, &index)| {
                value::output(value, &inputs, &self.session).map_err(|error| match error {
                    value::OutputError::Status(status) => run_error(status),
                    value::OutputError::Kind(kind) => {
                        RunError::Unserved { name: self.interface.outputs[index].name.clone(), kind }
                    }
                    value::OutputError::Tensor(error) => RunError::Failed { message: error.to_string() },
                })
            })
            .collect()
    }
}

fn run_error(status: Status) -> RunError {
    let message = diagnose::tidy(&status.message);
    match status.code {
        Code::InvalidArgument => RunError::Refused { message },
        Code::NotImplemented => RunError::NotImplemented { message },
        _ => RunError::Failed { message },
    }
}

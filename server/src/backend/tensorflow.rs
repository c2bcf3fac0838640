//! TensorFlow, opened with `dlopen` and driven through its C interface.
//!
//! A SavedModel is loaded once; each of its signatures is a [`Backend`] over the one session.

mod call;
mod compiled;
mod gpu;
mod options;
mod placement;
mod said;
mod signature;
mod value;

use std::collections::BTreeMap;
use std::ffi::{CString, c_int};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, OnceLock};

pub use self::compiled::unfit;

use self::call::{Buffer, Failure, Output, Session, SessionOptions, Status, api};
use self::gpu::GpuOptions;
use self::signature::{Outlet, Signature};
use super::{Backend, Cancel, LoadError, ModelInterface, Placement, ProviderFault, RunError, TensorSpec, UnservedOutput};
use crate::config::{Config, CpuFallback, Provider};
use crate::log::{self, Level};
use crate::tensor::Tensor;

/// The library, opened.
pub struct Runtime {
    version: String,
    path: PathBuf,
}

impl Runtime {
    /// Opens the library.
    ///
    /// # Errors
    /// [`LoadError::LibraryNotOpened`].
    pub fn open(library: &Path) -> Result<Self, LoadError> {
        let (version, path) = call::open(library)?;
        Ok(Self { version: format!("tensorflow {version}"), path })
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

/// One signature of a loaded SavedModel.
pub struct TensorFlowBackend {
    name: String,
    interface: ModelInterface,
    /// In the order of `interface.inputs`.
    inputs: Vec<Place>,
    /// In the order of `interface.outputs`.
    outputs: Vec<Place>,
    shared: Arc<Shared>,
    others: Vec<Arc<dyn Backend>>,
}

struct Shared {
    session: Session,
    run_options: Buffer,
    /// Where nodes run, and what becomes of those on the CPU; none where everything runs there.
    placing: Option<Placing>,
}

/// Where nodes run, once the first run has told.
struct Placing {
    /// Options of a run that tells.
    run_options: Buffer,
    fallback: CpuFallback,
    placement: OnceLock<Placement>,
}

/// A tensor's place in the graph.
#[derive(Clone, Copy)]
struct Place(Output);

// SAFETY: it points into the graph, which lives as long as the process and is only read.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

impl TensorFlowBackend {
    /// Loads the SavedModel and finds the configured signature.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open(runtime: &Runtime, config: &Config) -> Result<Self, LoadError> {
        let path = &config.model_path;
        let file = path.join("saved_model.pb");
        // The runtime's own words for these say less.
        std::fs::File::open(&file).map_err(|source| LoadError::ModelUnreadable { path: file.clone(), source })?;
        let gpu = GpuOptions::of(config)?;
        let soft = config.cpu_fallback == CpuFallback::Report;
        let options = SessionOptions::new(&options::session(config.threads, config.xla, gpu.as_ref().map(|gpu| (gpu, soft))))
            .map_err(|failure| LoadError::Option { what: "the session's options".into(), message: failure.message })?;
        let tags =
            config.saved_model_tags.iter().map(|tag| CString::new(tag.as_str())).collect::<Result<Vec<_>, _>>().map_err(
                |_| LoadError::Option { what: "`saved_model_tags`".into(), message: "a tag holds a zero byte".into() },
            )?;
        let load = || Session::load(path, &tags, &options);
        let (session, meta_graph) = if gpu.is_some() {
            gpu::prepare(config)?;
            // Its own lines are wanted as they come where everything is logged.
            let (loaded, said) = if log::enabled(Level::Debug) { (load(), Vec::new()) } else { said::during(load) };
            let loaded = loaded.map_err(|failure| gpu::fault_of(&failure).unwrap_or_else(|| refused(path, failure)))?;
            gpu::check(&loaded.0, &said)?;
            loaded
        } else {
            load().map_err(|failure| refused(path, failure))?
        };
        let mut signatures = signature::parse(meta_graph.bytes())
            .map_err(|error| refused(path, Failure { code: 3, message: format!("its signatures are damaged: {error}") }))?;
        let Some(chosen) = signatures.remove(&config.signature) else {
            let known = signatures.into_keys().collect();
            return Err(LoadError::Signature { path: path.clone(), signature: config.signature.clone(), known });
        };
        let run_options = Buffer::of(&options::run(config.limits.request_timeout));
        let placing = gpu.is_some().then(|| Placing {
            run_options: Buffer::of(&options::telling_run(config.limits.request_timeout)),
            fallback: config.cpu_fallback,
            placement: OnceLock::new(),
        });
        let shared = Arc::new(Shared { session, run_options, placing });
        let mut main = Self::of(config.signature.clone(), &chosen, runtime, &shared, path)?;
        for output in &main.interface.unserved {
            log::line(Level::Warn, format_args!("output `{}` is {} and is not served", output.name, output.kind)).emit();
        }
        main.others = others(signatures, runtime, &shared, path);
        Ok(main)
    }

    fn of(name: String, signature: &Signature, runtime: &Runtime, shared: &Arc<Shared>, path: &Path) -> Result<Self, LoadError> {
        let (mut inputs, mut input_places) = (Vec::new(), Vec::new());
        for (input, outlet) in &signature.inputs {
            let (spec, place) = find(input, outlet, &shared.session).map_err(|kind| LoadError::InputUnserved {
                path: path.to_owned(),
                input: input.clone(),
                kind,
            })?;
            inputs.push(spec);
            input_places.push(place);
        }
        let (mut outputs, mut output_places, mut unserved) = (Vec::new(), Vec::new(), Vec::new());
        for (output, outlet) in &signature.outputs {
            match find(output, outlet, &shared.session) {
                Ok((spec, place)) => {
                    outputs.push(spec);
                    output_places.push(place);
                }
                Err(kind) => unserved.push(UnservedOutput { name: output.clone(), kind }),
            }
        }
        if outputs.is_empty() {
            let outputs = unserved.iter().map(|output| format!("`{}` is {}", output.name, output.kind)).collect();
            return Err(LoadError::OutputsUnserved { path: path.to_owned(), outputs });
        }
        let interface =
            ModelInterface { platform: "tensorflow_savedmodel", runtime: runtime.version.clone(), inputs, outputs, unserved };
        let (inputs, outputs, shared) = (input_places, output_places, Arc::clone(shared));
        Ok(Self { name, interface, inputs, outputs, shared, others: Vec::new() })
    }
}

/// The signatures beside the chosen one; what cannot be served is left out with a warning.
fn others(
    signatures: BTreeMap<String, Signature>,
    runtime: &Runtime,
    shared: &Arc<Shared>,
    path: &Path,
) -> Vec<Arc<dyn Backend>> {
    let mut others: Vec<Arc<dyn Backend>> = Vec::new();
    for (name, signature) in signatures {
        match TensorFlowBackend::of(name.clone(), &signature, runtime, shared, path) {
            Ok(backend) => others.push(Arc::new(backend)),
            Err(error) => log::line(Level::Warn, format_args!("signature `{name}` is not served: {error}")).emit(),
        }
    }
    others
}

/// What is served of an input or output, and where it lies; or why it is not.
fn find(name: &str, outlet: &Outlet, session: &Session) -> Result<(TensorSpec, Place), String> {
    let tensor = outlet.tensor.as_deref().filter(|tensor| !tensor.is_empty());
    let tensor = tensor.ok_or("a tensor of several parts (sparse or composite)")?;
    let datatype = signature::datatype(outlet.data_type)?;
    let place = session.output(tensor).ok_or_else(|| format!("the tensor `{tensor}`, which the graph does not have"))?;
    Ok((TensorSpec { name: name.to_owned(), datatype, shape: outlet.shape.clone() }, Place(place)))
}

impl Backend for TensorFlowBackend {
    fn interface(&self) -> &ModelInterface {
        &self.interface
    }

    fn signature(&self) -> &str {
        &self.name
    }

    fn others(&self) -> &[Arc<dyn Backend>] {
        &self.others
    }

    fn placement(&self) -> Option<&Placement> {
        self.shared.placing.as_ref()?.placement.get()
    }

    /// Runs the graph. The C interface cannot stop one run from outside, so a cancelled one ends by itself or by the time
    /// limit that every run has.
    fn run(&self, inputs: Vec<Tensor>, outputs: &[usize], cancel: &Cancel) -> Result<Vec<Tensor>, RunError> {
        if cancel.is_cancelled() {
            return Err(RunError::Cancelled);
        }
        let too_large = || RunError::Refused { message: "an input is larger than the runtime can hold".into() };
        let inputs = inputs.into_iter().map(|input| value::input(input).ok_or_else(too_large)).collect::<Result<Vec<_>, _>>()?;
        let input_values: Vec<_> = inputs.iter().map(value::Input::as_ptr).collect();
        let input_places: Vec<Output> = self.inputs.iter().map(|place| place.0).collect();
        let output_places: Vec<Output> = outputs.iter().map(|&index| self.outputs[index].0).collect();
        let mut results = vec![ptr::null_mut(); outputs.len()];
        let count = |length: usize| c_int::try_from(length).map_err(|_| too_large());
        let status = Status::new();
        // The first run on a GPU tells where nodes run.
        let telling = self.shared.placing.as_ref().filter(|placing| placing.placement.get().is_none());
        let metadata = telling.map(|_| Buffer::empty());
        let run_options = telling.map_or(&self.shared.run_options, |placing| &placing.run_options);
        // SAFETY: places and tensors are as many as is said and live through the call; the library allows many threads to
        // run one session.
        unsafe {
            (api().TF_SessionRun)(
                self.shared.session.as_ptr(),
                run_options.as_ptr(),
                input_places.as_ptr(),
                input_values.as_ptr(),
                count(input_places.len())?,
                output_places.as_ptr(),
                results.as_mut_ptr(),
                count(output_places.len())?,
                ptr::null(),
                0,
                metadata.as_ref().map_or(ptr::null_mut(), Buffer::as_ptr),
                status.as_ptr(),
            );
        }
        // Whatever it wrote is taken over before anything else may fail.
        let results: Vec<_> = results.into_iter().map(call::Tensor::from_raw).collect();
        status.check().map_err(run_error)?;
        if let (Some(placing), Some(metadata)) = (telling, metadata) {
            placing.learn(metadata.bytes())?;
        }
        results
            .into_iter()
            .zip(outputs)
            .map(|(tensor, &index)| {
                let name = || self.interface.outputs[index].name.clone();
                let tensor = tensor.ok_or_else(|| RunError::Failed { message: format!("output `{}` is missing", name()) })?;
                value::output(tensor).map_err(|error| match error {
                    value::OutputError::Kind(kind) => RunError::Unserved { name: name(), kind },
                    value::OutputError::Tensor(error) => RunError::Failed { message: error.to_string() },
                })
            })
            .collect()
    }
}

impl Placing {
    /// Takes over what a run told.
    fn learn(&self, metadata: &[u8]) -> Result<(), RunError> {
        // A message that cannot be read is no reason to fail a request.
        let Ok(placement) = placement::parse(metadata) else { return Ok(()) };
        let placement = self.placement.get_or_init(|| placement);
        let on_gpu = placement.nodes.get("GPU").copied().unwrap_or_default();
        let (fault, message) = match (on_gpu, placement.on_cpu.len(), self.fallback) {
            (0, on_cpu, _) if on_cpu > 0 => {
                (ProviderFault::Nothing, format!("all {on_cpu} nodes of the model run on the CPU: {}", first(&placement.on_cpu)))
            }
            (_, on_cpu, CpuFallback::Refuse) if on_cpu > 0 => {
                (ProviderFault::OnCpu, format!("{on_cpu} nodes of the model run on the CPU: {}", first(&placement.on_cpu)))
            }
            _ => return Ok(()),
        };
        Err(RunError::Provider { provider: Provider::Cuda.name(), fault, message, found: None })
    }
}

/// The first few of many names.
fn first(names: &[String]) -> String {
    names.iter().take(8).cloned().collect::<Vec<_>>().join(", ")
}

/// TensorFlow's numbers of what went wrong.
mod code {
    pub const CANCELLED: i32 = 1;
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const DEADLINE_EXCEEDED: i32 = 4;
    pub const OUT_OF_RANGE: i32 = 11;
    pub const UNIMPLEMENTED: i32 = 12;
}

fn run_error(failure: Failure) -> RunError {
    let message = first_line(&failure.message);
    match failure.code {
        code::INVALID_ARGUMENT | code::OUT_OF_RANGE => RunError::Refused { message },
        code::UNIMPLEMENTED => RunError::NotImplemented { message },
        code::CANCELLED | code::DEADLINE_EXCEEDED => RunError::Cancelled,
        _ => RunError::Failed { message },
    }
}

/// Why the runtime refused the model.
fn refused(path: &Path, failure: Failure) -> LoadError {
    LoadError::ModelRefused {
        path: path.to_owned(),
        operator: operator(&failure.message),
        file: missing_file(&failure.message),
        locale: None,
        message: first_line(&failure.message),
    }
}

/// The operator that a message is about.
fn operator(message: &str) -> Option<String> {
    // Op type not registered 'Name' in binary …
    if let Some((_, after)) = message.split_once("Op type not registered '") {
        return after.split_once('\'').map(|(name, _)| name.to_owned());
    }
    // No OpKernel was registered to support Op 'Name' …
    let (_, after) = message.split_once("registered to support Op '")?;
    after.split_once('\'').map(|(name, _)| name.to_owned())
}

/// The file of a checkpoint that a message is about.
fn missing_file(message: &str) -> Option<String> {
    let (before, _) = message.split_once("; No such file or directory")?;
    before.rsplit([' ', '\n']).next().filter(|file| file.contains('/')).map(ToOwned::to_owned)
}

/// The first line of a message; the others name the nodes on the way.
fn first_line(message: &str) -> String {
    message.trim().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_and_files_are_found_in_messages() {
        let unknown = "Op type not registered 'Mystery' in binary running on host. Make sure the Op and Kernel are registered";
        assert_eq!(operator(unknown).as_deref(), Some("Mystery"));
        assert_eq!(operator("No OpKernel was registered to support Op 'X' used by {{node X}}").as_deref(), Some("X"));
        assert_eq!(operator("something else"), None);
        let file = "/models/m/variables/variables.data-00000-of-00001; No such file or directory\n\t [[{{node RestoreV2}}]]";
        assert_eq!(missing_file(file).as_deref(), Some("/models/m/variables/variables.data-00000-of-00001"));
        assert_eq!(first_line("first\n\t [[second]]"), "first");
    }
}

//! A model that was compiled ahead of time: a library of its own with one symbol, and its weights in a file that is mapped.
//!
//! The folder `model_path` holds `model.json`, which says what the model takes and gives and what the processor must have;
//! `libmodel.so`, which is opened only after that was checked; and `weights`. `docs/spec/compiled.md` describes them.

mod batch;
mod call;
mod description;
mod mapping;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use self::call::{Instance, Table, Threads};
use self::description::{Description, Port};
use self::mapping::Mapping;
use super::{Backend, Cancel, LoadError, ModelInterface, RunError, ShapeSpec, TensorSpec};
use crate::config::Config;
use crate::cpu;
use crate::tensor::{Elements, Tensor};

/// The file that describes a compiled model.
const DESCRIPTION: &str = "model.json";

/// A model's library, opened on a processor that can run it.
pub struct Runtime {
    description: Description,
    table: Table,
    path: PathBuf,
}

/// The loaded model.
pub struct CompiledBackend {
    interface: ModelInterface,
    description: Description,
    /// Dropped before what they point into.
    idle: Vec<Mutex<Vec<Instance>>>,
    threads: Threads,
    weights: Mapping,
    table: Table,
}

impl Runtime {
    /// Reads the description, checks the processor, and opens the library.
    ///
    /// # Errors
    /// [`LoadError::Processor`] where the processor lacks something, and those of reading and opening.
    pub fn open(config: &Config) -> Result<Self, LoadError> {
        let path = config.model_path.join(DESCRIPTION);
        let text = std::fs::read(&path).map_err(|source| LoadError::ModelUnreadable { path: path.clone(), source })?;
        let description = Description::parse(&text).map_err(|message| refused(&path, message))?;
        let missing = cpu::missing(&description.cpu.features);
        if !missing.is_empty() {
            return Err(LoadError::Processor { path, cpu: description.cpu.name, missing });
        }
        let library = config.model_path.join(&config.library);
        let (table, path) = Table::open(&library)?;
        Ok(Self { description, table, path })
    }

    /// What compiled the model, and its version.
    pub fn version(&self) -> &str {
        &self.description.runtime
    }

    /// Where the loader found the library.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl CompiledBackend {
    /// Checks the library against its description, maps the weights and starts the threads.
    ///
    /// # Errors
    /// Where library, description and weights are not of one model, or memory or threads are not to be had.
    pub fn open(runtime: Runtime, config: &Config) -> Result<Self, LoadError> {
        let Runtime { description, table, path } = runtime;
        let place = config.model_path.join(DESCRIPTION);
        table.check(&description).map_err(|message| refused(&place, message))?;
        if config.signature != description.signature {
            let known = vec![description.signature];
            return Err(LoadError::Signature { path: config.model_path.clone(), signature: config.signature.clone(), known });
        }
        let file = config.model_path.join(&description.weights);
        let weights = Mapping::open(&file, table.weights())?;
        let threads = table.threads(config.threads).ok_or_else(|| LoadError::Option {
            what: format!("{} threads", config.threads),
            message: format!("`{}` could not start them", path.display()),
        })?;
        let interface = ModelInterface {
            platform: "tensorflow_savedmodel",
            runtime: description.runtime.clone(),
            inputs: description.inputs.iter().map(spec).collect(),
            outputs: description.outputs.iter().map(spec).collect(),
            unserved: Vec::new(),
        };
        let idle = description.variants.iter().map(|_| Mutex::default()).collect();
        Ok(Self { interface, description, idle, threads, weights, table })
    }

    /// Buffers for a run of one variant: those of an earlier run, or new ones.
    fn instance(&self, variant: usize) -> Result<Instance, RunError> {
        let idle = self.idle[variant].lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.or_else(|| self.table.instance(variant, &self.weights, &self.threads))
            .ok_or_else(|| RunError::Failed { message: "there is no memory for the buffers of a run".to_owned() })
    }

    /// Runs some rows of the inputs and appends those of the outputs.
    fn run_part(&self, part: batch::Part, inputs: &[Tensor], wanted: &[usize], out: &mut [Vec<u8>]) -> Result<(), RunError> {
        let mut instance = self.instance(part.variant)?;
        for (port, tensor) in self.description.inputs.iter().zip(inputs) {
            if let (Some(argument), Elements::Fixed(bytes)) = (port.argument, tensor.elements()) {
                let rows = if port.has_rows() { bytes.slice(part.bytes(bytes.len())) } else { bytes.clone() };
                instance.write(argument, &rows);
            }
        }
        if !instance.run() {
            return Err(RunError::Failed { message: "a kernel of the compiled model failed".to_owned() });
        }
        for (&output, out) in wanted.iter().zip(out) {
            let bytes = instance.output(output);
            let rows = if self.description.outputs[output].has_rows() { part.used(bytes.len()) } else { bytes.len() };
            out.extend_from_slice(&bytes[..rows]);
        }
        self.idle[part.variant].lock().unwrap_or_else(PoisonError::into_inner).push(instance);
        Ok(())
    }
}

impl Backend for CompiledBackend {
    fn interface(&self) -> &ModelInterface {
        &self.interface
    }

    fn signature(&self) -> &str {
        &self.description.signature
    }

    fn run(&self, inputs: Vec<Tensor>, outputs: &[usize], cancel: &Cancel) -> Result<Vec<Tensor>, RunError> {
        let rows = rows_of(&self.description.inputs, &inputs)?;
        let sizes: Vec<usize> = self.description.variants.iter().map(|variant| variant.rows).collect();
        let mut results = vec![Vec::new(); outputs.len()];
        for part in batch::split(rows, &sizes) {
            // A part that runs is not stopped; the next one is not begun.
            if cancel.is_cancelled() {
                return Err(RunError::Cancelled);
            }
            self.run_part(part, &inputs, outputs, &mut results)?;
        }
        let tensor = |(&output, bytes): (&usize, Vec<u8>)| {
            let port = &self.description.outputs[output];
            let shape = port.shape.iter().map(|&size| usize::try_from(size).unwrap_or(rows.unwrap_or(0))).collect();
            Tensor::new(port.datatype, shape, Elements::Fixed(Bytes::from(bytes)))
                .map_err(|error| RunError::Failed { message: error.to_string() })
        };
        outputs.iter().zip(results).map(tensor).collect()
    }
}

/// The rows of a request: what the inputs that have rows agree on; `None` for a model without a batch.
fn rows_of(ports: &[Port], inputs: &[Tensor]) -> Result<Option<usize>, RunError> {
    let mut known: Option<(usize, &str)> = None;
    for (port, tensor) in ports.iter().zip(inputs).filter(|(port, _)| port.has_rows()) {
        let rows = tensor.shape().first().copied().unwrap_or(0);
        match known {
            Some((others, name)) if others != rows => {
                let message = format!("input `{}` has {rows} rows, and `{name}` has {others}", port.name);
                return Err(RunError::Refused { message });
            }
            _ => known = Some((rows, &port.name)),
        }
    }
    Ok(known.map(|(rows, _)| rows))
}

fn spec(port: &Port) -> TensorSpec {
    let shape = ShapeSpec::Ranked(port.shape.iter().map(|&size| usize::try_from(size).ok()).collect());
    TensorSpec { name: port.name.clone(), datatype: port.datatype, shape }
}

fn refused(path: &Path, message: String) -> LoadError {
    LoadError::ModelRefused { path: path.to_owned(), operator: None, file: None, locale: None, message }
}

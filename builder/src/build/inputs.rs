//! Everything a build starts from: the opened model, the data files, the locked and fetched packages, the server.

use std::path::{Path, PathBuf};

use super::{BuildError, BuildOptions};
use crate::digest::Digest;
use crate::elf::{ElfObject, Machine};
use crate::layer;
use crate::lock::{Chooser, Lock, LockRequest, ServerPin};
use crate::model::{Content, Format, Model, OperatorTable, TensorFlowOperators, check_operators};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::recipe::{BaseChoice, Recipe};
use crate::runtime::RuntimeRequest;
use crate::source::debian::Release;
use crate::source::package::Package;
use crate::source::{Environment, Pin, Request, Sources};
use crate::store::Store;
use crate::template::{BaseImage, Contents, Data, ModelFormat, StackTemplate};

/// The stack that serves models of a format unless the user says otherwise.
fn default_stack(format: Format) -> &'static str {
    match format {
        Format::Onnx => "onnx-cpu",
        Format::SavedModel => "tf-xla",
    }
}

/// The server binary, looked at.
#[derive(Debug, Clone)]
pub struct ServerBinary {
    /// Where it is.
    pub path: PathBuf,
    /// Its digest and size.
    pub pin: ServerPin,
}

/// What a build starts from.
#[derive(Debug)]
pub struct Inputs {
    /// The model.
    pub model: Model,
    /// The stack.
    pub stack: StackTemplate,
    /// The base.
    pub base: BaseImage,
    /// The stack's packages.
    pub stack_packages: Vec<Package>,
    /// The base's packages.
    pub base_packages: Vec<Package>,
    /// The server.
    pub server: ServerBinary,
    /// The lock, not yet saved.
    pub lock: Lock,
    /// What changed in the lock.
    pub lock_changes: Vec<String>,
}

impl ServerBinary {
    /// Looks at a server binary: it is there, and for the platform.
    ///
    /// # Errors
    /// Where it is missing, no executable, or for another machine.
    pub fn open(path: &Path, platform: Platform, store: &Store) -> Result<Self, BuildError> {
        if !path.is_file() {
            return Err(BuildError::NoServer { path: path.to_owned() });
        }
        let wrong = |found: String| BuildError::ServerPlatform { path: path.to_owned(), found, expected: platform };
        let elf = ElfObject::load(path).map_err(|error| wrong(error.to_string()))?;
        let expected = match platform {
            Platform::LinuxAmd64 => Machine::X86_64,
            Platform::LinuxArm64 => Machine::Aarch64,
        };
        if elf.machine != expected {
            return Err(wrong(elf.machine.to_string()));
        }
        let (sha256, size) = layer::digest_file(path, store)?;
        Ok(Self { path: path.to_owned(), pin: ServerPin { sha256, size } })
    }
}

impl Inputs {
    /// Opens the model, locks and fetches the packages, and checks that the runtime knows the model's operators.
    ///
    /// # Errors
    /// Where one of them cannot be had or does not fit the others. Nothing but the store is written.
    pub fn obtain(recipe: &Recipe, options: &BuildOptions, store: &Store, progress: &Progress) -> Result<Self, BuildError> {
        let data = Data::locate();
        let model = Model::open_selected(&recipe.model, &recipe.saved_model)?;
        let stack_name = recipe.stack.as_deref().unwrap_or(default_stack(model.format));
        let stack = data.template(stack_name)?;
        check_stack(&stack.value, &model, recipe)?;
        if let Some(table) = &stack.value.operators {
            let loaded = data.operators(table)?;
            let text = String::from_utf8_lossy(&loaded.value);
            match &model.content {
                Content::Onnx(onnx) => {
                    check_operators(onnx, &OperatorTable::parse(&text)?, &recipe.custom_domains)?;
                }
                Content::SavedModel(saved) => saved.check_operators(&TensorFlowOperators::parse(&text)?, &model.path)?,
            }
        }
        let base = match &recipe.base {
            BaseChoice::Named(name) => data.base_image(name)?,
            BaseChoice::Image(base) => {
                return Err(BuildError::Base {
                    base: base.clone(),
                    reason: "images as bases are not supported yet, expected a name of `base-images/`",
                });
            }
        };
        if let Contents::Oci(image) = base.value.contents() {
            return Err(BuildError::Base {
                base: image.to_owned(),
                reason: "images as bases are not supported yet, expected packages",
            });
        }
        let server = ServerBinary::open(&options.server, recipe.platform, store)?;

        let mut requests = stack_requests(&stack.value, recipe)?;
        let stack_count = requests.len();
        requests.extend(base.value.requests(recipe.platform));
        let request = LockRequest {
            stack: stack.value.name.clone(),
            base: recipe.base.to_string(),
            platform: recipe.platform,
            data: Digest::of(format!("{}\n{}\n", stack.digest, base.digest).as_bytes()),
            server: server.pin.clone(),
            requests,
        };
        let sources = Sources::new(&Environment::of_process(), &recipe.folder);
        let chooser = Chooser { sources: &sources, store, reach: options.reach, progress };
        let obtained = Lock::obtain(&recipe.lock_path(), &request, options.lock, &chooser)?;
        let pins: Vec<&Pin> = obtained.lock.inputs.iter().collect();
        let blobs = sources.obtain(&pins, store, options.reach, progress)?;
        let mut packages =
            pins.iter().zip(&blobs).map(|(pin, blob)| Package::open(pin, blob, store)).collect::<Result<Vec<_>, _>>()?;
        let base_packages = packages.split_off(stack_count);
        if let Some(rule) = &base.value.release
            && let Some(package) = base_packages.iter().find(|package| package.pin().name == rule.package)
        {
            base.value.check_release(&Release::of(package, store)?)?;
        }
        Ok(Self {
            model,
            stack: stack.value,
            base: base.value,
            stack_packages: packages,
            base_packages,
            server,
            lock: obtained.lock,
            lock_changes: obtained.changes,
        })
    }

    /// What the runtime is resolved from.
    #[must_use]
    pub fn runtime_request<'a>(&'a self, recipe: &'a Recipe) -> RuntimeRequest<'a> {
        RuntimeRequest {
            stack: &self.stack,
            base: &self.base,
            stack_packages: &self.stack_packages,
            base_packages: &self.base_packages,
            server: self.server.path.clone(),
            server_version: self.server.pin.sha256.short(),
            custom_operators: &recipe.custom_operators,
            model: &self.model,
            platform: recipe.platform,
            minimize: recipe.minimize,
            keep: &recipe.keep,
        }
    }
}

fn check_stack(stack: &StackTemplate, model: &Model, recipe: &Recipe) -> Result<(), BuildError> {
    let wrong = |what: String, expected: String| BuildError::Stack { stack: stack.name.clone(), what, expected };
    let format = match model.format {
        Format::Onnx => ModelFormat::Onnx,
        Format::SavedModel => ModelFormat::SavedModel,
    };
    if !stack.models.contains(&format) {
        let known: Vec<&str> = stack.models.iter().map(|format| format.name()).collect();
        return Err(wrong(format.name().to_owned(), known.join(" or ")));
    }
    if model.format == Format::SavedModel && !recipe.custom_operators.is_empty() {
        let expected = "operators of TensorFlow itself".to_owned();
        return Err(wrong("models that need a library of custom operators".to_owned(), expected));
    }
    let platform = recipe.platform;
    if !stack.platforms.contains(&platform) {
        let known: Vec<String> = stack.platforms.iter().map(ToString::to_string).collect();
        return Err(wrong(format!("on {platform}"), known.join(" or ")));
    }
    Ok(())
}

/// What to pin for a stack: its packages, or the recipe's directory or archive in place of them.
fn stack_requests(stack: &StackTemplate, recipe: &Recipe) -> Result<Vec<Request>, BuildError> {
    match &recipe.runtime {
        None => Ok(stack.requests(|_| None)?),
        Some(path) => {
            let written = path.strip_prefix(&recipe.folder).unwrap_or(path).display().to_string();
            let local = |name: &String| Request::Local { name: name.clone(), version: None, path: written.clone() };
            Ok(stack.packages.iter().map(|package| local(&package.name)).collect())
        }
    }
}

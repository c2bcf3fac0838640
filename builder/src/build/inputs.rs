//! Everything a build starts from: the opened model, the data files, the locked and fetched packages, the server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{BuildError, BuildOptions};
use crate::compiled::{Batch, CompileRequest, CompiledModel, Programs, choose_processor, compile};
use crate::digest::Digest;
use crate::elf::{ElfObject, Machine};
use crate::fatbin::PRUNE_FORMAT;
use crate::layer;
use crate::lock::{Chooser, DeviceCodePin, Lock, LockMode, LockRequest, RewritingPin, ServerPin};
use crate::model::{
    Content, Format, Model, OperatorId, OperatorTable, TensorFlowOperators, check_operators, nodes_without_kernel,
};
use crate::parent::{Parent, ParentName, Parents};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::recipe::{BaseChoice, Recipe, User, XlaChoice};
use crate::rewrite::REWRITE_FORMAT;
use crate::runtime::RuntimeRequest;
use crate::source::debian::Release;
use crate::source::package::Package;
use crate::source::{Environment, Pin, Request, Sources};
use crate::store::Store;
use crate::template::{
    BaseImage, CompilerTemplate, Contents, Data, Loaded, ModelFormat, PackageChoice, PackageSource, Processor, StackTemplate,
    check_files,
};
use crate::tree::ImagePath;

/// The stack that serves models of a format unless the user says otherwise, or a better one does not.
fn default_stack(format: Format) -> &'static str {
    match format {
        Format::Onnx => "onnx-cpu",
        Format::SavedModel => "tf-xla",
    }
}

/// The stack that is tried before [`default_stack`].
const COMPILING_STACK: &str = "tf-xla-aot";

/// The description that surrounds a base that is named as an image.
const PLAIN_BASE: &str = "scratch";

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
    /// The model; none where layers are made that every model shares.
    pub model: Option<Model>,
    /// How the model is to be compiled, where the stack compiles.
    compiling: Option<Compiling>,
    /// What the model was compiled into.
    pub compiled: Option<CompiledModel>,
    /// Why the stack that was tried first does not serve the model.
    pub not_compiled: Option<String>,
    /// The stack.
    pub stack: StackTemplate,
    /// The base.
    pub base: BaseImage,
    /// The image that everything is put upon, where the base is one.
    pub parent: Option<Parent>,
    /// As whom the image runs.
    pub user: User,
    /// The stack's packages.
    pub stack_packages: Vec<Package>,
    /// The base's packages.
    pub base_packages: Vec<Package>,
    /// The server.
    pub server: ServerBinary,
    /// Nodes of the model that the GPU's provider has no kernel for, by operator.
    pub on_cpu: BTreeMap<OperatorId, u64>,
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
    /// The model of a build of an image.
    ///
    /// # Panics
    /// Where only layers are made that every model shares.
    #[must_use]
    pub fn model(&self) -> &Model {
        self.model.as_ref().expect("only shared layers are made without a model")
    }

    /// Opens the model, locks and fetches the packages, and checks that the runtime knows the model's operators.
    ///
    /// # Errors
    /// Where one of them cannot be had or does not fit the others. Nothing but the store is written.
    pub fn obtain(recipe: &Recipe, options: &BuildOptions, store: &Store, progress: &Progress) -> Result<Self, BuildError> {
        Choice::of(recipe, options)?.obtain(recipe, options, store, progress)
    }

    /// Takes the stack and base of a model, with a lock and without any package: their layers were made before.
    pub(super) fn without_packages(
        choice: Choice,
        recipe: &Recipe,
        lock: Lock,
        lock_changes: Vec<String>,
        server: &Path,
        progress: &Progress,
    ) -> Result<Self, BuildError> {
        let user = user_of(recipe, &choice.base.value, None, progress)?;
        Ok(Self {
            model: choice.model,
            compiling: None,
            compiled: None,
            not_compiled: None,
            stack: choice.stack.value,
            base: choice.base.value,
            parent: None,
            user,
            stack_packages: Vec::new(),
            base_packages: Vec::new(),
            server: ServerBinary { path: server.to_owned(), pin: lock.server.clone() },
            on_cpu: choice.on_cpu,
            lock,
            lock_changes,
        })
    }

    /// Compiles the model, where the stack does that.
    ///
    /// # Errors
    /// [`BuildError::Compile`].
    pub(super) fn compile(
        &mut self,
        recipe: &Recipe,
        options: &BuildOptions,
        store: &Store,
        progress: &Progress,
    ) -> Result<(), BuildError> {
        let (Some(compiling), Some(template), Some(model)) = (&self.compiling, &self.stack.compiler, &self.model) else {
            return Ok(());
        };
        let Content::SavedModel(saved_model) = &model.content else { return Ok(()) };
        // Before anything is compiled, which takes minutes.
        if let Some(change) = self.lock.pin_linker(&compiling.programs.version, &recipe.lock_path(), options.lock)? {
            progress.warn(change);
        }
        let request = CompileRequest {
            template,
            lock: &self.lock,
            model,
            saved_model,
            batch: &compiling.batch,
            processor: &compiling.processor,
            programs: &compiling.programs,
            sources: &Sources::new(&Environment::of_process(), &recipe.folder),
            reach: options.reach,
        };
        self.compiled = Some(compile(&request, store, progress)?);
        Ok(())
    }

    /// The image's environment: the base's, then the stack's, then the recipe's.
    #[must_use]
    pub fn environment(&self, recipe: &Recipe) -> BTreeMap<String, String> {
        let mut environment = self.parent.as_ref().map(Parent::environment).unwrap_or_default();
        environment.extend(self.base.environment.clone());
        environment.extend(self.stack.environment.clone());
        environment.extend(recipe.environment.clone());
        environment
    }

    /// Where the server starts: in the folder that the base names, or in the root.
    #[must_use]
    pub fn working_folder(&self) -> &str {
        let named = self.parent.as_ref().and_then(|parent| parent.config.config.working_dir.as_deref());
        named.filter(|folder| folder.starts_with('/')).unwrap_or("/")
    }

    /// What the runtime is resolved from.
    #[must_use]
    pub fn runtime_request<'a>(&'a self, recipe: &'a Recipe) -> RuntimeRequest<'a> {
        RuntimeRequest {
            stack: &self.stack,
            base: &self.base,
            parent: self.parent.as_ref(),
            library_path: self
                .environment(recipe)
                .get("LD_LIBRARY_PATH")
                .map(|path| path.split([':', ';']).map(str::to_owned).collect())
                .unwrap_or_default(),
            stack_packages: &self.stack_packages,
            base_packages: &self.base_packages,
            server: self.server.path.clone(),
            server_version: self.server.pin.sha256.short(),
            custom_operators: &recipe.custom_operators,
            model_library: self.compiled.as_ref().map(|compiled| (model_library(recipe), compiled.library.path.as_path())),
            model: self.model.as_ref(),
            platform: recipe.platform,
            minimize: recipe.minimize,
            bind: recipe.bind,
            gpus: recipe.device_gpus(),
            prune_vendor: recipe.prune_vendor,
            keep: &recipe.keep,
        }
    }
}

/// What was chosen before anything is pinned: the model, and the data files of its stack and base.
#[derive(Debug)]
pub(super) struct Choice {
    model: Option<Model>,
    pub stack: Loaded<StackTemplate>,
    base: Loaded<BaseImage>,
    /// The image that everything is put upon, where the base is one.
    pub base_image: Option<ParentName>,
    /// Nodes of the model that the GPU's provider has no kernel for, by operator.
    on_cpu: BTreeMap<OperatorId, u64>,
    /// How the model is compiled, where the stack compiles.
    compiling: Option<Compiling>,
    /// Whether another stack may take the place of this one.
    pub automatic: bool,
    /// Why the stack that was tried first does not serve the model.
    pub not_compiled: Option<String>,
}

/// How a model is compiled.
#[derive(Debug)]
struct Compiling {
    batch: Batch,
    processor: Processor,
    programs: Programs,
}

impl Choice {
    /// Opens the model, chooses its stack and checks it against that. A SavedModel whose stack is left open is compiled where that
    /// can be; where there is a lock that must not change, its stack is meant.
    pub fn of(recipe: &Recipe, options: &BuildOptions) -> Result<Self, BuildError> {
        let model = Model::open_selected(&recipe.model, &recipe.saved_model)?;
        let default = default_stack(model.format);
        let locked = match (&recipe.stack, options.lock) {
            (None, LockMode::Locked) => Lock::load(&recipe.lock_path())?.map(|lock| lock.stack),
            _ => None,
        };
        // Of a lock with another stack it is said later that it is stale.
        let locked = locked.filter(|stack| stack == default || (model.format == Format::SavedModel && stack == COMPILING_STACK));
        if let Some(stack) = recipe.stack.as_ref().or(locked.as_ref()) {
            return Self::of_stack(recipe, model, stack);
        }
        if model.format != Format::SavedModel || options.published.is_some() {
            return Self::of_stack(recipe, model, default);
        }
        let reason = if recipe.xla != XlaChoice::default() || recipe.runtime.is_some() {
            "what TensorFlow itself does was asked for".to_owned()
        } else {
            match Self::of_stack(recipe, model.clone(), COMPILING_STACK) {
                Ok(choice) => return Ok(Self { automatic: true, ..choice }),
                Err(BuildError::Compile(error)) => error.to_string(),
                Err(error @ BuildError::Stack { .. }) => error.to_string(),
                Err(error) => return Err(error),
            }
        };
        Ok(Self { not_compiled: Some(reason), ..Self::of_stack(recipe, model, default)? })
    }

    /// Takes the stack that serves what cannot be compiled.
    pub fn of_default(recipe: &Recipe, reason: String) -> Result<Self, BuildError> {
        let model = Model::open_selected(&recipe.model, &recipe.saved_model)?;
        let default = default_stack(model.format);
        Ok(Self { not_compiled: Some(reason), ..Self::of_stack(recipe, model, default)? })
    }

    /// Checks a model against a stack.
    fn of_stack(recipe: &Recipe, model: Model, stack: &str) -> Result<Self, BuildError> {
        let mut choice = Self::with_stack(recipe, Some(model), stack)?;
        let gpu = choice.stack.value.gpu.clone();
        if let (Some(model), Some(table)) = (&choice.model, &choice.stack.value.operators) {
            let loaded = Data::locate().operators(table)?;
            let text = String::from_utf8_lossy(&loaded.value);
            match &model.content {
                Content::Onnx(onnx) => {
                    let mut table = OperatorTable::parse(&text)?;
                    let provided = gpu.as_ref().map_or(&[][..], |gpu| &gpu.operators);
                    let file = gpu.as_ref().and_then(|gpu| gpu.kernels.as_ref());
                    let kernels = file.map(|file| provider_kernels(file, provided)).transpose()?;
                    table.provide(provided);
                    if let Some(kernels) = &kernels {
                        table.add_kernels(kernels);
                    }
                    check_operators(onnx, &table, &recipe.custom_domains)?;
                    choice.on_cpu = kernels.map(|kernels| nodes_without_kernel(onnx, &kernels)).unwrap_or_default();
                    choice.on_cpu.retain(|operator, _| !recipe.custom_domains.contains(&operator.domain));
                }
                Content::SavedModel(saved) => {
                    saved.check_operators(&TensorFlowOperators::parse(&text)?, &model.path)?;
                    if let Some((gpu, file)) = gpu.as_ref().and_then(|gpu| Some((gpu, gpu.kernels.as_ref()?))) {
                        let loaded = Data::locate().operators(file)?;
                        let mut kernels = TensorFlowOperators::parse(&String::from_utf8_lossy(&loaded.value))?;
                        kernels.provide(&gpu.operators);
                        choice.on_cpu = saved.nodes_without_kernel(&kernels);
                    }
                }
            }
        }
        Ok(choice)
    }

    /// Finds the data files of a recipe's stack and base.
    pub fn without_model(recipe: &Recipe) -> Result<Self, BuildError> {
        Self::with_stack(recipe, None, recipe.stack.as_deref().unwrap_or(default_stack(Format::Onnx)))
    }

    fn with_stack(recipe: &Recipe, model: Option<Model>, stack: &str) -> Result<Self, BuildError> {
        let data = Data::locate();
        let stack = data.template(stack)?;
        check_stack(&stack.value, model.as_ref(), recipe)?;
        let compiling = match (&stack.value.compiler, &model) {
            (Some(compiler), Some(model)) => Some(compiling(recipe, &stack.value, compiler, model)?),
            _ => None,
        };
        let (base, base_image) = base_of(recipe, &data)?;
        let on_cpu = BTreeMap::new();
        Ok(Self { model, stack, base, base_image, on_cpu, compiling, automatic: false, not_compiled: None })
    }

    /// What is to be pinned; how many of the packages are the stack's comes with it.
    pub fn lock_request(&self, recipe: &Recipe, server: ServerPin) -> Result<(LockRequest, usize), BuildError> {
        let mut requests = stack_requests(&self.stack.value, recipe)?;
        let stack_count = requests.len();
        requests.extend(self.base.value.requests(recipe.platform));
        let request = LockRequest {
            stack: self.stack.value.name.clone(),
            base: recipe.base.to_string(),
            platform: recipe.platform,
            data: Digest::of(format!("{}\n{}\n", self.stack.digest, self.base.digest).as_bytes()),
            server,
            rewriting: rewriting(&self.stack.value, recipe),
            device_code: device_code(recipe),
            requests,
            compiler: match (&self.stack.value.compiler, &self.compiling) {
                (Some(compiler), Some(compiling)) => compiler.requests(&compiling.programs.python_version),
                _ => Vec::new(),
            },
            base_image: self.base_image.clone(),
        };
        Ok((request, stack_count))
    }

    /// Locks and fetches the packages.
    pub fn obtain(
        self,
        recipe: &Recipe,
        options: &BuildOptions,
        store: &Store,
        progress: &Progress,
    ) -> Result<Inputs, BuildError> {
        let server = ServerBinary::open(&options.server, recipe.platform, store)?;
        let (request, stack_count) = self.lock_request(recipe, server.pin.clone())?;
        let parents = Parents { client: &options.client, store, reach: options.reach, progress, platform: recipe.platform };
        let sources = Sources::new(&Environment::of_process(), &recipe.folder);
        let chooser = Chooser { sources: &sources, store, parents: &parents, reach: options.reach, progress };
        let obtained = Lock::obtain(&recipe.lock_path(), &request, options.lock, &chooser)?;
        let pins: Vec<&Pin> = obtained.lock.inputs.iter().collect();
        let blobs = sources.obtain(&pins, store, options.reach, progress)?;
        let mut packages =
            pins.iter().zip(&blobs).map(|(pin, blob)| Package::open(pin, blob, store)).collect::<Result<Vec<_>, _>>()?;
        let base_packages = packages.split_off(stack_count);
        check_files(&self.stack.value, &packages)?;
        let base = self.base.value;
        if let Some(rule) = &base.release
            && let Some(package) = base_packages.iter().find(|package| package.pin().name == rule.package)
        {
            base.check_release(&Release::of(package, store)?)?;
        }
        let parent = match (&request.base_image, &obtained.lock.base_image) {
            (Some(name), Some(pin)) => Some(parents.open(name, pin)?),
            _ => None,
        };
        let user = user_of(recipe, &base, parent.as_ref(), progress)?;
        if let Some(reason) = &self.not_compiled {
            progress.note(format!("stack {}, since {COMPILING_STACK} does not serve the model: {reason}", self.stack.value.name));
        }
        Ok(Inputs {
            model: self.model,
            compiling: self.compiling,
            compiled: None,
            not_compiled: self.not_compiled,
            stack: self.stack.value,
            base,
            parent,
            user,
            stack_packages: packages,
            base_packages,
            server,
            on_cpu: self.on_cpu,
            lock: obtained.lock,
            lock_changes: obtained.changes,
        })
    }
}

/// The kernels of a GPU's provider, and the operators that it runs without a kernel.
fn provider_kernels(file: &str, provided: &[String]) -> Result<OperatorTable, BuildError> {
    let loaded = Data::locate().operators(file)?;
    let mut kernels = OperatorTable::parse(&String::from_utf8_lossy(&loaded.value))?;
    kernels.provide(provided);
    Ok(kernels)
}

/// Where the library of a compiled model goes.
fn model_library(recipe: &Recipe) -> ImagePath {
    format!("/models/{}/libmodel.so", recipe.name).parse().expect("the name was checked")
}

/// How a model is compiled: for which rows and processor, and with what.
fn compiling(
    recipe: &Recipe,
    stack: &StackTemplate,
    compiler: &CompilerTemplate,
    model: &Model,
) -> Result<Compiling, BuildError> {
    let Content::SavedModel(saved_model) = &model.content else {
        let (what, expected) = ("ONNX models".to_owned(), "SavedModels".to_owned());
        return Err(BuildError::Stack { stack: stack.name.clone(), what, expected });
    };
    let batch = Batch::of(saved_model, &model.path, &recipe.batch)?;
    let processor = choose_processor(compiler, &stack.name, recipe.cpu.as_deref())?;
    Ok(Compiling { batch, processor, programs: Programs::find()? })
}

/// The base's description, and the image that it is or names. An image gets what every base gets besides, as far as it lacks it.
fn base_of(recipe: &Recipe, data: &Data) -> Result<(Loaded<BaseImage>, Option<ParentName>), BuildError> {
    match &recipe.base {
        BaseChoice::Named(name) => {
            let base = data.base_image(name)?;
            let image = match base.value.contents() {
                Contents::Oci(image) => Some(ParentName::parse(image, &recipe.folder)?),
                Contents::Packages(_) | Contents::Nothing => None,
            };
            Ok((base, image))
        }
        BaseChoice::Image { written, folder } => Ok((data.base_image(PLAIN_BASE)?, Some(ParentName::parse(written, folder)?))),
    }
}

/// As whom the image runs: what the recipe says, else what the base image does unless that is root, else the data file's user.
fn user_of(recipe: &Recipe, base: &BaseImage, parent: Option<&Parent>, progress: &Progress) -> Result<User, BuildError> {
    let user = User { uid: base.user.uid, gid: base.user.gid };
    let Some(parent) = parent.filter(|_| recipe.user.is_none()) else { return Ok(recipe.user.unwrap_or(user)) };
    if let Some(user) = parent.user()? {
        return Ok(user);
    }
    progress.note(format!("the base {} runs as root; the image runs as {user}", parent.name));
    Ok(user)
}

fn check_stack(stack: &StackTemplate, model: Option<&Model>, recipe: &Recipe) -> Result<(), BuildError> {
    let wrong = |what: String, expected: String| BuildError::Stack { stack: stack.name.clone(), what, expected };
    let format = model.map(|model| match model.format {
        Format::Onnx => ModelFormat::Onnx,
        Format::SavedModel => ModelFormat::SavedModel,
    });
    if let Some(format) = format.filter(|format| !stack.models.contains(format)) {
        let known: Vec<&str> = stack.models.iter().map(|format| format.name()).collect();
        return Err(wrong(format.name().to_owned(), known.join(" or ")));
    }
    if format == Some(ModelFormat::SavedModel) && !recipe.custom_operators.is_empty() {
        let expected = "operators of TensorFlow itself".to_owned();
        return Err(wrong("models that need a library of custom operators".to_owned(), expected));
    }
    if let Some(gpu) = recipe.gpus.first().filter(|_| stack.gpu.is_none()) {
        let what = format!("{gpu} (`--gpu`)");
        let other = if format == Some(ModelFormat::SavedModel) { "tf-xla-gpu" } else { "onnx-cuda" };
        return Err(wrong(what, format!("a stack that runs on a GPU, such as `{other}`; this one runs on the CPU")));
    }
    if let Some(stack_gpu) = stack.gpu.as_ref().filter(|gpu| !gpu.architectures.is_empty())
        && let Some(gpu) = recipe.gpus.iter().find(|gpu| !stack_gpu.architectures.contains(gpu))
    {
        let known: Vec<String> = stack_gpu.architectures.iter().map(ToString::to_string).collect();
        return Err(wrong(format!("{gpu} (`--gpu`)"), known.join(", ")));
    }
    check_engines(stack, recipe)?;
    if let Some(name) = recipe.packages.keys().find(|name| stack.packages.iter().all(|package| package.name != **name)) {
        let known: Vec<&str> = stack.packages.iter().map(|package| package.name.as_str()).collect();
        return Err(BuildError::NoPackage { stack: stack.name.clone(), name: name.clone(), known: known.join(", ") });
    }
    let pinned = [(!recipe.batch.is_empty(), "chosen sizes of batches"), (recipe.cpu.is_some(), "chosen processors")];
    // Where the stack was chosen in place of one that compiles, what was meant for that one is moot.
    if let Some((_, what)) = pinned.into_iter().find(|(asked, _)| *asked && stack.compiler.is_none() && recipe.stack.is_some()) {
        return Err(wrong(what.to_owned(), "a stack that compiles ahead of time, `tf-xla-aot`".to_owned()));
    }
    let platform = recipe.platform;
    if !stack.platforms.contains(&platform) {
        let known: Vec<String> = stack.platforms.iter().map(ToString::to_string).collect();
        return Err(wrong(format!("on {platform}"), known.join(" or ")));
    }
    Ok(())
}

/// Checks that the stack runs the model's engines: by their provider, with the versions that compiled them.
fn check_engines(stack: &StackTemplate, recipe: &Recipe) -> Result<(), BuildError> {
    let wrong = |what: String, expected: String| BuildError::Stack { stack: stack.name.clone(), what, expected };
    let Some(record) = &recipe.engines else { return Ok(()) };
    let own = stack.gpu.as_ref().map_or("cpu", |gpu| gpu.provider.as_str());
    if own != record.provider {
        let what = format!("engines of `{}`, and runs models with `{own}`", record.provider);
        return Err(wrong(what, format!("`onnx-tensorrt` or `onnx-tensorrt-rtx`, whose provider is `{}`", record.provider)));
    }
    for (name, compiled) in record.versions() {
        let Some(package) = stack.packages.iter().find(|package| package.name == name) else { continue };
        let version = match recipe.packages.get(name) {
            Some(PackageChoice::Version(version)) => version,
            Some(PackageChoice::Path(_)) => continue,
            None => &package.version,
        };
        if version != compiled {
            let what = format!("engines that {name} {compiled} compiled with {name} {version}");
            return Err(wrong(what, format!("`--package {name}={compiled}`, or engines compiled anew (`imgbuild engine`)")));
        }
    }
    Ok(())
}

/// How the libraries of a stack are rewritten, where some are.
fn rewriting(stack: &StackTemplate, recipe: &Recipe) -> Option<RewritingPin> {
    let mut rules =
        stack.packages.iter().flat_map(|package| &package.libraries).filter(|rule| {
            rule.strip || rule.bind.is_some() || !rule.drop_needed.is_empty() || (rule.pack && recipe.prune_vendor)
        });
    rules.next().map(|_| RewritingPin { format: REWRITE_FORMAT, bind: recipe.bind })
}

/// How device code is pruned, where it is.
fn device_code(recipe: &Recipe) -> Option<DeviceCodePin> {
    let pin = || DeviceCodePin { format: PRUNE_FORMAT, gpus: recipe.gpus.clone(), vendor: recipe.prune_vendor };
    (!recipe.gpus.is_empty()).then(pin)
}

/// What to pin for a stack: its packages, or what the recipe names in place of all of them or of one.
fn stack_requests(stack: &StackTemplate, recipe: &Recipe) -> Result<Vec<Request>, BuildError> {
    let whole = recipe.runtime.as_ref().map(|path| path.strip_prefix(&recipe.folder).unwrap_or(path).display().to_string());
    let choice = |name: &str| {
        // A runtime of one's own brings no packages of a distribution.
        let is_apt = stack.packages.iter().any(|package| package.name == name && package.source == PackageSource::Apt);
        let whole = whole.clone().filter(|_| !is_apt).map(PackageChoice::Path);
        recipe.packages.get(name).cloned().or(whole)
    };
    Ok(stack.requests(choice)?)
}

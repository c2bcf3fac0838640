//! Obtaining a lock: reading the one that is there, and pinning what it lacks.

use std::path::Path;

use super::{DeviceCodePin, Lock, LockError, OptimizedPin, RewritingPin, ServerPin, VERSION};
use crate::digest::Digest;
use crate::layer::FORMAT_VERSION;
use crate::parent::{ParentName, ParentPin, Parents};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::source::{DebName, Pin, Reach, Request, SourceKind, Sources, WheelName};
use crate::store::Store;

/// What may happen to the lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// It must be there and up to date.
    Locked,
    /// What it lacks is pinned; pins that still fit are kept.
    Complete,
    /// Every version is chosen anew.
    Update,
}

/// What is to be pinned.
#[derive(Debug, Clone)]
pub struct LockRequest {
    /// Name of the stack.
    pub stack: String,
    /// Name or reference of the base.
    pub base: String,
    /// For which platform.
    pub platform: Platform,
    /// Digest over the data files of stack and base, which say what may be chosen.
    pub data: Digest,
    /// The inference server.
    pub server: ServerPin,
    /// How libraries are rewritten, where some are.
    pub rewriting: Option<RewritingPin>,
    /// How device code is pruned, where it is.
    pub device_code: Option<DeviceCodePin>,
    /// The packages to pin, in order.
    pub requests: Vec<Request>,
    /// The packages of the compiler, where the stack has one.
    pub compiler: Vec<Request>,
    /// The image that everything is put upon, where the base is one.
    pub base_image: Option<ParentName>,
}

impl LockRequest {
    /// What the lock's `request` must be.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(format!("{}\n{}\n{}\n{}\n", self.stack, self.base, self.platform, self.data).as_bytes())
    }
}

/// A lock that fits the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obtained {
    /// The lock.
    pub lock: Lock,
    /// What changed against the file that was there, as lines for people. Empty where nothing did.
    pub changes: Vec<String>,
}

/// Where pins are chosen, and what may be used for it.
#[derive(Debug)]
pub struct Chooser<'a> {
    /// The sources.
    pub sources: &'a Sources,
    /// Where what was fetched for choosing is kept.
    pub store: &'a Store,
    /// Where images to build upon are found.
    pub parents: &'a Parents<'a>,
    /// Whether the network may be used.
    pub reach: Reach,
    /// Where events go.
    pub progress: &'a Progress,
}

impl Chooser<'_> {
    /// Pins some requests of one lock.
    fn choose(&self, requests: &[Request], platform: Platform) -> Result<Vec<Pin>, LockError> {
        let remote = requests.iter().find(|request| !matches!(request, Request::Local { .. }));
        if let Some(request) = remote.filter(|_| self.reach == Reach::Offline) {
            return Err(LockError::Offline { name: request.name().to_owned() });
        }
        self.sources.lock(requests, platform, self.store, self.progress).map_err(|source| {
            let names: Vec<&str> = requests.iter().map(Request::name).collect();
            LockError::Pin { names: names.join(", "), source: Box::new(source) }
        })
    }
}

/// Pins the image that everything is put upon. With [`LockMode::Locked`], a tag that has moved since makes the lock stale.
fn pin_base(
    path: &Path,
    name: &ParentName,
    old: Option<&Lock>,
    mode: LockMode,
    chooser: &Chooser<'_>,
) -> Result<ParentPin, LockError> {
    let known = old.filter(|_| mode != LockMode::Update).and_then(|lock| lock.base_image.as_ref());
    let known = known.filter(|pin| pin.name == name.to_string());
    let stale = |reason: String| LockError::Stale { path: path.to_owned(), reason };
    match known {
        Some(pin) if mode == LockMode::Locked && chooser.reach == Reach::Online && name.digest().is_none() => {
            let now = chooser.parents.resolve(name)?;
            if now.sha256 == pin.sha256 {
                Ok(now)
            } else {
                Err(stale(format!("the base `{name}` is now {}, and the lock pins {}", now.sha256, pin.sha256)))
            }
        }
        Some(pin) => Ok(pin.clone()),
        None if mode == LockMode::Locked => Err(stale(format!("it does not pin the base `{name}`"))),
        None => Ok(chooser.parents.resolve(name)?),
    }
}

impl Lock {
    /// Reads the lock at `path` and pins what is missing in it for `request`. Writes nothing: see [`Lock::save`].
    ///
    /// Files and directories that the recipe names are hashed each time: a changed one makes the lock stale.
    ///
    /// # Errors
    /// With [`LockMode::Locked`] where the lock is missing or stale; where a version cannot be chosen.
    pub fn obtain(path: &Path, request: &LockRequest, mode: LockMode, chooser: &Chooser<'_>) -> Result<Obtained, LockError> {
        let old = Self::load(path)?;
        if mode == LockMode::Locked && old.is_none() {
            return Err(LockError::Missing { path: path.to_owned() });
        }
        let requests: Vec<&Request> = request.requests.iter().chain(&request.compiler).collect();
        let keep = |(at, wanted): (usize, &&Request)| {
            let lock = old.as_ref().filter(|_| mode != LockMode::Update)?;
            let known = if at < request.requests.len() { &lock.inputs } else { &lock.compiler };
            known.iter().find(|pin| fits(pin, wanted, request.platform)).cloned()
        };
        let mut pins: Vec<Option<Pin>> = requests.iter().enumerate().map(keep).collect();
        let missing: Vec<usize> = (0..pins.len()).filter(|at| pins[*at].is_none()).collect();
        let local = |at: &usize| matches!(requests[*at], Request::Local { .. });
        if mode == LockMode::Locked
            && let Some(at) = missing.iter().find(|at| !local(at))
        {
            let reason = format!(
                "it does not pin `{}` as {} for it",
                requests[*at].name(),
                asking(requests[*at], *at >= request.requests.len())
            );
            return Err(LockError::Stale { path: path.to_owned(), reason });
        }
        let wanted: Vec<Request> = missing.iter().map(|at| requests[*at].clone()).collect();
        if !wanted.is_empty() {
            for (at, pin) in missing.into_iter().zip(chooser.choose(&wanted, request.platform)?) {
                pins[at] = Some(pin);
            }
        }
        let name = request.base_image.as_ref();
        let base_image = name.map(|name| pin_base(path, name, old.as_ref(), mode, chooser)).transpose()?;
        let mut pins: Vec<Pin> = pins.into_iter().flatten().collect();
        let compiler = pins.split_off(request.requests.len());
        let lock = Self {
            version: VERSION,
            format: FORMAT_VERSION,
            stack: request.stack.clone(),
            base: request.base.clone(),
            platform: request.platform.to_string(),
            request: request.digest(),
            linked_by: old
                .as_ref()
                .filter(|_| mode != LockMode::Update && !request.compiler.is_empty())
                .and_then(|lock| lock.linked_by.clone()),
            server: request.server.clone(),
            rewriting: request.rewriting,
            device_code: request.device_code.clone(),
            optimized: old.as_ref().filter(|_| mode != LockMode::Update).and_then(|lock| lock.optimized.clone()),
            xla: old.as_ref().filter(|_| mode != LockMode::Update).and_then(|lock| lock.xla),
            base_image,
            inputs: pins,
            compiler,
        };
        let changes = lock.changes_since(old.as_ref());
        match old {
            Some(old) if mode == LockMode::Locked && old != lock => {
                let reason = old.difference(&lock).unwrap_or_else(|| changes.join(", "));
                Err(LockError::Stale { path: path.to_owned(), reason })
            }
            _ => Ok(Obtained { lock, changes }),
        }
    }

    /// Pins the optimised model, or checks it against the pin that is there; gives what changed, for people. A pin for another
    /// model, runtime or level says nothing: models are not pinned.
    ///
    /// # Errors
    /// With [`LockMode::Locked`] where the same was optimised into other bytes.
    pub fn pin_optimized(
        &mut self,
        found: Option<OptimizedPin>,
        path: &Path,
        mode: LockMode,
    ) -> Result<Option<String>, LockError> {
        let contradiction =
            self.optimized.as_ref().zip(found.as_ref()).filter(|(pin, found)| pin.from == found.from && pin != found);
        let change = contradiction.map(|(pin, found)| {
            format!("the runtime optimised the model into {}, and on another machine into {}", found.sha256, pin.sha256)
        });
        match (mode, contradiction) {
            (LockMode::Locked, Some((pin, found))) => {
                return Err(LockError::Optimized { path: path.to_owned(), found: found.sha256, expected: pin.sha256 });
            }
            (LockMode::Locked, None) => {}
            (LockMode::Complete | LockMode::Update, _) => self.optimized = found,
        }
        Ok(change)
    }

    /// Pins the C++ compiler that links the model, or checks it against the pin that is there; gives what changed, for people.
    ///
    /// # Errors
    /// With [`LockMode::Locked`] where it is another one.
    pub fn pin_linker(&mut self, found: &str, path: &Path, mode: LockMode) -> Result<Option<String>, LockError> {
        let other = self.linked_by.as_deref().filter(|pin| *pin != found);
        let change =
            other.map(|pin| format!("the C++ compiler is `{found}`, and the lock's was `{pin}`: other bytes come of it"));
        match (mode, other) {
            (LockMode::Locked, Some(expected)) => {
                let (path, found, expected) = (path.to_owned(), found.to_owned(), expected.to_owned());
                return Err(LockError::Linker { path, found, expected });
            }
            (LockMode::Locked, None) => {}
            (LockMode::Complete | LockMode::Update, _) => self.linked_by = Some(found.to_owned()),
        }
        Ok(change)
    }

    /// How this lock's head differs from the one that is needed.
    fn difference(&self, needed: &Self) -> Option<String> {
        for (what, found, expected) in [
            ("stack", &self.stack, &needed.stack),
            ("base", &self.base, &needed.base),
            ("platform", &self.platform, &needed.platform),
        ] {
            if found != expected {
                return Some(format!("its {what} is `{found}`, expected `{expected}`"));
            }
        }
        if self.format != needed.format {
            return Some(format!("its format is {}, expected {}", self.format, needed.format));
        }
        if self.request != needed.request {
            return Some(format!("the data of stack `{}` or base `{}` changed since it was written", self.stack, self.base));
        }
        if self.rewriting != needed.rewriting {
            return Some(format!("libraries are {}, expected {}", rewriting(self.rewriting), rewriting(needed.rewriting)));
        }
        if self.device_code != needed.device_code {
            let (found, expected) = (device_code(self.device_code.as_ref()), device_code(needed.device_code.as_ref()));
            return Some(format!("device code is {found}, expected {expected}"));
        }
        (self.server != needed.server)
            .then(|| format!("its server is {}, and the one at hand is {}", self.server.sha256, needed.server.sha256))
    }

    /// What goes into the image, then what only makes it.
    pub(crate) fn packages(&self) -> impl Iterator<Item = &Pin> {
        self.inputs.iter().chain(&self.compiler)
    }

    fn changes_since(&self, old: Option<&Self>) -> Vec<String> {
        let pinned_base = |pin: &ParentPin| format!("pinned {} {}", pin.name, pin.sha256.short());
        let Some(old) = old else {
            let packages = self.packages().map(|pin| format!("pinned {} {}", pin.name, pin.version));
            return self.base_image.iter().map(pinned_base).chain(packages).collect();
        };
        let mut changes = Vec::new();
        match (&self.base_image, &old.base_image) {
            (Some(pin), Some(before)) if pin.name == before.name && pin.sha256 != before.sha256 => {
                changes.push(format!("{} {} → {}", pin.name, before.sha256.short(), pin.sha256.short()));
            }
            (Some(pin), before) if before.as_ref() != Some(pin) => changes.push(pinned_base(pin)),
            _ => {}
        }
        for pin in self.packages() {
            match old.packages().find(|before| before.name == pin.name && before.kind == pin.kind) {
                None => changes.push(format!("pinned {} {}", pin.name, pin.version)),
                Some(before) if before.version != pin.version => {
                    changes.push(format!("{} {} → {}", pin.name, before.version, pin.version));
                }
                Some(before) if before != pin => changes.push(format!("{} {} is now another file", pin.name, pin.version)),
                Some(_) => {}
            }
        }
        for before in old.packages() {
            if !self.packages().any(|pin| pin.name == before.name && pin.kind == before.kind) {
                changes.push(format!("dropped {} {}", before.name, before.version));
            }
        }
        if old.server != self.server {
            changes.push(format!("imgserve is now {}", self.server.sha256.short()));
        }
        if old.rewriting != self.rewriting {
            changes.push(format!("libraries are now {}", rewriting(self.rewriting)));
        }
        if old.device_code != self.device_code {
            changes.push(format!("device code is now {}", device_code(self.device_code.as_ref())));
        }
        if changes.is_empty() && old != self {
            changes.push("stack, base or platform changed".to_owned());
        }
        changes
    }
}

/// Who asks for a package that a lock lacks, and for which Python, in words.
fn asking(request: &Request, of_compiler: bool) -> String {
    match request {
        Request::Wheel { tags, .. } if of_compiler => format!("the stack's compiler on Python {} asks", tags.python),
        _ => "the stack and base ask".to_owned(),
    }
}

/// What a lock says about the rewriting of libraries, in words.
fn rewriting(pin: Option<RewritingPin>) -> String {
    pin.map_or_else(|| "not rewritten".to_owned(), |pin| format!("rewritten in {pin}"))
}

/// What a lock says about device code, in words.
fn device_code(pin: Option<&DeviceCodePin>) -> String {
    pin.map_or_else(|| "kept for all GPUs".to_owned(), ToString::to_string)
}

/// Tells whether a pin is what a request asks for. Local files never fit without being hashed again.
fn fits(pin: &Pin, wanted: &Request, platform: Platform) -> bool {
    let version_fits = |version: &Option<String>| version.as_ref().is_none_or(|version| *version == pin.version);
    match wanted {
        Request::Wheel { name, version, tags } => {
            let Ok(wheel) = pin.file.parse::<WheelName>() else { return false };
            let built_for = &wheel.platform;
            pin.kind == SourceKind::Pip
                && pin.name == *name
                && version_fits(version)
                && (built_for == "any" || built_for.ends_with(platform.machine()))
                && wheel.runs_on(&tags.python)
        }
        Request::Debian { name, version } => {
            let built_for = pin.file.parse::<DebName>().map(|package| package.architecture).unwrap_or_default();
            pin.kind == SourceKind::Apt
                && pin.name == *name
                && version_fits(version)
                && (built_for == "all" || built_for == platform.architecture())
        }
        Request::Local { .. } => false,
    }
}

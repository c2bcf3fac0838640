//! What a host has: [`Host`], read below a folder, so that another than this machine's root can stand in.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::nvml;
use crate::elf::Machine;
use crate::fatbin::Sm;
use crate::link::parse_cache;

/// Where the host keeps libraries that the driver brings.
const LIBRARY_FOLDERS: [&str; 9] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/lib/wsl/lib",
    "usr/local/nvidia/lib64",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "run/opengl-driver/lib",
    "home/kubernetes/bin/nvidia/lib64",
];
/// Libraries of the driver that the container toolkit puts into containers.
pub(super) const INJECTED: [&str; 4] =
    ["libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1", "libnvidia-nvvm.so.4"];
/// Programs of the container toolkit.
const PROGRAMS: [&str; 3] = ["nvidia-container-runtime", "nvidia-ctk", "nvidia-cdi-hook"];
const PROGRAM_FOLDERS: [&str; 3] = ["usr/bin", "usr/local/bin", "usr/local/nvidia/toolkit"];
const CDI_FOLDERS: [&str; 2] = ["etc/cdi", "var/run/cdi"];
const DOCKER_CONFIG: &str = "etc/docker/daemon.json";

/// The driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Driver {
    /// Its version, such as `580.65.06`.
    pub version: String,
    /// The newest version of CUDA that it serves, such as `13.0`.
    pub cuda: Option<String>,
}

impl Driver {
    /// The first number of its version.
    #[must_use]
    pub fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Its architecture, where it is known.
    pub sm: Option<Sm>,
}

/// What gives containers a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Toolkit {
    /// Programs of NVIDIA's container toolkit, by path.
    pub programs: Vec<String>,
    /// Docker's runtimes that are NVIDIA's, by name.
    pub docker_runtimes: Vec<String>,
    /// Specifications of NVIDIA's devices for CDI, by path.
    pub cdi: Vec<String>,
}

/// What a host has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Host {
    /// The architecture as the kernel names it, such as `x86_64`.
    pub architecture: String,
    /// Features of the processor, as the kernel names them.
    #[serde(skip)]
    pub cpu: BTreeSet<String>,
    /// The driver.
    pub driver: Option<Driver>,
    /// The GPUs.
    pub gpus: Vec<Gpu>,
    /// Why the management library was not asked, in words.
    pub nvml: Option<String>,
    /// Device nodes.
    pub devices: Vec<String>,
    /// What gives containers a GPU.
    pub toolkit: Toolkit,
    /// Libraries of the driver that were found, by name.
    pub libraries: Vec<String>,
    /// Why a container cannot have a user namespace of its own, in words.
    pub no_user_namespaces: Option<String>,
    /// The container engine and its version, such as `Docker 27.3.1`.
    pub engine: Option<String>,
}

impl Host {
    /// Reads what lies below a root. What is not there is not there: nothing is an error. The engine is not asked.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let cpu = text(root, "proc/cpuinfo").unwrap_or_default();
        let mut host = Self {
            architecture: std::env::consts::ARCH.to_owned(),
            cpu: cpu_features(&cpu),
            devices: devices(root),
            toolkit: toolkit(root),
            no_user_namespaces: no_user_namespaces(root),
            ..Self::default()
        };
        let library = INJECTED.map(|name| (name, library(root, name)));
        host.libraries = library.iter().filter(|(_, path)| path.is_some()).map(|(name, _)| (*name).to_owned()).collect();
        match library.iter().find(|(name, _)| *name == INJECTED[1]).and_then(|(_, path)| path.as_ref()) {
            None => host.nvml = Some(format!("`{}` is not there", INJECTED[1])),
            Some(path) => match nvml::ask(path) {
                Ok((driver, gpus)) => (host.driver, host.gpus) = (Some(driver), gpus),
                Err(reason) => host.nvml = Some(reason),
            },
        }
        if host.driver.is_none() {
            let version = text(root, "proc/driver/nvidia/version").as_deref().and_then(module_version).map(str::to_owned);
            host.driver = version.map(|version| Driver { version, cuda: None });
            host.gpus = gpus_of_the_kernel(root);
        }
        host
    }
}

fn text(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok()
}

/// Names in a folder, sorted.
fn names(root: &Path, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn cpu_features(cpuinfo: &str) -> BTreeSet<String> {
    let line =
        cpuinfo.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| matches!(key.trim(), "flags" | "Features"));
    line.map(|(_, flags)| flags.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
}

/// The version of the driver's kernel module: `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 …`.
fn module_version(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("NVRM version:"))?;
    line.split_ascii_whitespace().find(|word| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok()))
}

/// GPUs as the kernel's module lists them, which does not say their architecture.
fn gpus_of_the_kernel(root: &Path) -> Vec<Gpu> {
    let folder = "proc/driver/nvidia/gpus";
    let informed = names(root, folder).into_iter().filter_map(|gpu| text(root, &format!("{folder}/{gpu}/information")));
    let model = |text: String| text.lines().find_map(|line| line.strip_prefix("Model:").map(|name| name.trim().to_owned()));
    informed.filter_map(model).map(|name| Gpu { name, sm: None }).collect()
}

fn devices(root: &Path) -> Vec<String> {
    let is_gpus = |name: &String| {
        let number =
            name.strip_prefix("nvidia").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()));
        number || ["nvidiactl", "nvidia-uvm", "dxg"].contains(&name.as_str())
    };
    names(root, "dev").into_iter().filter(is_gpus).map(|name| format!("/dev/{name}")).collect()
}

/// Where a library of the driver lies: in the usual folders, or where the loader's cache has it.
fn library(root: &Path, name: &str) -> Option<PathBuf> {
    let usual = LIBRARY_FOLDERS.iter().map(|folder| root.join(folder).join(name)).find(|path| path.exists());
    usual.or_else(|| {
        let cache = fs::read(root.join("etc/ld.so.cache")).ok()?;
        let machine = if cfg!(target_arch = "aarch64") { Machine::Aarch64 } else { Machine::X86_64 };
        let listed = parse_cache(&cache, machine)?.remove(name)?;
        let path = root.join(listed.trim_start_matches('/'));
        path.exists().then_some(path)
    })
}

fn toolkit(root: &Path) -> Toolkit {
    let places = PROGRAM_FOLDERS.iter().flat_map(|folder| PROGRAMS.iter().map(move |program| format!("{folder}/{program}")));
    let runtimes = text(root, DOCKER_CONFIG).and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let docker_runtimes =
        runtimes.and_then(|config| Some(config.get("runtimes")?.as_object()?.keys().cloned().collect::<Vec<_>>()));
    let is_nvidias = |path: &String| text(root, path.trim_start_matches('/')).is_some_and(|text| text.contains("nvidia.com/gpu"));
    let specifications =
        CDI_FOLDERS.iter().flat_map(|folder| names(root, folder).into_iter().map(move |name| format!("/{folder}/{name}")));
    Toolkit {
        programs: places.filter(|place| root.join(place).exists()).map(|place| format!("/{place}")).collect(),
        docker_runtimes: docker_runtimes
            .unwrap_or_default()
            .into_iter()
            .filter(|name: &String| name.contains("nvidia"))
            .collect(),
        cdi: specifications.filter(is_nvidias).collect(),
    }
}

/// Why the kernel gives an unprivileged process no user namespace.
fn no_user_namespaces(root: &Path) -> Option<String> {
    let is_zero = |path: &str| text(root, path).is_some_and(|text| text.trim() == "0");
    if !root.join("proc/self/ns/user").exists() && root.join("proc/self/ns").exists() {
        return Some("the kernel has none".to_owned());
    }
    for path in ["proc/sys/user/max_user_namespaces", "proc/sys/kernel/unprivileged_userns_clone"] {
        if is_zero(path) {
            return Some(format!("/{path} is 0"));
        }
    }
    let restricted = "proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    text(root, restricted).is_some_and(|text| text.trim() == "1").then(|| format!("/{restricted} is 1"))
}

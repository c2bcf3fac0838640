//! What driver and GPU there are, asked only to say it where a provider failed.

use std::ffi::{CStr, c_int};
use std::path::Path;

use crate::backend::library::Library;

/// The driver's library, which the host puts into the container.
const DRIVER: &str = "libcuda.so.1";
/// Numbers of `CUdevice_attribute`: the compute capability.
const MAJOR: c_int = 75;
const MINOR: c_int = 76;

/// The GPU and the driver in words, as far as they are seen: `a GPU of sm_75, driver 535.104.05, which serves CUDA 12.2`.
pub(super) fn seen() -> Option<String> {
    let mut parts = Vec::new();
    let driver = Library::open(Path::new(DRIVER)).ok();
    if let Some((major, minor)) = driver.as_ref().and_then(architecture) {
        parts.push(format!("a GPU of sm_{major}{minor}"));
    }
    let kernel = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    if let Some(version) = kernel.as_deref().and_then(module_version) {
        parts.push(format!("driver {version}"));
    }
    if let Some(cuda) = driver.as_ref().and_then(|driver| number(driver, c"cuDriverGetVersion")) {
        parts.push(format!("which serves CUDA {}.{}", cuda / 1000, cuda % 1000 / 10));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The version of the kernel's module: `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 …`.
fn module_version(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("NVRM version:"))?;
    line.split_ascii_whitespace().find(|word| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok()))
}

/// What a function gives that takes a place for one number.
fn number(driver: &Library, name: &CStr) -> Option<c_int> {
    let function = driver.symbol(name)?;
    let mut value = 0;
    // SAFETY: the driver's header declares it so.
    let status = unsafe {
        let function: unsafe extern "C" fn(*mut c_int) -> c_int = std::mem::transmute(function.as_ptr());
        function(&raw mut value)
    };
    (status == 0 && value > 0).then_some(value)
}

/// The compute capability of the first GPU.
fn architecture(driver: &Library) -> Option<(c_int, c_int)> {
    let (init, get) = (driver.symbol(c"cuInit")?, driver.symbol(c"cuDeviceGetAttribute")?);
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the driver's header declares both so; device 0 need not exist, which the status says.
    let status = unsafe {
        let init: unsafe extern "C" fn(u32) -> c_int = std::mem::transmute(init.as_ptr());
        let get: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int = std::mem::transmute(get.as_ptr());
        [init(0), get(&raw mut major, MAJOR, 0), get(&raw mut minor, MINOR, 0)]
    };
    (status == [0; 3] && major > 0).then_some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_module_says_its_version() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version:  gcc version 12.2.0\n";
        assert_eq!(module_version(closed), Some("535.104.05"));
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n";
        assert_eq!(module_version(open), Some("580.65.06"));
        assert_eq!(module_version("GCC version: 12.2.0"), None);
    }
}

//! TensorFlow on a GPU: it serves on the CPU without a word where it finds none, so everything that it needs is tried first.
//!
//! In this order: the driver's two libraries, the driver itself, the libraries that TensorFlow opens by name (where one is missing it
//! adds no GPU), and at last what TensorFlow says itself: the devices of its session.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int};
use std::path::{Path, PathBuf};

use super::call::{Failure, Session};
use crate::backend::library::{Library, not_opened};
use crate::backend::{LoadError, ProviderFault, onnx};
use crate::config::{Config, Provider};
use crate::log::c_text;

/// The driver's libraries. TensorFlow asks the second one for a GPU's links, and leaves GPUs alone where it is missing.
const DRIVER: [&str; 2] = ["libcuda.so.1", "libnvidia-ml.so.1"];
/// Numbers of `CUresult` that say that there is no GPU.
const NO_DEVICE: [c_int; 2] = [100, 101];

/// Options of a GPU, as `provider_options` gives them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct GpuOptions {
    /// Whether memory is taken as it is needed, instead of nearly all of it at once.
    pub allow_growth: bool,
    /// How much of the memory is taken at most, 0 for TensorFlow's own choice.
    pub memory_fraction: f64,
    /// Which GPUs, as numbers with commas; empty for all.
    pub visible: String,
}

impl GpuOptions {
    /// Reads the provider's options; `None` where the model runs on the CPU.
    ///
    /// # Errors
    /// [`LoadError::Option`] that names the option, what it is and what it may be.
    pub fn of(config: &Config) -> Result<Option<Self>, LoadError> {
        if config.provider != Provider::Cuda {
            return Ok(None);
        }
        Self::parse(&config.provider_options).map(Some)
    }

    fn parse(given: &BTreeMap<String, String>) -> Result<Self, LoadError> {
        let mut options = Self { allow_growth: true, ..Self::default() };
        for (name, value) in given {
            let wrong = |expected: &str| LoadError::Option {
                what: format!("`provider_options` with `{name}` = `{value}`"),
                message: format!("expected {expected}"),
            };
            match name.as_str() {
                "allow_growth" => match value.as_str() {
                    "0" | "false" => options.allow_growth = false,
                    "1" | "true" => options.allow_growth = true,
                    _ => return Err(wrong("`0` or `1`")),
                },
                "per_process_gpu_memory_fraction" => {
                    let fraction = value.parse().ok().filter(|fraction| *fraction > 0.0 && *fraction <= 1.0);
                    options.memory_fraction = fraction.ok_or_else(|| wrong("a number above 0 and up to 1"))?;
                }
                "visible_device_list" => {
                    if value.split(',').any(|number| number.parse::<u32>().is_err()) {
                        return Err(wrong("numbers of GPUs with commas, such as `0` or `0,1`"));
                    }
                    options.visible.clone_from(value);
                }
                _ => {
                    return Err(wrong(
                        "one of the options `allow_growth`, `per_process_gpu_memory_fraction` and `visible_device_list`",
                    ));
                }
            }
        }
        Ok(options)
    }
}

/// Tries the driver and every library that TensorFlow opens for a GPU. They stay open, as they would anyway.
///
/// # Errors
/// The first one that fails: a library that is not there or does not link, a driver that does not start, no GPU.
pub(super) fn prepare(config: &Config) -> Result<(), LoadError> {
    let open = |name: &str| Library::open(Path::new(name)).map_err(|message| not_opened(PathBuf::from(name), message));
    let [driver, management] = DRIVER;
    let driver = open(driver)?;
    open(management)?;
    start(&driver)?;
    for name in &config.provider_libraries {
        open(name)?;
    }
    Ok(())
}

/// Starts the driver and counts its GPUs.
fn start(driver: &Library) -> Result<(), LoadError> {
    let (Some(init), Some(count)) = (driver.symbol(c"cuInit"), driver.symbol(c"cuDeviceGetCount")) else {
        return Err(failed(ProviderFault::Driver, "`libcuda.so.1` has no `cuInit` and `cuDeviceGetCount`".to_owned()));
    };
    let mut gpus = 0;
    // SAFETY: the driver's header declares both so.
    let status = unsafe {
        let init: unsafe extern "C" fn(u32) -> c_int = std::mem::transmute(init.as_ptr());
        let count: unsafe extern "C" fn(*mut c_int) -> c_int = std::mem::transmute(count.as_ptr());
        match init(0) {
            0 => count(&raw mut gpus),
            status => status,
        }
    };
    match status {
        0 if gpus > 0 => Ok(()),
        0 => Err(failed(ProviderFault::NoDevice, "the driver lists no GPU".to_owned())),
        status => {
            let fault = if NO_DEVICE.contains(&status) { ProviderFault::NoDevice } else { ProviderFault::Driver };
            let name = error_name(driver, status);
            Err(failed(fault, format!("the driver does not start: CUDA failure {status}{name}")))
        }
    }
}

/// What the driver calls an error, behind its number.
fn error_name(driver: &Library, status: c_int) -> String {
    let Some(function) = driver.symbol(c"cuGetErrorName") else { return String::new() };
    let mut name: *const c_char = std::ptr::null();
    // SAFETY: the driver's header declares it so; it gives a static string or leaves the place as it is.
    unsafe {
        let function: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int = std::mem::transmute(function.as_ptr());
        function(status, &raw mut name);
        if name.is_null() { String::new() } else { format!(" ({})", c_text(name)) }
    }
}

/// Checks that a session has a GPU. `said` are TensorFlow's own warnings while it was made.
///
/// # Errors
/// [`LoadError::Provider`] where it has none.
pub(super) fn check(session: &Session, said: &[String]) -> Result<(), LoadError> {
    let devices = session.devices().map_err(|failure| failed(ProviderFault::Other, failure.message))?;
    if devices.iter().any(|device| device == "GPU") {
        return Ok(());
    }
    let listed = format!("TensorFlow lists no GPU, only {}", devices.join(", "));
    let reason = said.last().map(|line| format!("; it said: {line}")).unwrap_or_default();
    Err(failed(ProviderFault::Other, listed + &reason))
}

/// What a failed load is about, where it is about the GPU.
pub(super) fn fault_of(failure: &Failure) -> Option<LoadError> {
    let message = &failure.message;
    if !["CUDA", "cuda", "GPU", "cuDNN", "CUDNN", "cublas"].iter().any(|word| message.contains(word)) {
        return None;
    }
    let fault = if message.contains("driver version is insufficient") || message.contains("DRIVER") {
        ProviderFault::Driver
    } else if message.contains("no kernel image") || message.contains("NO_BINARY_FOR_GPU") {
        ProviderFault::Code
    } else {
        ProviderFault::Other
    };
    Some(failed(fault, super::first_line(message)))
}

fn failed(fault: ProviderFault, message: String) -> LoadError {
    LoadError::Provider { provider: Provider::Cuda.name(), fault, message, found: onnx::gpu() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<GpuOptions, String> {
        let given = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        GpuOptions::parse(&given).map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        assert_eq!(parse(&[]), Ok(GpuOptions { allow_growth: true, ..GpuOptions::default() }));
        let given = [("allow_growth", "0"), ("per_process_gpu_memory_fraction", "0.5"), ("visible_device_list", "0,1")];
        let expected = GpuOptions { allow_growth: false, memory_fraction: 0.5, visible: "0,1".to_owned() };
        assert_eq!(parse(&given), Ok(expected));
        for (name, value, expected) in [
            ("allow_growth", "yes", "`0` or `1`"),
            ("per_process_gpu_memory_fraction", "1.5", "above 0 and up to 1"),
            ("visible_device_list", "first", "`0` or `0,1`"),
            ("device_id", "0", "one of the options"),
        ] {
            let error = parse(&[(name, value)]).expect_err("wrong");
            assert!(error.contains(&format!("`{name}` = `{value}`")) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn failures_of_the_gpu_are_told_from_others() {
        let fault = |message: &str| match fault_of(&Failure { code: 13, message: message.to_owned() }) {
            Some(LoadError::Provider { fault, .. }) => Some(fault),
            _ => None,
        };
        let old = "cudaGetDevice() failed. Status: CUDA driver version is insufficient for CUDA runtime version";
        assert_eq!(fault(old), Some(ProviderFault::Driver));
        assert_eq!(fault("cudaError: no kernel image is available"), Some(ProviderFault::Code));
        assert_eq!(fault("Failed to allocate memory for a GPU"), Some(ProviderFault::Other));
        assert_eq!(fault("/models/m/variables; No such file or directory"), None);
    }
}

//! Providers other than the CPU's, asked for by name: the model runs there or does not start.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::ptr;

use ort_sys as sys;

use super::api::{Status, api, check};
use super::call::{self, SessionOptions};
use super::{Runtime, diagnose, fault, plugin};
use crate::backend::{LoadError, library};
use crate::config::{Config, Provider};

/// The runtime's name of a provider.
pub(super) fn name(provider: Provider) -> &'static str {
    match provider {
        Provider::Cpu => "CPUExecutionProvider",
        Provider::Cuda => "CUDAExecutionProvider",
        Provider::TensorRt => "TensorrtExecutionProvider",
        Provider::NvTensorRtRtx => "NvTensorRTRTXExecutionProvider",
    }
}

/// Adds the provider of a configuration to the options of a session.
///
/// # Errors
/// Where its library, or one that this needs, cannot be opened; where it refuses an option, or finds no GPU.
pub(super) fn append(runtime: &Runtime, options: &SessionOptions, config: &Config) -> Result<(), LoadError> {
    let given = &config.provider_options;
    match config.provider {
        Provider::Cpu => Ok(()),
        Provider::Cuda => Cuda::append(options, given),
        // What TensorRT cannot take, CUDA can.
        Provider::TensorRt => TensorRt::append(options, &part(given, is_tensorrts))
            .and_then(|()| Cuda::append(options, &part(given, |key| !is_tensorrts(key) || key == "device_id"))),
        Provider::NvTensorRtRtx => plugin::append(runtime, options, given),
    }
    .map_err(|refusal| refusal.explain(config.provider, runtime.path()))
}

/// Whether an option is one of TensorRT's: the others are for the CUDA provider, which runs the rest.
fn is_tensorrts(key: &str) -> bool {
    key.starts_with("trt_") || key == "device_id"
}

fn part(given: &BTreeMap<String, String>, keep: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    given.iter().filter(|(key, _)| keep(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Why a provider was not added.
pub(super) enum Refusal {
    /// The runtime says so.
    Runtime(Status),
    /// It is known already.
    Known(LoadError),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Runtime(status)
    }
}

impl Refusal {
    /// The library, the GPU, or an option.
    fn explain(self, provider: Provider, runtime: &Path) -> LoadError {
        let status = match self {
            Self::Known(error) => return error,
            Self::Runtime(status) => status,
        };
        if let Some(error) = fault::read(provider, &status.message) {
            return error;
        }
        // Some of the statuses say only that a library was not loaded; which one, and why, went to the log.
        let logged = call::last_error().unwrap_or_default();
        match [&status.message, &logged].into_iter().find_map(|text| not_loaded(text)) {
            Some((library, words)) => library::not_opened(beside(runtime, library), words.to_owned()),
            None => LoadError::Option { what: "`provider_options`".into(), message: diagnose::tidy(&status.message) },
        }
    }
}

/// The library that a message says was not loaded, and the loader's words.
fn not_loaded(message: &str) -> Option<(&str, &str)> {
    let (_, loading) = message.split_once("Failed to load library ").or_else(|| message.split_once("Error loading \""))?;
    let (library, words) =
        loading.split_once(" with error: ").or_else(|| loading.split_once("\" which ")).or_else(|| loading.split_once("\": "))?;
    let library = Path::new(library).file_name()?.to_str()?;
    Some((library, words.trim()))
}

/// Names and values as the runtime takes them.
pub(super) struct Pairs {
    keys: Vec<CString>,
    values: Vec<CString>,
}

impl Pairs {
    pub(super) fn new(given: &BTreeMap<String, String>) -> Result<Self, Refusal> {
        let texts = |texts: &mut dyn Iterator<Item = &String>| -> Result<Vec<CString>, Refusal> {
            texts
                .map(|text| {
                    CString::new(text.as_str()).map_err(|_| {
                        let message = "it holds a zero byte".into();
                        Refusal::Known(LoadError::Option { what: "`provider_options`".into(), message })
                    })
                })
                .collect()
        };
        Ok(Self { keys: texts(&mut given.keys())?, values: texts(&mut given.values())? })
    }

    /// Lends both lists, which are equally long.
    pub(super) fn lend<T>(&self, take: impl FnOnce(&[*const c_char], &[*const c_char]) -> T) -> T {
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        take(&pointers(&self.keys), &pointers(&self.values))
    }
}

/// Declares a provider of the runtime itself by its functions.
macro_rules! in_tree {
    ($name:ident, $raw:ty, $create:ident, $update:ident, $release:ident, $append:ident) => {
        /// Options of a provider, freed when they are dropped.
        struct $name(*mut $raw);

        impl $name {
            fn append(options: &SessionOptions, given: &BTreeMap<String, String>) -> Result<(), Refusal> {
                let pairs = Pairs::new(given)?;
                let mut own = Self(ptr::null_mut());
                call::forget_error();
                pairs.lend(|keys, values| {
                    // SAFETY: the place is valid for writing; keys and values are as many as is said, and live through the calls.
                    unsafe {
                        check(((*api()).$create)(&raw mut own.0))?;
                        check(((*api()).$update)(own.0, keys.as_ptr(), values.as_ptr(), keys.len()))?;
                        check(((*api()).$append)(options.as_ptr(), own.0))?;
                    }
                    Ok(())
                })
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                if !self.0.is_null() {
                    // SAFETY: this is the only owner.
                    unsafe { ((*api()).$release)(self.0) }
                }
            }
        }
    };
}

in_tree!(
    Cuda,
    sys::OrtCUDAProviderOptionsV2,
    CreateCUDAProviderOptions,
    UpdateCUDAProviderOptions,
    ReleaseCUDAProviderOptions,
    SessionOptionsAppendExecutionProvider_CUDA_V2
);
in_tree!(
    TensorRt,
    sys::OrtTensorRTProviderOptionsV2,
    CreateTensorRTProviderOptions,
    UpdateTensorRTProviderOptions,
    ReleaseTensorRTProviderOptions,
    SessionOptionsAppendExecutionProvider_TensorRT_V2
);

/// Where a provider's library lies: beside the runtime's.
pub(super) fn beside(runtime: &Path, library: &str) -> PathBuf {
    runtime.parent().unwrap_or(Path::new("")).join(library)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_that_was_not_loaded_is_found() {
        let message = "/src/provider_bridge_ort.cc:2293 Failed to load library /lib/libonnxruntime_providers_tensorrt.so with error: libnvinfer.so.10: cannot open shared object file: No such file or directory";
        assert_eq!(
            not_loaded(message),
            Some((
                "libonnxruntime_providers_tensorrt.so",
                "libnvinfer.so.10: cannot open shared object file: No such file or directory"
            ))
        );
        assert_eq!(not_loaded("Failed to load model"), None);
    }

    #[test]
    fn options_go_to_the_provider_they_are_for() {
        let given: BTreeMap<_, _> =
            ["device_id", "trt_fp16_enable", "enable_cudnn"].map(|key| (key.to_owned(), "1".to_owned())).into();
        let keys = |keep: &dyn Fn(&str) -> bool| part(&given, keep).into_keys().collect::<Vec<_>>();
        assert_eq!(keys(&is_tensorrts), ["device_id", "trt_fp16_enable"]);
        assert_eq!(keys(&|key| !is_tensorrts(key) || key == "device_id"), ["device_id", "enable_cudnn"]);
    }
}

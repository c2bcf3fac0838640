//! ONNX Runtime's CUDA provider, asked for by name: the model runs on the GPU or does not start.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::PathBuf;
use std::ptr;

use ort::sys;

use super::call::{self, SessionOptions, Status, api, check};
use super::diagnose;
use crate::backend::{LoadError, library};

/// Its library, which lies beside the runtime's.
const LIBRARY: &str = "libonnxruntime_providers_cuda.so";

/// The session's entry that makes nodes which would run on the CPU an error. Without it, the runtime runs a model on the CPU
/// where the provider cannot take it, and says so in its log alone.
pub(super) const NO_FALLBACK: &str = "session.disable_cpu_ep_fallback";

/// Adds the provider to the options of a session.
///
/// # Errors
/// Where its library, or one that this needs, cannot be opened; where it refuses an option.
pub(super) fn append(options: &SessionOptions, provider_options: &BTreeMap<String, String>) -> Result<(), LoadError> {
    let zero_byte = |_| LoadError::Option { what: "`provider_options`".into(), message: "it holds a zero byte".into() };
    let texts = |texts: &mut dyn Iterator<Item = &String>| texts.map(|text| CString::new(text.as_str())).collect();
    let keys: Vec<CString> = Result::map_err(texts(&mut provider_options.keys()), zero_byte)?;
    let values: Vec<CString> = Result::map_err(texts(&mut provider_options.values()), zero_byte)?;
    let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
    let (keys, values) = (pointers(&keys), pointers(&values));

    let mut cuda = ProviderOptions(ptr::null_mut());
    call::forget_error();
    // SAFETY: the place is valid for writing; keys and values are as many as is said, and live through the calls.
    unsafe {
        check((api().CreateCUDAProviderOptions)(&raw mut cuda.0))
            .and_then(|()| check((api().UpdateCUDAProviderOptions)(cuda.0, keys.as_ptr(), values.as_ptr(), keys.len())))
            .and_then(|()| check((api().SessionOptionsAppendExecutionProvider_CUDA_V2)(options.as_ptr(), cuda.0)))
    }
    .map_err(refused)
}

/// What the first call that opens the provider's library refused: the library, the GPU, or an option.
fn refused(status: Status) -> LoadError {
    if let Some(error) = failure(&status.message) {
        return error;
    }
    // Some of the statuses say only that a library was not loaded; which one, and why, went to the log.
    let logged = call::last_error().unwrap_or_default();
    let words = [&status.message, &logged].into_iter().find_map(|text| {
        let (_, loading) = text.split_once("Failed to load library ")?;
        loading.split_once(" with error: ").map(|(_, words)| words.trim().to_owned())
    });
    match words {
        Some(words) => library::not_opened(PathBuf::from(LIBRARY), words),
        None => LoadError::Option { what: "`provider_options`".into(), message: diagnose::tidy(&status.message) },
    }
}

/// What a session's failure says about the provider, where it is about the provider.
pub(super) fn failure(message: &str) -> Option<LoadError> {
    let (start, on_cpu) =
        match (message.find("CUDA failure"), message.contains("fallback to CPU EP has been explicitly disabled")) {
            (Some(start), _) => (start, false),
            (None, true) => (0, true),
            (None, false) => return None,
        };
    // Before it stands a function's whole signature, and behind it where in the source.
    let told = &message[start..];
    let told = told.split_once(" ; GPU=").map_or(told, |(told, _)| told);
    Some(LoadError::Provider { provider: "cuda", on_cpu, message: diagnose::tidy(told) })
}

/// Options of the provider, freed when they are dropped.
struct ProviderOptions(*mut sys::OrtCUDAProviderOptionsV2);

impl Drop for ProviderOptions {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: this is the only owner.
            unsafe { (api().ReleaseCUDAProviderOptions)(self.0) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_gpu_are_told_from_others() {
        let message = "/src/cuda_call.cc:154 onnxruntime::CudaCall(…) CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=h ; expr=x";
        let Some(LoadError::Provider { message, on_cpu: false, .. }) = failure(message) else { panic!("it is about the GPU") };
        assert_eq!(message, "CUDA failure 100: no CUDA-capable device is detected");
        let message = "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has been explicitly disabled by the user.";
        assert!(matches!(failure(message), Some(LoadError::Provider { on_cpu: true, .. })));
        assert!(failure("Protobuf parsing failed.").is_none());
    }
}

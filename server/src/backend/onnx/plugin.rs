//! TensorRT for RTX: a provider in a library of its own, which registers itself with the runtime.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use ort_sys as sys;

use super::api::{Since, Status, api, check, has};
use super::call::{self, SessionOptions};
use super::provider::{Pairs, Refusal, beside, name};
use super::{Runtime, gpu};
use crate::backend::{LoadError, ProviderFault};
use crate::config::Provider;
use crate::log::c_text;

/// Its library, beside the runtime's.
const LIBRARY: &str = "libonnxruntime_providers_nv_tensorrt_rtx.so";
/// The option that chooses among several GPUs, counted as the runtime lists them. It is read here: the plug-in has none.
const DEVICE: &str = "device_id";

/// Registers the plug-in, the first time, and adds the GPU that it finds to the options of a session.
pub(super) fn append(runtime: &Runtime, options: &SessionOptions, given: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if !has(Since::Plugins) {
        let expected = format!("1.{} or newer, which has plug-in providers", Since::Plugins as u32);
        let found = runtime.version.trim_start_matches("onnxruntime ").to_owned();
        return Err(Refusal::Known(LoadError::LibraryVersion { library: runtime.path.clone(), found, expected }));
    }
    if runtime.plugin.get().is_none() {
        register(runtime)?;
        runtime.plugin.get_or_init(|| ());
    }
    let mut given = given.clone();
    let wanted = given.remove(DEVICE).unwrap_or_else(|| "0".to_owned());
    let devices = devices(runtime)?;
    let device = wanted.parse::<usize>().ok().and_then(|index| devices.get(index)).ok_or_else(|| {
        Refusal::Known(LoadError::Provider {
            provider: Provider::NvTensorRtRtx.name(),
            fault: ProviderFault::NoDevice,
            message: match devices.len() {
                0 => "the plug-in finds no GPU that it can use: it takes sm_86, sm_89, and sm_120 or newer".into(),
                count => format!("there is no GPU `{wanted}`: the plug-in finds {count}"),
            },
            found: gpu::seen(),
        })
    })?;
    Pairs::new(&given)?.lend(|keys, values| {
        // SAFETY: options, environment and device are valid; keys and values are as many as is said and live through the call.
        unsafe {
            check(((*api()).SessionOptionsAppendExecutionProvider_V2)(
                options.as_ptr(),
                runtime.environment.as_ptr(),
                device,
                1,
                keys.as_ptr(),
                values.as_ptr(),
                keys.len(),
            ))?;
        }
        Ok(())
    })
}

fn register(runtime: &Runtime) -> Result<(), Status> {
    let path = beside(&runtime.path, LIBRARY);
    let path = CString::new(path.as_os_str().as_bytes()).expect("the loader gave it as a C string");
    let registered = CString::new(name(Provider::NvTensorRtRtx)).expect("it holds no zero byte");
    call::forget_error();
    // SAFETY: the environment is valid, the strings live through the call.
    unsafe {
        check(((*api()).RegisterExecutionProviderLibrary)(runtime.environment.as_ptr(), registered.as_ptr(), path.as_ptr()))
    }
}

/// The GPUs that the plug-in offers; they live as long as the environment.
fn devices(runtime: &Runtime) -> Result<Vec<*const sys::OrtEpDevice>, Status> {
    let (mut all, mut count) = (ptr::null(), 0);
    // SAFETY: the environment is valid and the places are valid for writing; the runtime gives as many devices as it says,
    // and a device's name is a C string.
    unsafe {
        check(((*api()).GetEpDevices)(runtime.environment.as_ptr(), &raw mut all, &raw mut count))?;
        Ok((0..count)
            .map(|index| *all.add(index))
            .filter(|&device| c_text(((*api()).EpDevice_EpName)(device)) == name(Provider::NvTensorRtRtx))
            .collect())
    }
}

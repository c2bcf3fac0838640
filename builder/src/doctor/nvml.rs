//! NVIDIA's management library, which comes with the driver: asked for the driver's version and the GPUs.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;

use super::host::{Driver, Gpu};

/// A device, as the library hands it out.
type Device = *mut c_void;

/// What the library says: the driver, and the GPUs in its order.
///
/// # Errors
/// Where it cannot be opened, lacks a function, or fails, in words. `NVML_ERROR_DRIVER_NOT_LOADED` is 9.
#[expect(unsafe_code, reason = "a foreign library is called by the declarations of its header")]
pub(super) fn ask(library: &Path) -> Result<(Driver, Vec<Gpu>), String> {
    let name = CString::new(library.as_os_str().as_bytes()).map_err(|_| "its path holds a zero byte".to_owned())?;
    // SAFETY: the library is the driver's own, which every user of a GPU opens; it is never closed.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        // SAFETY: the loader has just failed, so that it has a message, which is copied at once.
        return Err(unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy().into_owned());
    }
    let symbol = |name: &CStr| {
        // SAFETY: the handle is open and the name ends in a zero byte.
        let symbol = unsafe { libc::dlsym(handle, name.as_ptr()) };
        if symbol.is_null() { Err(format!("it has no `{}`", name.to_string_lossy())) } else { Ok(symbol) }
    };
    let check = |what: &str, status: c_int| if status == 0 { Ok(()) } else { Err(format!("{what} gave error {status}")) };
    // SAFETY: every function is declared so in the library's header; buffers are as long as is said, and zeroed before.
    unsafe {
        let init: unsafe extern "C" fn() -> c_int = std::mem::transmute(symbol(c"nvmlInit_v2")?);
        check("nvmlInit_v2", init())?;
        let text: unsafe extern "C" fn(*mut c_char, c_uint) -> c_int =
            std::mem::transmute(symbol(c"nvmlSystemGetDriverVersion")?);
        let mut buffer = [0_u8; 96];
        check("nvmlSystemGetDriverVersion", text(buffer.as_mut_ptr().cast(), 80))?;
        let version = words(&buffer);
        let mut cuda = 0;
        if let Ok(function) = symbol(c"nvmlSystemGetCudaDriverVersion_v2") {
            let function: unsafe extern "C" fn(*mut c_int) -> c_int = std::mem::transmute(function);
            check("nvmlSystemGetCudaDriverVersion_v2", function(&raw mut cuda))?;
        }
        let count: unsafe extern "C" fn(*mut c_uint) -> c_int = std::mem::transmute(symbol(c"nvmlDeviceGetCount_v2")?);
        let by_index: unsafe extern "C" fn(c_uint, *mut Device) -> c_int =
            std::mem::transmute(symbol(c"nvmlDeviceGetHandleByIndex_v2")?);
        let name: unsafe extern "C" fn(Device, *mut c_char, c_uint) -> c_int = std::mem::transmute(symbol(c"nvmlDeviceGetName")?);
        let capability: unsafe extern "C" fn(Device, *mut c_int, *mut c_int) -> c_int =
            std::mem::transmute(symbol(c"nvmlDeviceGetCudaComputeCapability")?);
        let mut devices = 0;
        check("nvmlDeviceGetCount_v2", count(&raw mut devices))?;
        let mut gpus = Vec::new();
        for index in 0..devices {
            let (mut device, mut major, mut minor) = (ptr::null_mut(), 0, 0);
            check("nvmlDeviceGetHandleByIndex_v2", by_index(index, &raw mut device))?;
            let mut buffer = [0_u8; 112];
            check("nvmlDeviceGetName", name(device, buffer.as_mut_ptr().cast(), 96))?;
            check("nvmlDeviceGetCudaComputeCapability", capability(device, &raw mut major, &raw mut minor))?;
            gpus.push(Gpu { name: words(&buffer), sm: format!("sm_{major}{minor}").parse().ok() });
        }
        let cuda = (cuda > 0).then(|| format!("{}.{}", cuda / 1000, cuda % 1000 / 10));
        Ok((Driver { version, cuda }, gpus))
    }
}

/// The text in a buffer, up to its first zero byte.
fn words(buffer: &[u8]) -> String {
    let text = buffer.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

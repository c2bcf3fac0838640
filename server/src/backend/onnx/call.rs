//! The runtime's objects, each freed when it is dropped.

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use ort_sys as sys;

use super::api::{Code, Status, api, check};
use super::value::{Outlet, describe};
use crate::log::{self, Level, c_text};

/// Declares an owner of one of the runtime's objects.
macro_rules! owner {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $release:ident) => {
        $(#[$doc])*
        pub(super) struct $name(*mut $raw);

        impl $name {
            pub(super) fn as_ptr(&self) -> *mut $raw {
                self.0
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

        // SAFETY: the runtime's objects are tied to no thread, and those that are shared here are only read.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}
    };
}

owner!(/// The process-wide state of the runtime.
    Environment, sys::OrtEnv, ReleaseEnv);
owner!(/// How a session is made.
    SessionOptions, sys::OrtSessionOptions, ReleaseSessionOptions);
owner!(/// A handle on one run.
    RunOptions, sys::OrtRunOptions, ReleaseRunOptions);
owner!(/// A tensor, or another value; may be null for an output that was not made.
    Value, sys::OrtValue, ReleaseValue);
owner!(/// Where a tensor lies.
    MemoryInfo, sys::OrtMemoryInfo, ReleaseMemoryInfo);
owner!(/// The type of an input or output.
    TypeInfo, sys::OrtTypeInfo, ReleaseTypeInfo);
owner!(/// The type and shape of a tensor.
    TensorInfo, sys::OrtTensorTypeAndShapeInfo, ReleaseTensorTypeAndShapeInfo);
owner!(/// A session without its environment.
    RawSession, sys::OrtSession, ReleaseSession);

impl Environment {
    pub(super) fn create() -> Result<Self, Status> {
        let mut environment = Self(ptr::null_mut());
        let severity = sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING;
        // SAFETY: the logger takes no parameter and lives as long as the process, the name is static.
        unsafe {
            check(((*api()).CreateEnvWithCustomLogger)(
                forward,
                ptr::null_mut(),
                severity,
                c"imgserve".as_ptr(),
                &raw mut environment.0,
            ))?;
            check(((*api()).DisableTelemetryEvents)(environment.0))?;
        }
        Ok(environment)
    }
}

/// The runtime's last message of an error: some of its statuses say less.
static LAST_ERROR: Mutex<Option<String>> = Mutex::new(None);

/// The last message of an error since [`forget_error`].
pub(super) fn last_error() -> Option<String> {
    LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Forgets it.
pub(super) fn forget_error() {
    *LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Makes the runtime's messages into log lines.
unsafe extern "system" fn forward(
    _parameter: *mut c_void,
    severity: sys::OrtLoggingLevel,
    _category: *const c_char,
    _id: *const c_char,
    location: *const c_char,
    message: *const c_char,
) {
    let level = match severity {
        sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_FATAL | sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR => Level::Error,
        sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING => Level::Warn,
        _ => Level::Debug,
    };
    if log::enabled(level) {
        // SAFETY: the runtime gives strings that end in a zero byte and live through this call.
        let (location, message) = unsafe { (c_text(location), c_text(message)) };
        if level == Level::Error {
            *LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.clone());
        }
        log::line(level, message).field("source", "onnxruntime").field("location", &location).emit();
    }
}

impl SessionOptions {
    pub(super) fn create() -> Result<Self, Status> {
        let mut options = Self(ptr::null_mut());
        // SAFETY: the place is valid for writing.
        unsafe { check(((*api()).CreateSessionOptions)(&raw mut options.0)) }?;
        Ok(options)
    }
}

impl RunOptions {
    pub(super) fn create() -> Result<Self, Status> {
        let mut options = Self(ptr::null_mut());
        // SAFETY: the place is valid for writing.
        unsafe { check(((*api()).CreateRunOptions)(&raw mut options.0)) }?;
        Ok(options)
    }

    /// Ends the runs that use these options, between two operators.
    pub(super) fn terminate(&self) {
        // SAFETY: the options are valid; the runtime made this call to be used while they are in use.
        if let Err(status) = unsafe { check(((*api()).RunOptionsSetTerminate)(self.0)) } {
            log::line(Level::Warn, format_args!("failed to stop a run: {}", status.message)).emit();
        }
    }
}

impl Value {
    /// Takes over a value; null is allowed.
    pub(super) fn from_raw(value: *mut sys::OrtValue) -> Self {
        Self(value)
    }
}

impl MemoryInfo {
    pub(super) fn cpu() -> Result<Self, Status> {
        let mut info = Self(ptr::null_mut());
        // SAFETY: the place is valid for writing.
        unsafe {
            check(((*api()).CreateCpuMemoryInfo)(
                sys::OrtAllocatorType::OrtDeviceAllocator,
                sys::OrtMemType::OrtMemTypeDefault,
                &raw mut info.0,
            ))
        }?;
        Ok(info)
    }
}

/// A session, and the environment that it needs to the end.
pub(super) struct Session {
    // Fields are dropped in this order.
    session: RawSession,
    _environment: Arc<Environment>,
}

type NameOf =
    unsafe extern "system" fn(*const sys::OrtSession, usize, *mut sys::OrtAllocator, *mut *mut c_char) -> sys::OrtStatusPtr;
type TypeOf = unsafe extern "system" fn(*const sys::OrtSession, usize, *mut *mut sys::OrtTypeInfo) -> sys::OrtStatusPtr;

impl Session {
    pub(super) fn create(environment: Arc<Environment>, model: &Path, options: &SessionOptions) -> Result<Self, Status> {
        let path = CString::new(model.as_os_str().as_bytes())
            .map_err(|_| Status { code: Code::InvalidArgument, message: "the path holds a zero byte".into() })?;
        let mut session = RawSession(ptr::null_mut());
        // SAFETY: environment and options are valid, and the path lives through the call.
        unsafe { check(((*api()).CreateSession)(environment.as_ptr(), path.as_ptr(), options.as_ptr(), &raw mut session.0)) }?;
        Ok(Self { session, _environment: environment })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::OrtSession {
        self.session.as_ptr()
    }

    pub(super) fn inputs(&self) -> Result<Vec<Outlet>, Status> {
        let mut count = 0;
        // SAFETY: the session is valid.
        unsafe { check(((*api()).SessionGetInputCount)(self.as_ptr(), &raw mut count)) }?;
        // SAFETY: every table has these.
        let (name_of, type_of) = unsafe { ((*api()).SessionGetInputName, (*api()).SessionGetInputTypeInfo) };
        self.outlets(count, name_of, type_of)
    }

    pub(super) fn outputs(&self) -> Result<Vec<Outlet>, Status> {
        let mut count = 0;
        // SAFETY: the session is valid.
        unsafe { check(((*api()).SessionGetOutputCount)(self.as_ptr(), &raw mut count)) }?;
        // SAFETY: every table has these.
        let (name_of, type_of) = unsafe { ((*api()).SessionGetOutputName, (*api()).SessionGetOutputTypeInfo) };
        self.outlets(count, name_of, type_of)
    }

    fn outlets(&self, count: usize, name_of: NameOf, type_of: TypeOf) -> Result<Vec<Outlet>, Status> {
        let mut outlets = Vec::new();
        for index in 0..count {
            // SAFETY: the session is valid and has an outlet of this index; the name is freed by the allocator that made
            // it, after it was copied.
            let (name, info) = unsafe {
                let mut allocator = ptr::null_mut();
                check(((*api()).GetAllocatorWithDefaultOptions)(&raw mut allocator))?;
                let mut name = ptr::null_mut();
                check(name_of(self.as_ptr(), index, allocator, &raw mut name))?;
                let copied = CStr::from_ptr(name).to_string_lossy().into_owned();
                check(((*api()).AllocatorFree)(allocator, name.cast()))?;
                let mut info = TypeInfo(ptr::null_mut());
                check(type_of(self.as_ptr(), index, &raw mut info.0))?;
                (copied, info)
            };
            outlets.push(Outlet { name, kind: describe(&info)? });
        }
        Ok(outlets)
    }
}

/// Asks a value for its tensor's type and shape.
pub(super) fn tensor_info(value: &Value) -> Result<TensorInfo, Status> {
    let mut info = TensorInfo(ptr::null_mut());
    // SAFETY: the value is a tensor, or the runtime says that it is not.
    unsafe { check(((*api()).GetTensorTypeAndShape)(value.as_ptr(), &raw mut info.0)) }?;
    Ok(info)
}

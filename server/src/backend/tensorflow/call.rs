//! TensorFlow's C interface: the functions that are called, found by name, and owners of what they make.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use crate::backend::library::{Library, not_opened};
use crate::backend::{LoadError, Missing};
use crate::log::c_text;

/// An object whose inside only the library knows.
pub(super) type Opaque = c_void;
pub(super) type Deallocator = unsafe extern "C" fn(*mut c_void, usize, *mut c_void);

/// A place in a graph.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub operation: *mut Opaque,
    pub index: c_int,
}

/// Bytes that the library hands over or takes.
#[repr(C)]
pub(super) struct RawBuffer {
    pub data: *const c_void,
    pub length: usize,
    deallocator: Option<unsafe extern "C" fn(*mut c_void, usize)>,
}

/// Declares the table of functions, each under its name in the library.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        #[expect(non_snake_case, reason = "the names of TensorFlow's header")]
        pub(super) struct Functions {
            $(pub $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Functions {
            #[expect(non_snake_case, reason = "the names of TensorFlow's header")]
            /// Finds every function, or gives the name of the first that is missing.
            fn find(library: &Library) -> Result<Self, &'static str> {
                $(
                    let name = concat!(stringify!($name), "\0");
                    let name = CStr::from_bytes_with_nul(name.as_bytes()).expect("one zero byte, at the end");
                    let $name = library.symbol(name).ok_or(stringify!($name))?;
                )*
                // SAFETY: these are the functions of these names in TensorFlow's headers, with their arguments.
                Ok(unsafe { Self { $($name: std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>($name.as_ptr()),)* } })
            }
        }
    };
}

functions! {
    TF_Version: fn() -> *const c_char;
    TF_NewStatus: fn() -> *mut Opaque;
    TF_DeleteStatus: fn(*mut Opaque);
    TF_GetCode: fn(*const Opaque) -> c_int;
    TF_Message: fn(*const Opaque) -> *const c_char;
    TF_NewBuffer: fn() -> *mut RawBuffer;
    TF_NewBufferFromString: fn(*const c_void, usize) -> *mut RawBuffer;
    TF_DeleteBuffer: fn(*mut RawBuffer);
    TF_NewSessionOptions: fn() -> *mut Opaque;
    TF_SetConfig: fn(*mut Opaque, *const c_void, usize, *mut Opaque);
    TF_DeleteSessionOptions: fn(*mut Opaque);
    TF_NewGraph: fn() -> *mut Opaque;
    TF_DeleteGraph: fn(*mut Opaque);
    TF_LoadSessionFromSavedModel: fn(
        *const Opaque, *const RawBuffer, *const c_char, *const *const c_char, c_int, *mut Opaque, *mut RawBuffer, *mut Opaque
    ) -> *mut Opaque;
    TF_SessionListDevices: fn(*mut Opaque, *mut Opaque) -> *mut Opaque;
    TF_DeleteDeviceList: fn(*mut Opaque);
    TF_DeviceListCount: fn(*const Opaque) -> c_int;
    TF_DeviceListType: fn(*const Opaque, c_int, *mut Opaque) -> *const c_char;
    TF_GraphOperationByName: fn(*mut Opaque, *const c_char) -> *mut Opaque;
    TF_OperationNumOutputs: fn(*mut Opaque) -> c_int;
    TF_NewTensor: fn(c_int, *const i64, c_int, *mut c_void, usize, Deallocator, *mut c_void) -> *mut Opaque;
    TF_AllocateTensor: fn(c_int, *const i64, c_int, usize) -> *mut Opaque;
    TF_DeleteTensor: fn(*mut Opaque);
    TF_TensorType: fn(*const Opaque) -> c_int;
    TF_NumDims: fn(*const Opaque) -> c_int;
    TF_Dim: fn(*const Opaque, c_int) -> i64;
    TF_TensorByteSize: fn(*const Opaque) -> usize;
    TF_TensorData: fn(*const Opaque) -> *mut c_void;
    TF_StringInit: fn(*mut c_void);
    TF_StringCopy: fn(*mut c_void, *const c_char, usize);
    TF_StringDealloc: fn(*mut c_void);
    TF_StringGetDataPointer: fn(*const c_void) -> *const c_char;
    TF_StringGetSize: fn(*const c_void) -> usize;
    TF_SessionRun: fn(
        *mut Opaque, *const RawBuffer, *const Output, *const *mut Opaque, c_int, *const Output, *mut *mut Opaque, c_int,
        *const *const Opaque, c_int, *mut RawBuffer, *mut Opaque
    );
}

static FUNCTIONS: OnceLock<Functions> = OnceLock::new();

/// The table of functions; a library was opened before.
pub(super) fn api() -> &'static Functions {
    FUNCTIONS.get().expect("every object is made after the library was opened")
}

/// Opens the library; gives its version and where it was found.
pub(super) fn open(library: &Path) -> Result<(String, std::path::PathBuf), LoadError> {
    let opened = Library::open(library).map_err(|message| not_opened(library.to_path_buf(), message))?;
    let functions = Functions::find(&opened).map_err(|symbol| LoadError::LibraryNotOpened {
        library: opened.path.clone(),
        missing: Missing { symbol: Some(symbol.to_owned()), ..Missing::default() },
        message: format!("it does not export `{symbol}`, so it is not TensorFlow 2.4 or newer"),
    })?;
    let functions = FUNCTIONS.get_or_init(|| functions);
    // SAFETY: it takes nothing and returns a static string.
    Ok((unsafe { c_text((functions.TF_Version)()) }, opened.path))
}

/// A failure that the library reported, by its number in TensorFlow's enumeration.
#[derive(Debug)]
pub(super) struct Failure {
    pub code: c_int,
    pub message: String,
}

/// Declares an owner of one of the library's objects.
macro_rules! owner {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $delete:ident) => {
        $(#[$doc])*
        pub(super) struct $name(NonNull<$raw>);

        impl $name {
            pub fn as_ptr(&self) -> *mut $raw {
                self.0.as_ptr()
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: this is the only owner.
                unsafe { (api().$delete)(self.0.as_ptr()) }
            }
        }

        // SAFETY: the library's objects are tied to no thread, and those that are shared here are only read.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}
    };
}

owner!(/// The outcome of a call.
    Status, Opaque, TF_DeleteStatus);
owner!(/// How a session is made.
    SessionOptions, Opaque, TF_DeleteSessionOptions);
owner!(/// A graph.
    Graph, Opaque, TF_DeleteGraph);
owner!(/// A tensor.
    Tensor, Opaque, TF_DeleteTensor);
owner!(/// The devices of a session.
    Devices, Opaque, TF_DeleteDeviceList);
owner!(/// Bytes.
    Buffer, RawBuffer, TF_DeleteBuffer);

impl Status {
    pub fn new() -> Self {
        // SAFETY: it takes nothing.
        Self(NonNull::new(unsafe { (api().TF_NewStatus)() }).expect("it ends the process when there is no memory"))
    }

    /// What the last call that was given this status said.
    pub fn check(&self) -> Result<(), Failure> {
        // SAFETY: the status is valid; its message lives until it is changed.
        let (code, message) = unsafe { ((api().TF_GetCode)(self.as_ptr()), c_text((api().TF_Message)(self.as_ptr()))) };
        if code == 0 { Ok(()) } else { Err(Failure { code, message }) }
    }
}

impl SessionOptions {
    /// Options from a serialised `ConfigProto`.
    pub fn new(config: &[u8]) -> Result<Self, Failure> {
        let status = Status::new();
        // SAFETY: the bytes live through the call, and the objects are valid.
        unsafe {
            let options = NonNull::new((api().TF_NewSessionOptions)()).expect("it ends the process when there is no memory");
            let options = Self(options);
            (api().TF_SetConfig)(options.as_ptr(), config.as_ptr().cast(), config.len(), status.as_ptr());
            status.check()?;
            Ok(options)
        }
    }
}

impl Buffer {
    pub fn empty() -> Self {
        // SAFETY: it takes nothing.
        Self(NonNull::new(unsafe { (api().TF_NewBuffer)() }).expect("it ends the process when there is no memory"))
    }

    pub fn of(bytes: &[u8]) -> Self {
        // SAFETY: the bytes are copied during the call.
        let buffer = unsafe { (api().TF_NewBufferFromString)(bytes.as_ptr().cast(), bytes.len()) };
        Self(NonNull::new(buffer).expect("it ends the process when there is no memory"))
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer is valid and is not changed while it is borrowed.
        unsafe {
            let raw = &*self.as_ptr();
            if raw.data.is_null() { &[] } else { std::slice::from_raw_parts(raw.data.cast(), raw.length) }
        }
    }
}

impl Tensor {
    /// Takes over a tensor; `None` for null.
    pub fn from_raw(tensor: *mut Opaque) -> Option<Self> {
        NonNull::new(tensor).map(Self)
    }
}

/// A session and its graph. They are never freed: the process serves one model to its end.
pub(super) struct Session {
    session: NonNull<Opaque>,
    graph: Graph,
}

// SAFETY: the library allows many threads to run one session, and the graph is only read.
unsafe impl Send for Session {}
// SAFETY: as above.
unsafe impl Sync for Session {}

impl Session {
    /// Loads the graph with these tags; gives its serialised `MetaGraphDef` too.
    pub fn load(model: &Path, tags: &[CString], options: &SessionOptions) -> Result<(Self, Buffer), Failure> {
        let invalid = |message: &str| Failure { code: 3, message: message.to_owned() };
        let path = CString::new(model.as_os_str().as_bytes()).map_err(|_| invalid("the path holds a zero byte"))?;
        let tags: Vec<*const c_char> = tags.iter().map(|tag| tag.as_ptr()).collect();
        let count = c_int::try_from(tags.len()).map_err(|_| invalid("there are too many tags"))?;
        let (status, meta_graph) = (Status::new(), Buffer::empty());
        // SAFETY: all objects are valid, and path and tags live through the call.
        unsafe {
            let graph = Graph(NonNull::new((api().TF_NewGraph)()).expect("it ends the process when there is no memory"));
            let session = (api().TF_LoadSessionFromSavedModel)(
                options.as_ptr(),
                ptr::null(),
                path.as_ptr(),
                tags.as_ptr(),
                count,
                graph.as_ptr(),
                meta_graph.as_ptr(),
                status.as_ptr(),
            );
            status.check()?;
            let session = NonNull::new(session).ok_or_else(|| invalid("no session was made"))?;
            Ok((Self { session, graph }, meta_graph))
        }
    }

    pub fn as_ptr(&self) -> *mut Opaque {
        self.session.as_ptr()
    }

    /// The types of the session's devices, such as `CPU` and `GPU`.
    pub fn devices(&self) -> Result<Vec<String>, Failure> {
        let status = Status::new();
        // SAFETY: session and status are valid, indices are below the count, and each type lives as long as the list.
        unsafe {
            let list = (api().TF_SessionListDevices)(self.as_ptr(), status.as_ptr());
            let Some(list) = NonNull::new(list).map(Devices) else { return status.check().map(|()| Vec::new()) };
            let count = (api().TF_DeviceListCount)(list.as_ptr());
            Ok((0..count).map(|index| c_text((api().TF_DeviceListType)(list.as_ptr(), index, status.as_ptr()))).collect())
        }
    }

    /// Finds a tensor by its name in the graph, `operation:index`.
    pub fn output(&self, name: &str) -> Option<Output> {
        let (operation, index) = name.rsplit_once(':').unwrap_or((name, "0"));
        let index = index.parse::<c_int>().ok().filter(|index| *index >= 0)?;
        let operation = CString::new(operation).ok()?;
        // SAFETY: the graph is valid, and the name lives through the call.
        unsafe {
            let operation = (api().TF_GraphOperationByName)(self.graph.as_ptr(), operation.as_ptr());
            (!operation.is_null() && index < (api().TF_OperationNumOutputs)(operation)).then_some(Output { operation, index })
        }
    }
}

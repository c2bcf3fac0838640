//! The library's interface in C: one table, as `model.h` of the builder declares it.

use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::slice;

use super::description::{Description, Port};
use super::mapping::Mapping;
use crate::backend::LoadError;
use crate::backend::library::{Library, not_opened};

/// The version of the interface.
const VERSION: u64 = 1;

#[repr(C)]
struct RawTensor {
    dimensions: *const i32,
    rank: u64,
    bytes: u64,
}

#[repr(C)]
struct RawVariant {
    rows: u64,
    inputs: u64,
    outputs: u64,
    variables: u64,
    input: *const RawTensor,
    output: *const RawTensor,
    variable: *const RawTensor,
}

#[repr(C)]
struct RawTable {
    version: u64,
    variants: u64,
    weights: u64,
    variant: extern "C" fn(u64) -> *const RawVariant,
    threads: extern "C" fn(u64) -> *mut c_void,
    make: extern "C" fn(u64, *const c_void, *const c_void) -> *mut c_void,
    input: extern "C" fn(*mut c_void, u64) -> *mut c_void,
    output: extern "C" fn(*const c_void, u64) -> *const c_void,
    run: extern "C" fn(*mut c_void) -> c_int,
    free: extern "C" fn(*mut c_void),
}

/// The table of an opened library, which stays open as long as the process.
#[derive(Clone, Copy)]
pub(super) struct Table(&'static RawTable);

/// The threads of one library, for all runs.
pub(super) struct Threads(NonNull<c_void>);

/// The buffers of one run at a time.
pub(super) struct Instance {
    table: Table,
    variant: &'static RawVariant,
    handle: NonNull<c_void>,
}

// SAFETY: the table and what it points at are constants of the library.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}
// SAFETY: the pool may be used by any thread, and by many at a time.
unsafe impl Send for Threads {}
// SAFETY: as above.
unsafe impl Sync for Threads {}
// SAFETY: buffers belong to no thread; each call takes the instance exclusively.
unsafe impl Send for Instance {}

impl Table {
    /// Opens a library, and gives where the loader found it.
    pub fn open(path: &Path) -> Result<(Self, PathBuf), LoadError> {
        let library = Library::open(path).map_err(|message| not_opened(path.to_owned(), message))?;
        let Some(symbol) = library.symbol(c"imgbuild_model") else {
            return Err(not_opened(path.to_owned(), "undefined symbol: imgbuild_model".to_owned()));
        };
        // SAFETY: the symbol is the start of a table in every version of the interface, and begins with the version's number.
        let version = unsafe { symbol.cast::<u64>().read() };
        if version != VERSION {
            let expected = format!("{VERSION} of the interface of compiled models");
            return Err(LoadError::LibraryVersion { library: path.to_owned(), found: version.to_string(), expected });
        }
        // SAFETY: a table of this version is laid out as `RawTable`, and lives as long as the library, which is never closed.
        Ok((Self(unsafe { symbol.cast::<RawTable>().as_ref() }), library.path))
    }

    /// The bytes of the file of weights.
    pub fn weights(self) -> u64 {
        self.0.weights
    }

    /// Checks that the library is the one that was described: sizes decide what is copied.
    pub fn check(self, description: &Description) -> Result<(), String> {
        if self.0.variants != description.variants.len() as u64 {
            return Err(format!("the library has {} variants, expected {}", self.0.variants, description.variants.len()));
        }
        for (place, expected) in description.variants.iter().enumerate() {
            let variant = self.variant(place).ok_or("the library does not describe its variants")?;
            let rows = expected.rows;
            if variant.rows != rows as u64 {
                return Err(format!("the library was compiled for {} rows, expected {rows}", variant.rows));
            }
            let arguments: Vec<(usize, &Port)> =
                description.inputs.iter().filter_map(|port| Some((port.argument?, port))).collect();
            let outputs: Vec<(usize, &Port)> = description.outputs.iter().enumerate().collect();
            compare(&arguments, variant.tensors().0, rows)?;
            compare(&outputs, variant.tensors().1, rows)?;
        }
        Ok(())
    }

    /// Starts threads.
    pub fn threads(self, count: usize) -> Option<Threads> {
        NonNull::new((self.0.threads)(count as u64)).map(Threads)
    }

    /// Takes buffers for a variant.
    pub fn instance(self, place: usize, weights: &Mapping, threads: &Threads) -> Option<Instance> {
        let variant = self.variant(place)?;
        let handle = (self.0.make)(place as u64, weights.as_ptr().cast(), threads.0.as_ptr());
        Some(Instance { table: self, variant, handle: NonNull::new(handle)? })
    }

    fn variant(self, place: usize) -> Option<&'static RawVariant> {
        // SAFETY: null or a description that lives as long as the library.
        unsafe { (self.0.variant)(place as u64).as_ref() }
    }
}

/// Checks described tensors, by their places, against those of the library.
fn compare(described: &[(usize, &Port)], found: &[RawTensor], rows: usize) -> Result<(), String> {
    if described.len() != found.len() {
        return Err(format!("the library has {} tensors where {} are described", found.len(), described.len()));
    }
    for (place, port) in described {
        let tensor = found.get(*place).ok_or_else(|| format!("the library has no tensor {place} for `{}`", port.name))?;
        let dimensions: Vec<usize> = tensor.dimensions().iter().filter_map(|&size| usize::try_from(size).ok()).collect();
        if dimensions != port.dimensions(rows) || port.bytes(rows) != usize::try_from(tensor.bytes).ok() {
            return Err(format!("`{}` has shape {dimensions:?} in the library, expected {:?}", port.name, port.dimensions(rows)));
        }
    }
    Ok(())
}

impl RawTensor {
    fn dimensions(&self) -> &[i32] {
        // SAFETY: the library has as many as it says; there are few.
        unsafe { read(self.dimensions, self.rank) }
    }
}

impl RawVariant {
    /// Inputs and outputs.
    fn tensors(&self) -> (&[RawTensor], &[RawTensor]) {
        // SAFETY: the library has as many as it says.
        unsafe { (read(self.input, self.inputs), read(self.output, self.outputs)) }
    }
}

/// A slice of the library.
///
/// # Safety
/// There are `count` elements at `start`, or none.
unsafe fn read<'a, T>(start: *const T, count: u64) -> &'a [T] {
    match usize::try_from(count) {
        // SAFETY: by this function's contract.
        Ok(count) if count > 0 && !start.is_null() => unsafe { slice::from_raw_parts(start, count) },
        _ => &[],
    }
}

impl Instance {
    /// Writes an input, and zeros behind it where it is shorter than what the variant takes.
    pub fn write(&mut self, argument: usize, bytes: &[u8]) {
        let size = size_of_tensor(self.variant.tensors().0, argument);
        let place = (self.table.0.input)(self.handle.as_ptr(), argument as u64).cast::<u8>();
        let length = bytes.len().min(size);
        // SAFETY: the buffer has the size that the variant says, which is not exceeded, and is this instance's own.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), place, length);
            ptr::write_bytes(place.add(length), 0, size - length);
        }
    }

    /// Runs; tells whether it succeeded.
    pub fn run(&mut self) -> bool {
        (self.table.0.run)(self.handle.as_ptr()) == 0
    }

    /// An output of the last run.
    pub fn output(&self, index: usize) -> &[u8] {
        let size = size_of_tensor(self.variant.tensors().1, index);
        let place = (self.table.0.output)(self.handle.as_ptr(), index as u64).cast::<u8>();
        // SAFETY: the buffer has the size that the variant says, and is not written to before the next run.
        unsafe { read(place, size as u64) }
    }
}

fn size_of_tensor(tensors: &[RawTensor], index: usize) -> usize {
    tensors.get(index).and_then(|tensor| usize::try_from(tensor.bytes).ok()).unwrap_or(0)
}

impl Drop for Instance {
    fn drop(&mut self) {
        (self.table.0.free)(self.handle.as_ptr());
    }
}

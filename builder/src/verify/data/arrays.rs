//! Arrays of NumPy as test sets: whole files as samples, and [`Rows`] of arrays as samples.
//!
//! How rows become requests follows from the shape that the model declares:
//!
//! | the array has | a request gets |
//! |---|---|
//! | one dimension more than the model's input | one row, without the first dimension |
//! | the model's dimensions, of which the first is fixed to N | N rows |
//! | the model's dimensions, of which the first is dynamic | as many rows as were asked for |
//!
//! The arrays of one set have equally many rows. They are read side by side, a request at a time.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::CrcReader;
use flate2::read::DeflateDecoder;
use zip::{CompressionMethod, ZipArchive};

use super::super::error::VerifyError;
use super::npy::Header;
use super::{ModelSpec, Sample, TensorSpec, data, extension, place};

/// An array that is read from its beginning to its end.
struct Array<'a> {
    path: PathBuf,
    spec: &'a TensorSpec,
    is_input: bool,
    header: Header,
    reader: CrcReader<Box<dyn Read + Send>>,
    checksum: Option<u32>,
}

impl Array<'_> {
    /// The next tensor of a shape.
    fn next(&mut self, shape: Vec<u64>) -> Result<super::Tensor, String> {
        let name = &self.spec.name;
        self.header.read_tensor(&mut self.reader, name, shape).map_err(|problem| format!("`{name}` {problem}"))
    }

    /// Checks that the file ends where its array does, with the checksum that it should have.
    fn finish(&mut self) -> Result<(), String> {
        let name = &self.spec.name;
        let left = std::io::copy(&mut self.reader, &mut std::io::sink()).map_err(|error| format!("`{name}` {error}"))?;
        if left > 0 {
            return Err(format!("`{name}` has {left} bytes behind its elements"));
        }
        match self.checksum {
            Some(expected) if expected != self.reader.crc().sum() => {
                Err(format!("`{name}` is damaged: its checksum is {:08x}, expected {expected:08x}", self.reader.crc().sum()))
            }
            _ => Ok(()),
        }
    }
}

/// A reader of a file's bytes with the checksum that they should have.
type Opened = (String, Box<dyn Read + Send>, Option<u32>);

fn open_npy(path: &Path) -> Result<Vec<Opened>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(vec![(name, Box::new(BufReader::new(file)), None)])
}

fn open_npz(path: &Path) -> Result<Vec<Opened>, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut archive = ZipArchive::new(BufReader::new(File::open(path).map_err(text)?))
        .map_err(|error| format!("is no NumPy archive, or was cut short: {error}"))?;
    let mut opened: Vec<Opened> = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|error| error.to_string())?;
        let name = entry.name().map_err(|error| error.to_string())?.trim_end_matches(".npy").to_owned();
        // Each array gets a file of its own, so that all can be read side by side.
        let mut file = File::open(path).map_err(text)?;
        let start = entry.data_start().ok_or("has an entry without a place")?;
        file.seek(SeekFrom::Start(start)).map_err(text)?;
        let bytes = BufReader::new(file).take(entry.compressed_size());
        let reader: Box<dyn Read + Send> = match entry.compression() {
            CompressionMethod::Stored => Box::new(bytes),
            CompressionMethod::Deflated => Box::new(DeflateDecoder::new(bytes)),
            other => return Err(format!("`{name}` is compressed by {other}, expected stored or deflated")),
        };
        opened.push((name, reader, Some(entry.crc32())));
    }
    Ok(opened)
}

fn open<'a>(path: &Path, model: &'a ModelSpec) -> Result<Vec<Array<'a>>, String> {
    let is_archive = extension(path) == "npz";
    let opened = if is_archive { open_npz(path)? } else { open_npy(path)? };
    let mut arrays = Vec::new();
    for (name, reader, checksum) in opened {
        let (spec, is_input) = match (place(model, &name), model.inputs.as_slice()) {
            (Ok(found), _) => found,
            // A single file of a single input may have any name.
            (Err(_), [only]) if !is_archive => (only, true),
            (Err(problem), _) => return Err(problem),
        };
        let mut reader = CrcReader::new(reader);
        let header = Header::read(&mut reader).map_err(|problem| format!("`{name}` {problem}"))?;
        arrays.push(Array { path: path.to_owned(), spec, is_input, header, reader, checksum });
    }
    arrays.sort_by_key(|array| order(model, array));
    Ok(arrays)
}

/// Inputs before outputs, each in the model's order.
fn order(model: &ModelSpec, array: &Array<'_>) -> (bool, usize) {
    let specs = if array.is_input { &model.inputs } else { &model.outputs };
    (!array.is_input, specs.iter().position(|spec| spec.name == array.spec.name).unwrap_or(usize::MAX))
}

/// Reads a file as one sample.
pub(super) fn whole(path: &Path, name: &str, model: &ModelSpec) -> Result<Sample, String> {
    let mut sample = Sample { name: name.to_owned(), inputs: Vec::new(), expected: Vec::new() };
    for mut array in open(path, model)? {
        let tensor = array.next(array.header.shape.clone())?;
        array.finish()?;
        if array.is_input { sample.inputs.push(tensor) } else { sample.expected.push(tensor) }
    }
    Ok(sample)
}

/// The rows of some arrays, as samples.
pub(super) struct Rows<'a> {
    arrays: Vec<Array<'a>>,
    requests: u64,
    next: u64,
    batch: u64,
}

impl<'a> Rows<'a> {
    /// Opens the arrays and sees that their rows fit the model and each other.
    pub fn open(files: &[PathBuf], model: &'a ModelSpec, batch: u64) -> Result<Self, (PathBuf, String)> {
        let mut arrays = Vec::new();
        for file in files {
            arrays.extend(open(file, model).map_err(|problem| (file.clone(), problem))?);
        }
        arrays.sort_by_key(|array| order(model, array));
        let mut rows = Self { arrays, requests: 0, next: 0, batch: batch.max(1) };
        let mut first: Option<(String, u64)> = None;
        for array in &rows.arrays {
            let wrong = |problem: String| (array.path.clone(), format!("`{}` {problem}", array.spec.name));
            let requests = rows.requests_of(array).map_err(wrong)?;
            match &first {
                None => first = Some((array.spec.name.clone(), requests)),
                Some((name, expected)) if *expected != requests => {
                    return Err(wrong(format!("has rows for {requests} requests, and `{name}` for {expected}")));
                }
                Some(_) => {}
            }
        }
        rows.requests = first.map_or(0, |(_, requests)| requests);
        Ok(rows)
    }

    /// Rows that a request gets of an array, and whether their dimension stays.
    fn rows(&self, array: &Array<'_>) -> (u64, bool) {
        let declared = &array.spec.shape;
        if array.header.shape.len() == declared.len() + 1 && !declared.is_empty() {
            return (1, false);
        }
        match declared.first().map(|dimension| u64::try_from(*dimension)) {
            Some(Ok(fixed)) => (fixed.max(1), true),
            _ => (self.batch, true),
        }
    }

    fn requests_of(&self, array: &Array<'_>) -> Result<u64, String> {
        let Some(total) = array.header.shape.first() else {
            return Err("is a scalar, expected rows: put every sample into a file of its own".to_owned());
        };
        let (rows, _) = self.rows(array);
        if rows < *total && !array.header.has_rows() {
            return Err("is in Fortran's order, whose rows do not lie together: save it with `order=\"C\"`".to_owned());
        }
        let fixed = array.spec.shape.first().is_some_and(|dimension| *dimension >= 0);
        if fixed && total % rows != 0 {
            return Err(format!("has {total} rows, expected a multiple of {rows}, which the model takes at a time"));
        }
        Ok(total.div_ceil(rows))
    }

    fn read(&mut self) -> Result<Sample, VerifyError> {
        let mut sample = Sample { name: format!("request {}", self.next), inputs: Vec::new(), expected: Vec::new() };
        let is_last = self.next + 1 == self.requests;
        for index in 0..self.arrays.len() {
            let (rows, keeps_dimension) = self.rows(&self.arrays[index]);
            let array = &mut self.arrays[index];
            let total = array.header.shape.first().copied().unwrap_or(0);
            let mut shape = array.header.shape[1..].to_vec();
            if keeps_dimension {
                shape.insert(0, rows.min(total.saturating_sub(self.next * rows)));
            }
            let read = array.next(shape).and_then(|tensor| if is_last { array.finish().map(|()| tensor) } else { Ok(tensor) });
            let tensor = read.map_err(|problem| data(&array.path, problem))?;
            if array.is_input { sample.inputs.push(tensor) } else { sample.expected.push(tensor) }
        }
        Ok(sample)
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Sample, VerifyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.requests {
            return None;
        }
        let sample = self.read();
        // What is behind damage cannot be found.
        self.next = if sample.is_ok() { self.next + 1 } else { self.requests };
        Some(sample)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.requests - self.next.min(self.requests)).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

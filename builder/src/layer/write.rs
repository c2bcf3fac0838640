//! Writes a layer: one thread reads, others hash, compress and write.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};
use std::time::SystemTime;

use super::recipe::{self, Known};
use super::source::Source;
use super::{Compression, FileBytes, LayerError, LayerFormat, LayerOutcome, format, frame, header, sample};
use crate::digest::{Digest, HashingWriter};
use crate::progress::{Progress, Task};
use crate::store::{Store, StoreError, stamp};
use crate::tree::{Content, Entry, ImagePath, Kind};

type Entries<'a> = [(&'a ImagePath, &'a Entry)];

/// A frame on its way to the writer, with its compressed bytes unless it is written as it is.
type Done = io::Result<(Arc<Frame>, Option<Vec<u8>>)>;

/// Writes the entries of one layer as a blob of the store, or finds the blob that an earlier build wrote of the same entries.
///
/// The directories above every entry have to be among the entries; [`select`](super::select) takes care of that.
/// Files are read once, and only where the layer is not known yet. Where the tree gives a file's digest, it is relied on to
/// find a layer, and checked before one is written.
///
/// # Errors
/// Where a file cannot be read or is not what the tree says, where it changes while it is read, or where the store cannot be
/// written. Nothing is left behind then.
pub fn write<P: Borrow<ImagePath>, E: Borrow<Entry>>(
    entries: &BTreeMap<P, E>,
    format: &LayerFormat,
    store: &Store,
    progress: &Progress,
) -> Result<LayerOutcome, LayerError> {
    let mut entries: Vec<_> = entries.iter().map(|(path, entry)| (path.borrow(), entry.borrow())).collect();
    entries.sort_by_key(|(path, _)| *path);
    let unpacked = tar_size(&entries, format)?;
    let name = entries.iter().rev().find(|(_, entry)| matches!(entry.kind, Kind::File { .. })).map(|(_, entry)| entry.layer);
    let name = name.map_or("empty", |layer| layer.as_str());

    let known = recipe::known(&entries, store)?;
    let key = |choice, digests: &[Option<Digest>]| recipe::key(&entries, digests.iter().copied(), choice, format);
    let before: Vec<_> = known.iter().map(|known| known.digest).collect();
    let choice_key = key(format.compression, &before);
    if let Some(outcome) = choice_key.map(|key| recipe::recall(store, &key)).transpose()?.flatten() {
        progress.note(format!("layer `{name}` is as before: {}", outcome.layer.descriptor.digest));
        return Ok(outcome);
    }
    let compression = format.compression.fixed().map_or_else(|| sample::choose(format.compression, &entries), Ok)?;
    // Another choice may have come to the same compression before.
    if let Some(choice_key) = choice_key.filter(|_| format.compression.fixed().is_none())
        && let Some(key) = key(compression.into(), &before)
        && let Some(outcome) = recipe::recall(store, &key)?
    {
        recipe::remember(store, &choice_key, &outcome)?;
        return Ok(outcome);
    }

    let task = progress.task(format!("write layer `{name}` ({compression})"), Some(unpacked));
    let job = Job { entries: &entries, known: &known, format, compression, unpacked, store, task: &task };
    let (outcome, digests) = job.run()?;
    for choice in [format.compression, compression.into()] {
        if let Some(key) = key(choice, &digests) {
            recipe::remember(store, &key, &outcome)?;
        }
    }
    Ok(outcome)
}

/// Checks what the tar format asks of the entries, and counts the bytes of their tar.
fn tar_size(entries: &Entries<'_>, format: &LayerFormat) -> Result<u64, LayerError> {
    let mut headers = Vec::new();
    let mut size = header::END.len() as u64;
    for (path, entry) in entries {
        if let Some(parent) = path.parent() {
            let found = entries.binary_search_by_key(&&parent, |(path, _)| *path);
            if !found.is_ok_and(|position| matches!(entries[position].1.kind, Kind::Directory)) {
                return Err(LayerError::Parent { path: (*path).clone(), parent });
            }
        }
        if let Kind::Symlink { target } = &entry.kind
            && (target.is_empty() || target.contains('\0'))
        {
            return Err(LayerError::Link { path: (*path).clone(), target: target.clone() });
        }
        headers.clear();
        header::append(&mut headers, path, entry, format.epoch)?;
        size += headers.len() as u64;
        if let Kind::File { size: content, .. } = &entry.kind {
            size += content + header::padding(*content) as u64;
        }
    }
    Ok(size)
}

struct Job<'a> {
    entries: &'a Entries<'a>,
    known: &'a [Known],
    format: &'a LayerFormat,
    compression: Compression,
    unpacked: u64,
    store: &'a Store,
    task: &'a Task,
}

/// A piece of the tar stream on its way through the threads. Its buffer goes back to the reader when the last is done with it.
struct Frame {
    number: u64,
    bytes: Vec<u8>,
    parts: Vec<Part>,
    home: Sender<Vec<u8>>,
}

/// Consecutive bytes of a frame that belong to one entry, or to the end of the archive.
struct Part {
    entry: Option<usize>,
    bytes: usize,
    /// Where in the frame the entry's content lies, without header and padding.
    content: Range<usize>,
}

impl Drop for Frame {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        // The reader is gone once everything was read.
        let _ = self.home.send(bytes);
    }
}

/// Why reading ended early.
enum Halt {
    Error(LayerError),
    /// A thread stopped taking frames; it has the reason.
    Stopped,
}

/// What the writing thread has found out: bytes of the blob by entry, and those of no entry.
struct Shares {
    entries: Vec<u64>,
    overhead: u64,
}

impl Job<'_> {
    /// Writes the layer; gives it with the digests of all its files, by entry.
    fn run(&self) -> Result<(LayerOutcome, Vec<Option<Digest>>), LayerError> {
        let opened = SystemTime::now();
        let (blob, diff_id, shares, hashed) = match self.compression {
            Compression::None => {
                let mut out = self.store.unhashed_writer()?;
                out.reserve(self.unpacked).map_err(|source| self.write_error(source))?;
                let (out, shares, diff_id, hashed) = self.pipe(out)?;
                (out.finish_unverified(diff_id), diff_id, shares, hashed)
            }
            Compression::Gzip { .. } | Compression::Zstd { .. } => {
                let (out, shares, diff_id, hashed) = self.pipe(self.store.writer()?)?;
                (out.finish(), diff_id, shares, hashed)
            }
        };
        let blob = blob.map_err(|error| match error {
            StoreError::Io { source, .. } if is_full(&source) => self.write_error(source),
            other => other.into(),
        })?;
        let mut digests: Vec<_> = self.known.iter().map(|known| known.digest).collect();
        for Hashed { entry, digest, metadata } in hashed {
            digests[entry] = Some(digest);
            if let (Kind::File { content: Content::Disk(file), .. }, Some(metadata)) = (&self.entries[entry].1.kind, metadata) {
                recipe::remember_file(file, &metadata, opened, digest, self.store)?;
            }
        }
        let mut overhead = shares.overhead;
        let mut files = Vec::new();
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            let compressed = shares.entries[number];
            match (&entry.kind, digests[number]) {
                (Kind::File { size, .. }, Some(digest)) => {
                    files.push(FileBytes { path: (*path).clone(), size: *size, compressed, digest });
                }
                _ => overhead += compressed,
            }
        }
        let layer = recipe::layer(self.compression, blob.digest, blob.size, diff_id, self.unpacked, blob.path);
        Ok((LayerOutcome { layer, compression: self.compression, reused: false, files, overhead }, digests))
    }

    /// Sends the tar stream through all threads; gives the output back, each entry's share of it, the digest of the tar stream
    /// and those of files that were not known.
    fn pipe<W: Write + Send>(&self, out: W) -> Result<(W, Shares, Digest, Vec<Hashed>), LayerError> {
        let workers = if self.compression == Compression::None { 0 } else { self.format.threads.clamp(1, 256) };
        let frame_bytes = self.compression.frame_bytes();
        // As many buffers as there are frames in the pipe at once: this bounds memory, so that channels need not.
        let buffers = if workers == 0 { 8 } else { workers + 2 };
        let (home, pool) = channel();
        for _ in 0..buffers {
            home.send(Vec::with_capacity(frame_bytes + header::BLOCK as usize)).expect("the receiver is here");
        }
        thread::scope(|scope| {
            let (tar_sender, tar_frames) = channel::<Arc<Frame>>();
            let (file_sender, file_frames) = channel::<Arc<Frame>>();
            let (job_sender, jobs) = channel::<Arc<Frame>>();
            let (done_sender, done) = channel::<Done>();
            let tar_hash = scope.spawn(move || {
                let mut hash = HashingWriter::new(io::sink());
                tar_frames.iter().for_each(|frame| hash.write_all(&frame.bytes).expect("hashing cannot fail"));
                hash.finish().1
            });
            let file_hash = scope.spawn(move || self.hash_files(&file_frames));
            let writing = scope.spawn(move || self.write_frames(&done, out));
            let jobs = Arc::new(Mutex::new(jobs));
            for _ in 0..workers {
                let (jobs, done_sender) = (Arc::clone(&jobs), done_sender.clone());
                scope.spawn(move || compress_frames(self.compression, &jobs, &done_sender));
            }
            drop(jobs);
            let reader = Reader {
                job: self,
                pool,
                home,
                frame_bytes,
                limit: frame_bytes,
                number: 0,
                bytes: Vec::new(),
                parts: Vec::new(),
                metadata: BTreeMap::new(),
                send: |frame: Arc<Frame>, hash_files: bool| {
                    tar_sender.send(Arc::clone(&frame)).map_err(|_| Halt::Stopped)?;
                    if hash_files {
                        file_sender.send(Arc::clone(&frame)).map_err(|_| Halt::Stopped)?;
                    }
                    if workers == 0 {
                        done_sender.send(Ok((frame, None))).map_err(|_| Halt::Stopped)
                    } else {
                        job_sender.send(frame).map_err(|_| Halt::Stopped)
                    }
                },
            };
            let read = reader.run();
            drop((tar_sender, file_sender, job_sender, done_sender));
            let written = join(writing);
            let (diff_id, hashed) = (join(tar_hash), join(file_hash));
            let metadata = match read {
                Ok(metadata) => metadata,
                Err(Halt::Error(error)) => return Err(error),
                Err(Halt::Stopped) => BTreeMap::new(),
            };
            let (out, shares) = written?;
            let hashed = self.check(hashed, metadata)?;
            Ok((out, shares, diff_id, hashed))
        })
    }

    /// Whether an entry's content has to be hashed: its digest is not known, or only by what the tree says.
    fn hashes(&self, entry: usize) -> bool {
        matches!(self.entries[entry].1.kind, Kind::File { .. }) && self.known[entry].trusted.is_none()
    }

    /// Hashes those files in a stream of frames that have to be.
    fn hash_files(&self, frames: &Receiver<Arc<Frame>>) -> Vec<(usize, Digest)> {
        let new = || HashingWriter::new(io::sink());
        let mut digests = Vec::new();
        let mut current: Option<(usize, HashingWriter<io::Sink>)> = None;
        for frame in frames {
            for part in &frame.parts {
                let Some(entry) = part.entry.filter(|entry| self.hashes(*entry)) else { continue };
                let (_, mut hash) = match current.take() {
                    Some((same, hash)) if same == entry => (same, hash),
                    Some((other, hash)) => {
                        digests.push((other, hash.finish().1));
                        (entry, new())
                    }
                    None => (entry, new()),
                };
                hash.write_all(&frame.bytes[part.content.clone()]).expect("hashing cannot fail");
                current = Some((entry, hash));
            }
        }
        digests.extend(current.map(|(entry, hash)| (entry, hash.finish().1)));
        digests
    }

    /// Compares digests with those that the tree says.
    fn check(
        &self,
        digests: Vec<(usize, Digest)>,
        mut metadata: BTreeMap<usize, std::fs::Metadata>,
    ) -> Result<Vec<Hashed>, LayerError> {
        let check = |(entry, digest): (usize, Digest)| {
            let expected = self.known[entry].digest;
            match (expected, &self.entries[entry].1.kind) {
                (Some(expected), Kind::File { content: Content::Disk(file), .. }) if expected != digest => {
                    let path = self.entries[entry].0.clone();
                    Err(LayerError::FileDigest { path, file: file.clone(), actual: digest, expected })
                }
                _ => Ok(Hashed { entry, digest, metadata: metadata.remove(&entry) }),
            }
        };
        digests.into_iter().map(check).collect()
    }

    /// Writes frames in their order, whatever order they come in.
    fn write_frames<W: Write>(&self, done: &Receiver<Done>, mut out: W) -> Result<(W, Shares), LayerError> {
        let mut shares = Shares { entries: vec![0; self.entries.len()], overhead: 0 };
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        for result in done {
            let (frame, compressed) = result.map_err(|source| LayerError::Compress {
                codec: self.compression.to_string(),
                bytes: self.compression.frame_bytes(),
                source,
            })?;
            waiting.insert(frame.number, (frame, compressed));
            while let Some((frame, compressed)) = waiting.remove(&next) {
                let bytes = compressed.as_ref().unwrap_or(&frame.bytes);
                out.write_all(bytes).map_err(|source| self.write_error(source))?;
                shares.add(&frame, bytes.len() as u64);
                self.task.advance(frame.bytes.len() as u64);
                next += 1;
            }
        }
        Ok((out, shares))
    }

    fn write_error(&self, source: io::Error) -> LayerError {
        let store = self.store.root().to_owned();
        if is_full(&source) {
            LayerError::Full { store, needed: self.unpacked, exact: self.compression == Compression::None, source }
        } else {
            LayerError::Write { store, source }
        }
    }
}

/// The digest of a file that was not known, and how the file looked when it was opened.
struct Hashed {
    entry: usize,
    digest: Digest,
    metadata: Option<std::fs::Metadata>,
}

impl Shares {
    /// Divides the bytes of a written frame among its entries by their parts of the tar stream, losing none.
    fn add(&mut self, frame: &Frame, written: u64) {
        let total = frame.bytes.len() as u64;
        let (mut before, mut given) = (0, 0);
        for part in &frame.parts {
            before += part.bytes as u64;
            let share = written * before / total - given;
            given += share;
            match part.entry {
                Some(entry) => self.entries[entry] += share,
                None => self.overhead += share,
            }
        }
    }
}

/// Reads the files and cuts the tar stream into frames.
struct Reader<'a, S> {
    job: &'a Job<'a>,
    pool: Receiver<Vec<u8>>,
    home: Sender<Vec<u8>>,
    /// Most bytes of a frame.
    frame_bytes: usize,
    /// Bytes of the frames of the file that is being read.
    limit: usize,
    number: u64,
    bytes: Vec<u8>,
    parts: Vec<Part>,
    metadata: BTreeMap<usize, std::fs::Metadata>,
    send: S,
}

impl<S: FnMut(Arc<Frame>, bool) -> Result<(), Halt>> Reader<'_, S> {
    /// Sends the whole stream; gives how files looked that are hashed.
    fn run(mut self) -> Result<BTreeMap<usize, std::fs::Metadata>, Halt> {
        self.bytes = self.buffer()?;
        let mut head = Vec::new();
        for (number, (path, entry)) in self.job.entries.iter().enumerate() {
            head.clear();
            header::append(&mut head, path, entry, self.job.format.epoch).map_err(Halt::Error)?;
            match &entry.kind {
                Kind::Directory | Kind::Symlink { .. } => {
                    self.make_room(head.len())?;
                    self.push(Some(number), &head)?;
                }
                Kind::File { content, size, .. } => self.file(number, &head, content, *size)?,
            }
        }
        self.make_room(header::END.len())?;
        self.push(None, &header::END)?;
        self.send_frame(false)?;
        Ok(self.metadata)
    }

    fn file(&mut self, number: usize, head: &[u8], content: &Content, size: u64) -> Result<(), Halt> {
        let mut source = Source::open(self.job.entries[number].0, content, size).map_err(Halt::Error)?;
        let trusted = self.job.known[number].trusted.as_ref();
        if let (Some(metadata), Content::Disk(file)) = (source.metadata(), content) {
            match trusted {
                Some(trusted) if *trusted != stamp(metadata) => {
                    let path = self.job.entries[number].0.clone();
                    return Err(Halt::Error(LayerError::Changed { path, file: file.clone() }));
                }
                Some(_) => {}
                None => drop(self.metadata.insert(number, metadata.clone())),
            }
        }
        let padding = header::padding(size);
        let own = self.job.compression != Compression::None && size >= format::OWN_FRAME;
        if own {
            self.send_frame(true)?;
            source.read_ahead();
            self.limit = equal_parts(head.len() as u64 + size + padding as u64, self.frame_bytes);
        } else {
            self.make_room(head.len() + padding + usize::try_from(size).unwrap_or(usize::MAX))?;
        }
        self.push(Some(number), head)?;
        let mut left = size;
        while left > 0 {
            let count = self.room()?.min(usize::try_from(left).unwrap_or(usize::MAX));
            let start = self.bytes.len();
            source.read_into(&mut self.bytes, count).map_err(Halt::Error)?;
            self.part(Some(number), count, start..start + count);
            left -= count as u64;
        }
        source.finish().map_err(Halt::Error)?;
        self.push(Some(number), &header::END[..padding])?;
        if size == 0 {
            // So that the digest of an empty file is made like every other.
            let end = self.bytes.len();
            self.part(Some(number), 0, end..end);
        }
        self.limit = self.frame_bytes;
        if own { self.send_frame(true) } else { Ok(()) }
    }

    /// Begins a new frame where a small entry would be divided; an uncompressed stream is divided anywhere.
    fn make_room(&mut self, needed: usize) -> Result<(), Halt> {
        let divides = self.job.compression != Compression::None;
        if divides && self.bytes.len().saturating_add(needed) > self.frame_bytes { self.send_frame(true) } else { Ok(()) }
    }

    /// Bytes that still fit the frame, a new one where it is full.
    fn room(&mut self) -> Result<usize, Halt> {
        if self.bytes.len() >= self.limit {
            self.send_frame(true)?;
        }
        Ok(self.limit - self.bytes.len())
    }

    fn push(&mut self, entry: Option<usize>, mut bytes: &[u8]) -> Result<(), Halt> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(self.room()?.min(bytes.len()));
            self.bytes.extend_from_slice(now);
            let end = self.bytes.len();
            self.part(entry, now.len(), end..end);
            bytes = later;
        }
        Ok(())
    }

    fn part(&mut self, entry: Option<usize>, bytes: usize, content: Range<usize>) {
        self.parts.push(Part { entry, bytes, content });
    }

    /// Sends the frame, if there is anything in it, and waits for a buffer for the next one.
    fn send_frame(&mut self, more: bool) -> Result<(), Halt> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let parts = std::mem::take(&mut self.parts);
        let hash_files = parts.iter().any(|part| part.entry.is_some_and(|entry| self.job.hashes(entry)));
        let bytes = std::mem::take(&mut self.bytes);
        let frame = Arc::new(Frame { number: self.number, bytes, parts, home: self.home.clone() });
        self.number += 1;
        (self.send)(frame, hash_files)?;
        if more {
            self.bytes = self.buffer()?;
        }
        Ok(())
    }

    fn buffer(&self) -> Result<Vec<u8>, Halt> {
        self.pool.recv().map_err(|_| Halt::Stopped)
    }
}

/// Bytes of the frames of a file: as few as possible, and equal, so that threads end together.
fn equal_parts(bytes: u64, most: usize) -> usize {
    let parts = bytes.div_ceil(most as u64).max(1);
    usize::try_from(bytes.div_ceil(parts)).unwrap_or(most)
}

fn compress_frames(compression: Compression, jobs: &Mutex<Receiver<Arc<Frame>>>, done: &Sender<Done>) {
    let mut room = Vec::new();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(frame) = job else { return };
        let compressed = frame::compress(compression, &frame.bytes, &mut room);
        if done.send(compressed.map(|bytes| (frame, Some(bytes)))).is_err() {
            return;
        }
    }
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

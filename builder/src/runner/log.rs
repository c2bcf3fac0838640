//! A container's output, line by line: [`LogLine`], and [`Log`], which keeps the last ones and passes each on.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How many of the last lines are kept.
pub const KEPT_LINES: usize = 1000;
/// Longer lines are cut into several of this many bytes.
const LINE_BYTES: usize = 16 << 10;
/// How many lines an error quotes.
const QUOTED_LINES: usize = 20;

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a container's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where it was written.
    pub stream: Stream,
    /// When this process read it.
    pub at: Instant,
    /// The line without its end; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// The last lines, and those who want each line. Cheap to clone; all clones are one log.
#[derive(Debug, Clone, Default)]
pub(super) struct Log(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    kept: VecDeque<LogLine>,
    readers: Vec<Sender<LogLine>>,
    closed: bool,
}

impl Log {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: LogLine) {
        let mut inner = self.inner();
        inner.readers.retain(|reader| reader.send(line.clone()).is_ok());
        if inner.kept.len() == KEPT_LINES {
            inner.kept.pop_front();
        }
        inner.kept.push_back(line);
    }

    /// The kept lines, then each new one until the log closes.
    pub fn subscribe(&self) -> Receiver<LogLine> {
        let (sender, receiver) = channel();
        let mut inner = self.inner();
        for line in &inner.kept {
            // The receiver is held right here.
            let _ = sender.send(line.clone());
        }
        if !inner.closed {
            inner.readers.push(sender);
        }
        receiver
    }

    /// The last lines, for an error.
    pub fn tail(&self) -> Vec<LogLine> {
        let inner = self.inner();
        inner.kept.iter().skip(inner.kept.len().saturating_sub(QUOTED_LINES)).cloned().collect()
    }

    /// Says that no line will come any more.
    pub fn close(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        inner.readers.clear();
    }

    /// Reads a stream to its end.
    pub fn drain(&self, stream: Stream, mut reader: impl Read) {
        let mut lines = Lines::new(self.clone(), stream);
        let mut buffer = vec![0; 8 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => lines.take(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }
}

/// Cuts pieces of a stream into lines. What has no end yet is passed on when this is dropped.
#[derive(Debug)]
pub(super) struct Lines {
    log: Log,
    stream: Stream,
    partial: Vec<u8>,
}

impl Lines {
    pub fn new(log: Log, stream: Stream) -> Self {
        Self { log, stream, partial: Vec::new() }
    }

    pub fn take(&mut self, bytes: &[u8]) {
        let at = Instant::now();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(LINE_BYTES) {
                self.partial.extend_from_slice(part);
                if self.partial.ends_with(b"\n") || self.partial.len() >= LINE_BYTES {
                    self.flush(at);
                }
            }
        }
    }

    fn flush(&mut self, at: Instant) {
        let line = self.partial.strip_suffix(b"\n").unwrap_or(&self.partial);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.log.push(LogLine { stream: self.stream, at, text: String::from_utf8_lossy(line).into_owned() });
        self.partial.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            self.flush(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines_wherever_they_were_cut() {
        let text = b"one\ntwo\r\n\nlast \xff";
        let texts = |log: &Log| log.subscribe().into_iter().map(|line| line.text).collect::<Vec<_>>();
        for size in 1..=text.len() {
            let log = Log::default();
            let mut lines = Lines::new(log.clone(), Stream::Stderr);
            text.chunks(size).for_each(|piece| lines.take(piece));
            drop(lines);
            log.close();
            assert_eq!(texts(&log), ["one", "two", "", "last \u{fffd}"], "cut every {size} bytes");
        }
    }

    #[test]
    fn only_the_last_lines_are_kept_and_long_ones_are_cut() {
        let log = Log::default();
        log.drain(Stream::Stdout, (0..KEPT_LINES + 5).map(|n| format!("{n}\n")).collect::<String>().as_bytes());
        log.drain(Stream::Stdout, vec![b'x'; LINE_BYTES * 2 + 1].as_slice());
        log.close();
        let lines: Vec<_> = log.subscribe().into_iter().collect();
        assert_eq!(lines.len(), KEPT_LINES);
        assert_eq!(lines[0].text, "8");
        assert_eq!(lines[KEPT_LINES - 3..].iter().map(|line| line.text.len()).collect::<Vec<_>>(), [LINE_BYTES, LINE_BYTES, 1]);
        assert_eq!(log.tail().len(), QUOTED_LINES);
    }
}

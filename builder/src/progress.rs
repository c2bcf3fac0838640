//! Events about long work. They leave sideways and never come back: the library prints nothing itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a task counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things, such as samples.
    Things,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A task began.
    Started {
        /// Identifies the task in later events.
        task: u64,
        /// What people see, for instance ``compress `runtime` ``.
        name: String,
        /// How much there is to do, where known.
        total: Option<u64>,
        /// What is counted.
        unit: Unit,
    },
    /// So much more is done.
    Advanced {
        /// Which task.
        task: u64,
        /// What was done since the last event.
        amount: u64,
    },
    /// The task ended, well or not.
    Finished {
        /// Which task.
        task: u64,
    },
    /// Something the user should know; not an error.
    Warning(String),
    /// A step that was taken, for the log.
    Note(String),
}

/// Where events go. Cheap to clone and to share between threads.
#[derive(Clone)]
pub struct Progress {
    sink: Arc<dyn Fn(Event) + Send + Sync>,
    next: Arc<AtomicU64>,
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

impl Progress {
    /// Sends every event to a function.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { sink: Arc::new(sink), next: Arc::new(AtomicU64::new(0)) }
    }

    /// Drops every event.
    #[must_use]
    pub fn silent() -> Self {
        Self::new(|_| {})
    }

    /// Begins a task of `total` bytes; it ends when the [`Task`] is dropped.
    #[must_use]
    pub fn task(&self, name: impl Into<String>, total: Option<u64>) -> Task {
        self.begin(name.into(), total, Unit::Bytes)
    }

    /// Begins a task of `total` things; it ends when the [`Task`] is dropped.
    #[must_use]
    pub fn count(&self, name: impl Into<String>, total: Option<u64>) -> Task {
        self.begin(name.into(), total, Unit::Things)
    }

    fn begin(&self, name: String, total: Option<u64>, unit: Unit) -> Task {
        let task = self.next.fetch_add(1, Ordering::Relaxed);
        (self.sink)(Event::Started { task, name, total, unit });
        Task { progress: self.clone(), task }
    }

    /// Tells the user something.
    pub fn warn(&self, text: impl Into<String>) {
        (self.sink)(Event::Warning(text.into()));
    }

    /// Notes a step for the log.
    pub fn note(&self, text: impl Into<String>) {
        (self.sink)(Event::Note(text.into()));
    }
}

/// A running task.
#[derive(Debug)]
pub struct Task {
    progress: Progress,
    task: u64,
}

impl Task {
    /// Reports so much more as done.
    pub fn advance(&self, amount: u64) {
        (self.progress.sink)(Event::Advanced { task: self.task, amount });
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        (self.progress.sink)(Event::Finished { task: self.task });
    }
}

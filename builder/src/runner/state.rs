//! [`State`]: whether a container has ended, shared between whoever watches it and whoever asks.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A value that comes once. Cheap to clone; all clones are one.
#[derive(Debug)]
pub(super) struct State<T>(Arc<(Mutex<Option<T>>, Condvar)>);

impl<T> Clone for State<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self(Arc::new((Mutex::new(None), Condvar::new())))
    }
}

impl<T: Clone> State<T> {
    /// Sets the value; a later one is ignored.
    pub fn set(&self, value: T) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(value);
        self.0.1.notify_all();
    }

    /// The value if it is there.
    pub fn get(&self) -> Option<T> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the value.
    pub fn wait(&self, timeout: Duration) -> Option<T> {
        let deadline = Instant::now().checked_add(timeout);
        let mut value = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while value.is_none() {
            let left = match deadline {
                Some(deadline) => deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?,
                None => Duration::from_secs(3600),
            };
            value = self.0.1.wait_timeout(value, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        value.clone()
    }
}

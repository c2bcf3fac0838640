//! Lines on standard error: one JSON object each, written whole.
//!
//! Three kinds, told apart by the field `imgserve`: `phase` (see [`crate::phases`]), `error` (why the server did not
//! start) and `log`. The first two keep their form whatever the log's format is.

use std::ffi::c_char;
use std::fmt::Display;
use std::io::Write;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// What an operator must see.
    Error,
    /// What an operator should see.
    Warn,
    /// Start and stop.
    Info,
    /// Every request.
    Debug,
}

impl Level {
    /// The name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug].into_iter().find(|level| level.name() == text).ok_or(())
    }
}

/// How `log` lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Time, level, message, then `key=value`.
    Text,
}

impl Format {
    /// The name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}

impl FromStr for Format {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Json, Self::Text].into_iter().find(|format| format.name() == text).ok_or(())
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
static FORMAT: AtomicU8 = AtomicU8::new(Format::Json as u8);

/// Sets what is logged from here on.
pub fn configure(level: Level, format: Format) {
    LEVEL.store(level as u8, Ordering::Relaxed);
    FORMAT.store(format as u8, Ordering::Relaxed);
}

/// Whether lines of this level are written.
pub fn enabled(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Starts a `log` line.
pub fn line(level: Level, message: impl Display) -> Line {
    let format = if FORMAT.load(Ordering::Relaxed) == Format::Text as u8 { Format::Text } else { Format::Json };
    let mut line = Line { buffer: Vec::with_capacity(200), format, enabled: enabled(level) };
    if line.enabled {
        match format {
            Format::Json => {
                line.open("log");
                line = line.field("level", level.name()).field("message", message.to_string().as_str());
            }
            Format::Text => {
                let head = format!("{} {:5} {message}", timestamp(), level.name().to_ascii_uppercase());
                line.buffer.extend_from_slice(head.replace('\n', "\\n").as_bytes());
            }
        }
    }
    line
}

/// Starts a line that is always JSON and always written, marked with `kind`.
pub fn marked(kind: &str) -> Line {
    let mut line = Line { buffer: Vec::with_capacity(200), format: Format::Json, enabled: true };
    line.open(kind);
    line
}

/// A line being put together.
#[must_use = "a line is written by `emit`"]
pub struct Line {
    buffer: Vec<u8>,
    format: Format,
    enabled: bool,
}

impl Line {
    fn open(&mut self, kind: &str) {
        self.buffer.extend_from_slice(b"{\"imgserve\":");
        self.write(kind);
        self.buffer.extend_from_slice(b",\"time\":");
        self.write(&timestamp());
    }

    fn write<T: Serialize + ?Sized>(&mut self, value: &T) {
        serde_json::to_writer(&mut self.buffer, value).expect("writing to memory does not fail");
    }

    /// Adds a field.
    pub fn field<T: Serialize + ?Sized>(mut self, key: &str, value: &T) -> Self {
        if self.enabled {
            match self.format {
                Format::Json => {
                    self.buffer.push(b',');
                    self.write(key);
                    self.buffer.push(b':');
                }
                Format::Text => {
                    self.buffer.push(b' ');
                    self.buffer.extend_from_slice(key.as_bytes());
                    self.buffer.push(b'=');
                }
            }
            self.write(value);
        }
        self
    }

    /// Adds a field where there is a value.
    pub fn optional<T: Serialize>(self, key: &str, value: Option<T>) -> Self {
        match value {
            Some(value) => self.field(key, &value),
            None => self,
        }
    }

    /// Writes the line with one call, so that lines of several threads do not mix.
    pub fn emit(mut self) {
        if self.enabled {
            if self.format == Format::Json {
                self.buffer.push(b'}');
            }
            self.buffer.push(b'\n');
            // A closed standard error must not stop the server.
            let _ = std::io::stderr().lock().write_all(&self.buffer);
        }
    }
}

/// Now, as `2026-11-23T03:23:34.783Z`.
fn timestamp() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(0);
    // SAFETY: `tm` is plain data for which zero is valid, and `gmtime_r` writes it only.
    let time = unsafe {
        let mut time: libc::tm = std::mem::zeroed();
        libc::gmtime_r(&raw const seconds, &raw mut time);
        time
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.tm_year + 1900,
        time.tm_mon + 1,
        time.tm_mday,
        time.tm_hour,
        time.tm_min,
        time.tm_sec,
        now.subsec_millis()
    )
}

/// Reads text that a C library gave, whatever its encoding.
///
/// # Safety
/// `text` is null or points to a string that ends in a zero byte and lives through the call.
pub(crate) unsafe fn c_text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and ends in a zero byte by this function's contract.
    unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Makes panics into log lines.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("a panic without a message");
        line(Level::Error, format_args!("internal error: {message}"))
            .optional("location", panic.location().map(|place| within_crate(&place.to_string()).to_owned()))
            .emit();
    }));
}

/// A place in a source file, without the folders of the machine that it was compiled on.
fn within_crate(place: &str) -> &str {
    match place.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/')) {
        Some((_registry, rest)) => rest,
        None => place,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_do_not_name_the_build_machine() {
        assert_eq!(within_crate("/home/x/registry/src/index-1/ort-2.0/src/lib.rs:1:2"), "ort-2.0/src/lib.rs:1:2");
        assert_eq!(within_crate("server/src/lib.rs:1:2"), "server/src/lib.rs:1:2");
    }

    #[test]
    fn lines_are_json_whatever_they_say() {
        let line = marked("x").field("a\"b", "line\nend").optional("none", None::<u8>).field("list", &[1, 2]);
        let text = [&line.buffer[..], b"}"].concat();
        let value: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(value["a\"b"], "line\nend");
        assert!(!text.contains(&b'\n'));
    }
}

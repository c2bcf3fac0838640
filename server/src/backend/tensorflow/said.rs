//! What TensorFlow writes to standard error while something is done: the reason why it passes a GPU over is nowhere else.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Does `work` with standard error going to memory; gives what it gives and TensorFlow's warnings and errors, each without its
/// heading. Lines of this server that come meanwhile are written afterwards. Where there is no such memory, nothing is kept.
pub(super) fn during<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let Some((mut memory, before)) = redirect() else { return (work(), Vec::new()) };
    let result = work();
    // SAFETY: both are open; the copy takes the place of the first.
    unsafe { libc::dup2(before.as_raw_fd(), libc::STDERR_FILENO) };
    let mut text = Vec::new();
    let read = memory.rewind().and_then(|()| memory.read_to_end(&mut text));
    let text = String::from_utf8_lossy(if read.is_ok() { &text } else { &[] });
    let mut said = Vec::new();
    for line in text.lines() {
        match warning(line) {
            Some(warning) => said.push(warning.to_owned()),
            // A closed standard error must not stop the server.
            None if line.starts_with("{\"imgserve\":") => _ = writeln!(std::io::stderr(), "{line}"),
            None => {}
        }
    }
    (result, said)
}

/// Puts memory in the place of standard error; gives it, and what was there.
fn redirect() -> Option<(File, OwnedFd)> {
    // SAFETY: the calls make descriptors that nothing else owns, or fail.
    unsafe {
        let memory = libc::memfd_create(c"tensorflow".as_ptr(), libc::MFD_CLOEXEC);
        if memory < 0 {
            return None;
        }
        let memory = File::from_raw_fd(memory);
        let before = libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, 3);
        if before < 0 {
            return None;
        }
        let before = OwnedFd::from_raw_fd(before);
        (libc::dup2(memory.as_raw_fd(), libc::STDERR_FILENO) >= 0).then_some((memory, before))
    }
}

/// The words of a line such as `W0000 00:00:1795896428.345566   12587 gpu_device.cc:2365] Cannot dlopen some GPU libraries.`
fn warning(line: &str) -> Option<&str> {
    let (heading, words) = line.split_once("] ")?;
    let is_heading = heading.starts_with(['W', 'E', 'F']) && heading[1..].starts_with(|letter: char| letter.is_ascii_digit());
    is_heading.then(|| words.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_from_other_lines() {
        let line = "W0000 00:00:1795896428.345566   12587 gpu_device.cc:2365] Cannot dlopen some GPU libraries. ";
        assert_eq!(warning(line), Some("Cannot dlopen some GPU libraries."));
        assert_eq!(warning("I0000 00:00:1 2 dso_loader.cc:133] Successfully opened dynamic library libcuda.so.1"), None);
        assert_eq!(warning("WARNING: All log messages before absl::InitializeLog() is called"), None);
        assert_eq!(warning("Skipping registering GPU devices..."), None);
    }
}

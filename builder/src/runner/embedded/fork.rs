//! Starting a child process from a process of one thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::process::Pid;

/// Forks; `None` in the child.
///
/// # Errors
/// Those of the system call, and `EBUSY` where this process has other threads.
pub(super) fn plain() -> io::Result<Option<Pid>> {
    refuse_threads()?;
    // SAFETY: this process has one thread, so no lock is held by a thread that the child lacks.
    pid_or_child(unsafe { libc::fork() }.into())
}

/// Forks a child that begins in a control group of version 2, given by its folder; `None` in the child.
///
/// # Errors
/// Those of the system call, among them `ENOSYS` where a filter of system calls keeps it from containers, and `EBUSY` where this
/// process has other threads.
pub(super) fn into_group(folder: impl AsFd) -> io::Result<Option<Pid>> {
    refuse_threads()?;
    // SAFETY: a structure of numbers, for which zeros mean "nothing of the kind".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    arguments.cgroup = u64::from(folder.as_fd().as_raw_fd().unsigned_abs());
    // SAFETY: as with `fork`, the child gets copies of memory and of the stack; the structure is valid and has the size that is told.
    pid_or_child(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) })
}

/// The flag is above what the `libc` crate's type for flags holds.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn refuse_threads() -> io::Result<()> {
    match std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count) {
        1 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EBUSY)),
    }
}

fn pid_or_child(number: i64) -> io::Result<Option<Pid>> {
    match number {
        0 => Ok(None),
        number => i32::try_from(number)
            .ok()
            .filter(|number| *number > 0)
            .and_then(Pid::from_raw)
            .map(Some)
            .ok_or_else(io::Error::last_os_error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_other_threads_is_not_forked() {
        // A harness may run tests on the first thread, which would then be the only one.
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || ended.recv());
        assert_eq!(plain().expect_err("there are more threads").raw_os_error(), Some(libc::EBUSY));
        let any = std::fs::File::open("/").expect("the root");
        assert_eq!(into_group(&any).expect_err("there are more threads").raw_os_error(), Some(libc::EBUSY));
        drop(end);
        let _ = other.join();
    }
}

//! The container's first process until it is the program: takes on file systems and identity, gives up privileges, executes.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::{Gid, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use super::filesystem;
use super::helper::Privilege;
use super::protocol::{self, Event, Failure, Incoming, Job, Moment};
use crate::runner::command::Command;

/// Becomes the program. Reports to the helper; the report's end without a failure means that the program runs.
pub(super) fn run(job: &Job, privilege: Privilege, sources: &[(PathBuf, PathBuf)], report: &UnixStream) -> ! {
    // The helper says so once limits apply; if it is gone, so is the reason to go on.
    let told = report.try_clone().and_then(|report| Incoming::new(report).receive::<()>());
    if matches!(told, Ok(Some(()))) {
        let failure = match become_program(job, privilege, sources, report) {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        // The helper may be gone; nothing is left to do either way.
        let _ = protocol::send(report, &Event::Failed(failure));
    }
    // Not `exit`: what the parent registered to run at its end is not for this process to run.
    // SAFETY: ends the process and touches no memory.
    unsafe { libc::_exit(127) }
}

fn become_program(
    job: &Job,
    privilege: Privilege,
    sources: &[(PathBuf, PathBuf)],
    report: &UnixStream,
) -> Result<Infallible, Failure> {
    let spaces = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWCGROUP;
    // SAFETY: only `FILES` would be unsafe; it is not asked for.
    unsafe { rustix::thread::unshare_unsafe(spaces) }
        .map_err(|error| Failure::refused("make mount, IPC, host name and control group namespaces", error))?;
    rustix::system::sethostname(b"imgbuild").map_err(|error| Failure::refused("set the host name", error))?;
    for warning in filesystem::take_on(&job.root, job.writable, job.tmp_bytes, sources)? {
        let _ = protocol::send(report, &Event::Warning(warning));
    }
    let streams = |error: io::Error| Failure::refused("open /dev/null in the container", error);
    let null = std::fs::File::open("/dev/null").map_err(streams)?;
    rustix::stdio::dup2_stdin(&null).map_err(|error| streams(error.into()))?;
    drop(null);
    rustix::process::setsid().map_err(|error| Failure::refused("start a session", error))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    take_on_identity(job, privilege)?;
    give_up_privileges()?;
    std::env::set_current_dir(&job.command.folder)
        .map_err(|error| Failure::refused(format!("enter the working folder {}", job.command.folder), error))?;
    // After the change of user, which would undo it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::refused("tie the container to its helper", error))?;
    let program = find_program(&job.command)?;
    // If the helper ended before the kernel knew that this process depends on it, this fails.
    protocol::send(report, &Event::Created(Moment::now())).map_err(|error| Failure::refused("reach the helper", error))?;
    let error = execute(&program, &job.command);
    Err(Failure::Program { program: program.display().to_string(), errno: error.raw_os_error().unwrap_or(libc::EINVAL) })
}

/// Executes the program; returns only if that fails. Unlike the standard library's way it never tries a shell in its place.
fn execute(program: &Path, command: &Command) -> io::Error {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::from);
    let pair = |(name, value): (&String, &String)| text(format!("{name}={value}").as_bytes());
    let prepared = (|| {
        let arguments = command.arguments.iter().map(|argument| text(argument.as_bytes())).collect::<io::Result<Vec<_>>>()?;
        let environment = command.environment.iter().map(pair).collect::<io::Result<Vec<_>>>()?;
        Ok((text(program.as_os_str().as_bytes())?, arguments, environment))
    })();
    let (program, arguments, environment) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return error,
    };
    let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (argument_list, variable_list) = (pointers(&arguments), pointers(&environment));
    // SAFETY: the mask is filled before it is read; the texts end with NUL and the lists with a null pointer, and all of them live
    // until the call returns, if it does.
    unsafe {
        // What a program expects at its start: no signal ignored nor held back.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut mask = std::mem::MaybeUninit::uninit();
        libc::sigemptyset(mask.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, mask.as_ptr(), std::ptr::null_mut());
        libc::execve(program.as_ptr(), argument_list.as_ptr(), variable_list.as_ptr());
    }
    io::Error::last_os_error()
}

fn take_on_identity(job: &Job, privilege: Privilege) -> Result<(), Failure> {
    if privilege != Privilege::Full {
        // The user namespace has made this process the image's user already.
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(job.identity.uid), Gid::from_raw(job.identity.gid));
    // So that a program can open `/dev/stdout` anew. Not possible for every kind of stream, and not needed by most programs.
    let _ = rustix::fs::fchown(rustix::stdio::stdout(), Some(uid), Some(gid));
    let _ = rustix::fs::fchown(rustix::stdio::stderr(), Some(uid), Some(gid));
    let step = |error| Failure::refused(format!("become user {}:{}", job.identity.uid, job.identity.gid), error);
    // Each is a call for the one thread that this process has.
    rustix::thread::set_thread_groups(&[]).map_err(step)?;
    drop_bounding_set()?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(step)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(step)
}

/// Empties every set of capabilities and forbids to gain any.
fn give_up_privileges() -> Result<(), Failure> {
    let step = |error| Failure::refused("give up capabilities", error);
    if rustix::thread::capabilities(None).map_err(step)?.effective.contains(CapabilitySet::SETPCAP) {
        drop_bounding_set()?;
    }
    rustix::thread::clear_ambient_capability_set().map_err(step)?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(step)?;
    rustix::thread::set_no_new_privs(true).map_err(|error| Failure::refused("forbid new privileges", error))
}

fn drop_bounding_set() -> Result<(), Failure> {
    for number in 0..64 {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The kernel knows no capability of this number, nor any above it.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(Failure::refused("give up capabilities", error)),
        }
    }
    Ok(())
}

/// The program's path: as named, or the first executable of that name in the container's `PATH`.
fn find_program(command: &Command) -> Result<PathBuf, Failure> {
    let name = &command.arguments[0];
    let missing = |path| Failure::ProgramMissing { program: name.clone(), path };
    if name.contains('/') {
        return match std::fs::metadata(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing(None)),
            _ => Ok(PathBuf::from(name)),
        };
    }
    let path = command.environment.get("PATH").cloned().unwrap_or_default();
    let found =
        path.split(':').map(|folder| Path::new(if folder.is_empty() { "." } else { folder }).join(name)).find(|candidate| {
            std::fs::metadata(candidate).is_ok_and(|metadata| metadata.is_file())
                && rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok()
        });
    found.ok_or_else(|| missing(Some(path)))
}

//! The helper process: makes the namespaces and the control group, starts the container's first process and waits for it.

use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, waitid, waitpid};
use rustix::thread::{CapabilitySet, UnshareFlags};

use super::cgroup::Group;
use super::init;
use super::protocol::{self, Ended, Event, Failure, Job, Order};
use crate::runner::user::Identity;
use crate::runner::{ExitStatus, MemoryMeasure, PeakMemory, RunnerError};

/// The helper's whole life. The command calls this first thing in `main` when its first argument is
/// [`HELPER_SUBCOMMAND`](super::HELPER_SUBCOMMAND), before it starts any thread, and ends afterwards.
/// Its standard input is the runner's socket.
///
/// # Errors
/// Where its input is not such a socket. Everything else is reported over the socket.
pub fn helper_main() -> Result<(), RunnerError> {
    let failed = |source| RunnerError::Helper { program: super::HELPER_SUBCOMMAND.to_owned(), source };
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let mut orders = BufReader::new(control.try_clone().map_err(failed)?);
    let Some(job) = protocol::receive::<Job>(&mut orders).map_err(failed)? else { return Ok(()) };
    if let Err(failure) = serve(&job, &control, orders) {
        // Nobody is left to tell where this fails.
        let _ = protocol::send(&control, &Event::Failed(failure));
    }
    Ok(())
}

fn serve(job: &Job, control: &UnixStream, orders: BufReader<UnixStream>) -> Result<(), Failure> {
    close_at_execution().map_err(|error| Failure::refused("close foreign files", error))?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| Failure::refused("open /dev/null", error))?;
    let streams = |error| Failure::refused("replace the standard streams", error);
    rustix::stdio::dup2_stdin(&null).map_err(streams)?;

    let (mut group, warnings) = Group::make(job.cpus, job.memory);
    let result = (|| {
        for warning in warnings {
            tell(control, &Event::Warning(warning));
        }
        let privilege = enter_namespaces(&job.identity)?;
        if let Privilege::Mapped { uid, gid } = privilege {
            tell(control, &Event::Warning(mapping_note(&job.identity, uid, gid)));
        }
        let (ours, theirs) = UnixStream::pair().map_err(|error| Failure::refused("make a socket", error))?;
        let sources = group.mount_sources();
        let first = fork().map_err(|error| Failure::refused("start the container's first process", error))?;
        let Some(pid) = first else {
            drop(ours);
            init::run(job, privilege, &sources, &theirs);
        };
        drop(theirs);
        rustix::stdio::dup2_stdout(&null).map_err(streams)?;
        rustix::stdio::dup2_stderr(&null).map_err(streams)?;
        tell(control, &Event::Process(pid.as_raw_nonzero().get().cast_unsigned()));
        for warning in group.take_in(pid) {
            tell(control, &Event::Warning(warning));
        }
        if let Some(path) = group.peak_file() {
            tell(control, &Event::PeakFile(path));
        }
        supervise(pid, control, orders, &ours, &mut group);
        Ok(())
    })();
    group.remove();
    result
}

/// Lets the first process go on, passes its reports and the runner's orders on, and returns when it is gone.
fn supervise(pid: Pid, control: &UnixStream, orders: BufReader<UnixStream>, first: &UnixStream, group: &mut Group) {
    let alive = Arc::new(Mutex::new(Some(pid)));
    let orders = {
        let alive = Arc::clone(&alive);
        thread::spawn(move || obey(orders, &alive))
    };
    // The group is joined: nothing that the container does goes uncounted.
    let _ = protocol::send(first, &());
    let mut reports = BufReader::new(first);
    let mut created = false;
    loop {
        match protocol::receive::<Event>(&mut reports) {
            Ok(Some(event)) => {
                created = matches!(event, Event::Created);
                tell(control, &event);
            }
            // The socket closes when the program is executed; without `Created` just before, the process was killed or failed.
            _ => break,
        }
    }
    if created {
        tell(control, &Event::Started);
    }
    // Wait without reaping, so that the number stays this process's until nobody can send it a signal any more.
    while matches!(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT), Err(rustix::io::Errno::INTR)) {}
    alive.lock().unwrap_or_else(PoisonError::into_inner).take();
    let status = waitpid(Some(pid), WaitOptions::empty()).ok().flatten().map(|(_, status)| status);
    let status = ExitStatus {
        code: status.and_then(|status| status.exit_status()),
        signal: status.and_then(|status| status.terminating_signal()),
        out_of_memory: group.out_of_memory(),
    };
    let peak = group
        .peak()
        .map(|bytes| PeakMemory { bytes, measure: MemoryMeasure::ControlGroup })
        .or_else(|| Some(PeakMemory { bytes: children_resident_peak()?, measure: MemoryMeasure::ResidentSet }));
    // Removed before the end is told: who hears of it finds nothing left.
    group.remove();
    tell(control, &Event::Ended(Ended { status, peak }));
    // The thread sits in a read and ends with the process.
    drop(orders);
}

/// Carries out the runner's orders; when the runner is gone, the container goes too.
fn obey(mut orders: BufReader<UnixStream>, alive: &Mutex<Option<Pid>>) {
    loop {
        let order = protocol::receive::<Order>(&mut orders);
        let Some(pid) = *alive.lock().unwrap_or_else(PoisonError::into_inner) else { return };
        // A signal can only fail to reach a process that is already ending.
        match order {
            Ok(Some(Order::Signal(number))) => {
                if let Some(signal) = Signal::from_named_raw(number) {
                    let _ = kill_process(pid, signal);
                }
            }
            _ => {
                let _ = kill_process(pid, Signal::KILL);
                return;
            }
        }
    }
}

/// The runner may be gone already; the container's life does not depend on what it hears.
fn tell(control: &UnixStream, event: &Event) {
    let _ = protocol::send(control, event);
}

/// By what right the container is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Privilege {
    /// As an administrator: users are this machine's.
    Full,
    /// In a user namespace where the image's user is the caller's.
    Mapped { uid: u32, gid: u32 },
}

/// Makes the process namespace, which the next child lives in, and a user namespace where there is no other way.
fn enter_namespaces(identity: &Identity) -> Result<Privilege, Failure> {
    // SAFETY: only `FILES` would be unsafe, as it gives threads different file tables; it is not asked for.
    let unshare = |flags| unsafe { rustix::thread::unshare_unsafe(flags) };
    if may_do_without_user_namespace(identity) {
        unshare(UnshareFlags::NEWPID).map_err(|error| Failure::refused("make a process namespace", error))?;
        return Ok(Privilege::Full);
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(UnshareFlags::NEWUSER).map_err(|error| Failure::refused("make a user namespace", error))?;
    let maps = [
        ("/proc/self/uid_map", format!("{} {uid} 1", identity.uid)),
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/gid_map", format!("{} {gid} 1", identity.gid)),
    ];
    for (file, text) in maps {
        std::fs::write(file, text).map_err(|error| Failure::refused(format!("map identifiers in {file}"), error))?;
    }
    unshare(UnshareFlags::NEWPID).map_err(|error| Failure::refused("make a process namespace", error))?;
    Ok(Privilege::Mapped { uid, gid })
}

fn may_do_without_user_namespace(identity: &Identity) -> bool {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETPCAP;
    let able = rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed));
    able && is_mapped("/proc/self/uid_map", identity.uid) && is_mapped("/proc/self/gid_map", identity.gid)
}

/// Whether an identifier exists in the current user namespace.
fn is_mapped(map: &str, id: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(map) else { return false };
    text.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if (first..first + count).contains(&u64::from(id)))
    })
}

fn mapping_note(identity: &Identity, uid: u32, gid: u32) -> String {
    format!("started without privileges: the container's user {}:{} is {uid}:{gid} outside, no other is mapped", identity.uid, identity.gid)
}

/// Marks every file above the standard streams, whoever opened it, to be closed when a program is executed.
fn close_at_execution() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if number > 2 {
            // SAFETY: takes numbers only; for one that is no longer open it does nothing.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Forks; `None` in the child.
fn fork() -> io::Result<Option<Pid>> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: this process has one thread, so no lock is held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        number => Pid::from_raw(number).filter(|_| number > 0).map(Some).ok_or_else(io::Error::last_os_error),
    }
}

/// The largest resident set among the children that ended. The helper's own before the execution counts, a few MB.
fn children_resident_peak() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: fills the whole structure when it returns 0, and is read only then.
    let usage = unsafe { (libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) == 0).then(|| usage.assume_init()) }?;
    u64::try_from(usage.ru_maxrss).ok().filter(|kibibytes| *kibibytes > 0).map(|kibibytes| kibibytes << 10)
}

/// The number in `imgbuild-NUMBER`, the name of a control group.
pub(super) fn owner_is_gone(name: &str) -> bool {
    let owner = name.strip_prefix(super::cgroup::PREFIX).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    owner.is_some_and(|number| !Path::new("/proc").join(number).exists())
}

//! The helper process: makes the namespaces and the control group, starts the container's first process and waits for it.

use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, waitid, waitpid};
use rustix::thread::{CapabilitySet, UnshareFlags};

use super::cgroup::Group;
use super::init;
use super::protocol::{self, Ended, Event, Failure, Incoming, Job, Moment, Order};
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
    let mut orders = Incoming::new(control.try_clone().map_err(failed)?);
    let Some(job) = orders.receive::<Job>().map_err(failed)? else { return Ok(()) };
    let (mut group, warnings) = Group::make(job.cpus, job.memory);
    for warning in warnings {
        tell(&control, &Event::Warning(warning));
    }
    match start(&job, &control, &mut group) {
        Ok(first) => supervise(first, &control, orders, group),
        Err(failure) => {
            group.remove();
            tell(&control, &Event::Failed(failure));
        }
    }
    Ok(())
}

/// Starts the container's first process, which waits until [`supervise`] lets it go on.
fn start(job: &Job, control: &UnixStream, group: &mut Group) -> Result<First, Failure> {
    close_at_execution().map_err(|error| Failure::refused("close foreign files", error))?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| Failure::refused("open /dev/null", error))?;
    let streams = |error| Failure::refused("replace the standard streams", error);
    rustix::stdio::dup2_stdin(&null).map_err(streams)?;
    let privilege = enter_namespaces(&job.identity)?;
    if let Privilege::Mapped { uid, gid } = privilege {
        tell(control, &Event::Warning(mapping_note(&job.identity, uid, gid)));
    }
    let sockets = |error| Failure::refused("make a socket", error);
    let (reports, theirs) = UnixStream::pair().map_err(sockets)?;
    let (deaths, tell_death) = UnixStream::pair().map_err(sockets)?;
    signal_hook::low_level::pipe::register(libc::SIGCHLD, tell_death)
        .map_err(|error| Failure::refused("watch for the end of children", error))?;
    let sources = group.mount_sources();
    let child = group.start_child().map_err(|error| Failure::refused("start the container's first process", error))?;
    let Some((pid, warnings)) = child else {
        drop(reports);
        init::run(job, privilege, &sources, &theirs);
    };
    rustix::stdio::dup2_stdout(&null).map_err(streams)?;
    rustix::stdio::dup2_stderr(&null).map_err(streams)?;
    tell(control, &Event::Process(pid.as_raw_nonzero().get().cast_unsigned()));
    for warning in warnings {
        tell(control, &Event::Warning(warning));
    }
    if let Some(path) = group.peak_file() {
        tell(control, &Event::PeakFile(path));
    }
    Ok(First { pid, reports, deaths })
}

/// Lets the first process go on, passes its reports and the runner's orders on, and returns when it is gone.
///
/// One thread does it all: the kernel makes no threads for a process whose children live in another process namespace.
fn supervise(first: First, control: &UnixStream, mut orders: Incoming, mut group: Group) {
    let First { pid, reports, deaths } = first;
    // Limits apply from here on: nothing that the container does goes uncounted.
    let _ = protocol::send(&reports, &());
    let mut reports = Some(Incoming::new(reports));
    let mut orders_end = false;
    let mut created = false;
    while !has_ended(pid) {
        let mut sources = vec![PollFd::new(&deaths, PollFlags::IN)];
        sources.extend(reports.iter().map(|reports| PollFd::new(reports, PollFlags::IN)));
        sources.extend((!orders_end).then(|| PollFd::new(&orders, PollFlags::IN)));
        let ready: Vec<bool> = match poll(&mut sources, None) {
            Ok(_) => sources.iter().map(|source| !source.revents().is_empty()).collect(),
            Err(_) => continue,
        };
        // The orders are polled last, where they are.
        let orders_ready = !orders_end && ready.last() == Some(&true);
        if ready[0] {
            // Only says that it is time to look; a full pipe says as much as one byte.
            let _ = (&deaths).read(&mut [0; 16]);
        }
        if let Some(incoming) = reports.as_mut().filter(|_| ready[1]) {
            let more = incoming.fill().unwrap_or(false);
            while let Ok(Some(event)) = incoming.take() {
                created = matches!(event, Event::Created(_));
                tell(control, &event);
            }
            if !more {
                // The program is being executed; without `Created` just before, the process failed or was killed.
                reports = None;
                if created {
                    tell(control, &Event::Started(Moment::now()));
                }
            }
        }
        if orders_ready {
            orders_end = !obey(&mut orders, pid);
        }
    }
    if let Some(mut reports) = reports {
        while let Ok(Some(event)) = reports.receive::<Event>() {
            created = matches!(event, Event::Created(_));
            tell(control, &event);
        }
        if created {
            tell(control, &Event::Started(Moment::now()));
        }
    }
    let end = gather(pid, &group);
    // Removed before the end is told: who hears of it finds nothing left.
    group.remove();
    tell(control, &Event::Ended(end));
}

/// The container's first process, not yet let go on.
struct First {
    pid: Pid,
    /// Over which it reports.
    reports: UnixStream,
    /// Readable when a child has died.
    deaths: UnixStream,
}

/// Whether the process has ended. It is not reaped, so that its number stays its own as long as signals may be sent to it.
fn has_ended(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None) | Err(Errno::INTR))
}

/// Reaps the process and gathers what is known of it.
fn gather(pid: Pid, group: &Group) -> Ended {
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
    Ended { status, peak }
}

/// Carries out the runner's orders; when the runner is gone, the container goes too. False when no more will come.
fn obey(orders: &mut Incoming, pid: Pid) -> bool {
    // A signal can only fail to reach a process that is already ending.
    let kill = |signal| kill_process(pid, signal).unwrap_or_default();
    let more = orders.fill().unwrap_or(false);
    while let Ok(Some(Order::Signal(number))) = orders.take() {
        Signal::from_named_raw(number).map(kill);
    }
    if !more {
        kill(Signal::KILL);
    }
    more
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
    format!(
        "started without privileges: the container's user {}:{} is {uid}:{gid} outside, no other is mapped",
        identity.uid, identity.gid
    )
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

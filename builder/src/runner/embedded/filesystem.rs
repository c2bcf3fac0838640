//! The container's file systems, arranged from inside its new mount namespace: [`take_on`].

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::protocol::Failure;

/// Devices that programs expect everywhere.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Names that the C library expects in `/dev`.
const DEVICE_LINKS: [(&str, &str); 4] =
    [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")];
/// Parts of `/proc` that change the machine for everyone.
const UNCHANGEABLE: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Parts of `/proc` that tell about the machine what no container needs.
const HIDDEN: [&str; 8] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
];
/// What libraries ask about processors and memory, and nothing else of `/sys`.
const MACHINE: [&str; 2] = ["/sys/devices/system/cpu", "/sys/devices/system/node"];

/// Makes `root` this process's root and mounts what belongs into it. `groups` are folders of control groups with the place where
/// the container shall see each. Returns what could only be done in a lesser way.
pub(super) fn take_on(
    root: &Path,
    writable: bool,
    tmp_bytes: u64,
    groups: &[(PathBuf, PathBuf)],
) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    let old = enter(root)?;
    // From here on absolute paths are the container's, whose links cannot lead out of it, and relative ones are the machine's.
    warnings.extend(mount_proc()?);
    mount_dev(writable)?;
    mount_sys(groups)?;
    mount_memory("/tmp", MountFlags::NOSUID | MountFlags::NODEV, &format!("mode=1777,size={tmp_bytes}"))?;
    for path in UNCHANGEABLE {
        protect(path, MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC)?;
    }
    for path in HIDDEN {
        hide(path)?;
    }
    let access = if writable { MountFlags::empty() } else { MountFlags::RDONLY };
    remount("/", access | MountFlags::NOSUID | MountFlags::NODEV)?;
    leave(&old)?;
    Ok(warnings)
}

/// How the old root is still there.
struct OldRoot {
    folder: OwnedFd,
    /// False where the kernel cannot exchange roots, as on an initial RAM disk; the old one then lies covered by the new one.
    detachable: bool,
}

/// Exchanges the roots; the working folder is then the old root.
fn enter(root: &Path) -> Result<OldRoot, Failure> {
    let step = |what: &str| {
        let what = format!("{what} {}", root.display());
        move |error: Errno| Failure::refused(what, error)
    };
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(step("keep mounts private for"))?;
    rustix::mount::mount_bind_recursive(root, root).map_err(step("mount the image's file system"))?;
    let open = |path: &Path| rustix::fs::open(path, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let folder = open(Path::new("/")).map_err(step("keep the old root beside"))?;
    let new = open(root).map_err(step("open"))?;
    rustix::process::fchdir(&new).map_err(step("enter"))?;
    let detachable = match rustix::process::pivot_root(".", ".") {
        Ok(()) => true,
        Err(Errno::INVAL) => {
            rustix::mount::mount_move(".", "/").map_err(step("move to the root"))?;
            rustix::process::chroot(".").map_err(step("change the root to"))?;
            false
        }
        Err(error) => return Err(step("exchange the root for")(error)),
    };
    rustix::process::fchdir(&folder).map_err(step("go back from"))?;
    Ok(OldRoot { folder, detachable })
}

fn leave(old: &OldRoot) -> Result<(), Failure> {
    let step = |error: Errno| Failure::refused("let go of the old root", error);
    rustix::process::fchdir(&old.folder).map_err(step)?;
    if old.detachable {
        rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(step)?;
    }
    rustix::process::chdir("/").map_err(step)
}

fn mount_proc() -> Result<Option<String>, Failure> {
    make_folder("/proc")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match rustix::mount::mount("proc", "/proc", "proc", flags, None::<&CStr>) {
        Ok(()) => Ok(None),
        // A user namespace inside a container gets no view of processes that is less masked than the one around it.
        Err(Errno::PERM) => {
            rustix::mount::mount_bind_recursive("proc", "/proc").map_err(|error| Failure::refused("mount /proc", error))?;
            Ok(Some("the container sees the /proc of this machine: the kernel permits no mount of its own".to_owned()))
        }
        Err(error) => Err(Failure::refused("mount /proc", error)),
    }
}

fn mount_dev(writable: bool) -> Result<(), Failure> {
    mount_memory("/dev", MountFlags::NOSUID, "mode=755,size=64k")?;
    for name in DEVICES {
        let target = format!("/dev/{name}");
        // Relative: the machine's.
        let source = format!("dev/{name}");
        if !Path::new(&source).exists() {
            continue;
        }
        fs::File::create(&target).map_err(|error| Failure::refused(format!("create {target}"), error))?;
        rustix::mount::mount_bind(&source, &target).map_err(|error| Failure::refused(format!("mount {target}"), error))?;
    }
    for (name, target) in DEVICE_LINKS {
        symlink(target, Path::new("/dev").join(name)).map_err(|error| Failure::refused(format!("create /dev/{name}"), error))?;
    }
    mount_memory("/dev/shm", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "mode=1777,size=64m")?;
    if writable { Ok(()) } else { remount("/dev", MountFlags::RDONLY | MountFlags::NOSUID) }
}

fn mount_sys(groups: &[(PathBuf, PathBuf)]) -> Result<(), Failure> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_memory("/sys", flags, "mode=755,size=64k")?;
    let machine = MACHINE.iter().map(|path| (PathBuf::from(path), PathBuf::from(path)));
    for (source, target) in machine.chain(groups.iter().cloned()) {
        let source = source.strip_prefix("/").unwrap_or(&source);
        if !source.is_dir() {
            continue;
        }
        let step = |error: Errno| Failure::refused(format!("mount {}", target.display()), error);
        make_folder(&target)?;
        rustix::mount::mount_bind(source, &target).map_err(step)?;
        remount(&target, flags | MountFlags::RDONLY)?;
    }
    remount("/sys", flags | MountFlags::RDONLY)
}

/// Mounts an empty file system in memory.
fn mount_memory(target: &str, flags: MountFlags, options: &str) -> Result<(), Failure> {
    make_folder(target)?;
    let options = CString::new(options).expect("options are written here and hold no NUL");
    rustix::mount::mount("tmpfs", target, "tmpfs", flags, options.as_c_str())
        .map_err(|error| Failure::refused(format!("mount {target}"), error))
}

fn make_folder(path: impl AsRef<Path>) -> Result<(), Failure> {
    let path = path.as_ref();
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(|error: io::Error| {
        Failure::refused(format!("create the folder {} in the image's file system", path.display()), error)
    })
}

/// Makes a part read-only where it exists.
fn protect(path: &str, flags: MountFlags) -> Result<(), Failure> {
    match rustix::mount::mount_bind_recursive(path, path) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(Failure::refused(format!("protect {path}"), error)),
        Ok(()) => remount(path, flags | MountFlags::RDONLY),
    }
}

/// Covers a part where it exists: a folder by an empty one, a file by the null device.
fn hide(path: &str) -> Result<(), Failure> {
    let step = |error: Errno| Failure::refused(format!("hide {path}"), error);
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::RDONLY | MountFlags::NOSUID, c"size=4k").map_err(step)
        }
        Ok(_) => rustix::mount::mount_bind("/dev/null", path).map_err(step),
        Err(_) => Ok(()),
    }
}

/// Changes the flags of one mount, and keeps those that a user namespace may not take away.
fn remount(path: impl AsRef<Path>, flags: MountFlags) -> Result<(), Failure> {
    let path = path.as_ref();
    let step = |error: Errno| Failure::refused(format!("change the mount of {}", path.display()), error);
    let present = rustix::fs::statvfs(path).map_err(step)?.f_flag;
    let kept = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ]
    .into_iter()
    .filter(|(old, _)| present.contains(*old))
    .fold(flags, |flags, (_, flag)| flags | flag);
    rustix::mount::mount_remount(path, kept | MountFlags::BIND, c"").map_err(step)
}

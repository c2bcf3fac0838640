//! The container's control group, versions 1 and 2: [`Group`].

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Pid;

use super::fork;
use crate::runner::{MemoryMeasure, PeakMemory};

/// Control groups are named this and the helper's process number.
pub(super) const PREFIX: &str = "imgbuild-";
/// The length of one accounting period of CPU time, in microseconds; the kernel's default.
const PERIOD: u64 = 100_000;
/// What `tasks` takes for the thread that writes it.
const SELF: &[u8] = b"0";

/// A control group of the container's own, as far as the caller may make one.
#[derive(Debug, Default)]
pub(super) struct Group {
    folders: Vec<Folder>,
    /// Where the current group lies, for what could not be made.
    current: Vec<Hierarchy>,
}

/// One folder of the group; version 1 has one for each controller.
#[derive(Debug, Clone)]
struct Folder {
    path: PathBuf,
    hierarchy: Hierarchy,
}

/// A tree of control groups and this process's place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    /// Where the tree is mounted.
    mount: PathBuf,
    /// The folder of this process's group, below `mount`.
    own: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// A tree for some controllers: whether they include these.
    One { cpu: bool, memory: bool },
    /// The one tree.
    Two,
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        match (self.version, controller) {
            (Version::One { cpu, .. }, "cpu") => cpu,
            (Version::One { memory, .. }, _) => memory,
            (Version::Two, _) => true,
        }
    }
}

/// The trees that matter, from the text of `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn hierarchies(mounts: &str, groups: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (left, right): (Vec<&str>, Vec<&str>) = (left.split(' ').collect(), right.split(' ').collect());
        let ([_, _, _, root, mount, ..], [kind, .., options]) = (&left[..], &right[..]) else { continue };
        let holds = |controller: &str| options.split(',').any(|option| option == controller);
        let version = match *kind {
            "cgroup2" => Version::Two,
            "cgroup" if holds("cpu") || holds("memory") => Version::One { cpu: holds("cpu"), memory: holds("memory") },
            _ => continue,
        };
        let own = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let names = |name| controllers.split(',').any(|controller| controller == name);
            match version {
                Version::Two => number == "0" && controllers.is_empty(),
                Version::One { cpu, memory } => (cpu && names("cpu")) || (memory && names("memory")),
            }
            .then_some(path)
        });
        // A group outside what is mounted here (a container's view) is shown with `/..`: take the top then.
        let relative = own.filter(|own| !own.starts_with("/..")).and_then(|own| Path::new(own).strip_prefix(root).ok());
        let relative = relative.unwrap_or(Path::new(""));
        let mount = PathBuf::from(mount.replace("\\040", " "));
        let hierarchy = Hierarchy { version, own: mount.join(relative), mount };
        if found.iter().all(|other| other.version != hierarchy.version) {
            found.push(hierarchy);
        }
    }
    // Where version 1 has both controllers, version 2 has neither.
    let ones = |controller| found.iter().any(|hierarchy| hierarchy.version != Version::Two && hierarchy.has(controller));
    if ones("cpu") && ones("memory") {
        found.retain(|hierarchy| hierarchy.version != Version::Two);
    }
    found
}

impl Group {
    /// Makes the group with its limits. What is not permitted is left out; where a limit was asked for, a warning says so.
    pub fn make(cpus: Option<f64>, memory: Option<u64>) -> (Self, Vec<String>) {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let current = hierarchies(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let (mut folders, mut refusals) = (Vec::new(), Vec::new());
        for hierarchy in &current {
            match make_folder(hierarchy) {
                Ok(path) => folders.push(Folder { path, hierarchy: hierarchy.clone() }),
                Err(refusal) => refusals.push(refusal),
            }
        }
        let group = Self { folders, current };
        let why = if refusals.is_empty() { "no control groups are mounted".to_owned() } else { refusals.join("; ") };
        let mut warnings = Vec::new();
        if let Some(cpus) = cpus {
            warnings.extend(
                group
                    .limit_cpus(cpus)
                    .err()
                    .map(|error| format!("the CPU limit of {cpus} has no effect: {}", error.unwrap_or(why.clone()))),
            );
        }
        if let Some(memory) = memory {
            warnings.extend(
                group
                    .limit_memory(memory)
                    .err()
                    .map(|error| format!("the memory limit of {memory} bytes has no effect: {}", error.unwrap_or(why))),
            );
        }
        (group, warnings)
    }

    fn with(&self, controller: &str) -> Option<&Folder> {
        self.folders.iter().find(|folder| match folder.hierarchy.version {
            Version::One { .. } => folder.hierarchy.has(controller),
            Version::Two => lists(&folder.path.join("cgroup.controllers"), controller),
        })
    }

    fn limit_cpus(&self, cpus: f64) -> Result<(), Option<String>> {
        let folder = self.with("cpu").ok_or(None)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to lie between 0.01 and 4096 cores")]
        let quota = ((cpus * PERIOD as f64).round() as u64).max(1000);
        match folder.hierarchy.version {
            Version::One { .. } => {
                write(&folder.path.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
                write(&folder.path.join("cpu.cfs_quota_us"), &quota.to_string())
            }
            Version::Two => write(&folder.path.join("cpu.max"), &format!("{quota} {PERIOD}")),
        }
        .map_err(Some)
    }

    fn limit_memory(&self, bytes: u64) -> Result<(), Option<String>> {
        let folder = self.with("memory").ok_or(None)?;
        let (memory, swap, swap_bytes) = match folder.hierarchy.version {
            Version::One { .. } => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes),
            Version::Two => ("memory.max", "memory.swap.max", 0),
        };
        write(&folder.path.join(memory), &bytes.to_string())?;
        // Kernels without accounting of swap have no such file.
        if folder.path.join(swap).exists() {
            write(&folder.path.join(swap), &swap_bytes.to_string())?;
        }
        Ok(())
    }

    /// Starts a child that is in the group from its first moment; `fork` and `clone_into` make one, `clone_into` in a folder of version 2.
    ///
    /// A process that is moved by another one waits until every processor has passed through the kernel, 6 to 15 ms. So this
    /// process, which has one thread, moves itself in and out again in version 1, and in version 2 the kernel is told the group beforehand.
    /// Where it permits neither, the child is moved; what refuses it then is dropped with a warning.
    ///
    /// `None` in the child.
    pub fn start_child(&mut self) -> io::Result<Option<(Pid, Vec<String>)>> {
        let (mut inside, mut ways_back) = (Vec::new(), Vec::new());
        for folder in self.folders.iter().filter(|folder| folder.hierarchy.version != Version::Two) {
            if let Ok(way_back) = enter(folder) {
                inside.push(folder.path.clone());
                ways_back.push(way_back);
            }
        }
        let unified = self.folders.iter().find(|folder| folder.hierarchy.version == Version::Two);
        let cloned = unified.and_then(|folder| {
            let pid = fork::into_group(&fs::File::open(&folder.path).ok()?).ok()?;
            inside.push(folder.path.clone());
            Some(pid)
        });
        let child = cloned.map_or_else(fork::plain, Ok);
        if matches!(child, Ok(None)) {
            return Ok(None);
        }
        for mut way_back in ways_back {
            // Refused, it stays in the group, which the next container's helper then removes.
            let _ = way_back.write_all(SELF);
        }
        let Some(pid) = child? else { return Ok(None) };
        Ok(Some((pid, self.take_in(pid, &inside))))
    }

    /// Moves a process into the group, but for those folders that it is in; what refuses it is dropped with a warning.
    fn take_in(&mut self, pid: Pid, inside: &[PathBuf]) -> Vec<String> {
        let mut warnings = Vec::new();
        self.folders.retain(|folder| {
            if inside.contains(&folder.path) {
                return true;
            }
            match write(&folder.path.join("cgroup.procs"), &pid.as_raw_nonzero().to_string()) {
                Ok(()) => true,
                Err(error) => {
                    remove_folder(&folder.path);
                    warnings.push(format!("the container is in no control group of its own, limits have no effect: {error}"));
                    false
                }
            }
        });
        warnings
    }

    /// Folders of the group the container shall see, and where it looks for them.
    pub fn mount_sources(&self) -> Vec<(PathBuf, PathBuf)> {
        let mut sources = Vec::new();
        for hierarchy in &self.current {
            let own =
                self.folders.iter().find(|folder| folder.hierarchy == *hierarchy).map_or(&hierarchy.own, |folder| &folder.path);
            let root = Path::new("/sys/fs/cgroup");
            match hierarchy.version {
                Version::Two if self.current.len() > 1 => sources.push((own.clone(), root.join("unified"))),
                Version::Two => sources.push((own.clone(), root.to_owned())),
                Version::One { .. } => {
                    sources.extend(
                        ["cpu", "memory"]
                            .into_iter()
                            .filter(|name| hierarchy.has(name))
                            .map(|name| (own.clone(), root.join(name))),
                    );
                }
            }
        }
        sources
    }

    /// The file that tells the most memory the group ever had.
    pub fn peak_file(&self) -> Option<PathBuf> {
        let folder = self.with("memory")?;
        Some(folder.path.join(peak_name(folder.hierarchy.version))).filter(|path| path.exists())
    }

    /// The most memory the group ever had, in bytes.
    pub fn peak(&self) -> Option<u64> {
        read_number(&self.peak_file()?)
    }

    /// Whether the kernel killed a process of the group for lack of memory.
    pub fn out_of_memory(&self) -> bool {
        let Some(folder) = self.with("memory") else { return false };
        let name = if folder.hierarchy.version == Version::Two { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(folder.path.join(name)).unwrap_or_default();
        text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    }

    /// Removes the group, whose processes have ended.
    pub fn remove(&mut self) {
        for folder in self.folders.drain(..) {
            remove_folder(&folder.path);
        }
    }
}

fn peak_name(version: Version) -> &'static str {
    if version == Version::Two { "memory.peak" } else { "memory.max_usage_in_bytes" }
}

/// The most memory that the control group of a process ever had. The caller knows that the group is a container's.
pub(in crate::runner) fn group_peak(pid: u32) -> Option<PeakMemory> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let found = hierarchies(&fs::read_to_string("/proc/self/mountinfo").ok()?, &groups);
    let hierarchy = found.into_iter().find(|hierarchy| hierarchy.has("memory"))?;
    let bytes = read_number(&hierarchy.own.join(peak_name(hierarchy.version)))?;
    Some(PeakMemory { bytes, measure: MemoryMeasure::ControlGroup })
}

/// Makes a folder for this process's container, and removes those that killed helpers left.
fn make_folder(hierarchy: &Hierarchy) -> Result<PathBuf, String> {
    let name = format!("{PREFIX}{}", std::process::id());
    let mut refusal = None;
    // Version 2 gives controllers only below a group without processes, so a place higher up may do where the own group does not.
    let places = hierarchy.own.ancestors().take_while(|place| place.starts_with(&hierarchy.mount));
    for place in places.take(if hierarchy.version == Version::Two { usize::MAX } else { 1 }) {
        remove_left_over(place);
        let path = place.join(&name);
        match fs::create_dir(&path) {
            Err(error) => refusal = refusal.or(Some(refused("create", &path, &error))),
            Ok(()) if hierarchy.version != Version::Two => return Ok(path),
            Ok(()) => match enable_controllers(place, &path) {
                Ok(()) => return Ok(path),
                Err(error) => {
                    refusal = refusal.or(Some(error));
                    remove_folder(&path);
                }
            },
        }
    }
    Err(refusal.unwrap_or_else(|| format!("{} is not below {}", hierarchy.own.display(), hierarchy.mount.display())))
}

/// Makes sure that a new folder of version 2 can limit CPU time and memory.
fn enable_controllers(place: &Path, folder: &Path) -> Result<(), String> {
    let missing =
        || ["cpu", "memory"].into_iter().filter(|name| !lists(&folder.join("cgroup.controllers"), name)).collect::<Vec<_>>();
    for name in missing() {
        write(&place.join("cgroup.subtree_control"), &format!("+{name}"))?;
    }
    match missing()[..] {
        [] => Ok(()),
        [..] => Err(format!("{} lacks the controllers {}", folder.display(), missing().join(", "))),
    }
}

fn remove_left_over(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(super::helper::owner_is_gone) {
            // One that still has processes refuses.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Moves this process, of one thread, into a folder of version 1. Written to what is returned, [`SELF`] moves it back.
fn enter(folder: &Folder) -> io::Result<fs::File> {
    let threads = |group: &Path| fs::File::options().write(true).open(group.join("tasks"));
    let way_back = threads(&folder.hierarchy.own)?;
    threads(&folder.path)?.write_all(SELF)?;
    Ok(way_back)
}

/// The kernel lets go of a group shortly after its last process.
fn remove_folder(path: &Path) {
    for _ in 0..200 {
        match fs::remove_dir(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => sleep(Duration::from_millis(5)),
            _ => return,
        }
    }
}

fn lists(file: &Path, word: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|found| found == word))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    // Never creates: a control file that is not there is a controller that is not there.
    fs::File::options()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| refused("write", path, &error))
}

fn refused(what: &str, path: &Path, error: &io::Error) -> String {
    format!("failed to {what} {}: {error}", path.display())
}

/// A file that holds one number.
pub(super) fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const UNIFIED: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    fn own(mounts: &str, groups: &str) -> Vec<(bool, String)> {
        let found = hierarchies(mounts, groups);
        found.into_iter().map(|hierarchy| (hierarchy.version == Version::Two, hierarchy.own.display().to_string())).collect()
    }

    #[test]
    fn the_own_group_is_found_in_either_version() {
        assert_eq!(
            own(HYBRID, "4:memory:/docker/abc/x\n1:cpu,cpuacct:/a\n0::/\n"),
            [(false, "/sys/fs/cgroup/cpu,cpuacct/a".to_owned()), (false, "/sys/fs/cgroup/memory/x".to_owned())]
        );
        assert_eq!(own(UNIFIED, "0::/user.slice/s 1.scope\n"), [(true, "/sys/fs/cgroup/user.slice/s 1.scope".to_owned())]);
        assert_eq!(own(UNIFIED, "0::/../elsewhere\n"), [(true, "/sys/fs/cgroup/".to_owned())]);
        assert_eq!(own("", "0::/\n"), []);
        assert_eq!(own("nonsense - cgroup2\n1 2 3 - cgroup2 x y\n", "0::/"), []);
    }

    #[test]
    fn the_container_sees_its_group_where_servers_look() {
        let sources = |mounts| {
            Group { folders: Vec::new(), current: hierarchies(mounts, "0::/a\n1:cpu,cpuacct:/b\n4:memory:/docker/abc\n") }
                .mount_sources()
        };
        let paths = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (PathBuf::from(a), PathBuf::from(b))).collect::<Vec<_>>();
        assert_eq!(sources(UNIFIED), paths(&[("/sys/fs/cgroup/a", "/sys/fs/cgroup")]));
        assert_eq!(
            sources(HYBRID),
            paths(&[("/sys/fs/cgroup/cpu,cpuacct/b", "/sys/fs/cgroup/cpu"), ("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory")])
        );
    }
}

//! What a measurement was made on: [`describe`], and how busy that was: [`waited`].

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::report::cold_start::Machine;

/// Describes this machine, and the disk that a folder is on. What the kernel does not say is `unknown` or 0.
#[must_use]
pub fn describe(folder: &Path) -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let name = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let architecture = text(name.machine());
    let unknown = || "unknown".to_owned();
    Machine {
        cpu: cpu(&read("/proc/cpuinfo")).unwrap_or_else(|| format!("unknown {architecture}")),
        cores: std::thread::available_parallelism().map_or(0, |cores| cores.get() as u64),
        memory: memory(&read("/proc/meminfo")).unwrap_or(0),
        kernel: format!("{} {}", text(name.sysname()), text(name.release())),
        disk: fs::canonicalize(folder).ok().and_then(|path| disk(&read("/proc/self/mountinfo"), &path)).unwrap_or_else(unknown),
        architecture,
    }
}

/// For how long, since the machine started, some task was ready to run and had no CPU. `None` where the kernel keeps no count of it
/// (`CONFIG_PSI`, the boot option `psi=1`).
pub(super) fn waited() -> Option<Duration> {
    pressure(&fs::read_to_string("/proc/pressure/cpu").ok()?)
}

/// The first line's total, in microseconds: that of `some`.
fn pressure(text: &str) -> Option<Duration> {
    let total =
        text.lines().find_map(|line| line.strip_prefix("some "))?.split(' ').find_map(|word| word.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

/// The processor's name in `/proc/cpuinfo`.
fn cpu(cpuinfo: &str) -> Option<String> {
    let value = |key: &str| {
        cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim())
    };
    if let Some(name) = value("model name").filter(|name| !name.is_empty()) {
        return Some(name.to_owned());
    }
    // 64-bit ARM has numbers for names.
    Some(format!("implementer {} part {}", value("CPU implementer")?, value("CPU part")?))
}

/// The bytes of memory in `/proc/meminfo`.
fn memory(meminfo: &str) -> Option<u64> {
    let kibibytes: u64 =
        meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// File system and device that a path is on, by `/proc/self/mountinfo`; of two at one place the later lies on top.
fn disk(mountinfo: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, String)> = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(place), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
        let place = place.replace("\\040", " ");
        let (Some(kind), Some(device)) = (right.next(), right.next()) else { continue };
        if path.starts_with(&place) && best.as_ref().is_none_or(|(length, _)| place.len() >= *length) {
            best = Some((place.len(), format!("{kind} on {device}")));
        }
    }
    best.map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_understood() {
        assert_eq!(cpu("processor\t: 0\nmodel name\t: Some CPU @ 2GHz\n").as_deref(), Some("Some CPU @ 2GHz"));
        assert_eq!(cpu("CPU implementer\t: 0x41\nCPU part\t: 0xd40\n").as_deref(), Some("implementer 0x41 part 0xd40"));
        assert_eq!(cpu(""), None);
        assert_eq!(memory("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16384));
        let mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /home rw shared:1 - xfs /dev/b rw\n3 2 0:6 / /home/with\\040space rw - tmpfs none rw\n4 1 8:2 / / rw - btrfs /dev/c rw\n";
        for (path, expected) in
            [("/home/me", "xfs on /dev/b"), ("/homes", "btrfs on /dev/c"), ("/home/with space/x", "tmpfs on none")]
        {
            assert_eq!(disk(mounts, Path::new(path)).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(disk("nonsense\n", Path::new("/")), None);
        let some = "some avg10=5.40 avg60=27.97 avg300=33.42 total=736307497\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(pressure(some), Some(Duration::from_micros(736_307_497)));
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn this_machine_is_described() {
        let machine = describe(Path::new("/"));
        assert!(machine.cores > 0 && machine.memory > 1 << 20 && machine.kernel.starts_with("Linux "), "{machine:?}");
    }
}

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Stdio;

use super::*;
use crate::runner::embedded::{Embedded, HELPER_SUBCOMMAND};

/// An ordinary user of the machine that has no line anywhere.
const CALLER: u32 = 23456;

/// The helper program: an example of this crate, which `cargo test` and `cargo nextest` build beside the tests.
fn helper() -> PathBuf {
    let path = build_folder().join("examples/container");
    assert!(path.exists(), "{} is not there: build it with `cargo build --example container`", path.display());
    path
}

fn own() -> Embedded {
    Embedded::with_helper(helper(), vec![HELPER_SUBCOMMAND.to_owned()])
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Keeps a copy of the helper where an ordinary user may execute it.
struct Ordinary {
    runner: Embedded,
    program: PathBuf,
    _folder: tempfile::TempDir,
}

impl Ordinary {
    /// `None`, and why on stderr, where this machine has no way to start containers without privileges.
    #[expect(clippy::print_stderr, reason = "says why a test checks nothing")]
    fn new() -> Option<Self> {
        let folder =
            tempfile::Builder::new().prefix("helper-").permissions(fs::Permissions::from_mode(0o755)).tempdir().expect("scratch");
        let program = folder.path().join("helper");
        fs::copy(helper(), &program).expect("scratch");
        let mut words = command_as_caller();
        let probe = Command::new(&words[0]).args(&words[1..]).args(["unshare", "--user", "true"]).output().expect("util-linux");
        if !probe.status.success() {
            eprintln!("skipped: no user namespaces for ordinary users here: {}", String::from_utf8_lossy(&probe.stderr).trim());
            return None;
        }
        words.extend([program.display().to_string(), HELPER_SUBCOMMAND.to_owned()]);
        let runner = Embedded::with_helper(words[0].clone().into(), words[1..].to_vec());
        Some(Self { runner, program, _folder: folder })
    }
}

/// Words before a command that make an ordinary user execute it.
fn command_as_caller() -> Vec<String> {
    if is_root() {
        vec![
            "setpriv".into(),
            format!("--reuid={CALLER}"),
            format!("--regid={CALLER}"),
            "--clear-groups".into(),
            "--inh-caps=-all".into(),
        ]
    } else {
        vec!["env".to_owned()]
    }
}

/// Runs a check as every user that this machine lets start containers.
fn as_every_user(check: impl Fn(&Embedded)) {
    let ordinary = Ordinary::new();
    if let Some(ordinary) = &ordinary {
        check(&ordinary.runner);
    }
    if is_root() {
        check(&own());
    }
}

#[test]
fn the_container_is_confined() {
    as_every_user(|runner| {
        let rootfs = Rootfs::new();
        let container = ready(runner, &rootfs.spec(&[]));
        check_confinement(container.as_ref());
        let container = container.as_ref();
        assert!(container.address().ip().is_loopback());
        assert_eq!(ask(container, "env?IMGSERVE_ADDRESS"), "127.0.0.1");
        assert_eq!(ask(container, "env?HOME"), "/home/serve");
        assert!(ask(container, "identity").contains("host=imgbuild"));
        // Its own processes, and only the devices, files and parts of /sys that it may know of.
        let processes = ask(container, "list?/proc")
            .split_whitespace()
            .filter(|name| name.parse::<u32>().is_ok())
            .map(str::to_owned)
            .collect::<Vec<_>>();
        assert_eq!(processes, ["1"]);
        let names =
            |path: &str| ask(container, &format!("list?{path}")).split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
        let set = |names: &str| names.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(names("/"), set("app dev etc proc sys tmp"));
        assert_eq!(names("/dev"), set("fd full null random shm stderr stdin stdout tty urandom zero"));
        assert!(names("/sys").is_subset(&set("devices fs")));
        assert!(names("/sys/devices/system/cpu").contains("online"));
        assert_eq!(ask(container, "file?/proc/kcore"), if Path::new("/proc/kcore").exists() { "" } else { "ENOENT" });
        assert!(status_mounts(container, "/").contains("nosuid") && status_mounts(container, "/").contains("nodev"));
        assert_ne!(ask(container, "mkdir?/sys/fs/cgroup/memory/x"), "ok");
        // Nothing of the machine's own root is left among the mounts.
        assert!(
            !ask(container, "file?/proc/self/mountinfo").lines().any(|line| line.contains("/home") || line.contains(" /etc "))
        );
        assert_eq!(ask(container, "file?/proc/self/cgroup").lines().filter(|line| line.contains("imgbuild-")).count(), 0);
    });
}

#[test]
fn output_signals_and_exit_codes_are_the_programs() {
    as_every_user(|runner| {
        let rootfs = Rootfs::new();
        check_life(runner, |arguments| rootfs.spec(arguments));
    });
}

#[test]
fn a_writable_root_takes_writes() {
    as_every_user(|runner| {
        let rootfs = Rootfs::new();
        fs::set_permissions(rootfs.path().join("app"), fs::Permissions::from_mode(0o777)).expect("scratch");
        let mut spec = rootfs.spec(&[]);
        spec.root = RootAccess::Writable;
        let container = ready(runner, &spec);
        assert_eq!(ask(container.as_ref(), "write?/app/new"), "ok");
        assert_eq!(fs::read(rootfs.path().join("app/new")).expect("written"), b"x");
        assert_ne!(ask(container.as_ref(), "write?/sys/fs/new"), "ok");
    });
}

#[test]
fn an_ordinary_user_is_told_who_the_image_s_user_is() {
    let Some(ordinary) = Ordinary::new() else { return };
    let rootfs = Rootfs::new();
    let mut spec = rootfs.spec(&[]);
    spec.config.config.user = Some("serve".into());
    spec.root = RootAccess::Writable;
    fs::set_permissions(rootfs.path().join("app"), fs::Permissions::from_mode(0o777)).expect("scratch");
    let container = ready(&ordinary.runner, &spec);
    assert!(ask(container.as_ref(), "identity").starts_with("uid=65532 gid=65531 "));
    assert_eq!(ask(container.as_ref(), "write?/app/new"), "ok");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(rootfs.path().join("app/new")).expect("written"));
    let caller = if is_root() { CALLER } else { rustix::process::geteuid().as_raw() };
    assert_eq!(owner, caller);
    let note = format!("the container's user 65532:65531 is {caller}:");
    assert!(container.warnings().iter().any(|warning| warning.contains(&note)), "{:?}", container.warnings());
}

#[test]
fn limits_apply_or_a_warning_says_why_not() {
    as_every_user(|runner| {
        let rootfs = Rootfs::new();
        let mut spec = rootfs.spec(&[]);
        (spec.cpus, spec.memory) = (Some(0.25), Some(64 << 20));
        let mut container = ready(runner, &spec);
        let warned =
            |word| container.warnings().iter().any(|warning| warning.contains(word) && warning.contains("has no effect"));
        let (cpus, memory) = (!warned("CPU limit"), !warned("memory limit"));
        if is_root() && runner.name() == "embedded" && format!("{runner:?}").contains("setpriv") {
            assert!(!cpus && !memory, "an ordinary user has no control group here: {:?}", container.warnings());
        }
        if cpus {
            let used: u64 = ask(container.as_ref(), "spin?1000").trim().parse().expect("milliseconds");
            assert!(used < 500, "used {used} ms of a second");
            let seen =
                ["cpu/cpu.cfs_quota_us", "cpu.max"].map(|file| ask(container.as_ref(), &format!("file?/sys/fs/cgroup/{file}")));
            assert!(seen.iter().any(|text| text.starts_with("25000")), "{seen:?}");
        }
        if memory {
            assert_eq!(ask(container.as_ref(), "alloc?24"), "ok");
            let peak = container.peak_memory().expect("counted");
            assert!((24 << 20..64 << 20).contains(&peak.bytes) && peak.measure == MemoryMeasure::ControlGroup, "{peak:?}");
            ask_the_last(container.as_ref(), "alloc?128");
            let status = container.wait(PATIENCE).expect("known").expect("killed");
            assert_eq!((status.signal, status.out_of_memory), (Some(9), true));
            assert!(container.peak_memory().expect("still known").bytes > 60 << 20);
        } else {
            assert_eq!(ask(container.as_ref(), "alloc?24"), "ok");
            container.stop(PATIENCE).expect("stops");
            let peak = container.peak_memory().expect("counted");
            assert!(peak.bytes > 24 << 20 && peak.measure == MemoryMeasure::ResidentSet, "{peak:?}");
        }
    });
}

#[test]
fn a_wished_port_is_used_and_a_taken_one_is_refused() {
    let runner = if is_root() { own() } else { return as_every_user(check_port) };
    check_port(&runner);
}

fn check_port(runner: &Embedded) {
    let rootfs = Rootfs::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let mut spec = rootfs.spec(&[]);
    spec.host_port = Some(port);
    let error = runner.start(&spec).expect_err("taken");
    assert!(matches!(error, RunnerError::PortInUse { port: found } if found == port), "{error:?}");
    drop(taken);
    assert_eq!(ready(runner, &spec).address().port(), port);
    // A server that takes no variable is expected at its own port.
    spec.host_port = None;
    spec.port = port;
    spec.listen = ListenVariables { port: None, host: None };
    spec.environment.insert("IMGSERVE_PORT".into(), port.to_string());
    assert_eq!(ready(runner, &spec).address().port(), port);
}

/// What this machine has of a container: processes and control groups.
#[derive(Debug, PartialEq, Eq, Default)]
struct Traces {
    processes: BTreeSet<String>,
    groups: BTreeSet<PathBuf>,
    mounts: BTreeSet<String>,
}

impl Traces {
    /// Those of the containers from one root, whose test server the caller has given an argument that nobody else uses.
    fn of(rootfs: &Rootfs, mark: &str) -> Self {
        let mut traces = Self::default();
        for entry in fs::read_dir("/proc").expect("mounted").flatten() {
            let Some(pid) = entry.file_name().to_str().filter(|name| name.parse::<u32>().is_ok()).map(str::to_owned) else {
                continue;
            };
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let marked = command.windows(mark.len()).any(|window| window == mark.as_bytes());
            if marked {
                traces.processes.insert(format!("{pid} {}", String::from_utf8_lossy(&command)));
            }
        }
        let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            {
                if entry.file_name().to_string_lossy().starts_with("imgbuild-") {
                    traces.groups.insert(entry.path());
                }
                folders.push(entry.path());
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounted");
        let root = rootfs.path().display().to_string();
        traces.mounts = mounts.lines().filter(|line| line.contains(&root)).map(str::to_owned).collect();
        traces
    }

    /// Nothing, but groups of containers that other tests run at the same time.
    fn are_gone(rootfs: &Rootfs, mark: &str, before: &Self) -> bool {
        let now = Self::of(rootfs, mark);
        let alive = |group: &&PathBuf| {
            let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Path::new("/proc").join(name.trim_start_matches("imgbuild-")).exists()
        };
        now.processes.is_empty()
            && now.mounts.is_empty()
            && now.groups.iter().filter(|group| !alive(group) && !before.groups.contains(*group)).count() == 0
    }
}

/// Starts a container with a process of its own besides the server, and returns it with how its processes are found.
fn with_child(runner: &Embedded, rootfs: &Rootfs) -> (Box<dyn RunningContainer>, String) {
    let mark = format!("mark-{}", rootfs.path().file_name().expect("a name").to_string_lossy());
    let container = ready(runner, &rootfs.spec(&[&mark]));
    assert_eq!(ask(container.as_ref(), "spawn"), "ok");
    let found = Traces::of(rootfs, &mark);
    assert_eq!(found.processes.len(), 2, "{found:?}");
    (container, mark)
}

/// The process number of a container's helper: its parent.
fn helper_of(container: &dyn RunningContainer) -> String {
    let pid = container.pid().expect("on this machine");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("runs");
    stat.rsplit(") ").next().and_then(|fields| fields.split(' ').nth(1)).expect("a parent").to_owned()
}

#[test]
fn nothing_is_left_after_the_drop_nor_after_the_end() {
    as_every_user(|runner| {
        let rootfs = Rootfs::new();
        let before = Traces::of(&rootfs, "mark-");
        let (container, mark) = with_child(runner, &rootfs);
        let helper = helper_of(container.as_ref());
        drop(container);
        assert!(!Path::new("/proc").join(helper).exists(), "the helper is reaped");
        assert!(Traces::are_gone(&rootfs, &mark, &before), "at once: {:?}", Traces::of(&rootfs, &mark));
        let (mut container, mark) = with_child(runner, &rootfs);
        let helper = helper_of(container.as_ref());
        container.stop(PATIENCE).expect("stops");
        assert!(!Path::new("/proc").join(helper).exists(), "the helper is reaped");
        assert!(Traces::are_gone(&rootfs, &mark, &before), "at once: {:?}", Traces::of(&rootfs, &mark));
    });
}

#[test]
fn a_killed_helper_takes_the_container_with_it() {
    as_every_user(|runner| {
        let rootfs = Rootfs::new();
        let (mut container, mark) = with_child(runner, &rootfs);
        let helper = helper_of(container.as_ref());
        assert!(Command::new("kill").args(["-KILL", &helper]).status().expect("kill").success());
        assert!(matches!(container.wait(PATIENCE), Err(RunnerError::HelperLost { .. })));
        eventually("the processes are gone", || Traces::of(&rootfs, &mark).processes.is_empty());
        drop(container);
        // The next container removes the group that the helper could not.
        drop(ready(runner, &rootfs.spec(&[])));
        assert!(!Traces::of(&rootfs, &mark).groups.iter().any(|group| group.ends_with(format!("imgbuild-{helper}"))));
    });
}

#[test]
fn a_killed_caller_takes_the_container_with_it() {
    let Some(ordinary) = Ordinary::new() else { return };
    let mut callers = vec![command_as_caller()];
    if is_root() {
        callers.push(vec!["env".to_owned()]);
    }
    for words in callers {
        let rootfs = Rootfs::new();
        let mark = format!("mark-{}", rootfs.path().file_name().expect("a name").to_string_lossy());
        let before = Traces::of(&rootfs, &mark);
        let mut caller = Command::new(&words[0])
            .args(&words[1..])
            .arg(&ordinary.program)
            .arg(rootfs.path())
            .args(["/app/server", &mark])
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(caller.stdout.take().expect("piped")).lines();
        let first = lines.next().expect("a line").expect("text");
        let (address, pid) = first.split_once(' ').expect("address and process");
        assert_eq!(lines.find_map(|line| line.ok().filter(|line| line == "phase ready")).as_deref(), Some("phase ready"));
        assert_eq!(http_status(address.parse().expect("an address"), READY, PATIENCE).expect("answers"), 200);
        assert!(Path::new("/proc").join(pid).exists());
        caller.kill().expect("runs");
        caller.wait().expect("a child");
        eventually("everything is gone", || Traces::are_gone(&rootfs, &mark, &before));
    }
}

#[test]
fn programs_that_cannot_start_are_named() {
    as_every_user(|runner| {
        let rootfs = Rootfs::new();
        let start = |entrypoint: &[&str], change: &dyn Fn(&mut ContainerSpec)| {
            let mut spec = ContainerSpec::unpacked(rootfs.path(), config(entrypoint));
            change(&mut spec);
            runner.start(&spec).expect_err("cannot start")
        };
        let unchanged = |_: &mut ContainerSpec| {};
        let error = start(&["/app/missing"], &unchanged);
        assert_eq!(error.to_string(), "the image has no program `/app/missing`");
        let error = start(&["missing"], &|spec| spec.config.config.env = Some(vec!["PATH=/app:/bin".into()]));
        assert_eq!(error.to_string(), "the image has no program `missing` in its PATH, /app:/bin");
        fs::write(rootfs.path().join("app/data"), "no program").expect("scratch");
        let error = start(&["/app/data"], &unchanged);
        assert!(
            matches!(&error, RunnerError::Program { program, source } if program == "/app/data" && source.raw_os_error() == Some(libc::EACCES))
        );
        fs::set_permissions(rootfs.path().join("app/data"), fs::Permissions::from_mode(0o755)).expect("scratch");
        let error = start(&["/app/data"], &unchanged);
        assert!(error.hint().is_some_and(|hint| hint.contains("architecture")), "{error:?}");
        // A dynamic program without its interpreter.
        fs::copy("/bin/true", rootfs.path().join("app/true")).expect("a dynamic program");
        let error = start(&["/app/true"], &unchanged);
        assert!(error.hint().is_some_and(|hint| hint.contains("ELF interpreter")), "{error:?}");
        let error = start(&["/app/server"], &|spec| spec.config.config.working_dir = Some("/nowhere".into()));
        assert!(matches!(&error, RunnerError::Refused { step, .. } if step == "enter the working folder /nowhere"), "{error:?}");
        let error = start(&["/app/server"], &|spec| spec.config.config.user = Some("ghost".into()));
        assert!(matches!(&error, RunnerError::User { found, .. } if found == "ghost"), "{error:?}");
        let error = start(&["/app/server"], &|spec| spec.image = ContainerImage::Unpacked("/nowhere".into()));
        assert!(matches!(&error, RunnerError::Missing { path, .. } if path == Path::new("/nowhere")), "{error:?}");
        let error = start(&["/app/server"], &|spec| spec.image = ContainerImage::Named("x".into()));
        assert!(matches!(error, RunnerError::Unsuited { .. }), "{error:?}");
    });
}

#[test]
fn a_program_is_found_in_the_image_s_path() {
    let rootfs = Rootfs::new();
    as_every_user(|runner| {
        let mut spec = ContainerSpec::unpacked(rootfs.path(), config(&["server"]));
        spec.config.config.env = Some(vec!["PATH=/bin:/app".into()]);
        drop(ready(runner, &spec));
    });
}

#[test]
fn links_in_the_image_cannot_lead_out_of_it() {
    as_every_user(|runner| {
        let rootfs = Rootfs::new();
        let outside = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o777)).tempdir().expect("scratch");
        fs::write(outside.path().join("secret"), "secret").expect("scratch");
        // Mounts and folders for mounts must land inside, at the place of the same name.
        for name in ["tmp", "sys"] {
            symlink(outside.path(), rootfs.path().join(name)).expect("scratch");
        }
        let error = runner.start(&rootfs.spec(&[])).map(|_| ());
        assert!(
            matches!(&error, Err(RunnerError::Refused { step, .. }) if step.contains("the image's file system")) || error.is_ok(),
            "{error:?}"
        );
        let names: Vec<_> = fs::read_dir(outside.path()).expect("still there").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["secret"]);
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounted");
        assert!(!mounts.contains(&outside.path().display().to_string()));
    });
}

#[test]
fn a_helper_that_is_none_is_reported() {
    let rootfs = Rootfs::new();
    let error = Embedded::with_helper("/nowhere/helper".into(), Vec::new()).start(&rootfs.spec(&[])).expect_err("no helper");
    assert!(matches!(&error, RunnerError::Helper { program, .. } if program == "/nowhere/helper"), "{error:?}");
    let words = ["-c", "echo something else >&2; exit 5"].map(str::to_owned).to_vec();
    let error = Embedded::with_helper("/bin/sh".into(), words).start(&rootfs.spec(&[])).expect_err("another program");
    let RunnerError::HelperLost { detail } = &error else { panic!("{error:?}") };
    assert!(detail.contains("exit status: 5") && detail.contains("something else"), "{detail}");
}

#[test]
fn a_kernel_that_refuses_user_namespaces_is_named() {
    let Some(ordinary) = Ordinary::new().filter(|_| is_root()) else { return };
    // A process in a changed root may not make user namespaces.
    let jail = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().expect("scratch");
    let rootfs = Rootfs::new();
    let script = format!(
        "set -e; mount --rbind / {jail}; exec chroot --userspec={CALLER}:{CALLER} {jail} {helper} {HELPER_SUBCOMMAND}",
        jail = jail.path().display(),
        helper = ordinary.program.display()
    );
    let arguments = ["--mount", "sh", "-c", &script].map(str::to_owned).to_vec();
    let error = Embedded::with_helper("unshare".into(), arguments).start(&rootfs.spec(&[])).expect_err("refused");
    assert!(matches!(&error, RunnerError::Refused { step, .. } if step == "make a user namespace"), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("user namespace")), "{:?}", error.hint());
}

#[test]
fn a_masked_proc_is_seen_instead_of_a_new_one() {
    let Some(ordinary) = Ordinary::new().filter(|_| is_root()) else { return };
    // As an engine does: parts of /proc are covered, and the kernel then permits no uncovered mount of it in a user namespace.
    let script = format!(
        "set -e; mount -t tmpfs -o ro none /proc/sys/net; exec {} {} {HELPER_SUBCOMMAND}",
        command_as_caller().join(" "),
        ordinary.program.display()
    );
    let arguments = ["--mount", "sh", "-c", &script].map(str::to_owned).to_vec();
    let rootfs = Rootfs::new();
    let container = ready(&Embedded::with_helper("unshare".into(), arguments), &rootfs.spec(&[]));
    assert!(
        container.warnings().iter().any(|warning| warning.contains("sees the /proc of this machine")),
        "{:?}",
        container.warnings()
    );
    assert_eq!(status_field(container.as_ref(), "CapEff"), "0000000000000000");
}

#[test]
fn many_containers_start_at_once() {
    as_every_user(|runner| {
        let rootfs = Rootfs::new();
        let before = Traces::of(&rootfs, "mark-many");
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let mut container = ready(runner, &rootfs.spec(&["mark-many"]));
                    assert!(container.stop(PATIENCE).expect("stops").success());
                });
            }
        });
        assert!(Traces::are_gone(&rootfs, "mark-many", &before));
    });
}

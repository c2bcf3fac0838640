//! Both runners start a real server and are looked at from inside and outside.

mod docker;
mod embedded;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::digest::Digest;
use crate::image::{ContainerConfig, RootFs};

const PATIENCE: Duration = Duration::from_secs(30);
const READY: &str = "/v2/health/ready";
const USER: (u32, u32) = (65532, 65531);
const SERVER: &str = include_str!("server.c");

/// A config that starts a program as the usual user.
pub(super) fn config(entrypoint: &[&str]) -> ImageConfig {
    ImageConfig {
        created: None,
        architecture: "amd64".into(),
        os: "linux".into(),
        config: ContainerConfig {
            user: Some(format!("{}:{}", USER.0, USER.1)),
            entrypoint: Some(entrypoint.iter().map(|word| (*word).to_owned()).collect()),
            working_dir: Some("/app".into()),
            ..ContainerConfig::default()
        },
        rootfs: RootFs { kind: "layers".into(), diff_ids: Vec::new() },
        history: Vec::new(),
        other: BTreeMap::new(),
    }
}

/// The folder where cargo puts what it builds for this profile.
fn build_folder() -> PathBuf {
    let program = std::env::current_exe().expect("/proc is mounted");
    program.parent().and_then(Path::parent).expect("tests lie in deps").to_owned()
}

/// The test server, compiled once for each state of its source.
fn server() -> PathBuf {
    let path = build_folder().join(format!("runner-test-server-{}", Digest::of(SERVER.as_bytes()).short()));
    if !path.exists() {
        let scratch = tempfile::tempdir_in(build_folder()).expect("scratch");
        let (source, program) = (scratch.path().join("server.c"), scratch.path().join("server"));
        fs::write(&source, SERVER).expect("scratch");
        let status = Command::new("cc").args(["-static", "-O1", "-Wall", "-Werror", "-o"]).args([&program, &source]).status();
        assert!(status.expect("a C compiler").success(), "the test server compiles");
        fs::rename(program, &path).expect("same file system");
    }
    path
}

/// An unpacked image that holds the test server, readable by everyone.
struct Rootfs(tempfile::TempDir);

impl Rootfs {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let folder =
            tempfile::Builder::new().prefix("rootfs-").permissions(fs::Permissions::from_mode(0o777)).tempdir().expect("scratch");
        for name in ["app", "etc"] {
            fs::create_dir(folder.path().join(name)).expect("scratch");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("scratch");
        fs::copy(server(), folder.path().join("app/server")).expect("scratch");
        fs::write(folder.path().join("etc/passwd"), "serve:x:65532:65531::/home/serve:\n").expect("scratch");
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn spec(&self, arguments: &[&str]) -> ContainerSpec {
        let mut spec = ContainerSpec::unpacked(self.path(), config(&["/app/server"]));
        spec.arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        spec
    }
}

/// What the test server answers.
fn ask(container: &dyn RunningContainer, what: &str) -> String {
    let mut stream = TcpStream::connect(container.address()).expect("listening");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    // In one piece: the server reads once.
    stream.write_all(format!("GET /{what} HTTP/1.1\r\n\r\n").as_bytes()).expect("a socket");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_else(|| panic!("{what}: {answer:?}"))
}

/// Asks for something that ends the server before it answers.
fn ask_the_last(container: &dyn RunningContainer, what: &str) {
    let mut stream = TcpStream::connect(container.address()).expect("listening");
    stream.write_all(format!("GET /{what} HTTP/1.1\r\n\r\n").as_bytes()).expect("a socket");
    let _ = stream.read(&mut [0; 16]);
}

/// Starts a container and waits until it answers.
fn ready(runner: &dyn Runner, spec: &ContainerSpec) -> Box<dyn RunningContainer> {
    let mut container = runner.start(spec).unwrap_or_else(|error| panic!("{error}: {error:?}"));
    wait_until_ready(container.as_mut(), READY, PATIENCE).unwrap_or_else(|error| panic!("{error}"));
    container
}

/// The value of a field of `/proc/self/status` as the server sees it.
fn status_field(container: &dyn RunningContainer, name: &str) -> String {
    let text = ask(container, "file?/proc/self/status");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    line.unwrap_or_else(|| panic!("{name} in {text}")).to_owned()
}

/// Waits until a condition holds.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn texts(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

/// What every runner promises of what a container may do.
fn check_confinement(container: &dyn RunningContainer) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status_field(container, set), "0000000000000000", "{set}");
    }
    assert_eq!(status_field(container, "NoNewPrivs"), "1");
    let identity = ask(container, "identity");
    assert!(identity.starts_with(&format!("uid={} gid={} pid=1 ", USER.0, USER.1)), "{identity}");
    assert!(identity.ends_with("folder=/app"), "{identity}");
    for path in ["/app/new", "/new", "/etc/passwd", "/dev/new", "/sys/new"] {
        let outcome = ask(container, &format!("write?{path}"));
        assert!(matches!(outcome.as_str(), "EROFS" | "EACCES"), "{path}: {outcome}");
    }
    assert!(status_mounts(container, "/").split(',').any(|option| option == "ro"), "the root is mounted read-only");
    assert_eq!(ask(container, "write?/tmp/new"), "ok");
    assert_eq!(ask(container, "write?/dev/shm/new"), "ok");
    assert_eq!(ask(container, "write?/dev/null"), "ok");
    assert_ne!(ask(container, "write?/proc/sys/kernel/core_pattern"), "ok");
    assert_ne!(ask(container, "write?/proc/sysrq-trigger"), "ok");
    assert_ne!(ask(container, "chown?/tmp/new"), "ok");
    // The program's own files: its streams, its listener, this client and the folder that it reads.
    assert_eq!(ask(container, "list?/proc/self/fd").trim(), "0 1 2 3 4 5");
    assert_eq!(ask(container, "link?/proc/self/fd/0"), "/dev/null");
    assert_eq!(ask(container, "missing"), "");
    assert_eq!(http_status(container.address(), "/missing", PATIENCE).expect("answers"), 404);
}

/// The options of a mount as the container sees it.
fn status_mounts(container: &dyn RunningContainer, place: &str) -> String {
    let text = ask(container, "file?/proc/self/mountinfo");
    let found = text.lines().map(|line| line.split(' ').collect::<Vec<_>>()).rfind(|fields| fields.get(4) == Some(&place));
    found.unwrap_or_else(|| panic!("{place} in {text}"))[5].to_owned()
}

/// What every runner promises of output, signals and exit codes; `spec` starts the test server with the given mode.
fn check_life(runner: &dyn Runner, spec: impl Fn(&[&str]) -> ContainerSpec) {
    // SIGTERM drains, and the last line is there when the end is known.
    let mut container = ready(runner, &spec(&[]));
    assert_eq!(ask(container.as_ref(), "print?hello"), "ok");
    let timings = container.timings();
    assert!(timings.asked < timings.created && timings.created < timings.started, "{timings:?}");
    assert_eq!(container.wait(Duration::ZERO).expect("known"), None);
    assert!(container.peak_memory().is_some_and(|peak| (10_000..1 << 32).contains(&peak.bytes)), "{:?}", container.peak_memory());
    let status = container.stop(PATIENCE).expect("stops");
    assert_eq!((status.code, status.ending_signal(), status.out_of_memory), (Some(0), None, false));
    let lines: Vec<LogLine> = container.lines().into_iter().collect();
    let mut by_stream = [Stream::Stdout, Stream::Stderr]
        .map(|stream| lines.iter().filter(|line| line.stream == stream).map(|line| line.text.clone()).collect::<Vec<_>>());
    by_stream[1].retain(|line| line != "client went away");
    assert_eq!(by_stream, [vec!["hello".to_owned()], vec!["phase exec".into(), "phase ready".into(), "drained".into()]]);
    assert!(lines.iter().all(|line| line.at > timings.asked && line.at <= Instant::now()));
    assert_eq!(container.stop(PATIENCE).expect("stays stopped"), status);

    // One that ignores SIGTERM is killed after the timeout.
    let mut container = ready(runner, &spec(&["stubborn"]));
    let begun = Instant::now();
    let status = container.stop(Duration::from_millis(300)).expect("stops");
    assert_eq!((status.success(), status.ending_signal()), (false, Some(9)));
    assert!(begun.elapsed() >= Duration::from_millis(300));

    // The exit code is the program's.
    let mut container = ready(runner, &spec(&[]));
    ask_the_last(container.as_ref(), "exit?42");
    assert_eq!(container.wait(PATIENCE).expect("known").expect("ended").code, Some(42));

    // A server that ends instead of listening is reported with what it said.
    let mut container = runner.start(&spec(&["fail"])).expect("starts");
    let error = wait_until_ready(container.as_mut(), READY, PATIENCE).expect_err("it ended");
    let RunnerError::Exited { status, log } = &error else { panic!("{error:?}") };
    assert_eq!((status.code, texts(log)), (Some(3), vec!["phase exec", "no model in /models"]));
    assert!(error.to_string().contains("exit code 3") && error.to_string().contains("no model in /models"), "{error}");

    // One that neither ends nor answers is reported after the timeout, and goes away by the drop.
    let mut container = runner.start(&spec(&["hang"])).expect("starts");
    let error = wait_until_ready(container.as_mut(), READY, Duration::from_millis(200)).expect_err("it hangs");
    assert!(matches!(&error, RunnerError::NotReady { log, .. } if texts(log) == ["phase exec"]), "{error:?}");
}

#[test]
fn signals_are_known_by_name_and_number() {
    for name in ["SIGTERM", "TERM", "term", "15"] {
        assert_eq!(Signal::from_name(name), Some(Signal::TERM), "{name}");
    }
    for bad in ["", "SIG", "0", "65", "-1", "SIGSIG"] {
        assert_eq!(Signal::from_name(bad), None, "{bad}");
    }
}

#[test]
fn exit_statuses_read_as_sentences() {
    let status = |code, signal, out_of_memory| ExitStatus { code, signal, out_of_memory };
    assert_eq!(status(Some(0), None, false).to_string(), "exit code 0");
    assert_eq!(status(None, Some(9), true).to_string(), "killed by signal 9, out of memory");
    assert_eq!(status(Some(137), None, false).ending_signal(), Some(9));
    assert_eq!(status(Some(1), None, false).ending_signal(), None);
}

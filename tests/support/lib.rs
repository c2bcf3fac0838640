//! What the tests share: the built programs, real models, and programs that are started and ended by their process id.

pub mod browser;
pub mod elf;
pub mod tiny;
pub mod wire;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_owned()
}

/// What is fetched and built for tests, outside of version control.
#[must_use]
pub fn build_folder() -> PathBuf {
    let folder = root().join("build");
    std::fs::create_dir_all(&folder).expect("the root can be written");
    folder
}

/// The store that tests share, so that runtimes are fetched and compressed once.
#[must_use]
pub fn shared_store() -> PathBuf {
    build_folder().join("test-store")
}

fn target_folder() -> PathBuf {
    // …/target/PROFILE/deps/main-HASH
    let test = std::env::current_exe().expect("a running test has a path");
    test.ancestors().nth(3).expect("a test lies in target/PROFILE/deps").to_owned()
}

/// The `imgbuild` of the profile that the tests run in.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn imgbuild_path() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let path = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").join("imgbuild");
    assert!(path.exists(), "{} is missing: run `make test`, which builds it", path.display());
    path
}

/// The optimised `imgserve`.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn imgserve_path() -> PathBuf {
    let path = target_folder().join("server/imgserve");
    assert!(path.exists(), "{} is missing: run `make test`, which builds it", path.display());
    path
}

/// `imgbuild` with the tests' store and server, and without anything of the user's environment that changes what it does.
#[must_use]
pub fn imgbuild() -> Command {
    let mut command = Command::new(imgbuild_path());
    command.env("IMGBUILD_STORE", shared_store()).env("IMGBUILD_SERVER", imgserve_path()).env_remove("SOURCE_DATE_EPOCH");
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    command
}

/// Checks that a command and its options, as a document shows them behind `imgbuild`, exist.
///
/// # Panics
/// Where one does not.
pub fn check_options(document: &str, line: &str) {
    let mut words = line.split_whitespace();
    let command = words.next().expect("a command");
    let mut help = imgbuild();
    help.arg(command);
    if ["cache", "fatbin"].contains(&command) {
        help.arg(words.next().expect("a command below it"));
    }
    let help = text(&succeed(help.arg("--help")).stdout);
    for option in words.filter(|word| word.starts_with('-')) {
        let option = option.split('=').next().expect("an option");
        let exists = help.split([' ', ',', '\n', '=', '[']).any(|word| word == option);
        assert!(exists, "{document}: `imgbuild {line}`: {command} has no {option}");
    }
}

/// The path of a real model, fetched from the package that ships it: `magika` or `basic-pitch`.
///
/// # Panics
/// Where it cannot be fetched.
#[must_use]
pub fn model(name: &str) -> PathBuf {
    let mut script = Command::new(root().join("tests/tools/fetch-models.sh"));
    let output = succeed(script.arg(name));
    PathBuf::from(text(&output.stdout).trim())
}

/// A copy of a real model in a fresh folder, so that what is written beside it is this test's own.
///
/// # Panics
/// Where it cannot be fetched or copied.
pub fn model_in(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(format!("{name}.onnx"));
    std::fs::copy(model(name), &path).expect("the model can be copied");
    path
}

/// A lock of the default stack and base in a folder. Versions are chosen once for all tests: that asks package indexes.
///
/// # Panics
/// Where a version cannot be chosen.
pub fn lock_in(folder: &Path) {
    let kept = build_folder().join("test.lock");
    if !kept.exists() {
        let scratch = tempfile::tempdir_in(build_folder()).expect("the build folder can be written");
        model_in(scratch.path(), "magika");
        succeed(imgbuild().current_dir(&scratch).args(["lock", "magika.onnx"]));
        std::fs::rename(scratch.path().join("imgbuild.lock"), &kept).expect("the build folder can be written");
    }
    std::fs::copy(&kept, folder.join("imgbuild.lock")).expect("the lock can be copied");
}

/// Python with the packages of `tests/tools/requirements.txt`.
///
/// # Panics
/// Where they cannot be installed.
#[must_use]
pub fn python() -> Command {
    succeed(&mut Command::new(root().join("tests/tools/venv.sh")));
    Command::new(build_folder().join("venv/bin/python"))
}

/// Bytes as text.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must succeed.
///
/// # Panics
/// Where it does not, with what it wrote.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// Runs a command that must fail with this exit code, and gives what it wrote on stderr.
///
/// # Panics
/// Where it ends otherwise.
pub fn fail_with(command: &mut Command, code: u8) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(code)), "{command:?}\n{}\n{stderr}", text(&output.stdout));
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

/// Tells whether a program is installed; prints why the test is skipped where it is not.
#[must_use]
pub fn has(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
        || Path::new("/usr/sbin").join(program).is_file();
    if !found {
        eprintln!("skipped: `{program}` is not installed (run `make deps`)");
    }
    found
}

/// A program that runs until it is dropped; it is ended by its process id.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts it.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        Self { child }
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Asks it to end and waits.
    ///
    /// # Panics
    /// Where it does not end within 30 seconds.
    pub fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let status = wait_for(Duration::from_secs(30), || self.child.try_wait().expect("a child can be waited for"));
        status.expect("it ends within 30 seconds").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again and again until there is an answer, for at most so long.
pub fn wait_for<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if start.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs lines of Python that call `ask(path, body)`, which posts JSON to a server and gives the status and the answer.
pub fn ask_with(address: &str, lines: &str) {
    const ASK: &str = r#"
import json, sys, urllib.request, urllib.error
def ask(path, body):
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{sys.argv[1]}{path}", json.dumps(body).encode())) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
"#;
    succeed(python().args(["-c", &format!("{ASK}{lines}"), address]));
}

/// A port of the loopback that nothing listens at.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Debian's registry on the loopback, without authentication, keeping its files in a folder.
///
/// # Panics
/// Where it does not answer within 20 seconds.
#[must_use]
pub fn registry(folder: &Path) -> (Running, String) {
    let port = free_port();
    let config = folder.join("registry.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        folder.join("registry").display()
    );
    std::fs::write(&config, text).expect("the folder can be written");
    let mut command = Command::new("docker-registry");
    command.args([OsStr::new("serve"), config.as_os_str()]).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running::start(&mut command);
    let address = format!("localhost:{port}");
    let answers = wait_for(Duration::from_secs(20), || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    assert!(answers.is_some(), "docker-registry does not answer at {address}");
    (running, address)
}

/// Starts an image with the embedded runner and gives the address that it prints.
///
/// # Panics
/// Where it gives none within a minute.
#[must_use]
pub fn serve(folder: &Path, image: &str) -> (Running, String) {
    let output = folder.join("address");
    let log = folder.join("container.log");
    let file = |path: &Path| std::fs::File::create(path).expect("the folder can be written");
    let mut command = imgbuild();
    command.current_dir(folder).args(["run", image, "--runner", "embedded"]).stdout(file(&output)).stderr(file(&log));
    let running = Running::start(&mut command);
    let address = wait_for(Duration::from_secs(60), || std::fs::read_to_string(&output).ok().filter(|text| text.ends_with('\n')));
    let address = address.unwrap_or_else(|| panic!("no address: {}", std::fs::read_to_string(&log).unwrap_or_default()));
    (running, address.trim().trim_start_matches("http://").to_owned())
}

/// Reads a file of JSON.
///
/// # Panics
/// Where it is none.
#[must_use]
pub fn json_file(path: &Path) -> serde_json::Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

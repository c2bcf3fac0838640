//! Docker itself: it loads, runs and saves what is written here. Each test has a daemon of its own, in a folder of its own.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// A running daemon that nothing else uses.
struct Daemon {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Daemon {
    /// Starts one, where there is Docker and the right to start it.
    fn start() -> Option<Self> {
        if !(judge("dockerd") && judge("docker") && judge("gcc")) {
            return None;
        }
        let without = std::env::var_os("IMGBUILD_WITHOUT_JUDGES").is_some();
        if !rustix::process::geteuid().is_root() {
            assert!(without, "only root starts a daemon: run as root, or set IMGBUILD_WITHOUT_JUDGES=1 to go without");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("docker").tempdir().expect("temporary folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let address = format!("unix://{}", at("sock"));
        let log = fs::File::create(folder.path().join("log")).expect("file");
        let child = Command::new("dockerd")
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid"), "--host", &address])
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        let mut daemon = Self { child, address, _folder: folder };
        let begin = Instant::now();
        while daemon.docker(&["version"]).is_err() {
            let log = || fs::read_to_string(daemon._folder.path().join("log")).unwrap_or_default();
            assert!(begin.elapsed() < Duration::from_secs(90), "dockerd does not answer:\n{}", log());
            let ended = daemon.child.try_wait().expect("a child");
            assert!(ended.is_none(), "dockerd ended:\n{}", log());
            std::thread::sleep(Duration::from_millis(200));
        }
        Some(daemon)
    }

    fn docker(&self, arguments: &[&str]) -> Result<String, String> {
        let arguments: Vec<&str> = ["--host", &self.address].into_iter().chain(arguments.iter().copied()).collect();
        run_in(Path::new("/"), "docker", &arguments)
    }

    fn addresses(&self) -> Vec<String> {
        vec![self.address.clone()]
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// An image of a static program that says hello, in a layer of each compression.
fn hello() -> Fixture {
    let folder = tempfile::tempdir().expect("temporary folder");
    let source = "#include <stdio.h>\nint main(void) { FILE *f = fopen(\"/zstd/name\", \"r\"); char name[16] = {0};\n\
                  if (!f || !fgets(name, 16, f)) return 1; printf(\"hello from %s\\n\", name); return 0; }\n";
    fs::write(folder.path().join("hello.c"), source).expect("file");
    run_in(folder.path(), "gcc", &["-static", "-Os", "-s", "-o", "hello", "hello.c"]).expect("compiled");
    let program = fs::read(folder.path().join("hello")).expect("program");
    let layers = [
        (Kind::Gzip, tar_of(&[("hello", &program)])),
        (Kind::Plain, tar_of(&[("plain/name", b"plain")])),
        (Kind::Zstd, tar_of(&[("zstd/name", b"zstd")])),
        // Equal layers are one blob.
        (Kind::Zstd, tar_of(&[("zstd/name", b"zstd")])),
    ];
    let config = ContainerConfig { entrypoint: Some(vec!["/hello".to_owned()]), ..ContainerConfig::default() };
    let architecture = Platform::host().architecture();
    Fixture::with(&layers, architecture, config)
}

const RUN: [&str; 6] = ["run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--user=65532:65532"];

#[test]
fn docker_loads_runs_and_saves() {
    let Some(daemon) = Daemon::start() else { return };
    let fixture = hello();
    let config = fixture.image.parsed.config.digest.to_string();
    fixture.put(&fixture.at("docker-archive", "named.tar:acme/hello:1"));
    let named = fixture.path("named.tar").display().to_string();
    let printed = daemon.docker(&["load", "--input", &named]).expect("loaded");
    assert!(printed.contains("Loaded image: acme/hello:1"), "{printed}");
    let run: Vec<&str> = RUN.into_iter().chain(["acme/hello:1"]).collect();
    assert_eq!(daemon.docker(&run).expect("runs"), "hello from zstd\n");
    let id = daemon.docker(&["image", "inspect", "--format", "{{.Id}}", "acme/hello:1"]).expect("there");
    assert_eq!(id.trim(), config);
    // What it saves is the same image with other manifests.
    let saved = fixture.path("saved.tar").display().to_string();
    daemon.docker(&["save", "--output", &saved, "acme/hello:1"]).expect("saved");
    for text in [format!("docker-archive:{saved}"), format!("docker-archive:{saved}:acme/hello:1"), saved.clone()] {
        let image = open_image(&Transport::guess_for_reading(&text).expect("an archive"));
        assert_eq!(image.parsed.config.digest.to_string(), config);
        validate(&image, &Progress::silent()).expect("sound");
    }
    // Without a name it is loaded under its digest.
    daemon.docker(&["image", "rm", "--force", "acme/hello:1"]).expect("removed");
    fixture.put(&fixture.at("docker-archive", "unnamed.tar"));
    let printed = daemon.docker(&["load", "--input", &fixture.path("unnamed.tar").display().to_string()]).expect("loaded");
    assert!(printed.contains(&config), "{printed}");
}

#[test]
fn the_daemon_takes_and_gives_images() {
    let Some(daemon) = Daemon::start() else { return };
    let fixture = hello();
    let silent = Progress::silent();
    let request = Put { name: None, platform: None, store: None, progress: &silent };
    let opening = Open { platform: None, scratch: None, progress: &silent };
    let name: ImageName = "localhost:5000/acme/hello:1".parse().expect("valid");
    let absent: ImageName = "acme/absent:1".parse().expect("valid");
    daemon::put_at(&daemon.addresses(), &name, &fixture.image, &request).expect("loaded");
    let run: Vec<&str> = RUN.into_iter().chain(["localhost:5000/acme/hello:1"]).collect();
    assert_eq!(daemon.docker(&run).expect("runs"), "hello from zstd\n");

    let content = daemon::open_at(&daemon.addresses(), &name, &opening).expect("exported");
    let image = content.image(Some(Platform::host())).expect("one");
    assert_eq!(image.config, fixture.image.config);
    validate(image, &silent).expect("sound");
    let error = daemon::open_at(&daemon.addresses(), &absent, &opening).expect_err("not there");
    assert!(matches!(&error, TransportError::NotFound { available, .. } if available.contains(&name.to_string())), "{error}");

    // A blob that is damaged here is our error, and the daemon keeps nothing.
    let mut blobs = LocalBlobs::default();
    for layer in &fixture.image.parsed.layers {
        let path = fixture.path(&layer.digest.short());
        fs::write(&path, vec![0; usize::try_from(layer.size).expect("small")]).expect("file");
        blobs.add_file(layer.digest, path);
    }
    let damaged = Image { blobs: Arc::new(blobs), ..fixture.image.clone() };
    let error = daemon::put_at(&daemon.addresses(), &absent, &damaged, &request).expect_err("damaged");
    assert!(matches!(error, TransportError::Blob { .. }), "{error}");
    // A layer that is not what the config says is the daemon's, where it does not have that layer already.
    let layers = [(Kind::Gzip, tar_of(&[("new", b"1")])), (Kind::Gzip, tar_of(&[("new", b"2")]))];
    let mut wrong = make_image(&fixture.store, &layers, Platform::host().architecture(), ContainerConfig::default());
    wrong.parsed.layers.swap(0, 1);
    wrong.manifest = serde_json::to_vec(&wrong.parsed).expect("plain data");
    let error = daemon::put_at(&daemon.addresses(), &absent, &wrong, &request).expect_err("wrong layers");
    let TransportError::Daemon { action: "load", source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("invalid diffID"), "{source}");
    assert!(!daemon.docker(&["image", "ls"]).expect("list").contains("absent"));
}

#[test]
fn no_daemon_is_an_error_that_says_what_was_tried() {
    let fixture = Fixture::new();
    let name: ImageName = "x:1".parse().expect("valid");
    let silent = Progress::silent();
    let request = Put { name: None, platform: None, store: None, progress: &silent };
    // A socket that no one listens at any more.
    let stale = fixture.path("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("socket"));
    let addresses = [
        "unix:///nowhere/docker.sock".to_owned(),
        format!("unix://{}", stale.display()),
        "tcp://127.0.0.1:1".to_owned(),
        "ssh://host".to_owned(),
    ];
    let error = daemon::put_at(&addresses, &name, &fixture.image, &request).expect_err("no one is there");
    let text = error.to_string();
    for part in
        ["unix:///nowhere/docker.sock (no such socket)", "stale.sock (", "refused", "tcp://127.0.0.1:1 (", "ssh://host (only"]
    {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    assert!(error.hint().expect("a hint").contains("DOCKER_HOST"));
}

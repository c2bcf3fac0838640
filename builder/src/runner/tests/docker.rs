use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;

use super::*;
use crate::runner::docker::{Docker, Endpoint, LABEL, Network};

/// A daemon of the test's own, with an image that holds the test server.
struct Daemon {
    state: tempfile::TempDir,
    endpoint: Endpoint,
}

const IMAGE: &str = "runner-test/server:1";

impl Daemon {
    /// `None`, and why on stderr, where no daemon can run.
    #[expect(clippy::print_stderr, reason = "says why a test checks nothing")]
    fn start(network: &str) -> Option<Self> {
        let state = tempfile::Builder::new().prefix("dockerd-").tempdir().expect("scratch");
        let output = Self::tool("start", state.path()).arg(network).output().expect("a shell");
        let stderr = String::from_utf8_lossy(&output.stderr);
        if output.status.code() == Some(77) {
            eprintln!("skipped: {}", stderr.trim());
            return None;
        }
        let address = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{stderr}");
        let daemon = Self { state, endpoint: address.parse().expect("the tool prints an address") };
        let rootfs = Rootfs::new();
        let archive = daemon.state.path().join("image.tar");
        assert!(
            Command::new("tar")
                .arg("-C")
                .arg(rootfs.path())
                .arg("-cf")
                .args([archive.as_path(), ".".as_ref()])
                .status()
                .expect("tar")
                .success()
        );
        let changes = [
            r#"ENTRYPOINT ["/app/server"]"#.to_owned(),
            format!("USER {}:{}", USER.0, USER.1),
            "WORKDIR /app".into(),
            "EXPOSE 8080".into(),
        ];
        let mut import = daemon.client();
        import.arg("import").args(changes.iter().flat_map(|change| ["--change", change])).arg(archive).arg(IMAGE);
        assert!(import.output().expect("docker").status.success());
        Some(daemon)
    }

    fn tool(action: &str, state: &Path) -> Command {
        let mut command = Command::new("sh");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tools/dockerd.sh")).arg(action).arg(state);
        command
    }

    fn client(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", self.endpoint.to_string()).env("DOCKER_CONFIG", self.state.path());
        command
    }

    fn containers(&self) -> String {
        let output = self
            .client()
            .args(["ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Label \"org.imgbuild.started-by\"}}"])
            .output()
            .expect("docker");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn runner(&self) -> Docker {
        Docker::at(self.endpoint.clone()).expect("it answers")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Self::tool("stop", self.state.path()).status();
    }
}

fn spec(arguments: &[&str]) -> ContainerSpec {
    let mut spec = ContainerSpec::named(IMAGE, config(&["/app/server"]));
    spec.arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
    spec
}

#[test]
fn containers_of_an_engine_with_a_bridge_are_published_on_the_loopback() {
    let Some(daemon) = Daemon::start("bridge") else { return };
    let runner = daemon.runner();
    check_life(&runner, spec);

    let container = ready(&runner, &spec(&[]));
    check_confinement(container.as_ref());
    assert!(container.address().ip().is_loopback() && container.address().port() != 8080);
    assert_eq!(ask(container.as_ref(), "env?IMGSERVE_PORT"), "");
    // The container has a network of its own, with nothing of this machine's in it.
    assert_ne!(
        ask(container.as_ref(), "link?/proc/self/ns/net"),
        fs::read_link("/proc/self/ns/net").expect("mounted").to_string_lossy()
    );
    let pid = container.pid().expect("on this machine");
    assert!(fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("runs").starts_with("/app/server"));
    // Docker's own view agrees with ours.
    let listed = daemon.containers();
    assert!(listed.ends_with(&format!(" {}", std::process::id())), "{LABEL}: {listed}");
    let id = listed.split(' ').next().expect("an ID").to_owned();
    let format = "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.State.Pid}}";
    let output = daemon.client().args(["inspect", "--format", format, &id]).output().expect("docker");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("true [ALL] [no-new-privileges] {pid}"));
    let output = daemon.client().args(["port", &id]).output().expect("docker");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("8080/tcp -> {}", container.address()));
    drop(container);
    assert_eq!(daemon.containers(), "");

    // A wished port, another one in the container, and variables.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let mut wished = spec(&[]);
    (wished.host_port, wished.port) = (Some(port), 9000);
    wished.environment = BTreeMap::from([("IMGSERVE_PORT".into(), "9000".into()), ("MODE".into(), "a=b c".into())]);
    let error = runner.start(&wished).expect_err("taken");
    assert!(matches!(error, RunnerError::PortInUse { port: found } if found == port), "{error:?}");
    drop(taken);
    let container = ready(&runner, &wished);
    assert_eq!(container.address().port(), port);
    assert_eq!(ask(container.as_ref(), "env?MODE"), "a=b c");
    drop(container);

    check_limits_by(&runner);
    check_refusals_by(&runner);
    assert_eq!(daemon.containers(), "");
}

fn check_limits_by(runner: &Docker) {
    let mut limited = spec(&[]);
    (limited.cpus, limited.memory) = (Some(0.25), Some(64 << 20));
    let mut container = ready(runner, &limited);
    let used: u64 = ask(container.as_ref(), "spin?1000").trim().parse().expect("milliseconds");
    assert!(used < 500, "used {used} ms of a second");
    assert_eq!(ask(container.as_ref(), "alloc?24"), "ok");
    let peak = container.peak_memory().expect("counted");
    assert!((24 << 20..64 << 20).contains(&peak.bytes) && peak.measure == MemoryMeasure::ControlGroup, "{peak:?}");
    ask_the_last(container.as_ref(), "alloc?128");
    let status = container.wait(PATIENCE).expect("known").expect("killed");
    assert_eq!((status.code, status.ending_signal(), status.out_of_memory), (Some(137), Some(9), true));
    assert_eq!(container.peak_memory().map(|peak| peak.measure), Some(MemoryMeasure::ControlGroup));
}

fn check_refusals_by(runner: &Docker) {
    let start = |change: &dyn Fn(&mut ContainerSpec)| {
        let mut changed = spec(&[]);
        change(&mut changed);
        runner.start(&changed).expect_err("cannot start")
    };
    let error = start(&|spec| spec.image = ContainerImage::Named("runner-test/none:1".into()));
    assert!(matches!(&error, RunnerError::ImageMissing { image, .. } if image == "runner-test/none:1"), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("docker-daemon:")));
    let error = start(&|spec| spec.image = ContainerImage::Unpacked("/x".into()));
    assert!(matches!(error, RunnerError::Unsuited { .. }), "{error:?}");
    let error = start(&|spec| spec.memory = Some(1));
    assert!(matches!(error, RunnerError::Limit { name: "memory", .. }), "{error:?}");
    let error = start(&|spec| spec.cpus = Some(4000.0));
    let RunnerError::Engine { action: "create a container", source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("CPUs"), "{source}");
}

/// Listens at a port of the loopback and passes every connection on to a socket, as a forwarded engine does.
fn forwarded(endpoint: &Endpoint) -> Endpoint {
    let Endpoint::Unix(path) = endpoint.clone() else { panic!("a socket") };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, engine) = (client.expect("a connection"), UnixStream::connect(&path).expect("the engine"));
            let (mut from_client, mut to_engine) = (client.try_clone().expect("a socket"), engine.try_clone().expect("a socket"));
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_client, &mut to_engine);
                let _ = to_engine.shutdown(Shutdown::Write);
            });
            let (mut to_client, mut from_engine) = (client, engine);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_engine, &mut to_client);
                let _ = to_client.shutdown(Shutdown::Both);
            });
        }
    });
    Endpoint::Tcp(address)
}

#[test]
fn containers_of_an_engine_without_a_bridge_share_the_machine_s_network() {
    let Some(daemon) = Daemon::start("none") else { return };
    let runner = daemon.runner();
    let mut container = ready(&runner, &spec(&[]));
    check_confinement(container.as_ref());
    assert_eq!(ask(container.as_ref(), "env?IMGSERVE_PORT"), container.address().port().to_string());
    assert_eq!(ask(container.as_ref(), "env?IMGSERVE_ADDRESS"), "127.0.0.1");
    assert!(container.stop(PATIENCE).expect("stops").success());
    drop(container);
    // The same over TCP.
    let far = Docker::at(forwarded(&daemon.endpoint)).expect("it answers");
    let mut container = ready(&far, &spec(&[]));
    assert_eq!((container.pid(), container.address().ip().is_loopback()), (None, true));
    assert!(container.stop(PATIENCE).expect("stops").success());
    let lines = container.last_lines();
    assert_eq!(texts(&lines).last(), Some(&"drained"));
    drop(container);
    assert_eq!(daemon.containers(), "");
    // A server that takes no variable is expected where it always listens, and says why it is not.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut fixed = spec(&[]);
    fixed.port = taken.local_addr().expect("bound").port();
    fixed.listen = ListenVariables { port: None, host: None };
    let error = runner.clone().with_network(Network::Shared).start(&fixed).expect_err("taken");
    assert!(matches!(error, RunnerError::PortInUse { port } if port == fixed.port), "{error:?}");
}

#[test]
fn an_engine_that_does_not_answer_is_named() {
    let folder = tempfile::tempdir().expect("scratch");
    let path = folder.path().join("engine.sock");
    let error = Docker::at(Endpoint::Unix(path.clone())).expect_err("nothing there");
    assert!(matches!(&error, RunnerError::Engine { endpoint, .. } if endpoint.contains("engine.sock")), "{error:?}");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let error = Docker::at(Endpoint::Unix(path)).expect_err("nobody listens");
    assert!(matches!(&error, RunnerError::Engine { action: "answer", .. }), "{error:?}");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    let error = Docker::at(Endpoint::Tcp(format!("127.0.0.1:{port}"))).expect_err("nobody listens");
    assert!(matches!(&error, RunnerError::Engine { action: "answer", .. }), "{error:?}");
}

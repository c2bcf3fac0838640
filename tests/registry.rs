//! The command against Debian's registry with passwords, a private authority and a token server; and who sees secrets.

#[expect(dead_code, reason = "the client's own tests look into the registry's storage too")]
#[path = "../builder/tests/registry/docker.rs"]
mod docker;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use docker::{Options, PASSWORD, Registry, USER};
use imgbuild_tests::{fail_with, has, imgbuild, json_file, model_in, succeed, text};

/// `imgbuild` that has no account of its own, at home in a folder.
fn command(home: &Path) -> Command {
    let mut command = imgbuild();
    command.current_dir(home).env("HOME", home).env("DOCKER_CONFIG", home.join("docker"));
    for name in ["XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "REGISTRY_AUTH_FILE", "IMGBUILD_REGISTRY_USER"] {
        command.env_remove(name);
    }
    command
}

fn login(home: &Path, host: &str, options: &[&str], password: &str) -> std::process::Output {
    let mut command = command(home);
    command.args(["login", host, "-u", USER, "--password-stdin"]).args(options);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("imgbuild starts");
    child.stdin.take().expect("a pipe").write_all(password.as_bytes()).expect("it reads the password");
    child.wait_with_output().expect("it ends")
}

/// Passwords and what is made of them, none of which may be seen.
fn secrets() -> Vec<String> {
    let pair = format!("{USER}:{PASSWORD}");
    let output = Command::new("python3")
        .args(["-c", "import base64, sys; print(base64.b64encode(sys.argv[1].encode()).decode())", &pair])
        .output()
        .expect("python3 runs");
    vec![PASSWORD.to_owned(), text(&output.stdout).trim().trim_end_matches('=').to_owned()]
}

fn show_none(what: &str, bytes: &[u8], secrets: &[String]) {
    for secret in secrets {
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{what} shows a secret: {}", text(bytes));
    }
}

/// Looks at the command lines of all processes until it is told to end, and keeps those of `imgbuild` and what it starts.
fn watch_processes(end: Arc<AtomicBool>) -> std::thread::JoinHandle<BTreeSet<Vec<u8>>> {
    std::thread::spawn(move || {
        let mut seen = BTreeSet::new();
        while !end.load(Ordering::Relaxed) {
            for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                if let Ok(line) = fs::read(entry.path().join("cmdline"))
                    && !line.is_empty()
                {
                    seen.insert(line);
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        seen
    })
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() { found.extend(files_below(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

#[test]
fn a_password_is_in_no_log_report_layer_error_or_process_list() {
    let Some(registry) = Registry::start(&Options { password: true, tls: true, ..Options::default() }) else { return };
    let home = tempfile::tempdir().expect("a folder");
    let model = model_in(home.path(), "magika");
    let ca = registry.file("ca.crt");
    let ca = ca.to_str().expect("a path");
    let reference = format!("{}/acme/magika:1", registry.host);
    let secrets = secrets();

    let end = Arc::new(AtomicBool::new(false));
    let watcher = watch_processes(Arc::clone(&end));
    let mut outputs = Vec::new();
    // With the account in the environment, as pipelines have it.
    let mut build = command(home.path());
    build.env("IMGBUILD_REGISTRY_USER", USER).env("IMGBUILD_REGISTRY_PASSWORD", PASSWORD).env("RUST_LOG", "trace");
    build.args(["-vv", "build", "-t", &reference, "--push", "--ca-file", ca, "--report", "size.json", "--attestations", "said"]);
    outputs.push(succeed(build.arg(model)));
    // With a file that `login` writes, and after a wrong password.
    let wrong = login(home.path(), &registry.host, &["--ca-file", ca], "wr0ng-s3cret");
    assert_eq!(wrong.status.code(), Some(8), "{wrong:?}");
    show_none("login", &wrong.stderr, &["wr0ng-s3cret".to_owned()]);
    let done = login(home.path(), &registry.host, &["--ca-file", ca], PASSWORD);
    assert!(done.status.success(), "{done:?}");
    outputs.push(done);
    let source = format!("docker://{reference}");
    let copy = format!("docker://{}/prod/magika:1", registry.host);
    outputs.push(succeed(command(home.path()).args(["-vv", "push", &source, &copy, "--referrers", "--ca-file", ca, "--json"])));
    outputs.push(succeed(command(home.path()).args(["-vv", "push", &copy, "oci:back:1", "--ca-file", ca])));
    outputs.push(succeed(command(home.path()).args(["-vv", "referrers", &copy, "--ca-file", ca, "--output", "fetched"])));
    let gone = format!("docker://{}/none/none:1", registry.host);
    outputs.push(command(home.path()).args(["-vv", "inspect", &gone, "--ca-file", ca]).output().expect("it runs"));
    outputs.push(command(home.path()).args(["-vv", "inspect", &source]).output().expect("it runs"));
    end.store(true, Ordering::Relaxed);
    let lines = watcher.join().expect("no panic");

    assert!(lines.iter().any(|line| text(line).contains("imgbuild\0-vv\0build")), "the watcher saw nothing");
    for line in lines.iter().filter(|line| !text(line).contains("htpasswd") && !text(line).contains("b64encode")) {
        show_none("a command line", line, &secrets);
    }
    for output in &outputs {
        show_none("stdout", &output.stdout, &secrets);
        show_none("stderr", &output.stderr, &secrets);
    }
    // Layers, manifests, attached documents, reports; Docker's file alone may know it.
    let stored = files_below(&registry.file("data"));
    assert!(stored.len() > 20, "{stored:?}");
    for file in stored.iter().chain(&files_below(home.path())).filter(|file| !file.ends_with("docker/config.json")) {
        show_none(&file.display().to_string(), &fs::read(file).expect("a file"), &secrets);
    }
    // What `login` wrote is what skopeo reads, and Docker's own command where it is installed.
    let config = home.path().join("docker");
    if has("skopeo") {
        let file = config.join("config.json");
        let arguments = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", "--authfile"];
        succeed(Command::new("skopeo").args(arguments).arg(file).arg(&source));
    }
    if has("docker") {
        let logout = succeed(Command::new("docker").env("DOCKER_CONFIG", &config).args(["logout", &registry.host]));
        assert!(text(&logout.stdout).contains("Removing login credentials"), "{}", text(&logout.stdout));
        let refused = fail_with(command(home.path()).args(["inspect", &source, "--ca-file", ca]), 8);
        assert!(refused.contains("imgbuild login"), "{refused}");
    }
}

#[test]
fn certificates_are_checked_for_each_registry_by_itself() {
    let options = || Options { tls: true, client_certificates: true, ..Options::default() };
    let (Some(one), Some(other)) = (Registry::start(&options()), Registry::start(&options())) else { return };
    let home = tempfile::tempdir().expect("a folder");
    let model = model_in(home.path(), "magika");
    succeed(command(home.path()).args(["build", "-o", "oci:image:1"]).arg(model));
    let push = |registry: &Registry, options: &[String]| {
        let mut push = command(home.path());
        push.args(["push", "oci:image:1", &format!("docker://{}/a/b:1", registry.host)]).args(options);
        push
    };
    let file = |registry: &Registry, name: &str| registry.file(name).display().to_string();
    let shown = |registry: &Registry| {
        ["--client-cert".to_owned(), file(registry, "client.crt"), "--client-key".to_owned(), file(registry, "client.key")]
    };
    let trusting = |registry: &Registry| ["--ca-file".to_owned(), file(registry, "ca.crt")];
    let insecure = |registry: &Registry| ["--insecure".to_owned(), registry.host.clone()];
    succeed(&mut push(&one, &[trusting(&one).as_slice(), &shown(&one)].concat()));
    // Without a certificate of this side, with another's authority, with permission for another registry alone.
    fail_with(&mut push(&one, &trusting(&one)), 8);
    fail_with(&mut push(&one, &[trusting(&other).as_slice(), &shown(&one)].concat()), 8);
    fail_with(&mut push(&one, &[insecure(&other).as_slice(), &shown(&one)].concat()), 8);
    succeed(&mut push(&other, &[insecure(&other).as_slice(), &shown(&other)].concat()));
    // A key without its certificate is no choice.
    fail_with(&mut push(&one, &["--client-key".to_owned(), file(&one, "client.key")]), 2);
}

/// A token server whose tokens Debian's registry checks. They end after a second, as if a push took longer than that.
struct TokenServer {
    address: String,
    key: PathBuf,
    certificate: String,
    granted: Arc<AtomicU64>,
    said: Arc<Mutex<Vec<String>>>,
}

fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digit = |chunk: &[u8], at: usize| {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63])
    };
    bytes.chunks(3).flat_map(|chunk| (0..=chunk.len()).map(move |at| digit(chunk, at))).collect()
}

impl TokenServer {
    /// Makes its key and listens.
    fn start(folder: &Path) -> Arc<Self> {
        let (key, certificate) = (folder.join("token.key"), folder.join("token.crt"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens", "-keyout"]);
        succeed(openssl.arg(&key).arg("-out").arg(&certificate));
        let pem = fs::read_to_string(&certificate).expect("a certificate");
        let certificate = pem.lines().filter(|line| !line.starts_with("---")).collect();
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("it listens").to_string();
        let server = Arc::new(Self { address, key, certificate, granted: Arc::default(), said: Arc::default() });
        let own = Arc::clone(&server);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
                let first = lines.next().and_then(Result::ok).unwrap_or_default();
                let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let account = head.iter().any(|line| line.to_ascii_lowercase().starts_with("authorization: basic "));
                let (status, body) = if account { ("200 OK", own.grant(&first)) } else { ("401 Unauthorized", "{}".to_owned()) };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        server
    }

    /// Signs what a request asks for.
    fn grant(&self, request: &str) -> String {
        let query = request.split(' ').nth(1).and_then(|path| path.split_once('?')).map_or("", |(_, query)| query);
        let plain = query.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
        let access: Vec<String> = plain
            .split('&')
            .filter_map(|pair| pair.strip_prefix("scope="))
            .flat_map(|scopes| scopes.split(['+', ' ']))
            .filter_map(|scope| {
                let (kind, rest) = scope.split_once(':')?;
                let (name, actions) = rest.rsplit_once(':')?;
                let actions: Vec<String> = actions.split(',').map(|action| format!("\"{action}\"")).collect();
                Some(format!(r#"{{"type":"{kind}","name":"{name}","actions":[{}]}}"#, actions.join(",")))
            })
            .collect();
        let number = self.granted.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        // The registry allows a minute of leeway, so what it is given has ended but for two seconds of that.
        let claims = format!(
            r#"{{"iss":"tests","sub":"{USER}","aud":"registry","exp":{},"nbf":{},"iat":{now},"jti":"{number}","access":[{}]}}"#,
            now - 58,
            now - 120,
            access.join(",")
        );
        let header = format!(r#"{{"typ":"JWT","alg":"RS256","x5c":["{}"]}}"#, self.certificate);
        let signed = format!("{}.{}", base64_url(header.as_bytes()), base64_url(claims.as_bytes()));
        let mut openssl = Command::new("openssl");
        openssl.args(["dgst", "-sha256", "-sign"]).arg(&self.key).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = openssl.spawn().expect("openssl starts");
        child.stdin.take().expect("a pipe").write_all(signed.as_bytes()).expect("openssl reads");
        let signature = child.wait_with_output().expect("openssl ends").stdout;
        let token = format!("{signed}.{}", base64_url(&signature));
        self.said.lock().expect("no panic").push(token.clone());
        format!(r#"{{"token":"{token}","expires_in":600}}"#)
    }
}

#[test]
fn debians_registry_takes_the_tokens_of_a_server_and_new_ones_when_they_end() {
    if !has("openssl") {
        return;
    }
    let home = tempfile::tempdir().expect("a folder");
    let tokens = TokenServer::start(home.path());
    let more = format!(
        "auth:\n  token: {{realm: \"http://{}/token\", service: registry, issuer: tests, rootcertbundle: {}}}\n",
        tokens.address,
        home.path().join("token.crt").display()
    );
    let Some(registry) = Registry::start(&Options { more, ..Options::default() }) else { return };
    let model = model_in(home.path(), "magika");
    let place = |repository: &str| format!("docker://{}/{repository}:1", registry.host);
    let with_account = |arguments: &[&str]| {
        let mut command = command(home.path());
        command.env("IMGBUILD_REGISTRY_USER", USER).env("IMGBUILD_REGISTRY_PASSWORD", PASSWORD).args(arguments);
        command
    };
    let error = fail_with(command(home.path()).args(["build", "-o", &place("a/b")]).arg(&model), 8);
    assert!(error.contains("imgbuild login"), "{error}");
    succeed(with_account(&["build", "-o", "oci:image:1"]).arg(&model));
    let pushed = succeed(&mut with_account(&["-vv", "push", "oci:image:1", &place("acme/magika")]));
    // Tokens last two seconds whatever the server says of them: later on, each answer of 401 has to lead to another one.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let copied = succeed(&mut with_account(&["-vv", "push", &place("acme/magika"), &place("prod/magika"), "--json"]));
    let said: serde_json::Value = serde_json::from_slice(&copied.stdout).expect("JSON");
    assert_eq!(said["pushed"]["bytes_sent"], said["pushed"]["manifest_bytes"], "layers are mounted: {said}");
    succeed(&mut with_account(&["push", &place("prod/magika"), "oci:back:1"]));
    let digest = |layout: &str| {
        json_file(&home.path().join(layout).join("index.json"))["manifests"][0]["digest"].as_str().map(str::to_owned)
    };
    assert_eq!(digest("image"), digest("back"));
    assert_eq!(digest("image").as_deref(), said["digest"].as_str());
    let tokens = tokens.said.lock().expect("no panic").clone();
    assert!(tokens.len() >= 3, "{}", tokens.len());
    for output in [&pushed, &copied] {
        show_none("stdout", &output.stdout, &tokens);
        show_none("stderr", &output.stderr, &tokens);
    }
}

/// A proxy that opens tunnels, whatever host is asked for, to one place on the loopback; gives its address and what it was asked.
fn tunnels(to: &str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("it listens").to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (said, to) = (Arc::clone(&asked), to.to_owned());
    let tunnel = move |mut client: TcpStream| -> std::io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
        said.lock().expect("no panic").push(head);
        let mut registry = TcpStream::connect(&to)?;
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
        let mut back = registry.try_clone()?;
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut back, &mut client);
            let _ = client.shutdown(Shutdown::Both);
        });
        std::io::copy(&mut reader, &mut registry)?;
        registry.shutdown(Shutdown::Both)
    };
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let tunnel = tunnel.clone();
            std::thread::spawn(move || tunnel(client));
        }
    });
    (address, asked)
}

#[test]
fn the_environments_proxy_leads_to_a_registry_that_has_no_other_way() {
    const HOST: &str = "registry.example.com:5000";
    let Some(registry) = Registry::start(&Options::default()) else { return };
    let home = tempfile::tempdir().expect("a folder");
    let model = model_in(home.path(), "magika");
    let (proxy, asked) = tunnels(&registry.host);
    succeed(command(home.path()).args(["build", "-o", "oci:image:1"]).arg(model));
    let with_proxy = |arguments: &[&str], exceptions: &str| {
        let mut command = command(home.path());
        command.env("HTTP_PROXY", format!("http://gate:k33per@{proxy}")).env("NO_PROXY", exceptions);
        command.args(arguments).args(["--insecure", HOST]);
        command
    };
    let there = format!("docker://{HOST}/acme/magika:1");
    let pushed = succeed(&mut with_proxy(&["-vv", "push", "oci:image:1", &there], "other.example.com"));
    let pulled = succeed(&mut with_proxy(&["-vv", "push", &there, "oci:back:1"], ""));
    let index = |layout: &str| json_file(&home.path().join(layout).join("index.json"))["manifests"][0]["digest"].clone();
    assert_eq!(registry.tagged("acme/magika", "1").as_deref(), index("image").as_str());
    assert_eq!(index("back"), index("image"));
    let heads = asked.lock().expect("no panic").clone();
    assert!(heads.len() >= 2, "{heads:?}");
    for head in &heads {
        assert!(head.starts_with(&format!("CONNECT {HOST} HTTP/1.1\r\n")), "{head}");
        assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic z2f0ztprmznwzxi="), "{head}");
    }
    // An exception to the proxy goes the direct way, which does not exist; neither way shows the proxy's password.
    let failed = with_proxy(&["-vv", "push", "oci:image:1", &there], "example.com").output().expect("imgbuild runs");
    assert_eq!(failed.status.code(), Some(8), "{}", text(&failed.stderr));
    assert_eq!(asked.lock().expect("no panic").len(), heads.len());
    for output in [&pushed, &pulled, &failed] {
        show_none("stdout", &output.stdout, &["k33per".to_owned()]);
        show_none("stderr", &output.stderr, &["k33per".to_owned(), "Z2F0ZTprMzNwZXI".to_owned()]);
    }
}

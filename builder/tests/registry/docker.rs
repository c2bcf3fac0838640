//! Debian's `docker-registry` and the tools that judge what lies in it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub const USER: &str = "tester";
pub const PASSWORD: &str = "hunter2-p%40ss:word";

/// How the registry is started.
#[derive(Default)]
pub struct Options {
    pub password: bool,
    pub tls: bool,
    pub client_certificates: bool,
    /// Further lines of its configuration.
    pub more: String,
}

/// A running registry; it ends when dropped.
pub struct Registry {
    pub folder: TempDir,
    pub host: String,
    child: Child,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn have(program: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    if !found {
        eprintln!("skipped: `{program}` is not installed");
    }
    found
}

/// Runs a program; what it says is shown where it fails.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

impl Registry {
    /// Starts a registry; `None`, with the reason printed, where a program for it is missing.
    pub fn start(options: &Options) -> Option<Self> {
        let needed = [Some("docker-registry"), options.password.then_some("htpasswd"), options.tls.then_some("openssl")];
        if !needed.into_iter().flatten().all(have) {
            return None;
        }
        let folder = TempDir::new().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        // Another program may take the port before the registry does: then it is tried again.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
            let host = format!("127.0.0.1:{port}");
            let mut config = format!(
                "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp:\n  addr: {host}\n  secret: loopback\n",
                path("data")
            );
            if options.tls {
                make_certificates(folder.path());
                config += &format!("  tls:\n    certificate: {}\n    key: {}\n", path("server.crt"), path("server.key"));
                if options.client_certificates {
                    config += &format!("    clientcas: [{}]\n", path("ca.crt"));
                }
            }
            if options.password {
                let line = run("htpasswd", &["-Bbn", USER, PASSWORD]);
                fs::write(path("htpasswd"), line).expect("a file");
                config += &format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", path("htpasswd"));
            }
            config += &options.more;
            fs::write(path("config.yml"), config).expect("a file");
            let output = fs::File::create(path("log")).expect("a file");
            let mut child = Command::new("docker-registry")
                .args(["serve", &path("config.yml")])
                .stdin(Stdio::null())
                .stdout(output.try_clone().expect("a second handle"))
                .stderr(output)
                .spawn()
                .expect("it is installed");
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(30) {
                if child.try_wait().expect("its state").is_some() {
                    break;
                }
                if std::net::TcpStream::connect(&host).is_ok() {
                    return Some(Self { folder, host, child });
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("docker-registry does not start: {}", fs::read_to_string(folder.path().join("log")).unwrap_or_default());
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The bytes that lie in the registry's storage under a digest, read without the registry.
    pub fn stored(&self, digest: &imgbuild::digest::Digest) -> Option<PathBuf> {
        let hex = digest.hex();
        let path = self.file("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(&hex).join("data");
        path.is_file().then_some(path)
    }

    /// What a tag points at, read without the registry.
    pub fn tagged(&self, repository: &str, tag: &str) -> Option<String> {
        let path = self
            .file("data/docker/registry/v2/repositories")
            .join(repository)
            .join("_manifests/tags")
            .join(tag)
            .join("current/link");
        fs::read_to_string(path).ok()
    }

    /// Whether a blob is linked into a repository.
    pub fn linked(&self, repository: &str, digest: &imgbuild::digest::Digest) -> bool {
        self.file("data/docker/registry/v2/repositories")
            .join(repository)
            .join("_layers/sha256")
            .join(digest.hex())
            .join("link")
            .is_file()
    }
}

/// An authority, and certificates of it for the server and for a client.
fn make_certificates(folder: &Path) {
    if folder.join("ca.crt").exists() {
        return;
    }
    let path = |name: &str| folder.join(name).display().to_string();
    let quiet = |arguments: &[&str]| run("openssl", arguments);
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let mut ca = vec!["req", "-x509", "-days", "2", "-subj", "/CN=imgbuild test authority"];
    let (ca_key, ca_crt) = (path("ca.key"), path("ca.crt"));
    ca.extend(key);
    ca.extend(["-keyout", &ca_key, "-out", &ca_crt, "-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
    quiet(&ca);
    for (name, extensions) in [
        ("server", "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n"),
        ("client", "extendedKeyUsage=clientAuth\nbasicConstraints=CA:FALSE\n"),
    ] {
        let (key_file, request, certificate, extension) = (
            path(&format!("{name}.key")),
            path(&format!("{name}.csr")),
            path(&format!("{name}.crt")),
            path(&format!("{name}.ext")),
        );
        fs::write(&extension, extensions).expect("a file");
        let subject = format!("/CN=imgbuild test {name}");
        let mut csr = vec!["req", "-new", "-subj", &subject];
        csr.extend(key);
        csr.extend(["-keyout", &key_file, "-out", &request]);
        quiet(&csr);
        quiet(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &ca_crt,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &extension,
            "-out",
            &certificate,
        ]);
    }
}

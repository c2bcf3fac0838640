//! The images of a running Docker or podman, through its socket.
//!
//! An image goes there as the stream of a Docker archive, made while it is sent, and comes back as one.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::archive::Archive;
use super::content::Content;
use super::convert::without_zstd;
use super::docker::open_docker;
use super::error::{TransportError, io_error};
use super::files::Files;
use super::name::ImageName;
use super::{Open, Placed, Put};
use crate::digest::Digest;
use crate::image::Image;

/// A daemon that is there answers a question for its version in this time.
const ANSWER_SECONDS: u64 = 10;
/// A load of many gigabytes is answered only at its end.
const LOAD: Duration = Duration::from_secs(24 * 60 * 60);

/// Loads an image into the daemon.
pub(super) fn put(name: &ImageName, image: &Image, request: &Put) -> Result<Placed, TransportError> {
    put_at(&addresses(&environment)?, name, image, request)
}

/// Exports an image from the daemon and opens it.
pub(super) fn open(name: &ImageName, request: &Open) -> Result<Content, TransportError> {
    open_at(&addresses(&environment)?, name, request)
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where a daemon may listen, likeliest first: what the user chose, by DOCKER_HOST or by Docker's context, or else the usual sockets.
fn addresses(environment: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>, TransportError> {
    if let Some(host) = environment("DOCKER_HOST") {
        return Ok(vec![host]);
    }
    if let Some(host) = context_host(environment)? {
        return Ok(vec![host]);
    }
    let mut paths = vec!["/var/run/docker.sock".to_owned()];
    if let Some(runtime) = environment("XDG_RUNTIME_DIR") {
        paths.push(format!("{runtime}/docker.sock"));
        paths.push(format!("{runtime}/podman/podman.sock"));
    }
    if let Some(home) = environment("HOME") {
        paths.push(format!("{home}/.docker/run/docker.sock"));
    }
    paths.push("/run/podman/podman.sock".to_owned());
    Ok(paths.into_iter().map(|path| format!("unix://{path}")).collect())
}

/// The address of the context that the user chose for Docker's own command; `None` for the default one.
fn context_host(environment: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, TransportError> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Config {
        current_context: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Context {
        endpoints: Endpoints,
    }
    #[derive(Deserialize)]
    struct Endpoints {
        docker: Endpoint,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Endpoint {
        host: String,
    }
    let folder = environment("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| environment("HOME").map(|home| Path::new(&home).join(".docker")));
    let Some(folder) = folder else { return Ok(None) };
    // A config that is absent or damaged chooses nothing; Docker's own command complains about the latter.
    let chosen = || std::fs::read(folder.join("config.json")).ok().and_then(|text| serde_json::from_slice::<Config>(&text).ok());
    let name = environment("DOCKER_CONTEXT").or_else(|| chosen()?.current_context);
    let Some(name) = name.filter(|name| name != "default" && !name.is_empty()) else { return Ok(None) };
    let path = folder.join("contexts/meta").join(Digest::of(name.as_bytes()).hex()).join("meta.json");
    let text = std::fs::read(&path).map_err(io_error("read Docker's context", &path))?;
    let context: Context = serde_json::from_slice(&text).map_err(|source| TransportError::Json {
        place: folder,
        file: path.display().to_string(),
        source,
    })?;
    Ok(Some(context.endpoints.docker.host))
}

fn runtime() -> Result<tokio::runtime::Runtime, TransportError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io_error("start the connection to", Path::new("the daemon")))
}

/// Finds a daemon that answers.
async fn connect(addresses: &[String]) -> Result<(Docker, String), TransportError> {
    let mut tried = Vec::new();
    for address in addresses {
        match connect_to(address).await {
            Ok(docker) => return Ok((docker.with_timeout(LOAD), address.clone())),
            Err(reason) => tried.push((address.clone(), reason)),
        }
    }
    Err(TransportError::NoDaemon { tried })
}

async fn connect_to(address: &str) -> Result<Docker, String> {
    let docker = match address.split_once("://") {
        Some(("unix", path)) => {
            if !Path::new(path).exists() {
                return Err("no such socket".to_owned());
            }
            Docker::connect_with_unix(address, ANSWER_SECONDS, API_DEFAULT_VERSION)
        }
        Some(("tcp" | "http", _)) if environment("DOCKER_TLS_VERIFY").is_none() => {
            Docker::connect_with_http(address, ANSWER_SECONDS, API_DEFAULT_VERSION)
        }
        _ => return Err("only `unix://` and `tcp://` without TLS are spoken here".to_owned()),
    };
    match docker {
        Ok(docker) => docker.negotiate_version().await.map_err(|error| root_cause(&error)),
        Err(error) => Err(root_cause(&error)),
    }
}

/// Tells whether a daemon of some version of the interface loads layers that are compressed with zstd: Docker since 23.0, which brought
/// version 1.42.
fn reads_zstd(version: &bollard::ClientVersion) -> bool {
    (version.major_version, version.minor_version) >= (1, 42)
}

/// The innermost reason, which is the one that says something.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Passes bytes to the connection.
struct Sender(mpsc::Sender<io::Result<Bytes>>);

impl Write for Sender {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(Ok(Bytes::copy_from_slice(buffer))).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn put_at(addresses: &[String], name: &ImageName, image: &Image, request: &Put) -> Result<Placed, TransportError> {
    let runtime = runtime()?;
    let (docker, address) = runtime.block_on(connect(addresses))?;
    let converted = if reads_zstd(&docker.client_version()) { None } else { without_zstd(image)? };
    let image = converted.as_ref().unwrap_or(image);
    let content = Content::Image(image.clone());
    let archive = Archive::docker(&content, image, std::slice::from_ref(name))?;
    let size = archive.size();
    let task = request.progress.task(format!("load `{name}` into {address}"), Some(size));
    let (sender, receiver) = mpsc::channel(4);
    let place = PathBuf::from(&address);
    let (sent, loaded) = std::thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let writer = BufWriter::with_capacity(1 << 18, Sender(sender.clone()));
            let sent = archive.write(writer, &place, &task).map(|_| ());
            if sent.is_err() {
                // The request must break off: an archive that just ends could pass for a whole one.
                let _ = sender.blocking_send(Err(io::Error::other("the image cannot be read")));
            }
            drop(sender);
            sent
        });
        let loaded = runtime.block_on(load(&docker, name, &address, receiver));
        (producer.join(), loaded)
    });
    match sent {
        Ok(Err(TransportError::Io { source, .. })) if source.kind() == io::ErrorKind::BrokenPipe => {}
        Ok(sent) => sent?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    loaded?;
    Ok(Placed { descriptor: content.descriptor(), written: size })
}

async fn load(
    docker: &Docker,
    name: &ImageName,
    address: &str,
    receiver: mpsc::Receiver<io::Result<Bytes>>,
) -> Result<(), TransportError> {
    let failed = |action| {
        move |source| TransportError::Daemon {
            action,
            name: name.to_string(),
            address: address.to_owned(),
            source: Box::new(source),
        }
    };
    let body =
        futures_util::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) });
    let options = bollard::query_parameters::ImportImageOptionsBuilder::new().quiet(true).build();
    let mut answers = std::pin::pin!(docker.import_image_stream(options, body, None));
    while let Some(answer) = answers.next().await {
        answer.map_err(failed("load"))?;
    }
    docker.inspect_image(&name.to_string()).await.map_err(failed("find after loading"))?;
    Ok(())
}

pub(super) fn open_at(addresses: &[String], name: &ImageName, request: &Open) -> Result<Content, TransportError> {
    let scratch = request.scratch();
    let runtime = runtime()?;
    let file = runtime.block_on(async {
        let (docker, address) = connect(addresses).await?;
        let failed = |source| TransportError::Daemon {
            action: "export",
            name: name.to_string(),
            address: address.clone(),
            source: Box::new(source),
        };
        let inspected = match docker.inspect_image(&name.to_string()).await {
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                return Err(TransportError::NotFound {
                    place: address.clone().into(),
                    wanted: name.to_string(),
                    available: known(&docker).await,
                });
            }
            inspected => inspected.map_err(failed)?,
        };
        let total = inspected.size.and_then(|size| u64::try_from(size).ok());
        let task = request.progress.task(format!("export `{name}` from {address}"), total);
        let mut file = tempfile::NamedTempFile::new_in(&scratch).map_err(io_error("create a file in", &scratch))?;
        let mut stream = std::pin::pin!(docker.export_image(&name.to_string()));
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(failed)?;
            file.write_all(&chunk).map_err(io_error("write into", &scratch))?;
            task.advance(chunk.len() as u64);
        }
        Ok(file)
    })?;
    let files = Files::temporary(file.into_temp_path(), Path::new(&format!("docker-daemon:{name}")))?;
    open_docker(&files, Some(name), request.platform)
}

/// The names of the images that a daemon has; none where it does not say.
async fn known(docker: &Docker) -> Vec<String> {
    let images = docker.list_images(None::<bollard::query_parameters::ListImagesOptions>).await.unwrap_or_default();
    let mut names: Vec<String> = images.into_iter().flat_map(|image| image.repo_tags).collect();
    names.sort();
    names.truncate(20);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zstd_goes_to_daemons_that_know_it() {
        let version = |minor_version| bollard::ClientVersion { major_version: 1, minor_version };
        assert!(!reads_zstd(&version(41)) && reads_zstd(&version(42)));
    }

    #[test]
    fn the_users_choice_comes_before_the_usual_sockets() {
        let home = tempfile::tempdir().expect("temporary folder");
        let config = home.path().join(".docker");
        let meta = config.join("contexts/meta").join(Digest::of(b"remote").hex());
        std::fs::create_dir_all(&meta).expect("folder");
        std::fs::write(config.join("config.json"), r#"{"currentContext":"remote","auths":{}}"#).expect("file");
        let found = |variables: &[(&str, &str)]| {
            addresses(&|name| {
                let home = (name == "HOME").then(|| home.path().display().to_string());
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()).or(home)
            })
        };
        assert_eq!(found(&[("DOCKER_HOST", "tcp://localhost:1")]).expect("set"), ["tcp://localhost:1"]);
        let error = found(&[]).expect_err("the context is not there");
        assert!(error.to_string().contains("read Docker's context"), "{error}");
        std::fs::write(meta.join("meta.json"), r#"{"Name":"remote","Endpoints":{"docker":{"Host":"unix:///x.sock"}}}"#)
            .expect("file");
        assert_eq!(found(&[]).expect("context"), ["unix:///x.sock"]);
        let usual = found(&[("DOCKER_CONTEXT", "default"), ("XDG_RUNTIME_DIR", "/run/user/1")]).expect("default");
        assert_eq!(
            usual[..3],
            ["unix:///var/run/docker.sock", "unix:///run/user/1/docker.sock", "unix:///run/user/1/podman/podman.sock"]
        );
    }
}

//! Where an engine listens: [`Endpoint`].

use std::env;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bollard::errors::Error as EngineError;
use bollard::{API_DEFAULT_VERSION, Docker as Client};

use crate::runner::RunnerError;

/// The address of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket on this machine.
    Unix(PathBuf),
    /// `host:port` without encryption.
    Tcp(String),
}

impl FromStr for Endpoint {
    type Err = RunnerError;

    fn from_str(text: &str) -> Result<Self, RunnerError> {
        let error = || RunnerError::Endpoint { found: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Self::Unix(PathBuf::from(path))) } else { Err(error()) };
        }
        let address =
            text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://")).ok_or_else(error)?.trim_end_matches('/');
        let (host, port) = address.rsplit_once(':').ok_or_else(error)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || host.contains('/') || (host.contains(':') && !bracketed) || port.parse::<u16>().is_err() {
            return Err(error());
        }
        Ok(Self::Tcp(address.to_owned()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Endpoint {
    /// What `DOCKER_HOST` says, or else where engines usually listen: Docker, rootless Docker, podman, rootless podman.
    ///
    /// # Errors
    /// Where `DOCKER_HOST` is not understood.
    pub fn candidates() -> Result<Vec<Self>, RunnerError> {
        if let Some(host) = env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()) {
            return Ok(vec![host.parse()?]);
        }
        let folder = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Ok(usual_sockets(folder("XDG_RUNTIME_DIR").as_deref(), folder("HOME").as_deref()).into_iter().map(Self::Unix).collect())
    }

    /// Whether the engine is on this machine.
    pub(super) fn is_local(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// By which address this machine reaches what the engine publishes.
    pub(super) fn reach(&self) -> Result<IpAddr, RunnerError> {
        let Self::Tcp(address) = self else { return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)) };
        let step = |source| RunnerError::Refused { step: format!("find the address of {address}"), source };
        let mut found = address.to_socket_addrs().map_err(step)?;
        let found = found.next().map(|found| found.ip()).ok_or_else(|| RunnerError::Endpoint { found: self.to_string() })?;
        Ok(if found.is_loopback() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { found })
    }

    /// Connects and settles on a version of the API that both sides know.
    pub(super) async fn connect(&self, timeout: u64) -> Result<Client, EngineError> {
        let client = match self {
            Self::Unix(path) => Client::connect_with_unix(&path.to_string_lossy(), timeout, API_DEFAULT_VERSION)?,
            Self::Tcp(address) => Client::connect_with_http(&format!("tcp://{address}"), timeout, API_DEFAULT_VERSION)?,
        };
        client.negotiate_version().await
    }
}

fn usual_sockets(runtime: Option<&Path>, home: Option<&Path>) -> Vec<PathBuf> {
    let mut sockets = vec![PathBuf::from("/var/run/docker.sock")];
    sockets.extend(runtime.map(|folder| folder.join("docker.sock")));
    sockets.extend(home.map(|folder| folder.join(".docker/run/docker.sock")));
    sockets.extend(home.map(|folder| folder.join(".docker/desktop/docker.sock")));
    sockets.extend(runtime.map(|folder| folder.join("podman/podman.sock")));
    sockets.push(PathBuf::from("/run/podman/podman.sock"));
    sockets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_and_others_are_refused() {
        for text in ["unix:///var/run/docker.sock", "tcp://127.0.0.1:2375", "tcp://[::1]:2375", "tcp://engine:2375"] {
            assert_eq!(text.parse::<Endpoint>().expect("valid").to_string(), text);
        }
        assert_eq!("http://engine:80/".parse::<Endpoint>().expect("valid").to_string(), "tcp://engine:80");
        for bad in [
            "",
            "engine",
            "unix://run.sock",
            "ssh://me@engine",
            "tcp://engine",
            "tcp://:1",
            "tcp://a:b",
            "tcp://::1:2375",
            "tcp://e:99999",
            "tcp://a/b:1",
        ] {
            assert!(matches!(bad.parse::<Endpoint>(), Err(RunnerError::Endpoint { found }) if found == bad), "{bad}");
        }
    }

    #[test]
    fn rootless_sockets_are_looked_for_where_the_session_has_them() {
        let sockets = usual_sockets(Some(Path::new("/run/user/7")), None);
        let texts: Vec<_> = sockets.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(
            texts,
            ["/var/run/docker.sock", "/run/user/7/docker.sock", "/run/user/7/podman/podman.sock", "/run/podman/podman.sock"]
        );
    }
}

//! The images of an engine: pulled by the engine itself, and where their files lie.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bollard::errors::Error as EngineError;
use bollard::query_parameters::{CreateImageOptionsBuilder, RemoveImageOptions};
use futures_util::StreamExt as _;

use super::{Docker, RunnerError, Session};

/// How long an engine's own pull took, cut by the events that it sends: unpacking overlaps the download, and what is counted as
/// unpacking is what was left of it when the last layer had arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EnginePull {
    /// Until the first layer was named.
    pub resolve: Duration,
    /// From there until the last layer had arrived.
    pub download: Duration,
    /// From there to the end.
    pub unpack: Duration,
    /// Layers that the engine had already.
    pub present: u64,
}

impl Docker {
    /// What the engine is: `Docker` or `podman`, and its version.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn version(&self) -> Result<String, RunnerError> {
        let session = Session::open(&self.endpoint)?;
        let version = session.call("tell its version", session.client.version())?;
        let is_podman = version.components.into_iter().flatten().any(|component| component.name.contains("Podman"));
        let name = if is_podman { "podman" } else { "Docker" };
        Ok(format!("{name} {}", version.version.as_deref().unwrap_or("of an unknown version")))
    }

    /// Whether the engine has an image.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn has_image(&self, name: &str) -> Result<bool, RunnerError> {
        let session = Session::open(&self.endpoint)?;
        match session.run(session.client.inspect_image(name)) {
            Ok(_) => Ok(true),
            Err(EngineError::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
            Err(error) => Err(session.failed("find an image", error)),
        }
    }

    /// Lets the engine pull an image, without credentials.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn pull(&self, name: &str) -> Result<EnginePull, RunnerError> {
        let session = Session::open(&self.endpoint)?;
        let begun = Instant::now();
        let mut clock = PullClock::default();
        let pulled = session.run(async {
            let options = CreateImageOptionsBuilder::default().from_image(name).build();
            let mut events = std::pin::pin!(session.client.create_image(Some(options), None, None));
            while let Some(event) = events.next().await {
                clock.take(begun.elapsed(), event?.status.as_deref().unwrap_or_default());
            }
            Ok(())
        });
        pulled.map_err(|error| session.failed("pull an image", error))?;
        Ok(clock.finish(begun.elapsed()))
    }

    /// Takes a name off an image, which goes away with its last one.
    ///
    /// # Errors
    /// Where the engine refuses.
    pub fn remove_image(&self, name: &str) -> Result<(), RunnerError> {
        let session = Session::open(&self.endpoint)?;
        session.call("remove an image", session.client.remove_image(name, None::<RemoveImageOptions>, None)).map(drop)
    }

    /// The folders on this machine that make up an image's file system, the lowest first; `None` where they cannot be told or seen.
    ///
    /// # Errors
    /// Where the engine does not answer.
    pub fn image_folders(&self, name: &str) -> Result<Option<Vec<PathBuf>>, RunnerError> {
        let session = Session::open(&self.endpoint)?;
        let details = session.call("inspect an image", session.client.inspect_image(name))?;
        let Some(driver) = details.graph_driver.filter(|driver| driver.name.starts_with("overlay")) else { return Ok(None) };
        // Overlays are written the uppermost first.
        let lower = driver.data.get("LowerDir").into_iter().flat_map(|folders| folders.rsplit(':'));
        let folders: Vec<PathBuf> = lower.chain(driver.data.get("UpperDir").map(String::as_str)).map(PathBuf::from).collect();
        let seen = self.endpoint.is_local() && !folders.is_empty() && folders.iter().all(|folder| folder.is_dir());
        Ok(seen.then_some(folders))
    }
}

/// Cuts a pull into its parts.
#[derive(Debug, Default)]
struct PullClock {
    first_layer: Option<Duration>,
    arrived: Option<Duration>,
    present: u64,
}

impl PullClock {
    fn take(&mut self, at: Duration, status: &str) {
        match status {
            "Pulling fs layer" => drop(self.first_layer.get_or_insert(at)),
            "Already exists" => {
                self.first_layer.get_or_insert(at);
                self.present += 1;
            }
            "Download complete" => self.arrived = Some(at),
            _ => {}
        }
    }

    fn finish(self, end: Duration) -> EnginePull {
        let first = self.first_layer.unwrap_or(end);
        let arrived = self.arrived.unwrap_or(first).max(first);
        EnginePull { resolve: first, download: arrived - first, unpack: end.saturating_sub(arrived), present: self.present }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_cut_where_its_events_say() {
        let at = Duration::from_millis;
        let mut clock = PullClock::default();
        for (time, status) in [
            (1, "Pulling from a/b"),
            (5, "Pulling fs layer"),
            (6, "Pulling fs layer"),
            (7, "Already exists"),
            (20, "Download complete"),
            (30, "Download complete"),
            (40, "Pull complete"),
        ] {
            clock.take(at(time), status);
        }
        let expected = EnginePull { resolve: at(5), download: at(25), unpack: at(20), present: 1 };
        assert_eq!(clock.finish(at(50)), expected);
        // An engine that says nothing of layers: all of it is one figure.
        assert_eq!(PullClock::default().finish(at(9)), EnginePull { resolve: at(9), ..EnginePull::default() });
    }
}

//! Bringing an image from its registry into an empty store, with a clock in hand: [`Site`] and [`Installed`].

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::ColdStartError;
use super::files::ImageFiles;
use crate::digest::Digest;
use crate::image::{Descriptor, Image, ImageConfig, LocalBlobs};
use crate::layer::{self, Limits};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::registry::{Client, RegistryError, Settings, Shaper};
use crate::report::cold_start::Link;
use crate::runner::docker::Docker;
use crate::runner::embedded::Embedded;
use crate::runner::{ContainerSpec, Runner};
use crate::store::Store;

/// Layers that are downloaded at a time, as engines do.
const LANES: usize = 3;

/// How long the parts of a pull took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PullTimes {
    pub resolve: Duration,
    pub download: Duration,
    pub unpack: Duration,
    /// Round trips of resolving, and those of the download that follow one another.
    pub round_trips: (u64, u64),
}

/// An image ready to be started.
#[derive(Debug)]
pub(super) struct Installed {
    /// How long bringing it here took; `None` where it was here already.
    pub times: Option<PullTimes>,
    pub spec: ContainerSpec,
    /// Its files, where they can be seen.
    pub files: Option<ImageFiles>,
    /// Layers that the engine had before.
    pub present: u64,
    /// What goes away with it.
    _remains: Remains,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held until it is dropped")]
enum Remains {
    Folder(tempfile::TempDir),
    Image(EngineImage),
    Nothing,
}

/// An image that was pulled into an engine for the measurement; its name is taken off when dropped.
#[derive(Debug)]
struct EngineImage {
    docker: Docker,
    name: String,
}

impl Drop for EngineImage {
    fn drop(&mut self) {
        // An engine that is gone cannot be told; the image stays there under a name that says where it is from.
        let _ = self.docker.remove_image(&self.name);
    }
}

/// What starts the image.
#[derive(Debug)]
pub enum Starter {
    /// The runner inside imgbuild.
    Embedded(Embedded),
    /// Docker or podman.
    Engine(Docker),
}

/// Where the image is pulled to, and from where.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub starter: &'a Starter,
    pub store: &'a Store,
    pub settings: &'a Settings,
    pub platform: Platform,
    /// The image in its registry, or its name in the engine that has it.
    pub place: Place,
    /// The digest of its manifest.
    pub digest: Digest,
    pub config: ImageConfig,
    pub progress: &'a Progress,
}

/// Where the image is before it is started.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Registry(Reference),
    /// In the engine already: nothing is pulled.
    Engine(String),
}

impl Site<'_> {
    pub fn runner(&self) -> &dyn Runner {
        match self.starter {
            Starter::Embedded(embedded) => embedded,
            Starter::Engine(docker) => docker,
        }
    }

    /// Brings the image here, over a link where one is given.
    pub fn install(&self, link: Option<Link>) -> Result<Installed, ColdStartError> {
        match (self.starter, &self.place) {
            (Starter::Embedded(_), Place::Registry(reference)) => self.install_here(reference, link),
            (Starter::Engine(docker), Place::Registry(reference)) => self.install_in_engine(docker, reference),
            (Starter::Engine(docker), Place::Engine(name)) => self.installed(docker, name, None),
            (Starter::Embedded(_), Place::Engine(name)) => Err(ColdStartError::Data {
                place: name.clone(),
                reason: "is in an engine, which the embedded runner does not use".to_owned(),
            }),
        }
    }

    fn install_here(&self, reference: &Reference, link: Option<Link>) -> Result<Installed, ColdStartError> {
        let folder = self.store.scratch_folder()?;
        let store = Store::open(&folder.path().join("store"))?;
        let root = folder.path().join("rootfs");
        let shaper = Arc::new(link.map_or_else(Shaper::counting, |link| {
            Shaper::new(link.bits_per_second, Duration::from_secs_f64(link.latency_ms / 1e3))
        }));
        let settings = Settings { shaper: Some(Arc::clone(&shaper)), ..self.settings.clone() };

        let begun = Instant::now();
        // A client of this pull's own: no connection and no token is left from another.
        let client = Client::new(settings, self.progress);
        let image = client.open(reference, self.platform)?;
        let resolved = Instant::now();
        let found = image.descriptor().digest;
        if found != self.digest {
            return Err(ColdStartError::OtherImage { found, expected: self.digest });
        }
        let resolve_trips = shaper.round_trips();
        let blobs = download(&client, reference, &image, &store)?;
        let downloaded = Instant::now();
        layer::unpack(&image.parsed.layers, &blobs, &root, &Limits::default(), self.progress)?;
        let unpacked = Instant::now();

        let rounds = image.parsed.layers.len().div_ceil(LANES) as u64;
        let connection = if image.parsed.layers.len() > 1 { 1 } else { 0 };
        let times = PullTimes {
            resolve: resolved - begun,
            download: downloaded - resolved,
            unpack: unpacked - downloaded,
            round_trips: (resolve_trips, rounds + connection),
        };
        Ok(Installed {
            times: Some(times),
            files: Some(ImageFiles::find(std::slice::from_ref(&root))?),
            spec: ContainerSpec::unpacked(root, self.config.clone()),
            present: 0,
            _remains: Remains::Folder(folder),
        })
    }

    fn install_in_engine(&self, docker: &Docker, reference: &Reference) -> Result<Installed, ColdStartError> {
        let name = reference.to_string();
        if docker.has_image(&name)? {
            // It is the user's: it is not taken away to be pulled again.
            return self.installed(docker, &name, None);
        }
        let pull = docker.pull(&name)?;
        let image = EngineImage { docker: docker.clone(), name: name.clone() };
        let times = PullTimes { resolve: pull.resolve, download: pull.download, unpack: pull.unpack, round_trips: (0, 0) };
        let installed = self.installed(docker, &name, Some(times))?;
        Ok(Installed { present: pull.present, _remains: Remains::Image(image), ..installed })
    }

    fn installed(&self, docker: &Docker, name: &str, times: Option<PullTimes>) -> Result<Installed, ColdStartError> {
        let folders: Option<Vec<PathBuf>> = docker.image_folders(name)?;
        // Files of an engine that this user may not read are as good as unseen.
        let files = folders.and_then(|folders| ImageFiles::find(&folders).ok());
        let spec = ContainerSpec::named(name, self.config.clone());
        Ok(Installed { times, spec, files, present: 0, _remains: Remains::Nothing })
    }
}

/// Takes every layer into the store, several at a time.
fn download(client: &Client, reference: &Reference, image: &Image, store: &Store) -> Result<LocalBlobs, ColdStartError> {
    let layers: &[Descriptor] = &image.parsed.layers;
    let next = AtomicUsize::new(0);
    let blobs = Mutex::new(LocalBlobs::default());
    let lane = || -> Result<(), RegistryError> {
        while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
            let blob = client.download_blob(reference, layer, store)?;
            blobs.lock().unwrap_or_else(PoisonError::into_inner).add_file(layer.digest, blob.path);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES.min(layers.len())).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().try_for_each(|lane| lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(blobs.into_inner().unwrap_or_else(PoisonError::into_inner))
}

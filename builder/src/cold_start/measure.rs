//! The whole measurement, run after run: [`measure`].

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::error::ColdStartError;
use super::predict::{LINKS, Measured, predict};
use super::pull::{Installed, Place, PullTimes, Site, Starter};
use super::request::Question;
use super::serve::Served;
use super::start::{READY, Started, start};
use super::steady::{self, Load};
use super::{files, machine};
use crate::digest::Digest;
use crate::image::{Image, ImageConfig};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::registry::Settings;
use crate::report::cold_start::{
    ColdStartReport, Column, Link, PageCache, Phase, PhaseTimes, Prediction, SCHEMA, Source, Spread, Steady, TouchedFile, VERSION,
};
use crate::report::{Composition, ImageIdentity, LABEL};
use crate::runner::{PeakMemory, wait_until_ready};
use crate::store::Store;

/// How long a server may take to finish what it is doing.
const DRAIN: Duration = Duration::from_secs(30);

/// From where the image is pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// From a registry; what is found there must be the image.
    Registry(Reference),
    /// From a registry on the loopback that serves the image where it lies.
    Served,
    /// From nowhere: an engine has it under this name.
    Engine(String),
}

/// What is measured, and how.
#[derive(Debug)]
pub struct Request<'a> {
    /// The image.
    pub image: &'a Image,
    /// From where it is pulled.
    pub origin: Origin,
    /// Which platform's, of an index.
    pub platform: Platform,
    /// What starts it.
    pub starter: Starter,
    /// How registries are reached.
    pub settings: Settings,
    /// Beside which store the images of the runs are unpacked.
    pub store: &'a Store,
    /// Pulls, cold starts and warm starts.
    pub runs: usize,
    /// The link that downloads are shaped to.
    pub link: Option<Link>,
    /// The numbers of clients of the load.
    pub clients: Vec<u64>,
    /// How long each load lasts.
    pub load: Load,
    /// A folder of `input_N.pb`; zeros are sent where there is none.
    pub data: Option<PathBuf>,
    /// How long a server may take to be ready.
    pub patience: Duration,
    /// Set by whoever wants it to end.
    pub interrupted: &'a AtomicBool,
}

/// Measures an image's cold start: pulls it into an empty store, starts it and asks it, as often as the request says.
///
/// A rehearsal comes first and is not counted: it learns what the model wants to be asked.
///
/// # Errors
/// Where the image cannot be pulled, started or asked.
pub fn measure(request: &Request<'_>, progress: &Progress) -> Result<ColdStartReport, ColdStartError> {
    let reports = measure_together(std::slice::from_ref(request), progress)?;
    Ok(reports.into_iter().next().expect("a report for the one request"))
}

/// Measures several images in one session, a run of each in turn, so that whatever else the machine does meets all of them alike.
/// Gives their reports in the order of the requests.
///
/// # Errors
/// Where an image cannot be pulled, started or asked.
pub fn measure_together(requests: &[Request<'_>], progress: &Progress) -> Result<Vec<ColdStartReport>, ColdStartError> {
    let served = requests.iter().map(serve).collect::<Result<Vec<_>, _>>()?;
    let sessions = requests.iter().zip(&served).map(|(request, served)| Session::new(request, served.as_ref(), progress));
    let mut sessions = sessions.collect::<Result<Vec<_>, _>>()?;
    let rehearsed = sessions.iter().map(Session::rehearse).collect::<Result<Vec<_>, _>>()?;
    for run in 1..=requests.iter().map(|request| request.runs).max().unwrap_or(0) {
        let mut turns: Vec<_> = sessions.iter_mut().zip(&rehearsed).collect();
        // Who is first has the machine as the others left it: that changes too.
        if run % 2 == 0 {
            turns.reverse();
        }
        for (session, (question, _)) in turns {
            session.run(run, question)?;
        }
    }
    let name = session_name(requests);
    let reports = sessions.into_iter().zip(rehearsed);
    reports.map(|(session, (question, unshaped))| session.report(&question, unshaped, name.clone())).collect()
}

fn serve(request: &Request<'_>) -> Result<Option<Served>, ColdStartError> {
    match &request.origin {
        Origin::Served => Served::start(request.image.clone()).map(Some).map_err(|source| ColdStartError::Serve { source }),
        Origin::Registry(_) | Origin::Engine(_) => Ok(None),
    }
}

/// A name that no other session has: of what was measured, when, and by which process.
fn session_name(requests: &[Request<'_>]) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let images: Vec<String> = requests.iter().map(|request| request.image.descriptor().digest.to_string()).collect();
    let whole = Digest::of(format!("{now} {} {}", std::process::id(), images.join(" ")).as_bytes());
    whole.hex()[..16].to_owned()
}

struct Session<'a> {
    request: &'a Request<'a>,
    config: ImageConfig,
    composition: Composition,
    site: Site<'a>,
    progress: &'a Progress,
    samples: Samples,
}

/// What was measured so far.
#[derive(Default)]
struct Samples {
    pulls: Vec<PullTimes>,
    cold: Starts,
    warm: Starts,
    touched: Vec<TouchedFile>,
    /// The most that was left in the page cache before a cold start.
    left: files::Resident,
    present: u64,
    /// Whether the warm starts' files were read before each.
    warmed: bool,
}

/// The starts of one column.
#[derive(Default)]
struct Starts {
    phases: Vec<Vec<(Phase, Duration)>>,
    totals: Vec<Duration>,
    waits: Vec<Option<Duration>>,
}

impl Starts {
    fn take(&mut self, started: &Started) {
        self.phases.push(started.phases.clone());
        self.totals.push(started.total);
        self.waits.push(started.waited);
    }

    /// The part of all starts during which some task waited for a CPU; `None` where it is not known of each.
    fn contention(&self) -> Option<f64> {
        let waited: Duration = self.waits.iter().copied().sum::<Option<Duration>>()?;
        let part = waited.as_secs_f64() / self.totals.iter().sum::<Duration>().as_secs_f64();
        // Thousandths; the kernel's count and this process's clock are read one after the other.
        part.is_finite().then(|| ((part * 1e3).round() / 1e3).min(1.0))
    }
}

impl<'a> Session<'a> {
    fn new(request: &'a Request<'a>, served: Option<&Served>, progress: &'a Progress) -> Result<Self, ColdStartError> {
        let config: ImageConfig =
            serde_json::from_slice(&request.image.config).map_err(|source| ColdStartError::Config { source })?;
        let labels = config.config.labels.as_ref();
        let composition = labels
            .and_then(|labels| Composition::parse(labels.get(LABEL)?).ok())
            .ok_or(ColdStartError::Unlabelled { label: LABEL })?;
        let place = match (&request.origin, served) {
            (_, Some(served)) => Place::Registry(served.reference().clone()),
            (Origin::Registry(reference), None) => Place::Registry(reference.clone()),
            (Origin::Engine(name), None) => Place::Engine(name.clone()),
            (Origin::Served, None) => unreachable!("local images are served before their session begins"),
        };
        let site = Site {
            starter: &request.starter,
            store: request.store,
            settings: &request.settings,
            platform: request.platform,
            place,
            digest: request.image.descriptor().digest,
            config: config.clone(),
            progress,
        };
        Ok(Self { request, config, composition, site, progress, samples: Samples::default() })
    }

    /// Puts the image under load, and gathers everything.
    fn report(
        self,
        question: &Question,
        unshaped: Option<PullTimes>,
        session: String,
    ) -> Result<ColdStartReport, ColdStartError> {
        let (steady, peak_memory) = self.under_load(question)?;
        let Session { request, config, composition, site, samples, .. } = self;
        Ok(ColdStartReport {
            schema: SCHEMA.to_owned(),
            version: VERSION,
            imgbuild: env!("CARGO_PKG_VERSION").to_owned(),
            image: ImageIdentity {
                digest: request.image.descriptor().digest,
                config: request.image.parsed.config.digest,
                platform: format!("{}/{}", config.os, config.architecture),
            },
            model: composition.model,
            stack: Some(composition.stack),
            source: if matches!(request.origin, Origin::Registry(_)) { Source::Registry } else { Source::Local },
            runner: match site.starter {
                Starter::Embedded(_) => site.runner().name(),
                Starter::Engine(docker) => docker.version()?,
            },
            link: request.link,
            machine: machine::describe(request.store.root()),
            session: Some(session),
            steady,
            peak_memory,
            predictions: samples.predict(request, unshaped),
            columns: samples.columns(),
            touched: samples.touched,
        })
    }

    fn check(&self) -> Result<(), ColdStartError> {
        if self.request.interrupted.load(Ordering::Relaxed) { Err(ColdStartError::Interrupted) } else { Ok(()) }
    }

    /// Pulls and starts the image once to learn what to ask it, and what a pull takes over the link as it is.
    fn rehearse(&self) -> Result<(Question, Option<PullTimes>), ColdStartError> {
        self.progress.note("rehearsal: pull, start, ask");
        let installed = self.site.install(None)?;
        let mut container = self.site.runner().start(&installed.spec)?;
        for warning in container.warnings() {
            self.progress.warn(warning.clone());
        }
        wait_until_ready(container.as_mut(), READY, self.request.patience)?;
        let question = Question::for_model(container.address(), &self.composition.model, self.request.data.as_deref())?;
        question.client(container.address()).time(&question.request)?;
        container.stop(DRAIN)?;
        Ok((question, installed.times))
    }

    /// One pull, one cold start, one warm start.
    fn run(&mut self, number: usize, question: &Question) -> Result<(), ColdStartError> {
        self.check()?;
        self.progress.note(format!("run {number} of {}: pull", self.request.runs));
        let installed = self.site.install(self.request.link)?;
        self.samples.pulls.extend(installed.times);
        self.samples.present = self.samples.present.max(installed.present);
        self.check()?;
        if self.make_cold(&installed, number == 1) {
            self.progress.note(format!("run {number} of {}: cold start", self.request.runs));
            let mut started = self.start(&installed, question)?;
            if let Some(files) = &installed.files {
                self.samples.touched = files.touched(started.container.pid())?;
            }
            self.samples.cold.take(&started);
            started.container.stop(DRAIN)?;
        }
        self.check()?;
        self.progress.note(format!("run {number} of {}: warm start", self.request.runs));
        self.samples.warmed = installed.files.as_ref().is_some_and(|files| files.read_into_cache().is_ok());
        let mut started = self.start(&installed, question)?;
        self.samples.warm.take(&started);
        started.container.stop(DRAIN)?;
        Ok(())
    }

    fn start(&self, installed: &Installed, question: &Question) -> Result<Started, ColdStartError> {
        start(self.site.runner(), &installed.spec, question, self.request.patience)
    }

    /// Drops the image's files from the page cache, and tells whether they are gone.
    fn make_cold(&mut self, installed: &Installed, is_first: bool) -> bool {
        let missing = match installed.files.as_ref().map(files::ImageFiles::drop_from_cache) {
            Some(Ok(left)) if left.is_cold() => {
                if left.bytes >= self.samples.left.bytes {
                    self.samples.left = left;
                }
                return true;
            }
            Some(Ok(left)) => format!("{} of {} bytes stay in the page cache", left.bytes, left.total),
            Some(Err(error)) => error.to_string(),
            None => "the engine does not say where the image's files are, or this user may not read them".to_owned(),
        };
        if is_first {
            self.progress.warn(format!("no cold starts are measured: {missing}"));
        }
        false
    }

    /// Starts the image once more and lets clients ask it.
    fn under_load(&self, question: &Question) -> Result<(Vec<Steady>, Option<PeakMemory>), ColdStartError> {
        self.check()?;
        let installed = self.site.install(None)?;
        let mut started = self.start(&installed, question)?;
        let mut steady = Vec::new();
        for clients in &self.request.clients {
            self.progress.note(format!("{clients} clients"));
            let address = started.container.address();
            steady.push(steady::measure(address, question, *clients, self.request.load, self.request.interrupted)?);
        }
        let peak = started.container.peak_memory();
        started.container.stop(DRAIN)?;
        Ok((steady, peak))
    }
}

fn milliseconds(duration: Duration) -> f64 {
    // Whole microseconds: more is noise.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn spread(samples: impl Iterator<Item = Duration>) -> Option<Spread> {
    Spread::of(samples.map(milliseconds).collect())
}

impl Samples {
    /// The columns, cold first. The pull is the same for both: what it has just unpacked is in the page cache.
    fn columns(&self) -> Vec<Column> {
        let mut pulled = String::new();
        if self.pulls.is_empty() {
            pulled = "; nothing was pulled, the engine has the image".to_owned();
        } else if self.present > 0 {
            pulled = format!("; the engine had {} of the layers before the pull", self.present);
        }
        let cold = format!(
            "every file was written back and dropped from the page cache before each start (posix_fadvise); at most {} of {} bytes \
             were left in it (mincore){pulled}",
            self.left.bytes, self.left.total
        );
        let warm = if self.warmed { "every file was read before each start" } else { "each start followed another one" };
        let columns = [(PageCache::Cold, cold, &self.cold), (PageCache::Warm, format!("{warm}{pulled}"), &self.warm)];
        columns.into_iter().filter_map(|(cache, how, starts)| self.column(cache, how, starts)).collect()
    }

    fn column(&self, cache: PageCache, how: String, starts: &Starts) -> Option<Column> {
        let start_to_first_answer = spread(starts.totals.iter().copied())?;
        let pull = |part: fn(&PullTimes) -> Duration| spread(self.pulls.iter().map(part));
        let started = |phase: Phase| {
            let of_phase = |run: &Vec<(Phase, Duration)>| run.iter().find(|(found, _)| *found == phase).map(|(_, took)| *took);
            spread(starts.phases.iter().filter_map(of_phase))
        };
        let times = |phase| match phase {
            Phase::Resolve => pull(|pull| pull.resolve),
            Phase::Download => pull(|pull| pull.download),
            Phase::Unpack => pull(|pull| pull.unpack),
            phase => started(phase),
        };
        let phases = Phase::ALL.into_iter().filter_map(|phase| Some(PhaseTimes { phase, times: times(phase)? })).collect();
        Some(Column { cache, how, phases, start_to_first_answer, contention: starts.contention() })
    }

    /// The times over other links; over the measured one too, so that the two can be compared.
    fn predict(&self, request: &Request<'_>, unshaped: Option<PullTimes>) -> Vec<Prediction> {
        let starts = if self.cold.totals.is_empty() { &self.warm } else { &self.cold };
        // Shaped pulls say nothing of other links: then the rehearsal's pull, which was not, is what there is.
        let base = if request.link.is_some() { unshaped.into_iter().collect() } else { self.pulls.clone() };
        let median = |part: fn(&PullTimes) -> Duration| spread(base.iter().map(part)).map(|spread| spread.median);
        let parts = (median(|pull| pull.resolve), median(|pull| pull.download), median(|pull| pull.unpack));
        let start = spread(starts.totals.iter().copied()).map(|spread| spread.median);
        let (Some(resolve_ms), Some(download_ms), Some(unpack_ms)) = parts else { return Vec::new() };
        let (Some(start_ms), Some(first)) = (start, base.first()) else { return Vec::new() };
        let layers = &request.image.parsed.layers;
        // An engine's pull is not seen from here: two documents, and layers three at a time.
        let (resolve_round_trips, download_round_trips) = match request.starter {
            Starter::Embedded(_) => first.round_trips,
            Starter::Engine(_) => (3, layers.len().div_ceil(3) as u64 + 1),
        };
        let measured = Measured {
            resolve_ms,
            resolve_round_trips,
            download_ms,
            download_round_trips,
            bytes: layers.iter().map(|layer| layer.size).sum(),
            rest_ms: unpack_ms + start_ms,
        };
        let others = LINKS.into_iter().filter(|link| Some(*link) != request.link);
        request.link.into_iter().chain(others).map(|link| predict(&measured, link)).collect()
    }
}

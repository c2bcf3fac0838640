//! The server's face: routes, limits, and the way of a request through them.
//!
//! [`App`] is what every request shares. [`handle`] answers one request and never fails or panics; [`serve`] accepts
//! connections until it is told to stop, and then drains.

mod answer;
mod body;
mod infer;
pub mod metrics;
mod route;
mod serve;
mod serving;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::Body;
use hyper::{Request, StatusCode, header};
use serde::Serialize;
use tokio::sync::Semaphore;

pub use self::answer::{Answer, Parts};
pub use self::serve::{Drained, serve};

use self::answer::{Refusal, json};
use self::body::Budget;
use self::infer::Protocol;
use self::metrics::Metrics;
use self::route::Route;
use crate::backend::{Backend, TensorSpec};
use crate::config::{Config, Limits};
use crate::log::{self, Level};

/// What every request shares.
pub struct App {
    model_name: String,
    model_version: String,
    health_route: Option<String>,
    predict_route: Option<String>,
    limits: Limits,
    backend: OnceLock<Arc<dyn Backend>>,
    draining: AtomicBool,
    runs: Arc<Semaphore>,
    budget: Budget,
    metrics: Metrics,
}

impl App {
    /// An application whose model is still to come.
    pub fn new(config: &Config) -> Self {
        Self {
            model_name: config.model_name.clone(),
            model_version: config.model_version.clone(),
            health_route: config.health_route.clone(),
            predict_route: config.predict_route.clone(),
            runs: Arc::new(Semaphore::new(config.limits.concurrency)),
            budget: Budget::new(config.limits.buffered_bytes),
            limits: config.limits.clone(),
            backend: OnceLock::new(),
            draining: AtomicBool::new(false),
            metrics: Metrics::default(),
        }
    }

    /// Answers inferences from here on.
    pub fn set_backend(&self, backend: Arc<dyn Backend>) {
        // A second one would be a mistake, and the first goes on serving.
        let _ = self.backend.set(backend);
    }

    /// Takes no more inferences.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Takes a share of what bodies may hold.
    #[cfg(test)]
    fn budget_for_tests(&self, bytes: usize) -> tokio::sync::OwnedSemaphorePermit {
        self.budget.take(bytes).unwrap_or_else(|_| panic!("{bytes} bytes are free"))
    }

    /// The model, where it can be run.
    fn ready(&self) -> Result<&Arc<dyn Backend>, Refusal> {
        let unavailable = |message: &str| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message);
        if self.draining.load(Ordering::Acquire) {
            return Err(unavailable("the server is stopping"));
        }
        self.backend.get().ok_or_else(|| unavailable("the model is being loaded"))
    }
}

/// Answers a request, whatever happens.
pub async fn handle<B>(app: &App, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let started = Instant::now();
    let _in_flight = app.metrics.in_flight.enter();
    let (head, mut body) = request.into_parts();
    let (path, method) = (head.uri.path().to_owned(), head.method.clone());
    // Asking for the rest of a body that waits for a permission would grant it.
    let may_discard = !head.headers.contains_key(header::EXPECT);

    let route = route::resolve(app, &path);
    let kind = route.as_ref().map_or(metrics::Kind::Other, Route::kind);
    let result = CatchUnwind(AssertUnwindSafe(async {
        let route = route?;
        route.check_method(&method)?;
        match route {
            Route::Infer => infer::infer(app, Protocol::OpenInference, &head.headers, &mut body).await,
            Route::Predict => infer::infer(app, Protocol::Predict, &head.headers, &mut body).await,
            other => read(app, other),
        }
    }))
    .await;
    let (answer, message) = match result {
        Ok(Ok(answer)) => (answer, None),
        Ok(Err(refusal)) => {
            let message = refusal.message.clone();
            (refusal.into(), Some(message))
        }
        Err(_) => {
            app.metrics.panics.fetch_add(1, Ordering::Relaxed);
            let message = "internal error".to_owned();
            (Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message.clone()).into(), Some(message))
        }
    };
    if message.is_some() && may_discard {
        body::discard(&mut body).await;
    }

    let took = started.elapsed();
    app.metrics.answered(kind, answer.status());
    if kind == metrics::Kind::Infer {
        app.metrics.infer.observe(took);
    }
    let level = if answer.status() == StatusCode::INTERNAL_SERVER_ERROR { Level::Warn } else { Level::Debug };
    if log::enabled(level) {
        log::line(level, "request")
            .field("method", method.as_str())
            .field("path", &path)
            .field("status", &answer.status().as_u16())
            .field("took_ms", &crate::phases::milliseconds(took))
            .optional("error", message)
            .emit();
    }
    answer
}

/// Answers what needs no body.
fn read(app: &App, route: Route) -> Result<Answer, Refusal> {
    #[derive(Serialize)]
    struct Live {
        live: bool,
    }
    #[derive(Serialize)]
    struct Ready<'a> {
        name: &'a str,
        ready: bool,
    }
    #[derive(Serialize)]
    struct Server {
        name: &'static str,
        version: &'static str,
        extensions: [&'static str; 1],
    }
    #[derive(Serialize)]
    struct Tensor<'a> {
        name: &'a str,
        datatype: &'static str,
        shape: Vec<i64>,
    }
    #[derive(Serialize)]
    struct Model<'a> {
        name: &'a str,
        versions: [&'a str; 1],
        platform: &'static str,
        inputs: Vec<Tensor<'a>>,
        outputs: Vec<Tensor<'a>>,
    }
    fn tensors(specs: &[TensorSpec]) -> Vec<Tensor<'_>> {
        specs
            .iter()
            .map(|spec| Tensor { name: &spec.name, datatype: spec.datatype.name(), shape: spec.shape.to_protocol() })
            .collect()
    }
    Ok(match route {
        Route::ServerLive => json(StatusCode::OK, &Live { live: true }),
        Route::Ready => {
            app.ready()?;
            json(StatusCode::OK, &Ready { name: &app.model_name, ready: true })
        }
        Route::ServerMetadata => json(
            StatusCode::OK,
            &Server { name: "imgserve", version: env!("CARGO_PKG_VERSION"), extensions: ["binary_tensor_data"] },
        ),
        Route::ModelMetadata => {
            let interface = app.ready()?.interface();
            json(
                StatusCode::OK,
                &Model {
                    name: &app.model_name,
                    versions: [&app.model_version],
                    platform: interface.platform,
                    inputs: tensors(&interface.inputs),
                    outputs: tensors(&interface.outputs),
                },
            )
        }
        Route::Metrics => {
            let backend = app.ready().ok();
            let placement = backend.and_then(|backend| backend.placement());
            let text = app.metrics.render((&app.model_name, &app.model_version), backend.is_some(), placement);
            answer::answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
        }
        Route::ModelStatus => serving::status(app),
        Route::SignatureMetadata => serving::metadata(app)?,
        Route::Infer | Route::Predict => return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error")),
    })
}

/// A future whose panics become errors.
struct CatchUnwind<F>(AssertUnwindSafe<F>);

impl<F: Future> Future for CatchUnwind<F> {
    type Output = Result<F::Output, Box<dyn Any + Send>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: the field is pinned with the whole and never moved out of it.
        let future = unsafe { self.map_unchecked_mut(|whole| &mut whole.0.0) };
        match catch_unwind(AssertUnwindSafe(|| future.poll(context))) {
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

#[cfg(test)]
mod tests;

//! An inference: body, place in the queue, run, answer.

use std::time::Instant as Moment;

use bytes::Bytes;
use hyper::body::Body;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::answer::{Answer, Parts, Refusal};
use super::body::{self, Encoding};
use super::{App, metrics};
use crate::backend::{Backend, Cancel, RunError};
use crate::protocol::{PredictRequest, ProtocolError, Reply, Request, respond, respond_predict};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// The media type that carries the length of the JSON where a platform passes no other header on.
const BINARY_MEDIA_TYPE: &str = "application/vnd.sagemaker-triton.binary+json";

/// Where the length of the JSON was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// Nowhere: the body is JSON, or the answer says it in the header.
    Header,
    /// In the media type, and so it is in the answer.
    MediaType,
}

/// The language of a request and its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// The Open Inference Protocol.
    OpenInference,
    /// TensorFlow Serving's REST API.
    Predict,
}

pub(super) async fn infer<B>(app: &App, protocol: Protocol, headers: &HeaderMap, body: &mut B) -> Result<Answer, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let deadline = Instant::now() + app.limits.request_timeout;
    let backend = Arc::clone(app.ready()?);
    let encoding = Encoding::parse(headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes))?;
    let (header_length, framing) = match protocol {
        Protocol::OpenInference => header_length(headers)?,
        Protocol::Predict => (None, Framing::Header),
    };
    let largest = app.limits.body_bytes;
    let held = body::read(body, largest, &app.budget, header_length.unwrap_or(0), deadline).await?;
    let place = queue(app, deadline).await?;

    let cancel = Cancel::default();
    // A caller that goes away takes this future with it, and so its run.
    let guard = CancelOnDrop(cancel.clone());
    let model = (app.model_name.clone(), app.model_version.clone());
    let job = tokio::task::spawn_blocking(move || {
        // Both are held until the run has really ended, however long its caller has waited.
        let (_place, _share) = (place, held.share);
        let bytes = encoding.decode(held.bytes, largest)?;
        match protocol {
            Protocol::OpenInference => run(&*backend, (&model.0, &model.1), &bytes, header_length, &cancel),
            Protocol::Predict => predict(&*backend, &bytes, &cancel),
        }
    });
    let result = timeout_at(deadline, job).await;
    drop(guard);
    match result {
        Ok(Ok(done)) => {
            let (reply, took) = done?;
            app.metrics.run.observe(took);
            Ok(answer(reply, framing))
        }
        Ok(Err(_panic)) => {
            app.metrics.panics.fetch_add(1, Ordering::Relaxed);
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error"))
        }
        Err(_) => Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the run took longer than {} ms (`request_timeout_ms`)", app.limits.request_timeout.as_millis()),
        )),
    }
}

/// Waits for a run to be free.
async fn queue(app: &App, deadline: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
    let runs = Arc::clone(&app.runs);
    if let Ok(place) = Arc::clone(&runs).try_acquire_owned() {
        return Ok(place);
    }
    let unavailable = |message: String| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message);
    let metrics::Metrics { queued, .. } = &app.metrics;
    if queued.value() >= app.limits.queue {
        return Err(unavailable(format!("{} requests wait already (`max_queue`)", app.limits.queue)));
    }
    let _queued = queued.enter();
    timeout_at(deadline, runs.acquire_owned())
        .await
        .map_err(|_| unavailable("no run became free in time".into()))?
        .map_err(|_| unavailable("the server is stopping".into()))
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What is done off the threads that serve connections; also gives the time in the runtime.
fn run(
    backend: &dyn Backend,
    model: (&str, &str),
    body: &Bytes,
    header_length: Option<usize>,
    cancel: &Cancel,
) -> Result<(Reply, std::time::Duration), Refusal> {
    let request = Request::parse(body, header_length)?;
    let bound = request.bind(backend.interface())?;
    let indices: Vec<usize> = bound.outputs.iter().map(|output| output.index).collect();
    let started = Moment::now();
    let tensors = backend.run(bound.inputs, &indices, cancel)?;
    let took = started.elapsed();
    let reply = respond(model, request.id.as_deref(), backend.interface(), &bound.outputs, &tensors)?;
    Ok((reply, took))
}

/// As [`run`], by TensorFlow Serving's protocol.
fn predict(backend: &dyn Backend, body: &Bytes, cancel: &Cancel) -> Result<(Reply, std::time::Duration), Refusal> {
    let request = PredictRequest::parse(body)?;
    let backend = match &request.signature {
        None => backend,
        Some(wanted) => std::iter::once(backend)
            .chain(backend.others().iter().map(|other| &**other))
            .find(|backend| backend.signature() == wanted)
            .ok_or_else(|| ProtocolError::UnknownSignature {
                signature: wanted.chars().take(128).collect(),
                known: std::iter::once(backend)
                    .chain(backend.others().iter().map(|other| &**other))
                    .map(|backend| backend.signature().to_owned())
                    .collect(),
            })?,
    };
    let interface = backend.interface();
    let inputs = request.bind(interface)?;
    let indices: Vec<usize> = (0..interface.outputs.len()).collect();
    let started = Moment::now();
    let tensors = backend.run(inputs, &indices, cancel)?;
    let took = started.elapsed();
    Ok((respond_predict(request.layout, interface, &tensors)?, took))
}

impl From<ProtocolError> for Refusal {
    fn from(error: ProtocolError) -> Self {
        let status = if error.is_unsupported() { StatusCode::NOT_IMPLEMENTED } else { StatusCode::BAD_REQUEST };
        Self::new(status, error.to_string())
    }
}

impl From<RunError> for Refusal {
    fn from(error: RunError) -> Self {
        let status = match error {
            RunError::Refused { .. } => StatusCode::BAD_REQUEST,
            RunError::NotImplemented { .. } | RunError::Unserved { .. } => StatusCode::NOT_IMPLEMENTED,
            RunError::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            RunError::Provider { .. } | RunError::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

/// Reads how long the JSON at the body's start is, where anything says so.
fn header_length(headers: &HeaderMap) -> Result<(Option<usize>, Framing), Refusal> {
    let parse = |name: &str, value: &[u8]| {
        std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
            let shown = String::from_utf8_lossy(&value[..value.len().min(32)]).into_owned();
            Refusal::new(StatusCode::BAD_REQUEST, format!("{name} is `{shown}`, expected a number of bytes"))
        })
    };
    if let Some(value) = headers.get(HEADER_LENGTH) {
        return Ok((Some(parse("header `Inference-Header-Content-Length`", value.as_bytes())?), Framing::Header));
    }
    let media_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let Some(parameters) = media_type.strip_prefix(BINARY_MEDIA_TYPE.as_bytes()) else {
        return Ok((None, Framing::Header));
    };
    let length = parameters
        .split(|&byte| byte == b';')
        .find_map(|parameter| parameter.trim_ascii().strip_prefix(b"json-header-size="))
        .map(|value| parse("`json-header-size` of Content-Type", value))
        .transpose()?;
    Ok((length, Framing::MediaType))
}

fn answer(reply: Reply, framing: Framing) -> Answer {
    let mut answer = Response::new(Parts::from(reply.parts));
    let headers = answer.headers_mut();
    let text = |text: String| HeaderValue::try_from(text).expect("the text is ASCII without line ends");
    let media_type = match (reply.header_length, framing) {
        (None, _) => HeaderValue::from_static("application/json"),
        (Some(_), Framing::Header) => HeaderValue::from_static("application/octet-stream"),
        (Some(length), Framing::MediaType) => text(format!("{BINARY_MEDIA_TYPE};json-header-size={length}")),
    };
    headers.insert(CONTENT_TYPE, media_type);
    if let Some(length) = reply.header_length {
        headers.insert(HEADER_LENGTH, HeaderValue::from(length));
    }
    answer
}

//! Paths and methods.

use std::borrow::Cow;

use hyper::{Method, StatusCode};

use super::App;
use super::answer::Refusal;
use super::metrics::Kind;

/// What a path stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// Whether the process lives.
    ServerLive,
    /// Whether inferences are answered.
    Ready,
    /// What the server is.
    ServerMetadata,
    /// What the model takes and gives.
    ModelMetadata,
    /// An inference.
    Infer,
    /// An inference by TensorFlow Serving's protocol.
    Predict,
    /// The model's state, as TensorFlow Serving says it.
    ModelStatus,
    /// The model's signatures, as TensorFlow Serving says them.
    SignatureMetadata,
    /// The counters.
    Metrics,
}

impl Route {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::ServerLive | Self::Ready => Kind::Health,
            Self::ServerMetadata | Self::ModelMetadata | Self::ModelStatus | Self::SignatureMetadata => Kind::Metadata,
            Self::Infer | Self::Predict => Kind::Infer,
            Self::Metrics => Kind::Metrics,
        }
    }

    pub(super) fn check_method(self, method: &Method) -> Result<(), Refusal> {
        let (good, allow) = match self {
            Self::Infer | Self::Predict => (*method == Method::POST, "POST"),
            _ => (*method == Method::GET || *method == Method::HEAD, "GET, HEAD"),
        };
        if good {
            return Ok(());
        }
        let message = format!("method {method} is not allowed here, expected {allow}");
        Err(Refusal { status: StatusCode::METHOD_NOT_ALLOWED, message, allow: Some(allow) })
    }
}

/// Finds what a path stands for.
///
/// # Errors
/// 404 for a path, model or version that is not served.
pub(super) fn resolve(app: &App, path: &str) -> Result<Route, Refusal> {
    if app.predict_route.as_deref() == Some(path) {
        return Ok(Route::Infer);
    }
    if app.health_route.as_deref() == Some(path) {
        return Ok(Route::Ready);
    }
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    match segments[..] {
        ["v2"] | ["v2", ""] => Ok(Route::ServerMetadata),
        ["v2", "health", "live"] => Ok(Route::ServerLive),
        ["v2", "health", "ready"] | ["ping"] => Ok(Route::Ready),
        ["v2", "models", model, "versions", version, ref rest @ ..] => {
            check(app, model, Some(version))?;
            of_model(rest).ok_or_else(|| unknown(path))
        }
        ["v2", "models", model, ref rest @ ..] => {
            check(app, model, None)?;
            of_model(rest).ok_or_else(|| unknown(path))
        }
        ["v1", "models", model, "versions", ref rest @ ..] => serving(app, path, model, rest, true),
        ["v1", "models", model, ref rest @ ..] => serving(app, path, model, rest, false),
        ["invocations"] => Ok(Route::Infer),
        ["metrics"] => Ok(Route::Metrics),
        _ => Err(unknown(path)),
    }
}

fn of_model(rest: &[&str]) -> Option<Route> {
    match rest {
        [] => Some(Route::ModelMetadata),
        ["ready"] => Some(Route::Ready),
        ["infer"] => Some(Route::Infer),
        _ => None,
    }
}

/// A path of TensorFlow Serving's: what is to be done stands behind the last name, or is a part of its own.
fn serving(app: &App, path: &str, model: &str, rest: &[&str], versioned: bool) -> Result<Route, Refusal> {
    let (version, rest) = match rest {
        [version, rest @ ..] if versioned => (Some(*version), rest),
        rest => (None, rest),
    };
    if versioned && version.is_none() {
        return Err(unknown(path));
    }
    let last = version.unwrap_or(model);
    let (name, verb) = match last.rsplit_once(':') {
        Some((name, verb)) => (name, Some(verb)),
        None => (last, None),
    };
    match version {
        Some(_) => check(app, model, Some(name))?,
        None => check(app, name, None)?,
    }
    match (verb, rest) {
        (Some("predict"), []) => Ok(Route::Predict),
        (Some(verb @ ("classify" | "regress")), []) => {
            Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, format!("`:{verb}` is not supported, expected `:predict`")))
        }
        (None, []) => Ok(Route::ModelStatus),
        (None, ["metadata"]) => Ok(Route::SignatureMetadata),
        _ => Err(unknown(path)),
    }
}

fn unknown(path: &str) -> Refusal {
    let path: String = path.chars().take(128).collect();
    Refusal::new(StatusCode::NOT_FOUND, format!("path `{path}` is not served"))
}

fn check(app: &App, model: &str, version: Option<&str>) -> Result<(), Refusal> {
    let brief = |text: &str| text.chars().take(128).collect::<String>();
    let name = decode(model).ok_or_else(|| unknown(model))?;
    if name != app.model_name.as_str() {
        let message = format!("model `{}` is unknown, this server has `{}`", brief(&name), app.model_name);
        return Err(Refusal::new(StatusCode::NOT_FOUND, message));
    }
    match version.map(|version| decode(version).ok_or_else(|| unknown(version))).transpose()? {
        Some(version) if version != app.model_version.as_str() => {
            let message = format!("version `{}` is unknown, this server has `{}`", brief(&version), app.model_version);
            Err(Refusal::new(StatusCode::NOT_FOUND, message))
        }
        _ => Ok(()),
    }
}

/// Undoes percent-encoding; `None` when it is broken or the result is no text.
fn decode(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment));
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                (digit()? * 16 + digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_decoded() {
        assert_eq!(decode("a%20b").as_deref(), Some("a b"));
        assert_eq!(decode("%C3%a9").as_deref(), Some("é"));
        for broken in ["%", "%2", "%zz", "%ff", "a%"] {
            assert_eq!(decode(broken), None, "{broken}");
        }
    }
}

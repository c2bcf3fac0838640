//! Options as they were given: the file's, and over them the environment's.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::error::ConfigError;
use super::keys::{self, Key, Kind};

/// A value and the key or variable it came from.
pub(super) struct Given {
    pub value: Value,
    origin: String,
}

impl Given {
    pub fn wrong(&self, expected: impl Into<String>) -> ConfigError {
        let mut found = self.value.to_string();
        if found.chars().count() > 80 {
            found = found.chars().take(80).chain(['…']).collect();
        }
        ConfigError::Value { origin: self.origin.clone(), found, expected: expected.into() }
    }
}

/// The values of the options that are given, by key, and what was noticed on the way to them.
pub(super) type Gathered = (BTreeMap<&'static str, Given>, Vec<String>);

/// Puts together a file's text and variables.
///
/// # Errors
/// See [`ConfigError`].
pub(super) fn gather(
    path: &Path,
    text: Option<&[u8]>,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Gathered, ConfigError> {
    let mut given = BTreeMap::new();
    if let Some(text) = text {
        let file: Map<String, Value> =
            serde_json::from_slice(text).map_err(|source| ConfigError::NotJson { path: path.into(), source })?;
        for (name, value) in file {
            let Some(key) = keys::find(&name) else {
                let nearest = keys::nearest(&name);
                return Err(ConfigError::UnknownKey { path: path.into(), key: name, nearest });
            };
            given.insert(key.name, Given { value, origin: format!("key `{name}` in `{}`", path.display()) });
        }
    }
    let mut warnings = Vec::new();
    // A platform's variable is weaker than one of ours, so these come in rising order of strength.
    let mut variables: Vec<_> = variables.into_iter().collect();
    variables.sort_by_key(|(name, _)| (strength(name), name.clone()));
    for (name, value) in variables {
        if let Some((key, value)) = from_variable(&name, value, &mut warnings)? {
            given.insert(key.name, Given { value, origin: format!("variable `{name}`") });
        }
    }
    Ok((given, warnings))
}

/// How strong a variable is against another that sets the same option.
fn strength(name: &str) -> u8 {
    match name {
        "SAGEMAKER_BIND_TO_PORT" => 0,
        _ if name.starts_with("AIP_") => 1,
        _ => 2,
    }
}

/// The option that a variable sets, if it sets one.
fn from_variable(name: &str, value: String, warnings: &mut Vec<String>) -> Result<Option<(&'static Key, Value)>, ConfigError> {
    let key_name = match name {
        "SAGEMAKER_BIND_TO_PORT" | "AIP_HTTP_PORT" => "port".to_owned(),
        "AIP_HEALTH_ROUTE" => "health_route".to_owned(),
        "AIP_PREDICT_ROUTE" => "predict_route".to_owned(),
        "IMGSERVE_CONFIG" => return Ok(None),
        _ => match name.strip_prefix("IMGSERVE_") {
            Some(rest) => rest.to_ascii_lowercase(),
            None => return Ok(None),
        },
    };
    let Some(key) = keys::find(&key_name) else {
        // Kubernetes sets such variables for a Service named `imgserve`, so they cannot be errors.
        warnings.push(format!("variable `{name}` names no option and is passed over"));
        return Ok(None);
    };
    if key.name == "port" && value.contains("://") {
        warnings.push(format!("variable `{name}` is `{value}`, which an orchestrator set for a service, and is passed over"));
        return Ok(None);
    }
    if key.kind == Kind::Text {
        return Ok(Some((key, Value::String(value))));
    }
    match serde_json::from_str(&value) {
        Ok(parsed) => Ok(Some((key, parsed))),
        Err(_) => Err(ConfigError::Value {
            origin: format!("variable `{name}`"),
            found: format!("`{value}`"),
            expected: format!("{}, as JSON", key.kind.name()),
        }),
    }
}

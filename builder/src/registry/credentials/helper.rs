//! Credential helpers: programs `docker-credential-NAME` that take a command and speak JSON.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::Credential;
use crate::registry::error::RegistryError;
use crate::registry::secret::{Secret, sanitised};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Found {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Kept<'a> {
    #[serde(rename = "ServerURL")]
    server: &'a str,
    username: &'a str,
    secret: &'a str,
}

/// Asks for a registry's credential; a helper that has none is no error.
pub(super) fn get(program: &Path, registry: &str) -> Result<Option<Credential>, RegistryError> {
    let Some(output) = run(program, "get", registry.as_bytes(), &[])? else { return Ok(None) };
    // What it wrote may hold the secret: it is not repeated.
    let found: Found = serde_json::from_slice(&output)
        .map_err(|_| failure(program, "give credentials", "its answer is no JSON with `Username` and `Secret`"))?;
    let secret = Secret::new(found.secret);
    Ok(match found.username.as_str() {
        _ if secret.is_empty() => None,
        "<token>" => Some(Credential::IdentityToken(secret)),
        _ => Some(Credential::Password { user: found.username, password: secret }),
    })
}

/// Has a credential kept.
pub(super) fn store(program: &Path, registry: &str, user: &str, password: &Secret) -> Result<(), RegistryError> {
    let kept = serde_json::to_vec(&Kept { server: registry, username: user, secret: password.expose() })
        .expect("three texts become JSON");
    run(program, "store", &kept, std::slice::from_ref(password)).map(drop)
}

/// Has a credential forgotten.
pub(super) fn erase(program: &Path, registry: &str) -> Result<(), RegistryError> {
    run(program, "erase", registry.as_bytes(), &[]).map(drop)
}

fn run(program: &Path, command: &'static str, input: &[u8], secrets: &[Secret]) -> Result<Option<Vec<u8>>, RegistryError> {
    let action = match command {
        "get" => "give credentials",
        "store" => "keep credentials",
        _ => "forget credentials",
    };
    let io_failure = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => failure(program, action, "there is no such program in PATH"),
        _ => failure(program, action, &error.to_string()),
    };
    let mut child = Command::new(program)
        .arg(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io_failure(&error))?;
    let written = child.stdin.take().expect("it is piped").write_all(input);
    let output = child.wait_with_output().map_err(|error| io_failure(&error))?;
    if output.status.success() {
        return match written {
            // One that needs no input to answer may not have read it.
            Err(error) if command == "store" => Err(io_failure(&error)),
            _ => Ok(Some(output.stdout)),
        };
    }
    // Helpers tell on standard output why they failed.
    let said = String::from_utf8_lossy(&output.stdout);
    if command != "store" && (said.contains("credentials not found") || said.contains("no credentials")) {
        return Ok(None);
    }
    Err(failure(program, action, &format!("{}: {}", output.status, sanitised(&said, secrets))))
}

fn failure(program: &Path, action: &'static str, reason: &str) -> RegistryError {
    let helper = program.file_name().unwrap_or(OsStr::new("")).to_string_lossy().into_owned();
    RegistryError::Helper { helper, action, reason: reason.to_owned() }
}

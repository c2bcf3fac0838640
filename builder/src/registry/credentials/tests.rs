use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::*;
use crate::progress::Event;

/// A home with the files that are written into it, and helpers in `bin`.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    fn with(self, path: &str, content: &str) -> Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("in the home")).expect("a folder");
        fs::write(path, content).expect("a file");
        self
    }

    /// A credential helper.
    fn with_helper(self, name: &str, script: &str) -> Self {
        let home = self.with("bin/script", &format!("#!/bin/sh\n{script}\n"));
        let program = home.0.path().join("bin").join(format!("docker-credential-{name}"));
        // Copied by another process: a program that any thread here has open for writing cannot be run.
        let mut copied = std::process::Command::new("install");
        copied.args(["-m", "755"]).arg(home.0.path().join("bin/script")).arg(program);
        assert!(copied.status().expect("it is installed").success());
        home
    }

    fn sources(&self, variables: &[(&str, &str)], target: Option<&str>) -> CredentialSources {
        let home = self.0.path().to_str().expect("UTF-8");
        let found = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.replace('~', home));
        let mut sources =
            CredentialSources::from_variables(|name| if name == "HOME" { Some(home.to_owned()) } else { found(name) }, target);
        sources.helper_folders = Some(vec![self.0.path().join("bin")]);
        sources
    }

    /// What is found, as `user:password` or `token:…`, and what was warned about.
    fn find(&self, registry: &str, repository: &str) -> (Option<String>, Vec<String>) {
        find(&self.sources(&[], None), registry, repository)
    }

    fn docker(&self) -> String {
        fs::read_to_string(self.0.path().join(".docker/config.json")).expect("Docker's file")
    }
}

fn find(sources: &CredentialSources, registry: &str, repository: &str) -> (Option<String>, Vec<String>) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&warnings);
    let progress = Progress::new(move |event| {
        if let Event::Warning(text) = event {
            sink.lock().expect("no panic").push(text);
        }
    });
    let found = sources.find(registry, repository, &progress).map(|credential| match credential {
        Credential::Password { user, password } => format!("{user}:{}", password.expose()),
        Credential::IdentityToken(token) => format!("token:{}", token.expose()),
    });
    let warnings = warnings.lock().expect("no panic").clone();
    (found, warnings)
}

fn some(text: &str) -> (Option<String>, Vec<String>) {
    (Some(text.to_owned()), Vec::new())
}

// `user:pass:word`
const AUTH: &str = "dXNlcjpwYXNzOndvcmQ=";

#[test]
fn the_environment_is_for_one_host_alone() {
    let home = Home::new().with(".docker/config.json", &format!(r#"{{"auths":{{"a.example.com":{{"auth":"{AUTH}"}}}}}}"#));
    let variables = [("IMGBUILD_REGISTRY_USER", "ci"), ("IMGBUILD_REGISTRY_PASSWORD", "secret")];
    let named = home.sources(&variables, Some("a.example.com"));
    assert_eq!(find(&named, "a.example.com", "x"), some("ci:secret"));
    assert_eq!(find(&named, "base.example.com", "x").0, None);
    let mut with_host = variables.to_vec();
    with_host.push(("IMGBUILD_REGISTRY_HOST", "b.example.com:5000"));
    let other = home.sources(&with_host, Some("a.example.com"));
    assert_eq!(find(&other, "b.example.com:5000", "x"), some("ci:secret"));
    assert_eq!(find(&other, "a.example.com", "x"), some("user:pass:word"));
    assert_eq!(find(&home.sources(&variables, None), "a.example.com", "x"), some("user:pass:word"));
}

#[test]
fn keys_are_found_with_and_without_scheme_and_path() {
    for key in
        ["localhost:5000", "https://localhost:5000", "http://localhost:5000/", "https://localhost:5000/v1/", "LocalHost:5000"]
    {
        let home = Home::new().with(".docker/config.json", &format!(r#"{{"auths":{{"{key}":{{"auth":"{AUTH}"}}}}}}"#));
        assert_eq!(home.find("localhost:5000", "x"), some("user:pass:word"), "{key}");
        for other in ["localhost", "localhost:50001", "other:5000"] {
            assert_eq!(home.find(other, "x").0, None, "{key} {other}");
        }
    }
}

#[test]
fn all_forms_of_an_entry_are_read() {
    for (entry, expected) in [
        (r#"{"auth":"dXNlcjpwYXNzOndvcmQ"}"#, Some("user:pass:word")),
        (r#"{"username":"u","password":"p"}"#, Some("u:p")),
        (r#"{"auth":"","username":"u","password":"p"}"#, Some("u:p")),
        (r#"{"auth":"dTo=","identitytoken":"t0k"}"#, Some("token:t0k")),
        ("{}", None),
        (r#"{"auth":null,"email":"x"}"#, None),
    ] {
        let home = Home::new().with(".docker/config.json", &format!(r#"{{"auths":{{"r.example.com":{entry}}}}}"#));
        assert_eq!(home.find("r.example.com", "x"), (expected.map(str::to_owned), vec![]), "{entry}");
    }
}

#[test]
fn a_helper_for_the_host_outranks_the_store_and_the_store_the_file() {
    let config = |rest: &str| format!(r#"{{"auths":{{"r.example.com":{{"auth":"{AUTH}"}}}}{rest}}}"#);
    let helpers = |home: Home| {
        home.with_helper("own", r#"read host; [ "$1 $host" = "get r.example.com" ] && echo '{"Username":"own","Secret":"a"}'"#)
            .with_helper("all", r#"echo '{"ServerURL":"x","Username":"<token>","Secret":"b"}'"#)
            .with_helper("none", "echo 'credentials not found in native keychain'; exit 1")
    };
    for (rest, expected) in [
        ("", "user:pass:word"),
        (r#","credsStore":"all""#, "token:b"),
        (r#","credsStore":"all","credHelpers":{"r.example.com":"own"}"#, "own:a"),
        (r#","credsStore":"all","credHelpers":{"https://r.example.com":"own"}"#, "own:a"),
        (r#","credsStore":"all","credHelpers":{"r.example.com":"none"}"#, "token:b"),
        (r#","credsStore":"all","credHelpers":{"r.example.com":""}"#, "user:pass:word"),
        (r#","credsStore":"none""#, "user:pass:word"),
    ] {
        let home = helpers(Home::new()).with(".docker/config.json", &config(rest));
        assert_eq!(home.find("r.example.com", "x"), some(expected), "{rest}");
    }
}

#[test]
fn what_cannot_be_used_is_warned_about_and_passed_over() {
    let podman = format!(r#"{{"auths":{{"r.example.com":{{"auth":"{AUTH}"}}}}}}"#);
    for (docker, warning) in [
        (
            r#"{"credsStore":"missing"}"#,
            "credential helper `docker-credential-missing` failed to give credentials: there is no such program in PATH",
        ),
        (
            r#"{"credsStore":"failing"}"#,
            "credential helper `docker-credential-failing` failed to give credentials: exit status: 3: no \u{20ac}agent",
        ),
        (r#"{"credsStore":"babbling"}"#, "its answer is no JSON with `Username` and `Secret`"),
        (r#"{"auths":{"r.example.com":{"auth":"hunter2!"}}}"#, "the credentials for `r.example.com` in"),
        (r#"{"auths":{"r.example.com":{"auth":"aHVudGVyMg=="}}}"#, "are no base64 of `user:password`"),
        (r#"{"auths": hunter2"#, "it is no JSON object (line 1, column"),
        (r#"{"auths": ["hunter2"]}"#, "`auths`, `credHelpers` or `credsStore` has a type that Docker does not write"),
    ] {
        let home = Home::new()
            .with_helper("failing", "echo 'no \u{20ac}agent'; exit 3")
            .with_helper("babbling", "echo hunter2")
            .with(".docker/config.json", docker)
            .with(".config/containers/auth.json", &podman);
        let (found, warnings) = home.find("r.example.com", "x");
        assert_eq!(found.as_deref(), Some("user:pass:word"), "{docker}");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(warning), "{warnings:?}");
        assert!(!warnings[0].contains("hunter2"), "{warnings:?}");
    }
    let home = Home::new().with(".docker/config.json", "").with("x/auth.json", &podman);
    assert_eq!(
        find(&home.sources(&[("REGISTRY_AUTH_FILE", "~/x/auth.json")], None), "r.example.com", "x"),
        some("user:pass:word")
    );
}

#[test]
fn podmans_longest_prefix_wins() {
    let encode = |user: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{user}:p"));
    let entries: Vec<String> = ["r.example.com", "r.example.com/team", "r.example.com/team/app", "other.example.com/team"]
        .iter()
        .map(|key| format!(r#""{key}":{{"auth":"{}"}}"#, encode(key.rsplit('/').next().expect("a part"))))
        .collect();
    let file = format!(r#"{{"auths":{{{}}}}}"#, entries.join(","));
    let home = Home::new().with("run/containers/auth.json", &file);
    let sources = home.sources(&[("XDG_RUNTIME_DIR", "~/run")], None);
    for (repository, expected) in [
        ("team/app", "app:p"),
        ("team/app/sub", "app:p"),
        ("team/application", "team:p"),
        ("team", "team:p"),
        ("teamwork", "r.example.com:p"),
        ("x", "r.example.com:p"),
    ] {
        assert_eq!(find(&sources, "r.example.com", repository), some(expected), "{repository}");
    }
    assert_eq!(find(&sources, "other.example.com", "x").0, None);
}

#[test]
fn login_changes_only_its_entry_and_docker_can_read_it() {
    let home = Home::new().with(
        "real/config.json",
        &format!(r#"{{"HttpHeaders":{{"X":"y"}},"auths":{{"https://r.example.com/v1/":{{"auth":"old"}},"keep.example.com":{{"auth":"{AUTH}"}}}},"detachKeys":"ctrl-e"}}"#),
    );
    fs::create_dir(home.0.path().join(".docker")).expect("a folder");
    symlink(home.0.path().join("real/config.json"), home.0.path().join(".docker/config.json")).expect("a link");
    let sources = home.sources(&[], None);
    sources.login("r.example.com", "me", &Secret::new("hunter2")).expect("written");
    let path = home.0.path().join(".docker/config.json");
    assert!(fs::symlink_metadata(&path).expect("there").is_symlink());
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    let written: serde_json::Value = serde_json::from_str(&home.docker()).expect("JSON");
    let expected = serde_json::json!({
        "HttpHeaders": {"X": "y"},
        "auths": {"r.example.com": {"auth": "bWU6aHVudGVyMg=="}, "keep.example.com": {"auth": AUTH}},
        "detachKeys": "ctrl-e",
    });
    assert_eq!(written, expected);
    assert_eq!(home.find("r.example.com", "x"), some("me:hunter2"));
    assert_eq!(sources.logout("r.example.com").expect("written"), LoggedOut::Removed);
    assert_eq!(sources.logout("r.example.com").expect("read"), LoggedOut::WasNotLoggedIn);
    assert_eq!(home.find("r.example.com", "x").0, None);
    assert_eq!(home.find("keep.example.com", "x"), some("user:pass:word"));
    assert_eq!(fs::read_dir(home.0.path().join("real")).expect("a folder").count(), 1, "a temporary file was left behind");
}

#[test]
fn login_uses_the_helper_that_docker_would_use() {
    let keep = |path: &Path| {
        format!(
            r#"d={}; case $1 in store) cat > $d;; get) [ -f $d ] && cat $d || {{ echo credentials not found; exit 1; }};; erase) rm $d;; esac"#,
            path.display()
        )
    };
    let home = Home::new();
    let kept = home.0.path().join("kept");
    let home = home.with_helper("box", &keep(&kept)).with(".docker/config.json", r#"{"credsStore":"box"}"#);
    let sources = home.sources(&[], None);
    sources.login("r.example.com", "me", &Secret::new("hunter2")).expect("kept");
    assert!(!home.docker().contains("hunter2") && home.docker().contains("\"r.example.com\": {}"), "{}", home.docker());
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&fs::read_to_string(&kept).expect("kept")).expect("JSON"),
        serde_json::json!({"ServerURL": "r.example.com", "Username": "me", "Secret": "hunter2"})
    );
    assert_eq!(home.find("r.example.com", "x"), some("me:hunter2"));
    assert_eq!(sources.logout("r.example.com").expect("erased"), LoggedOut::Removed);
    assert!(!kept.exists());
}

#[test]
fn login_makes_a_file_where_there_is_none_and_says_where_it_cannot() {
    let home = Home::new();
    home.sources(&[], None).login("r.example.com", "me", &Secret::new("p")).expect("written");
    assert_eq!(home.find("r.example.com", "x"), some("me:p"));
    let folder = fs::metadata(home.0.path().join(".docker")).expect("a folder");
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    let error = CredentialSources::none().login("r", "me", &Secret::new("hunter2")).expect_err("no folder");
    assert!(matches!(error, RegistryError::NoConfigFolder));
    let home = Home::new().with(".docker/config.json", "{broken");
    let error = home.sources(&[], None).login("r", "me", &Secret::new("hunter2")).expect_err("not overwritten");
    assert!(error.to_string().starts_with("failed to read `"), "{error}");
    assert_eq!(home.docker(), "{broken");
}

//! One thing goes wrong at a time, with a proxy before Debian's registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use imgbuild::platform::Platform;
use imgbuild::registry::{Chunking, PushOptions, Pushed, RegistryError, Settings, Timeouts, TransportKind};

use super::docker::{self, PASSWORD, Registry, USER};
use super::http::Head;
use super::images::{Made, chain, client, digest_of, hasty, image, noting_waits, reference, with_password};
use super::proxy::{Fault, Options, Plan, Proxy};

fn chunks() -> PushOptions {
    PushOptions { chunking: Chunking::Of(400_000), parallel: 2, ..PushOptions::default() }
}

/// The fault for the first `times` requests that fit.
fn first(times: usize, fits: impl Fn(&Head) -> bool + Send + Sync + 'static, fault: Fault) -> Plan {
    let left = AtomicUsize::new(times);
    Box::new(move |head, _| {
        let hit = fits(head) && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        hit.then(|| fault.clone())
    })
}

fn method(name: &'static str) -> impl Fn(&Head) -> bool + Send + Sync + 'static {
    move |head| head.method() == name
}

fn is_right(registry: &Registry, made: &Made) {
    assert_eq!(registry.tagged("a/b", "1"), Some(made.digest.to_string()));
    for layer in &made.image.parsed.layers {
        assert_eq!(digest_of(&registry.stored(&layer.digest).expect("stored")), layer.digest);
    }
}

fn push_with(settings: Settings, proxy: &Proxy, made: &Made) -> Result<Pushed, RegistryError> {
    client(settings).push(&made.image, &reference(format!("{}/a/b:1", proxy.host())), &chunks())
}

#[test]
fn each_passing_fault_is_survived() {
    let status = |status| Fault::Answer(status, vec![]);
    let cases: Vec<(&str, &'static str, Fault)> = vec![
        ("cut in a chunk", "PATCH", Fault::CutRequest(150_000)),
        ("cut before a chunk", "PATCH", Fault::CutRequest(0)),
        ("answer of a chunk lost", "PATCH", Fault::CutBeforeAnswer),
        ("answer of a chunk cut", "PATCH", Fault::CutAnswer(40)),
        ("chunk taken in part", "PATCH", Fault::Part(123_456)),
        ("chunk damaged", "PATCH", Fault::DamageRequest(77)),
        ("500 for a chunk", "PATCH", status(500)),
        ("502 for a chunk", "PATCH", status(502)),
        ("503 for a chunk", "PATCH", status(503)),
        ("429 for a chunk", "PATCH", Fault::Answer(429, vec![("retry-after", "1".to_owned())])),
        ("408 for a chunk", "PATCH", status(408)),
        ("416 for a chunk", "PATCH", status(416)),
        ("404 for a chunk", "PATCH", status(404)),
        ("completion lost on its way", "PUT", Fault::CutRequest(0)),
        ("answer of a completion lost", "PUT", Fault::CutBeforeAnswer),
        ("504 for a completion", "PUT", status(504)),
        ("slow completion", "PUT", Fault::Hold(Duration::from_millis(600))),
        ("503 for the beginning", "POST", status(503)),
        ("answer of the beginning lost", "POST", Fault::CutBeforeAnswer),
        ("500 for a look", "HEAD", status(500)),
        ("a look cut", "HEAD", Fault::CutAnswer(20)),
    ];
    let made = image(60, &[1_500_000, 700_000]);
    let Some(registry) = Registry::start(&docker::Options::default()) else { return };
    for (number, (name, on, fault)) in cases.into_iter().enumerate() {
        let proxy = Proxy::start(&registry.host, Options::default(), first(1, method(on), fault));
        let mut settings = hasty();
        // A completion may take longer than an idle connection.
        settings.timeouts = Timeouts { idle: Duration::from_millis(400), ..Timeouts::default() };
        settings.timeouts.idle = if name.starts_with("slow") { settings.timeouts.idle } else { Duration::from_secs(20) };
        let target = reference(format!("{}/fault/n{number}:1", proxy.host()));
        let pushed =
            client(settings).push(&made.image, &target, &chunks()).unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        assert_eq!(proxy.seen.faults.lock().unwrap().len(), 1, "{name}: it did not happen");
        assert_eq!(pushed.digest, made.digest);
        assert_eq!(registry.tagged(&target.repository, "1"), Some(made.digest.to_string()), "{name}");
        for layer in &made.image.parsed.layers {
            assert!(registry.linked(&target.repository, &layer.digest), "{name}");
            assert_eq!(digest_of(&registry.stored(&layer.digest).unwrap()), layer.digest, "{name}");
        }
    }
}

#[test]
fn retry_after_is_obeyed_and_lasting_faults_end_with_what_the_registry_said() {
    let Some(registry) = Registry::start(&docker::Options::default()) else { return };
    let made = image(61, &[500_000]);
    let busy = |wait: &str| Fault::Answer(429, vec![("retry-after", wait.to_owned())]);
    let mut settings = hasty();
    let waits = noting_waits(&mut settings);
    let proxy = Proxy::start(&registry.host, Options::default(), first(2, method("POST"), busy("17")));
    push_with(settings.clone(), &proxy, &made).unwrap();
    assert_eq!(waits.lock().unwrap().iter().filter(|wait| wait.as_secs() >= 17).count(), 2);
    is_right(&registry, &made);

    let other = image(62, &[500_000]);
    for (on, fault, text) in [
        ("PATCH", Fault::Answer(503, vec![]), "gave up after 6 attempts"),
        ("PUT", Fault::Answer(403, vec![]), "with status 403 TEST (made up)"),
        ("POST", busy("9999"), "and asks to wait 9999 s"),
        ("HEAD", Fault::CutBeforeAnswer, "gave up after 6 attempts"),
        ("PUT", Fault::Answer(302, vec![]), "with status 302, expected"),
    ] {
        let proxy = Proxy::start(&registry.host, Options::default(), first(1000, method(on), fault));
        let error = push_with(hasty(), &proxy, &other).unwrap_err();
        assert!(chain(&error).contains(text), "{on}: {}", chain(&error));
        assert!(!chain(&error).contains("_state"), "a signed address is shown: {}", chain(&error));
        assert_eq!(registry.tagged("a/b", "1"), Some(made.digest.to_string()));
    }
}

#[test]
fn locations_may_be_relative() {
    let Some(registry) = Registry::start(&docker::Options::default()) else { return };
    let made = image(63, &[900_000]);
    let proxy = Proxy::start(&registry.host, Options { relative_locations: true, ..Options::default() }, Box::new(|_, _| None));
    push_with(hasty(), &proxy, &made).unwrap();
    assert!(proxy.seen.of("PATCH").len() >= 3 && proxy.seen.of("PATCH").iter().all(|head| head.query("_state").is_some()));
    is_right(&registry, &made);
}

#[test]
fn a_401_in_the_middle_of_an_upload_is_answered_once() {
    let Some(registry) = Registry::start(&docker::Options { password: true, ..docker::Options::default() }) else { return };
    let made = image(64, &[1_200_000]);
    let unauthorized = Fault::Answer(401, vec![("www-authenticate", "Basic realm=\"x\"".to_owned())]);
    let proxy = Proxy::start(&registry.host, Options::default(), first(1, method("PATCH"), unauthorized.clone()));
    push_with(with_password(hasty(), &proxy.host(), USER, PASSWORD), &proxy, &made).unwrap();
    is_right(&registry, &made);
    assert_eq!(proxy.seen.faults.lock().unwrap().len(), 1);
    // One that stays ends it.
    let made = image(68, &[1_200_000]);
    let proxy = Proxy::start(&registry.host, Options::default(), first(1000, method("PATCH"), unauthorized));
    let error = push_with(with_password(hasty(), &proxy.host(), USER, PASSWORD), &proxy, &made).unwrap_err();
    assert_eq!(error.status(), Some(401));
    let proxy = Proxy::start(&registry.host, Options::default(), Box::new(|_, _| None));
    push_with(with_password(hasty(), &proxy.host(), USER, PASSWORD), &proxy, &made).unwrap();
    is_right(&registry, &made);
    // Only the first request of each of the two threads goes without.
    let requests = proxy.seen.requests.lock().unwrap().len();
    let without = requests - proxy.seen.authorizations().len();
    assert!((1..=2).contains(&without), "{without} of {requests} requests");
}

#[test]
fn authorization_never_reaches_another_host() {
    let Some(registry) = Registry::start(&docker::Options { password: true, ..docker::Options::default() }) else { return };
    let made = image(65, &[1_000_000]);
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    // The other host lets everybody in.
    let elsewhere = Proxy::start(
        &registry.host,
        Options { authorization: Some(format!("Basic {encoded}")), ..Options::default() },
        Box::new(|_, _| None),
    );
    let other = elsewhere.host();
    for status in [307, 308, 302, 301] {
        let to = other.clone();
        let proxy = Proxy::start(
            &registry.host,
            Options::default(),
            Box::new(move |head, _| {
                let authorized = head.get("authorization").is_some();
                let moved = authorized && (head.path().contains("/blobs/uploads/") || head.method() == "GET");
                moved.then(|| Fault::Redirect(status, to.clone()))
            }),
        );
        let client = client(with_password(hasty(), &proxy.host(), USER, PASSWORD));
        let target = reference(format!("{}/r{status}/b:1", proxy.host()));
        client.push(&made.image, &target, &chunks()).unwrap_or_else(|error| panic!("{status}: {}", chain(&error)));
        assert_eq!(registry.tagged(&target.repository, "1"), Some(made.digest.to_string()));
        let opened = client.open(&target, Platform::LinuxAmd64).unwrap();
        super::images::read_all(&opened, &opened.parsed.layers[0]).unwrap();
        assert!(!proxy.seen.authorizations().is_empty());
    }
    let seen = &elsewhere.seen;
    assert!(["POST", "PATCH", "PUT", "GET"].iter().all(|method| !seen.of(method).is_empty()));
    assert_eq!(seen.authorizations(), Vec::<String>::new());
}

#[test]
fn redirects_that_go_in_circles_or_nowhere_end() {
    let Some(registry) = Registry::start(&docker::Options::default()) else { return };
    let made = image(66, &[1000]);
    let proxy = Proxy::start(
        &registry.host,
        Options::default(),
        Box::new(|head, _| Some(Fault::Answer(307, vec![("location", head.target().to_owned())]))),
    );
    let error = push_with(hasty(), &proxy, &made).unwrap_err();
    assert!(error.to_string().ends_with("there are too many redirects"), "{error}");
    for (location, reason) in [("ftp://example.com/x", "it is neither http nor https"), ("http://", "")] {
        let location = location.to_owned();
        let proxy = Proxy::start(
            &registry.host,
            Options::default(),
            Box::new(move |_, _| Some(Fault::Answer(307, vec![("location", location.clone())]))),
        );
        let error = push_with(hasty(), &proxy, &made).unwrap_err();
        assert!(chain(&error).contains(reason), "{}", chain(&error));
    }
    let to = registry.host.clone();
    let proxy = Proxy::start(&registry.host, Options::default(), first(100, method("POST"), Fault::Redirect(303, to)));
    let error = push_with(hasty(), &proxy, &made).unwrap_err();
    assert!(error.to_string().contains("turns a request that changes something into one that reads"), "{error}");
}

#[test]
fn nobody_there_and_silence_are_told_apart() {
    let made = image(67, &[1000]);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let push = |settings, host: &str| {
        client(settings).push(&made.image, &reference(format!("{host}/a/b:1")), &PushOptions::default()).unwrap_err()
    };
    let kind = |error: &RegistryError| match error {
        RegistryError::Transport { kind, .. } => *kind,
        RegistryError::GaveUp { source, .. } => match &**source {
            RegistryError::Transport { kind, .. } => *kind,
            other => panic!("{other}"),
        },
        other => panic!("{other}"),
    };
    let error = push(hasty(), &free.to_string());
    assert_eq!(kind(&error), TransportKind::Refused);
    assert!(error.hint().unwrap().contains("running"), "{error:?}");

    let silent = super::http::Listener::start(|connection| {
        std::thread::sleep(Duration::from_secs(3));
        drop(connection);
    });
    let mut settings = hasty();
    settings.timeouts.idle = Duration::from_millis(100);
    settings.retries.attempts = 2;
    assert_eq!(kind(&push(settings, &silent.host())), TransportKind::TimedOut);

    let babbling = super::http::Listener::start(|mut connection| {
        let _ = std::io::Write::write_all(&mut connection.stream, b"SSH-2.0-OpenSSH_9.2\r\n");
    });
    assert_eq!(kind(&push(hasty(), &babbling.host())), TransportKind::Broken);
    // TLS is wanted from one that speaks plain http.
    let plain = Arc::new(Proxy::start(&free.to_string(), Options::default(), Box::new(|_, _| Some(Fault::Answer(200, vec![])))));
    let authority = tempfile::NamedTempFile::new().unwrap();
    if docker::have("openssl") {
        let path = authority.path().display().to_string();
        docker::run(
            "openssl",
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-keyout",
                "/dev/null",
                "-subj",
                "/CN=x",
                "-out",
                &path,
            ],
        );
        let error = push(Settings { ca_file: Some(authority.path().to_owned()), ..hasty() }, &plain.host());
        assert!(matches!(kind(&error), TransportKind::NoTls | TransportKind::Broken), "{}", chain(&error));
    }
}

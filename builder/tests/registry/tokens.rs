//! Tokens, from a token server of the tests' own; and what must never be seen of them.

use std::sync::{Arc, Mutex, OnceLock};

use base64::Engine;
use imgbuild::image::Image;
use imgbuild::platform::Platform;
use imgbuild::registry::{Chunking, Client, Credential, CredentialSources, Placed, PushOptions, RegistryError, Secret};

use super::images::{Heard, chain, client, hasty, image, read_all, reference, with_password};
use super::mini::{Mini, Options, Tokens};

const CHALLENGE: &str = r#"Bearer realm="{realm}",service="mini, the registry",scope="{scope}""#;
const ANSWER: &str = r#"{"token":"{token}","expires_in":300}"#;

fn basic(user: &str, password: &str) -> Option<String> {
    Some(base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

fn start(tokens: Tokens) -> Mini {
    Mini::start(Options { tokens: Some(tokens), mounts: true, ..Options::default() })
}

fn chunks() -> PushOptions {
    PushOptions { chunking: Chunking::Of(300_000), parallel: 2, ..PushOptions::default() }
}

fn push_and_read(client: &Client, host: &str, image: &Image) {
    let target = reference(format!("{host}/acme/model:1"));
    client.push(image, &target, &chunks()).unwrap();
    let opened = client.open(&target, Platform::LinuxAmd64).unwrap();
    assert_eq!(opened.manifest, image.manifest);
    for layer in &opened.parsed.layers {
        read_all(&opened, layer).unwrap();
    }
}

#[test]
fn challenges_and_answers_in_every_form_lead_to_a_token() {
    let made = image(20, &[1_000_000, 10]);
    for (challenge, answer) in [
        (CHALLENGE, ANSWER),
        (r#"bearer Realm={realm}, Service="s""#, r#"{"access_token":"{token}"}"#),
        (r#"BEARER realm="{realm}""#, r#"{"token":"{token}","access_token":"{token}","issued_at":"2024-01-01T00:00:00Z"}"#),
        (
            r#"Basic realm="x", Bearer realm="{realm}",scope="{scope} repository:other/x:pull""#,
            r#"{"token":"{token}","expires_in":0}"#,
        ),
    ] {
        let mini = start(Tokens { basic: basic("me", "hunter2"), uses: 1000, challenge, answer, ..Tokens::default() });
        push_and_read(&client(with_password(hasty(), &mini.host(), "me", "hunter2")), &mini.host(), &made.image);
    }
}

#[test]
fn a_token_is_used_until_it_ends_and_then_replaced_in_the_middle_of_a_push() {
    let made = image(21, &[2_000_000, 900_000]);
    let mini =
        start(Tokens { basic: basic("me", "hunter2"), uses: 1000, challenge: CHALLENGE, answer: ANSWER, ..Tokens::default() });
    let settings = with_password(hasty(), &mini.host(), "me", "hunter2");
    push_and_read(&client(settings), &mini.host(), &made.image);
    // One to push, one to pull.
    assert_eq!(mini.state.lock().unwrap().handed_out, 2);

    // Tokens that the registry takes three times: most requests in the middle of an upload meet a 401.
    let mini =
        start(Tokens { basic: basic("me", "hunter2"), uses: 3, challenge: CHALLENGE, answer: ANSWER, ..Tokens::default() });
    let settings = with_password(hasty(), &mini.host(), "me", "hunter2");
    let target = reference(format!("{}/acme/model:1", mini.host()));
    let pushed = client(settings).push(&made.image, &target, &PushOptions { parallel: 1, ..chunks() }).unwrap();
    assert!(pushed.blobs.iter().all(|blob| blob.placed == Placed::Uploaded), "{pushed:?}");
    assert!(mini.state.lock().unwrap().handed_out >= 5);
    let sizes: u64 = pushed.blobs.iter().map(|blob| blob.size).sum();
    // Small requests go without asking whether they are wanted.
    let again = pushed.bytes_sent - sizes - 2 * made.image.manifest.len() as u64;
    assert!(again < 256 * 1024, "401s cost {again} bytes");
}

#[test]
fn an_identity_token_is_exchanged() {
    let made = image(22, &[500_000]);
    let identity = "identity+t0ken/=&x".to_owned();
    let mini = start(Tokens {
        identity: Some(identity.clone()),
        basic: basic("n", "o"),
        uses: 1000,
        challenge: CHALLENGE,
        answer: ANSWER,
    });
    let mut settings = hasty();
    settings.credentials = CredentialSources::only(&mini.host(), Credential::IdentityToken(Secret::new(identity)));
    push_and_read(&client(settings), &mini.host(), &made.image);
    let forms = mini.state.lock().unwrap().forms.join("\n");
    assert!(
        forms.contains("service=mini%2C+the+registry") && forms.contains("scope=repository%3Aacme%2Fmodel%3Apull%2Cpush"),
        "{forms}"
    );
}

#[test]
fn mounting_asks_for_what_it_needs_and_public_images_need_no_account() {
    let made = image(23, &[400_000]);
    let mini = start(Tokens { uses: 1000, challenge: CHALLENGE, answer: ANSWER, ..Tokens::default() });
    let anonymous = client(hasty());
    push_and_read(&anonymous, &mini.host(), &made.image);
    let pushed = anonymous.push(&made.image, &reference(format!("{}/acme/other:1", mini.host())), &chunks()).unwrap();
    assert!(pushed.blobs.iter().all(|blob| blob.placed == Placed::Mounted { from: "acme/model".to_owned() }), "{pushed:?}");
    // A helper that is missing is warned about and does no harm.
    let home = tempfile::TempDir::new().unwrap();
    std::fs::write(home.path().join("config.json"), r#"{"credsStore":"is-not-installed"}"#).unwrap();
    let heard = Heard::default();
    let mut settings = hasty();
    settings.credentials.docker = Some(home.path().join("config.json"));
    push_and_read(&Client::new(settings, &heard.progress()), &mini.host(), &made.image);
    assert!(heard.text().contains("docker-credential-is-not-installed"), "{}", heard.text());
}

#[test]
fn credentials_that_are_wrong_end_it_with_a_hint() {
    let made = image(24, &[1000]);
    let mini =
        start(Tokens { basic: basic("me", "hunter2"), uses: 1000, challenge: CHALLENGE, answer: ANSWER, ..Tokens::default() });
    let target = reference(format!("{}/acme/model:1", mini.host()));
    for settings in [hasty(), with_password(hasty(), &mini.host(), "me", "wrong-hunter")] {
        let error = client(settings).push(&made.image, &target, &PushOptions::default()).unwrap_err();
        assert_eq!(error.status(), Some(401), "{}", chain(&error));
        assert!(error.hint().unwrap().contains("imgbuild login"), "{error:?}");
    }
    // A token that is never taken is asked for once for each request, not for ever.
    let mini = start(Tokens { uses: 0, challenge: CHALLENGE, answer: ANSWER, ..Tokens::default() });
    let target = reference(format!("{}/acme/model:1", mini.host()));
    let error = client(hasty()).push(&made.image, &target, &PushOptions { parallel: 1, ..PushOptions::default() }).unwrap_err();
    assert_eq!((error.status(), mini.state.lock().unwrap().handed_out), (Some(401), 1));
    for (answer, reason) in [("{}", "it has neither `token` nor `access_token`"), ("<html>", "it is no JSON object with a token")]
    {
        let mini = start(Tokens { uses: 10, challenge: CHALLENGE, answer, ..Tokens::default() });
        let target = reference(format!("{}/acme/model:1", mini.host()));
        let error = client(hasty()).push(&made.image, &target, &PushOptions::default()).unwrap_err();
        assert!(matches!(&error, RegistryError::Document { .. }) && error.to_string().ends_with(reason), "{error}");
    }
}

/// Everything that any crate logs, at the highest verbosity.
struct Log(Mutex<Vec<String>>);

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }
    fn flush(&self) {}
}

static LOG: OnceLock<&'static Log> = OnceLock::new();

#[test]
fn no_secret_is_seen_anywhere() {
    let log: &'static Log = LOG.get_or_init(|| Box::leak(Box::new(Log(Mutex::default()))));
    log::set_logger(log).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let made = image(25, &[900_000]);
    let (password, identity) = ("hunter2-s3cret", "identity-s3cret");
    let heard = Heard::default();
    let mut seen = Vec::new();
    for identity_token in [false, true] {
        for uses in [3, 0] {
            let mini = start(Tokens {
                basic: basic("me", password),
                identity: Some(identity.to_owned()),
                uses,
                challenge: CHALLENGE,
                // A token server that repeats everything in what it says.
                answer: r#"{"token":"{token}-s3cret","expires_in":300}"#,
            });
            let settings = if identity_token {
                let mut settings = hasty();
                settings.credentials = CredentialSources::only(&mini.host(), Credential::IdentityToken(Secret::new(identity)));
                settings
            } else {
                with_password(hasty(), &mini.host(), "me", password)
            };
            seen.push(format!("{settings:?}"));
            let client = Client::new(settings, &heard.progress());
            let result = client.push(&made.image, &reference(format!("{}/acme/model:1", mini.host())), &chunks());
            seen.push(format!("{client:?} {result:?}"));
            if let Err(error) = result {
                seen.push(format!("{} {:?}", chain(&error), error.hint()));
            }
            seen.push(mini.state.lock().unwrap().handed_out.to_string());
        }
    }
    seen.push(heard.text());
    log::set_max_level(log::LevelFilter::Off);
    let logged = log.0.lock().unwrap().join("\n");
    assert!(logged.contains("PATCH") || logged.contains("POST"), "nothing was logged: {logged}");
    seen.push(logged);
    let encoded = basic("me", password).unwrap();
    for text in seen.iter().flat_map(|text| text.lines()) {
        for secret in [password, identity, "t0ken-", encoded.as_str()] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
    let _: Arc<Mutex<Vec<String>>> = heard.0;
}

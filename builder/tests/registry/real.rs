//! Pushed and pulled with Debian's registry; judged by skopeo and by what lies in the registry's storage.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use imgbuild::image::{Artifact, ArtifactPart, media_type};
use imgbuild::platform::Platform;
use imgbuild::registry::{Chunking, ClientCertificate, LoggedOut, Placed, Proxies, PushOptions, RegistryError, Secret, Settings};
use imgbuild::store::Store;
use tempfile::TempDir;

use super::docker::{Options, PASSWORD, Registry, USER, have, run};
use super::images::{Made, chain, client, digest_of, hasty, image, read_all, reference, with_password};

#[test]
fn what_is_pushed_is_what_skopeo_reads() {
    let Some(registry) = Registry::start(&Options { password: true, ..Options::default() }) else { return };
    let made = image(1, &[100, 300_000, 2_000_000]);
    let client = client(with_password(hasty(), &registry.host, USER, PASSWORD));
    let target = reference(format!("{}/acme/model:v1", registry.host));
    let options = PushOptions {
        tags: vec!["latest".to_owned(), "v1".to_owned()],
        chunking: Chunking::Of(512 * 1024),
        ..PushOptions::default()
    };
    let pushed = client.push(&made.image, &target, &options).unwrap();
    assert_eq!((pushed.digest, pushed.tags.join(" ").as_str()), (made.digest, "v1 latest"));
    assert!(pushed.blobs.iter().all(|blob| blob.placed == Placed::Uploaded), "{pushed:?}");
    let layers: u64 = pushed.blobs.iter().map(|blob| blob.size).sum();
    assert_eq!(pushed.bytes_sent, layers + 3 * made.image.manifest.len() as u64);
    for layer in &made.image.parsed.layers {
        assert_eq!(digest_of(&registry.stored(&layer.digest).unwrap()), layer.digest);
    }
    assert_eq!(registry.tagged("acme/model", "latest"), Some(made.digest.to_string()));

    // Again: nothing but manifests travels.
    let again = client.push(&made.image, &target, &options).unwrap();
    assert!(again.blobs.iter().all(|blob| blob.placed == Placed::Existed), "{again:?}");
    assert_eq!(again.bytes_sent, 3 * made.image.manifest.len() as u64);

    let mut tags = client.list_tags(&target).unwrap();
    tags.sort();
    assert_eq!(tags, ["latest", "v1"]);
    assert!(client.list_tags(&reference(format!("{}/acme/none", registry.host))).unwrap().is_empty());

    if have("skopeo") {
        let (source, credentials) = (format!("docker://{target}"), format!("{USER}:{PASSWORD}"));
        let inspected = run("skopeo", &["inspect", "--tls-verify=false", "--creds", &credentials, &source]);
        assert!(inspected.contains(&format!("\"Digest\": \"{}\"", made.digest)), "{inspected}");
        let folder = TempDir::new().unwrap();
        let to = format!("dir:{}", folder.path().display());
        run("skopeo", &["copy", "--src-tls-verify=false", "--src-creds", &credentials, &source, &to]);
        assert_eq!(digest_of(&folder.path().join("manifest.json")), made.digest);
        for layer in &made.image.parsed.layers {
            assert_eq!(digest_of(&folder.path().join(layer.digest.hex())), layer.digest);
        }
    }
}

/// An image as a folder that skopeo reads.
fn as_folder(made: &Made) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("manifest.json"), &made.image.manifest).unwrap();
    fs::write(folder.path().join("version"), "Directory Transport Version: 1.1\n").unwrap();
    fs::write(folder.path().join(made.image.parsed.config.digest.hex()), &made.image.config).unwrap();
    for layer in &made.image.parsed.layers {
        fs::copy(made.folder.path().join(layer.digest.hex()), folder.path().join(layer.digest.hex())).unwrap();
    }
    folder
}

#[test]
fn what_skopeo_pushed_is_opened_and_downloaded() {
    let Some(registry) = Registry::start(&Options::default()) else { return };
    if !have("skopeo") {
        return;
    }
    let made = image(2, &[50_000, 400_000]);
    let folder = as_folder(&made);
    let target = reference(format!("{}/from/skopeo:1", registry.host));
    run(
        "skopeo",
        &["copy", "--dest-tls-verify=false", &format!("dir:{}", folder.path().display()), &format!("docker://{target}")],
    );

    let client = client(hasty());
    assert_eq!(client.head_manifest(&target).unwrap().unwrap().digest, made.digest);
    let opened = client.open(&target, Platform::LinuxAmd64).unwrap();
    assert_eq!((&opened.manifest, &opened.config), (&made.image.manifest, &made.image.config));
    let scratch = TempDir::new().unwrap();
    let store = Store::open(scratch.path()).unwrap();
    for layer in &opened.parsed.layers {
        let blob = client.download_blob(&target, layer, &store).unwrap();
        assert_eq!((digest_of(&blob.path), blob.size), (layer.digest, layer.size));
        assert_eq!(read_all(&opened, layer).unwrap().len() as u64, layer.size);
    }
    let error = client.open(&target, Platform::LinuxArm64).unwrap_err();
    assert_eq!(error.to_string(), format!("{target} has no image for linux/arm64, only for linux/amd64"));
    let error = client.open(&reference(format!("{}/from/skopeo:2", registry.host)), Platform::LinuxAmd64).unwrap_err();
    assert_eq!(error.to_string(), format!("{}/from/skopeo:2 is not there", registry.host));
}

#[test]
fn layers_are_mounted_from_other_repositories() {
    let Some(registry) = Registry::start(&Options { password: true, ..Options::default() }) else { return };
    let made = image(3, &[200_000, 300_000]);
    let settings = with_password(hasty(), &registry.host, USER, PASSWORD);
    let first = client(settings.clone());
    first.push(&made.image, &reference(format!("{}/base/runtime:1", registry.host)), &PushOptions::default()).unwrap();

    // By name, from a client that knows nothing yet; a repository that is not there does no harm.
    let target = reference(format!("{}/team/one:1", registry.host));
    for mount_from in [vec!["base/runtime".to_owned()], vec!["no/such".to_owned(), "base/runtime".to_owned()]] {
        let target = reference(format!("{}/team/named{}:1", registry.host, mount_from.len()));
        let pushed =
            client(settings.clone()).push(&made.image, &target, &PushOptions { mount_from, ..PushOptions::default() }).unwrap();
        assert!(pushed.blobs.iter().all(|blob| blob.placed == Placed::Mounted { from: "base/runtime".to_owned() }), "{pushed:?}");
        assert_eq!(pushed.bytes_sent, 2 * made.image.manifest.len() as u64);
        assert!(made.image.parsed.layers.iter().all(|layer| registry.linked(&target.repository, &layer.digest)));
    }
    // By itself, from a client that pushed them; and from one that opened the base.
    let pushed = first.push(&made.image, &target, &PushOptions::default()).unwrap();
    assert!(pushed.blobs.iter().all(|blob| matches!(blob.placed, Placed::Mounted { .. })), "{pushed:?}");
    let other = client(settings);
    let base = other.open(&reference(format!("{}/base/runtime:1", registry.host)), Platform::LinuxAmd64).unwrap();
    let pushed = other.push(&base, &reference(format!("{}/team/two:1", registry.host)), &PushOptions::default()).unwrap();
    assert!(pushed.blobs[1..].iter().all(|blob| matches!(blob.placed, Placed::Mounted { .. })), "{pushed:?}");
}

#[test]
fn an_image_is_copied_between_registries_without_touching_the_disk() {
    let (Some(from), Some(to)) = (Registry::start(&Options::default()), Registry::start(&Options::default())) else { return };
    let made = image(4, &[700_000]);
    let client = client(hasty());
    let source = reference(format!("{}/a/b:1", from.host));
    client.push(&made.image, &source, &PushOptions::default()).unwrap();
    let opened = client.open(&source, Platform::LinuxAmd64).unwrap();
    let options = PushOptions { chunking: Chunking::Of(100_000), ..PushOptions::default() };
    client.push(&opened, &reference(format!("{}/c/d:1", to.host)), &options).unwrap();
    assert_eq!(to.tagged("c/d", "1"), Some(made.digest.to_string()));
    assert_eq!(digest_of(&to.stored(&made.image.parsed.layers[0].digest).unwrap()), made.image.parsed.layers[0].digest);
}

#[test]
fn an_index_is_pushed_after_its_images_and_opened_by_platform() {
    let Some(registry) = Registry::start(&Options::default()) else { return };
    let made = image(13, &[1000]);
    let client = client(hasty());
    let by_digest = reference(format!("{}/a/b@{}", registry.host, made.digest));
    client.push(&made.image, &by_digest, &PushOptions::default()).unwrap();
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [{
        "mediaType": media_type::MANIFEST, "digest": made.digest, "size": made.image.manifest.len(),
        "platform": {"os": "linux", "architecture": "amd64"}}]});
    let target = reference(format!("{}/a/b:multi", registry.host));
    let bytes = serde_json::to_vec(&index).unwrap();
    let digest = client.push_manifest(&target, media_type::INDEX, &bytes).unwrap();
    assert_eq!(registry.tagged("a/b", "multi"), Some(digest.to_string()));
    assert_eq!(client.fetch_manifest(&target).unwrap().bytes, bytes);
    assert_eq!(client.open(&target, Platform::LinuxAmd64).unwrap().manifest, made.image.manifest);
    if have("skopeo") {
        let inspected = run("skopeo", &["inspect", "--tls-verify=false", "--raw", &format!("docker://{target}")]);
        assert_eq!(inspected.as_bytes(), bytes);
    }
}

#[test]
fn a_tag_that_is_immutable_stays() {
    let Some(registry) = Registry::start(&Options::default()) else { return };
    let (one, two) = (image(5, &[1000]), image(6, &[1000]));
    let client = client(hasty());
    let target = reference(format!("{}/a/b:v1", registry.host));
    let options = PushOptions { immutable: true, ..PushOptions::default() };
    client.push(&one.image, &target, &options).unwrap();
    client.push(&one.image, &target, &options).unwrap();
    let error = client.push(&two.image, &target, &options).unwrap_err();
    assert_eq!(error.to_string(), format!("tag {target} exists and is {}, not {}", one.digest, two.digest));
    assert_eq!(registry.tagged("a/b", "v1"), Some(one.digest.to_string()));
    assert!(!registry.linked("a/b", &two.image.parsed.layers[0].digest), "it was refused too late");
    // By digest, no tag is set; a digest that is another one is refused.
    let by_digest = reference(format!("{}/a/b@{}", registry.host, two.digest));
    assert!(client.push(&two.image, &by_digest, &options).unwrap().tags.is_empty());
    assert!(matches!(client.push(&one.image, &by_digest, &options), Err(RegistryError::OtherDigest { .. })));
    assert_eq!(client.open(&by_digest, Platform::LinuxAmd64).unwrap().manifest, two.image.manifest);
}

#[test]
fn credentials_decide_and_login_keeps_them_for_docker_and_skopeo() {
    let Some(registry) = Registry::start(&Options { password: true, ..Options::default() }) else { return };
    let made = image(7, &[1000]);
    let target = reference(format!("{}/a/b:1", registry.host));
    let error = client(hasty()).push(&made.image, &target, &PushOptions::default()).unwrap_err();
    assert_eq!(error.status(), Some(401));
    assert!(error.hint().unwrap().contains(&format!("imgbuild login {}", registry.host)), "{error:?}");
    let wrong = client(with_password(hasty(), &registry.host, USER, "wr0ng-secret"));
    let error = wrong.push(&made.image, &target, &PushOptions::default()).unwrap_err();
    assert!(error.status() == Some(401) && !chain(&error).contains("wr0ng-secret"), "{}", chain(&error));

    let home = TempDir::new().unwrap();
    let mut settings = hasty();
    settings.credentials.docker = Some(home.path().join("config.json"));
    let client = client(settings);
    assert!(client.login(&registry.host, USER, &Secret::new("wr0ng-secret")).is_err());
    assert!(!home.path().join("config.json").exists());
    client.login(&registry.host, USER, &Secret::new(PASSWORD)).unwrap();
    client.push(&made.image, &target, &PushOptions::default()).unwrap();
    if have("skopeo") {
        let file = home.path().join("config.json").display().to_string();
        let inspected = run("skopeo", &["inspect", "--tls-verify=false", "--authfile", &file, &format!("docker://{target}")]);
        assert!(inspected.contains(&made.digest.to_string()), "{inspected}");
    }
    assert_eq!(client.logout(&registry.host).unwrap(), LoggedOut::Removed);
}

#[test]
fn a_private_authority_is_trusted_when_given_and_not_before() {
    let Some(registry) = Registry::start(&Options { tls: true, password: true, ..Options::default() }) else { return };
    let made = image(8, &[900_000]);
    let target = reference(format!("{}/a/b:1", registry.host));
    let settings = || with_password(hasty(), &registry.host, USER, PASSWORD);
    let push = |settings: Settings| {
        client(settings).push(&made.image, &target, &PushOptions { chunking: Chunking::Of(300_000), ..PushOptions::default() })
    };

    let error = push(settings()).unwrap_err();
    assert!(error.hint().unwrap().contains("speaks TLS: give the authority"), "{} {:?}", chain(&error), error.hint());
    push(Settings { ca_file: Some(registry.file("ca.crt")), ..settings() }).unwrap();
    assert_eq!(registry.tagged("a/b", "1"), Some(made.digest.to_string()));
    push(Settings { insecure: [registry.host.clone()].into(), ..settings() }).unwrap();
    // Another registry's entry allows nothing.
    assert!(push(Settings { insecure: ["127.0.0.1:1".to_owned()].into(), ..settings() }).is_err());
    // An authority of somebody else.
    let other = Registry::start(&Options { tls: true, ..Options::default() }).unwrap();
    let error = push(Settings { ca_file: Some(other.file("ca.crt")), ..settings() }).unwrap_err();
    assert!(error.hint().unwrap().contains("--ca-file") && chain(&error).contains("certificate"), "{}", chain(&error));
    // As Docker keeps it.
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join(&registry.host)).unwrap();
    fs::copy(registry.file("ca.crt"), folder.path().join(&registry.host).join("ca.crt")).unwrap();
    push(Settings { certificate_folders: vec![folder.path().to_owned()], ..settings() }).unwrap();
}

#[test]
fn a_client_certificate_is_shown_and_files_that_are_none_are_named() {
    let Some(registry) = Registry::start(&Options { tls: true, client_certificates: true, ..Options::default() }) else { return };
    let made = image(9, &[1000]);
    let target = reference(format!("{}/a/b:1", registry.host));
    let with = |certificate: &str, key: &str| Settings {
        ca_file: Some(registry.file("ca.crt")),
        client_certificate: Some(ClientCertificate { certificate: registry.file(certificate), key: registry.file(key) }),
        ..hasty()
    };
    let push = |settings| client(settings).push(&made.image, &target, &PushOptions::default());
    push(with("client.crt", "client.key")).unwrap();
    let error = push(Settings { ca_file: Some(registry.file("ca.crt")), ..hasty() }).unwrap_err();
    assert!(chain(&error).to_lowercase().contains("certificate"), "{}", chain(&error));
    for (certificate, key, reason) in [
        ("client.crt", "server.key", "server.key"),
        ("client.crt", "client.crt", "it holds no unencrypted private key in PEM form"),
        ("client.key", "client.key", "it holds no certificate in PEM form"),
        ("none.crt", "client.key", "No such file"),
    ] {
        let error = push(with(certificate, key)).unwrap_err();
        assert!(matches!(error, RegistryError::TlsFile { .. }) && error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn what_is_attached_is_listed_by_the_tag_that_stands_in() {
    let Some(registry) = Registry::start(&Options::default()) else { return };
    let made = image(10, &[1000]);
    let client = client(hasty());
    let target = reference(format!("{}/a/b:1", registry.host));
    client.push(&made.image, &target, &PushOptions::default()).unwrap();
    let subject = client.head_manifest(&target).unwrap().unwrap();
    assert!(client.referrers(&target, &subject.digest, None).unwrap().is_empty());
    let attach = |kind: &str, text: &str| {
        let part = ArtifactPart { media_type: "text/plain".to_owned(), bytes: text.into(), annotations: BTreeMap::new() };
        let artifact = Artifact {
            artifact_type: kind.to_owned(),
            parts: vec![part],
            annotations: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        };
        client.attach(&target, &subject, &artifact).unwrap()
    };
    let tag = format!("sha256-{}", made.digest.hex());
    let one = attach("application/x-one", "1");
    assert_eq!(one.fallback_tag.as_deref(), Some(tag.as_str()));
    let two = attach("application/x-two", "2");
    attach("application/x-one", "1");
    let listed = client.referrers(&target, &subject.digest, None).unwrap();
    assert_eq!(listed, [one.descriptor.clone(), two.descriptor]);
    assert_eq!(client.referrers(&target, &subject.digest, Some("application/x-one")).unwrap(), listed[..1]);
    assert_eq!(listed[0].annotations["k"], "v");
    if have("skopeo") {
        let index = run("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{}/a/b:{tag}", registry.host)]);
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        assert_eq!(index["mediaType"], media_type::INDEX);
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    }
}

/// A proxy that opens tunnels, all of them to one place; gives what it was asked for.
fn tunnels(to: &str) -> (super::http::Listener, Arc<Mutex<Vec<super::http::Head>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (sink, to) = (Arc::clone(&asked), to.to_owned());
    let listener = super::http::Listener::start(move |mut connection| {
        let Ok(Some(head)) = super::http::Head::read(&mut connection.reader) else { return };
        sink.lock().unwrap().push(head);
        let mut there = std::net::TcpStream::connect(&to).unwrap();
        connection.stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
        let mut back = (there.try_clone().unwrap(), connection.stream.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut back.0, &mut back.1);
            let _ = back.1.shutdown(std::net::Shutdown::Both);
        });
        let _ = std::io::copy(&mut connection.reader, &mut there);
        let _ = there.shutdown(std::net::Shutdown::Both);
    });
    (listener, asked)
}

#[test]
fn a_proxy_is_used_for_other_hosts_and_never_for_this_one() {
    for tls in [false, true] {
        let Some(registry) = Registry::start(&Options { tls, ..Options::default() }) else { return };
        let made = image(11, &[400_000]);
        let (proxy, asked) = tunnels(&registry.host);
        let address = || Some(Secret::new(format!("http://gate:k33per@{}", proxy.host())));
        let insecure = [String::from("registry.example.com:5000"), registry.host.clone()].into();
        let settings = Settings { proxies: Proxies::new(address(), address(), "other.example.com"), insecure, ..hasty() };
        let target = reference("registry.example.com:5000/a/b:1");
        client(settings.clone()).push(&made.image, &target, &PushOptions::default()).unwrap();
        assert_eq!(registry.tagged("a/b", "1"), Some(made.digest.to_string()));
        let heads = asked.lock().unwrap().len();
        for head in asked.lock().unwrap().iter() {
            assert_eq!(head.first, "CONNECT registry.example.com:5000 HTTP/1.1");
            assert!(
                head.get("proxy-authorization").is_some_and(|value| value.starts_with("basic ") || value.starts_with("Basic "))
            );
        }
        // This machine itself.
        client(settings.clone())
            .push(&made.image, &reference(format!("{}/c/d:1", registry.host)), &PushOptions::default())
            .unwrap();
        assert_eq!(asked.lock().unwrap().len(), heads);
        assert!(!format!("{settings:?}").contains("k33per"));
    }
}

#[test]
#[ignore = "a measurement: run it alone on a quiet machine"]
fn a_push_is_no_slower_than_skopeo() {
    if !have("skopeo") {
        return;
    }
    let made = image(12, &[128 << 20, 128 << 20, 128 << 20, 128 << 20]);
    let folder = as_folder(&made);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        // skopeo remembers what it pushed to a registry: each has a new one.
        let (Some(one), Some(other)) = (Registry::start(&Options::default()), Registry::start(&Options::default())) else {
            return;
        };
        let begun = Instant::now();
        client(hasty()).push(&made.image, &reference(format!("{}/a/b:1", one.host)), &PushOptions::default()).unwrap();
        ours.push(begun.elapsed());
        let begun = Instant::now();
        let (from, to) = (format!("dir:{}", folder.path().display()), format!("docker://{}/a/b:1", other.host));
        run("skopeo", &["copy", "--dest-tls-verify=false", &from, &to]);
        theirs.push(begun.elapsed());
    }
    eprintln!("512 MiB in 4 layers: imgbuild {ours:?}, skopeo {theirs:?}");
    assert!(ours.iter().min() <= theirs.iter().min(), "{ours:?} {theirs:?}");
}

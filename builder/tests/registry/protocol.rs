//! What registries may do differently, with the small registry of our own.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use imgbuild::digest::Digest;
use imgbuild::image::{Artifact, Descriptor, Index, PlatformFields, media_type};
use imgbuild::platform::Platform;
use imgbuild::registry::{Chunking, Placed, PushOptions, RegistryError};
use imgbuild::store::Store;
use tempfile::TempDir;

use super::images::{Made, chain, client, digest_of, hasty, image, read_all, reference};
use super::mini::{Mini, Options};
use super::proxy::{Fault, Proxy};

fn push(mini: &Mini, made: &Made, chunk: u64) -> imgbuild::registry::Pushed {
    let options = PushOptions { chunking: Chunking::Of(chunk), ..PushOptions::default() };
    let pushed = client(hasty()).push(&made.image, &reference(format!("{}/a/b:1", mini.host())), &options).unwrap();
    for layer in &made.image.parsed.layers {
        assert_eq!(digest_of(&mini.blob(&layer.digest)), layer.digest);
    }
    pushed
}

#[test]
fn chunks_have_the_size_that_both_sides_can_live_with() {
    let made = image(40, &[2_000_000]);
    let size = made.image.parsed.layers[0].size;
    let cases = [
        (Options::default(), 500_000, size.div_ceil(500_000)),
        (Options { least_chunk: Some(800_000), ..Options::default() }, 500_000, size.div_ceil(800_000)),
        (Options::default(), 8 << 20, 0),
    ];
    for (options, chunk, patches) in cases {
        let mini = Mini::start(options);
        push(&mini, &made, chunk);
        assert_eq!(mini.count("PATCH") as u64, patches, "{chunk}");
    }
    // One piece from a registry that takes no chunks; smaller ones from one that finds them too large.
    let mini = Mini::start(Options { no_chunks: true, ..Options::default() });
    push(&mini, &made, 500_000);
    let mini = Mini::start(Options { largest_request: Some(600_000), ..Options::default() });
    push(&mini, &image(41, &[4_000_000]), 2_200_000);
    let mini = Mini::start(Options { largest_request: Some(100_000), ..Options::default() });
    let target = reference(format!("{}/a/b:1", mini.host()));
    let error = client(hasty()).push(&made.image, &target, &PushOptions::default()).unwrap_err();
    assert_eq!(error.status(), Some(413));
    assert!(error.hint().unwrap().contains("smaller chunk"), "{}", chain(&error));
}

#[test]
fn a_mount_that_the_registry_does_not_make_becomes_an_upload() {
    let mini = Mini::start(Options { mounts: false, ..Options::default() });
    let made = image(42, &[300_000]);
    push(&mini, &made, 100_000);
    let posts = mini.count("POST");
    let options = PushOptions { mount_from: vec!["a/b".to_owned()], ..PushOptions::default() };
    let pushed = client(hasty()).push(&made.image, &reference(format!("{}/c/d:1", mini.host())), &options).unwrap();
    assert!(pushed.blobs.iter().all(|blob| blob.placed == Placed::Uploaded), "{pushed:?}");
    // The session that the mount opened is the one that is used.
    assert_eq!(mini.count("POST") - posts, 2);
}

#[test]
fn a_registry_that_tells_no_digests_is_asked_for_the_manifest() {
    let mini = Mini::start(Options { no_manifest_digests: true, ..Options::default() });
    let made = image(43, &[1000]);
    push(&mini, &made, 1 << 20);
    let target = reference(format!("{}/a/b:1", mini.host()));
    assert_eq!(client(hasty()).head_manifest(&target).unwrap().unwrap().digest, made.digest);
    let options = PushOptions { immutable: true, ..PushOptions::default() };
    assert!(client(hasty()).push(&image(44, &[1000]).image, &target, &options).is_err());
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    for no_ranges in [false, true] {
        let mini = Mini::start(Options { no_ranges, ..Options::default() });
        let made = image(45, &[3_000_000]);
        push(&mini, &made, 1 << 20);
        let layer = &made.image.parsed.layers[0];
        let broken = AtomicU64::new(0);
        let wanted = layer.digest.to_string();
        let proxy = Proxy::start(
            &mini.host(),
            super::proxy::Options::default(),
            Box::new(move |head, _| {
                let cut = head.method() == "GET" && head.path().ends_with(&wanted) && broken.fetch_add(1, Ordering::SeqCst) < 3;
                cut.then_some(Fault::CutAnswer(if no_ranges { 2_500_000 } else { 800_000 }))
            }),
        );
        let client = client(hasty());
        let target = reference(format!("{}/a/b:1", proxy.host()));
        let scratch = TempDir::new().unwrap();
        let store = Store::open(scratch.path()).unwrap();
        let blob = client.download_blob(&target, layer, &store).unwrap();
        assert_eq!(digest_of(&blob.path), layer.digest);
        let gets: Vec<_> = proxy.seen.of("GET").into_iter().filter(|head| head.path().contains("/blobs/")).collect();
        assert_eq!(gets.len(), 4);
        assert!(gets[0].get("range").is_none() && gets[3].get("range").is_some());
        // Again: from the store.
        client.download_blob(&target, layer, &store).unwrap();
        assert_eq!(proxy.seen.of("GET").iter().filter(|head| head.path().contains("/blobs/")).count(), 4);
        // From the middle, as a pushing client reads it.
        let mut rest = Vec::new();
        client.blobs(&target).unwrap().open_unverified(layer, 1_000_000).unwrap().read_to_end(&mut rest).unwrap();
        assert_eq!(rest, std::fs::read(&blob.path).unwrap()[1_000_000..]);
    }
}

#[test]
fn an_index_gives_the_image_for_the_platform() {
    let mini = Mini::start(Options::default());
    let made = image(46, &[1000]);
    push(&mini, &made, 1 << 20);
    let entry = |architecture: &str, variant: Option<&str>, digest: Digest, size: usize| Descriptor {
        platform: Some(PlatformFields {
            architecture: architecture.to_owned(),
            os: if architecture == "unknown" { "unknown" } else { "linux" }.to_owned(),
            variant: variant.map(str::to_owned),
            other: BTreeMap::new(),
        }),
        ..Descriptor::new(media_type::MANIFEST, digest, size as u64)
    };
    let put = |tag: &str, index: &Index| {
        let bytes = serde_json::to_vec(index).unwrap();
        let mut state = mini.state.lock().unwrap();
        for key in [tag.to_owned(), Digest::of(&bytes).to_string()] {
            state.manifests.insert(("a/b".to_owned(), key), (bytes.clone(), media_type::INDEX.to_owned()));
        }
        Descriptor::of(media_type::INDEX, &bytes)
    };
    let index = |manifests: Vec<Descriptor>| Index {
        schema_version: 2,
        media_type: Some(media_type::INDEX.to_owned()),
        manifests,
        annotations: BTreeMap::new(),
    };
    let missing = Digest::of(b"missing");
    put(
        "multi",
        &index(vec![
            entry("unknown", None, missing, 1),
            entry("arm64", Some("v9"), missing, 1),
            entry("amd64", None, made.digest, made.image.manifest.len()),
            entry("amd64", Some("v3"), missing, 1),
        ]),
    );
    put("arm", &index(vec![entry("arm64", None, missing, 1), entry("unknown", None, missing, 1)]));
    let client = client(hasty());
    let open = |tag: &str, platform| client.open(&reference(format!("{}/a/b:{tag}", mini.host())), platform);
    assert_eq!(open("multi", Platform::LinuxAmd64).unwrap().manifest, made.image.manifest);
    let error = open("arm", Platform::LinuxAmd64).unwrap_err();
    assert_eq!(error.to_string(), format!("{}/a/b:arm has no image for linux/amd64, only for linux/arm64", mini.host()));
    let error = open("arm", Platform::LinuxArm64).unwrap_err();
    assert!(error.to_string().contains("which the registry does not have"), "{error}");
    // An index in itself, as deep as one likes.
    let mut inner = index(vec![entry("amd64", None, made.digest, made.image.manifest.len())]);
    for depth in 0..5 {
        let descriptor = put(&format!("deep{depth}"), &inner);
        let mut outer = entry("amd64", None, descriptor.digest, usize::try_from(descriptor.size).unwrap());
        outer.media_type = media_type::INDEX.to_owned();
        inner = index(vec![outer]);
    }
    open("deep1", Platform::LinuxAmd64).unwrap();
    assert!(open("deep4", Platform::LinuxAmd64).unwrap_err().to_string().contains("too deep"));
}

#[test]
fn manifests_that_cannot_be_used_are_refused_in_plain_words() {
    let mini = Mini::start(Options::default());
    let client = client(hasty());
    let huge = format!(r#"{{"mediaType":"{}","x":"{}"}}"#, media_type::MANIFEST, "x".repeat(5 << 20));
    for (bytes, kind, reason) in [
        ("{", media_type::MANIFEST, "is not understood"),
        (
            r#"{"mediaType":"application/vnd.docker.distribution.manifest.v1+json"}"#,
            "",
            "its media type is `application/vnd.docker",
        ),
        (r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}"#, "", "missing field `config`"),
        ("[]", media_type::INDEX, "is not understood"),
        (huge.as_str(), media_type::MANIFEST, "has more than 4194304 bytes"),
    ] {
        let mut state = mini.state.lock().unwrap();
        state.manifests.insert(("a/b".to_owned(), "x".to_owned()), (bytes.as_bytes().to_vec(), kind.to_owned()));
        drop(state);
        let error = client.open(&reference(format!("{}/a/b:x", mini.host())), Platform::LinuxAmd64).unwrap_err();
        assert!(chain(&error).contains(reason), "{}", chain(&error));
    }
    // Bytes that are not those of the digest.
    let made = image(47, &[1000]);
    mini.state.lock().unwrap().manifests.insert(
        ("a/b".to_owned(), made.digest.to_string()),
        (br#"{"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#.to_vec(), media_type::MANIFEST.to_owned()),
    );
    let target = reference(format!("{}/a/b@{}", mini.host(), made.digest));
    assert!(matches!(client.open(&target, Platform::LinuxAmd64), Err(RegistryError::Digest { .. })));
}

#[test]
fn layers_whose_bytes_changed_are_found_on_both_sides() {
    // In the registry.
    let mini = Mini::start(Options::default());
    let made = image(48, &[200_000]);
    push(&mini, &made, 1 << 20);
    let layer = &made.image.parsed.layers[0];
    let mut bytes = std::fs::read(mini.blob(&layer.digest)).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(mini.blob(&layer.digest), &bytes).unwrap();
    let client = client(hasty());
    let target = reference(format!("{}/a/b:1", mini.host()));
    let opened = client.open(&target, Platform::LinuxAmd64).unwrap();
    assert!(read_all(&opened, layer).unwrap_err().to_string().contains("expected sha256:"));
    let scratch = TempDir::new().unwrap();
    let store = Store::open(scratch.path()).unwrap();
    let error = client.download_blob(&target, layer, &store).unwrap_err();
    assert!(chain(&error).contains(&format!("expected {}", layer.digest)), "{}", chain(&error));
    assert!(store.find(&layer.digest).unwrap().is_none());
    // On this side: too short, other bytes, not there.
    let made = image(49, &[200_000]);
    let path = made.folder.path().join(made.image.parsed.layers[0].digest.hex());
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[5] ^= 1;
    for (content, reason) in
        [(Some(&whole[..1000]), "it ends after 1000 bytes"), (Some(&damaged[..]), "digest is sha256:"), (None, "No such file")]
    {
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let error = client.push(&made.image, &reference(format!("{}/c/d:1", mini.host())), &PushOptions::default()).unwrap_err();
        assert!(matches!(error, RegistryError::ReadBlob { .. }) && chain(&error).contains(reason), "{}", chain(&error));
    }
    assert!(!mini.state.lock().unwrap().manifests.contains_key(&("c/d".to_owned(), "1".to_owned())));
}

#[test]
fn a_registry_with_the_api_lists_what_is_attached_by_itself() {
    let mini = Mini::start(Options { referrers: true, ..Options::default() });
    let made = image(50, &[1000]);
    push(&mini, &made, 1 << 20);
    let client = client(hasty());
    let target = reference(format!("{}/a/b:1", mini.host()));
    let subject = client.head_manifest(&target).unwrap().unwrap();
    let artifact = Artifact { artifact_type: "application/x-empty".to_owned(), parts: vec![], annotations: BTreeMap::new() };
    let attached = client.attach(&target, &subject, &artifact).unwrap();
    assert_eq!(attached.fallback_tag, None);
    let listed = client.referrers(&target, &subject.digest, None).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].digest, listed[0].artifact_type.as_deref()), (attached.descriptor.digest, Some("application/x-empty")));
    assert!(client.referrers(&target, &subject.digest, Some("application/x-other")).unwrap().is_empty());
    let tag = format!("sha256-{}", subject.digest.hex());
    assert!(!mini.state.lock().unwrap().manifests.contains_key(&("a/b".to_owned(), tag)));
}

//! What other tools say about the layers written here.

use std::process::Command;

use super::*;

const PYTHON: &str = r#"
import hashlib, io, json, sys, tarfile
raw = sys.stdin.buffer.read()
tar = tarfile.open(fileobj=io.BytesIO(raw), format=tarfile.PAX_FORMAT)
rows = []
end = 0
for m in tar:
    assert (m.uid, m.gid, m.uname, m.gname, m.mtime) == (0, 0, "", "", int(sys.argv[1])), m.get_info()
    assert not m.issparse()
    content = tar.extractfile(m).read() if m.isfile() else b""
    end = max(end, m.offset_data + (m.size + 511) // 512 * 512)
    rows.append([m.name, m.type.decode(), m.mode, m.size, m.linkname, hashlib.sha256(content).hexdigest(), sorted(m.pax_headers)])
assert raw[end:] == bytes(1024), len(raw) - end
json.dump(rows, sys.stdout)
"#;

#[test]
fn python_reads_the_members_as_the_tree_has_them() {
    let tree = fixture();
    let (_store, outcome) = written(&tree, &format("none"));
    let said = run(Command::new("python3").args(["-c", PYTHON, &EPOCH.to_string()]), &blob(&outcome));
    /// Name, type, mode, size, link, SHA-256 of the content, PAX keywords.
    type Row = (String, String, u32, u64, String, String, Vec<String>);
    let said: Vec<Row> = serde_json::from_slice(&said).expect("JSON");
    assert_eq!(said.len(), tree.len());
    let mut extended = 0;
    for ((path, entry), (name, kind, mode, size, link, digest, keywords)) in tree.iter().zip(said) {
        assert_eq!(name, path.as_str());
        extended += keywords.len();
        match &entry.kind {
            Kind::Directory => assert_eq!((kind.as_str(), mode), ("5", entry.mode), "{path}"),
            Kind::Symlink { target } => assert_eq!((kind.as_str(), mode, &link), ("2", 0o777, target), "{path}"),
            Kind::File { content: Content::Bytes(bytes), .. } => {
                assert_eq!((kind.as_str(), mode, size), ("0", entry.mode, bytes.len() as u64), "{path}");
                assert_eq!(digest, Digest::of(bytes).hex(), "{path}");
            }
            Kind::File { .. } => unreachable!("the fixture is in memory"),
        }
        let needs = path.as_str().len() > 200 || path.as_str().contains(&"n".repeat(120)) || link.len() > 100;
        assert_eq!(!keywords.is_empty(), needs, "{path}: {keywords:?}");
    }
    assert_eq!(extended, 2, "only the name without a slash and the long target need PAX records");
}

#[test]
fn python_reads_a_size_that_ustar_cannot_hold() {
    let size = (8_u64 << 30) + 5;
    let big = entry(Kind::File { content: Content::Bytes(Vec::new()), size, digest: None }, 0o644);
    let mut head = Vec::new();
    header::append(&mut head, &path("/big"), &big, EPOCH).expect("a header");
    let script =
        "import io,sys,tarfile; m=tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())).next(); print(m.name, m.size)";
    let said = run(Command::new("python3").args(["-c", script]), &head);
    assert_eq!(String::from_utf8_lossy(&said).trim(), format!("big {size}"));
    let mut smaller = Vec::new();
    let fits = entry(Kind::File { content: Content::Bytes(Vec::new()), size: (8 << 30) - 1, digest: None }, 0o644);
    header::append(&mut smaller, &path("/big"), &fits, EPOCH).expect("a header");
    assert_eq!((head.len(), smaller.len()), (3 * 512, 512));
}

#[test]
fn tar_tools_list_and_unpack_the_layer() {
    let tree = fixture();
    let (_store, outcome) = written(&tree, &format("none"));
    let tar = blob(&outcome);
    for tool in ["tar", "bsdtar"] {
        if !has(tool) {
            continue;
        }
        let mut list = Command::new(tool);
        list.args(["-tvf", "-"]).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        let listing = String::from_utf8(run(&mut list, &tar)).expect("UTF-8");
        assert_eq!(listing.lines().count(), tree.len(), "{tool}: {listing}");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut unpack = Command::new(tool);
        unpack.args(["-xpf", "-", "-C"]).arg(folder.path()).env("LC_ALL", "C.UTF-8");
        run(&mut unpack, &tar);
        assert_eq!(walk(folder.path()), expected(&tree), "{tool}");
    }
}

/// What a tree is once unpacked, as [`walk`] tells it.
fn expected(tree: &BTreeMap<ImagePath, Entry>) -> BTreeMap<PathBuf, String> {
    let said = |entry: &Entry| match &entry.kind {
        Kind::Directory => format!("d {:o}", entry.mode),
        Kind::Symlink { target } => format!("l {target}"),
        Kind::File { content: Content::Bytes(bytes), .. } => {
            format!("f {:o} {} {}", entry.mode, bytes.len(), Digest::of(bytes))
        }
        Kind::File { .. } => unreachable!("the fixture is in memory"),
    };
    tree.iter().map(|(path, entry)| (PathBuf::from(path.as_str()), said(entry))).collect()
}

#[test]
fn decompressors_take_all_members_and_frames() {
    let tree = fixture();
    for (codec, tool) in [("gzip", "gzip"), ("zstd", "zstd"), ("zstd:19", "zstd")] {
        let (_store, outcome) = written(&tree, &format(codec));
        let compressed = blob(&outcome);
        assert_eq!(Digest::of(&compressed), outcome.layer.descriptor.digest);
        assert_eq!(compressed.len() as u64, outcome.layer.descriptor.size);
        if has(tool) {
            let tar = run(Command::new(tool).args(["-dc"]), &compressed);
            assert_eq!(tar.len() as u64, outcome.layer.unpacked, "{codec}");
            assert_eq!(Digest::of(&tar), outcome.layer.diff_id, "{codec}");
        }
    }
    let (_store, plain) = written(&tree, &format("none"));
    assert_eq!(plain.layer.diff_id, plain.layer.descriptor.digest);
    let file = plain.layer.path.expect("built here");
    let said = run(Command::new("sha256sum").arg(&file), b"");
    assert!(String::from_utf8_lossy(&said).starts_with(&plain.layer.diff_id.hex()));
}

#[test]
fn python_decompresses_all_members() {
    let (_store, outcome) = written(&fixture(), &format("gzip:12"));
    let script = "import gzip,hashlib,sys; print(hashlib.sha256(gzip.decompress(sys.stdin.buffer.read())).hexdigest())";
    let said = run(Command::new("python3").args(["-c", script]), &blob(&outcome));
    assert_eq!(String::from_utf8_lossy(&said).trim(), outcome.layer.diff_id.hex());
}

/// Writes an OCI layout of layers by hand.
fn oci_layout(folder: &Path, layers: &[(Descriptor, Vec<u8>, Digest)]) {
    let put = |bytes: &[u8]| {
        fs::write(folder.join("blobs/sha256").join(Digest::of(bytes).hex()), bytes).expect("a temporary folder");
    };
    fs::create_dir_all(folder.join("blobs/sha256")).expect("a temporary folder");
    layers.iter().for_each(|(_, bytes, _)| put(bytes));
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|(_, _, diff_id)| diff_id).collect::<Vec<_>>() },
    }))
    .expect("plain data");
    put(&config);
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::MANIFEST,
        "config": Descriptor::of(media_type::CONFIG, &config),
        "layers": layers.iter().map(|(descriptor, _, _)| descriptor).collect::<Vec<_>>(),
    }))
    .expect("plain data");
    put(&manifest);
    let mut descriptor = Descriptor::of(media_type::MANIFEST, &manifest);
    descriptor.annotations.insert("org.opencontainers.image.ref.name".to_owned(), "test".to_owned());
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [descriptor] });
    fs::write(folder.join("index.json"), index.to_string()).expect("a temporary folder");
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a temporary folder");
}

fn umoci_unpack(layout: &Path, into: &Path) -> BTreeMap<PathBuf, String> {
    let mut command = Command::new("umoci");
    command.args(["unpack", "--rootless", "--image"]).arg(format!("{}:test", layout.display())).arg(into);
    run(&mut command, b"");
    walk(&into.join("rootfs"))
}

#[test]
fn umoci_and_skopeo_take_gzip_zstd_and_plain_layers() {
    let tree = fixture();
    for codec in ["none", "gzip", "zstd"] {
        let (_store, outcome) = written(&tree, &format(codec));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let layout = folder.path().join("layout");
        oci_layout(&layout, &[(outcome.layer.descriptor.clone(), blob(&outcome), outcome.layer.diff_id)]);
        if has("skopeo") {
            // Into a folder, which decompresses every layer and checks it.
            let mut copy = Command::new("skopeo");
            copy.args(["copy", "--quiet", "--insecure-policy", "--dest-decompress"]);
            copy.arg(format!("oci:{}:test", layout.display())).arg(format!("dir:{}", folder.path().join("copy").display()));
            run(&mut copy, b"");
            let copied = fs::read(folder.path().join("copy").join(outcome.layer.diff_id.hex()));
            assert_eq!(copied.map(|bytes| bytes.len() as u64).ok(), Some(outcome.layer.unpacked), "{codec}");
        }
        // This version of umoci knows no zstd.
        if codec != "zstd" && has("umoci") {
            assert_eq!(umoci_unpack(&layout, &folder.path().join("bundle")), expected(&tree), "{codec}");
        }
    }
}

#[test]
fn umoci_merges_layers_as_unpack_does() {
    let base = archive(&[
        member("./", b'5', "", b""),
        member("./usr/", b'5', "", b""),
        member("./usr/lib/", b'5', "", b""),
        file("./usr/lib/kept", "kept"),
        file("./usr/lib/gone", "gone"),
        member("lib", b'2', "usr/lib", b""),
        member("hidden/", b'5', "", b""),
        file("hidden/a", "a"),
        file("hidden/below/b", "b"),
        file("replaced/by/file", "x"),
        file("will-be-directory", "x"),
        member("linked", b'1', "usr/lib/kept", b""),
    ]);
    let upper = archive(&[
        file("usr/lib/.wh.gone", ""),
        file("lib/through-link", "written below usr/lib"),
        member("hidden/", b'5', "", b""),
        file("hidden/.wh..wh..opq", ""),
        file("hidden/new", "new"),
        file("replaced", "now a file"),
        member("will-be-directory/", b'5', "", b""),
        file("will-be-directory/x", "x"),
        file("linked", "no longer linked"),
    ]);
    let layers = [base, upper];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (descriptors, blobs) = blobs(&layers, folder.path());
    let ours = folder.path().join("ours");
    let unpacked = unpack(&descriptors, &blobs, &ours, &Limits::default(), &Progress::silent()).expect("a valid image");
    assert_eq!((unpacked.files, unpacked.skipped), (11, 0));
    let found = walk(&ours);
    assert!(found.contains_key(Path::new("usr/lib/through-link")), "{found:?}");
    assert_eq!(found.get(Path::new("usr/lib/kept")), Some(&format!("f 644 4 {}", Digest::of(b"kept"))));
    assert!(!found.contains_key(Path::new("usr/lib/gone")) && !found.contains_key(Path::new("hidden/below")), "{found:?}");
    if has("umoci") {
        let layout = folder.path().join("layout");
        let described: Vec<_> = descriptors
            .into_iter()
            .zip(layers)
            .map(|(descriptor, bytes)| {
                let digest = descriptor.digest;
                (descriptor, bytes, digest)
            })
            .collect();
        oci_layout(&layout, &described);
        assert_eq!(umoci_unpack(&layout, &folder.path().join("bundle")), found);
    }
}

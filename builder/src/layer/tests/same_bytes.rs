//! The same entries are the same bytes, whatever else differs.

use std::path::Path;
use std::process::Command;

use super::*;

const CODECS: [&str; 6] = ["none", "zstd", "zstd:19", "zstd:3", "gzip", "auto"];
const CHILD: &str = "IMGBUILD_TEST_LAYER_FOLDER";

fn golden_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/layer.json")
}

/// Rewritten only where IMGBUILD_GOLDEN is set to `write`.
#[test]
fn the_digests_are_the_golden_ones() {
    let tree = fixture();
    let mut found = BTreeMap::new();
    for codec in CODECS {
        let (_store, outcome) = written(&tree, &format(codec));
        let layer = outcome.layer;
        found.insert(codec.to_owned(), [layer.descriptor.digest.to_string(), layer.diff_id.to_string()]);
    }
    let found = serde_json::json!({ "format_version": FORMAT_VERSION, "digest_and_diff_id": found });
    if std::env::var_os("IMGBUILD_GOLDEN").is_some_and(|value| value == "write") {
        let text = serde_json::to_string_pretty(&found).expect("plain data") + "\n";
        fs::create_dir_all(golden_file().parent().expect("a folder")).expect("the repository is writable");
        fs::write(golden_file(), text).expect("the repository is writable");
    }
    let golden = fs::read(golden_file()).expect("tests/golden/layer.json is part of the repository");
    let golden: serde_json::Value = serde_json::from_slice(&golden).expect("JSON");
    assert_eq!(found, golden, "bytes of layers changed: raise FORMAT_VERSION and run `make golden`");
}

#[test]
fn threads_do_not_change_the_bytes() {
    let tree = fixture();
    for codec in ["none", "zstd", "zstd:13", "gzip:1"] {
        let digests = [1, 2, 4, 8].map(|threads| {
            let (_store, outcome) = written(&tree, &LayerFormat { threads, ..format(codec) });
            (outcome.layer.descriptor.digest, outcome.layer.diff_id, outcome.files)
        });
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{codec}");
    }
}

/// Runs in processes of its own, started by the test below: umask, folder and time zone belong to a process.
#[test]
#[ignore = "started by `surroundings_do_not_change_the_bytes`"]
fn child() {
    let folder = PathBuf::from(std::env::var_os(CHILD).expect("set by the parent"));
    let odd = std::env::var_os("TZ").is_some();
    let tree = on_disk(&fixture(), &folder, odd, odd);
    let store = Store::open(&folder.join("store")).expect("a store");
    for codec in ["none", "zstd:3", "gzip"] {
        let format = LayerFormat { threads: if odd { 3 } else { 1 }, ..format(codec) };
        let outcome = write(&tree, &format, &store, &Progress::silent()).expect("a layer");
        fs::write(folder.join(codec), outcome.layer.descriptor.digest.to_string()).expect("a temporary folder");
    }
}

#[test]
fn surroundings_do_not_change_the_bytes() {
    let test = std::env::current_exe().expect("a test");
    let digests = [("022", "/", None), ("077", "/tmp", Some(("Asia/Kathmandu", "de_DE.UTF-8")))].map(|(umask, place, odd)| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new("sh");
        command.args(["-c", "umask \"$1\"; cd \"$2\"; shift 2; exec \"$@\"", "sh", umask, place]);
        command.arg(&test).args(["--exact", "layer::tests::same_bytes::child", "--ignored"]);
        command.env(CHILD, folder.path()).env_remove("TZ");
        if let Some((zone, locale)) = odd {
            command.env("TZ", zone).env("LC_ALL", locale);
        }
        run(&mut command, b"");
        ["none", "zstd:3", "gzip"].map(|codec| fs::read_to_string(folder.path().join(codec)).expect("written by the child"))
    });
    assert_eq!(digests[0], digests[1]);
    let (_store, here) = written(&fixture(), &format("zstd:3"));
    assert_eq!(digests[0][1], here.layer.descriptor.digest.to_string(), "files on disk and bytes in memory are the same");
}

#[test]
fn auto_looks_at_the_content() {
    let choose = |entries: &[(&str, Entry)]| {
        let tree: BTreeMap<_, _> = entries.iter().map(|(name, entry)| (path(name), entry.clone())).collect();
        let (_store, outcome) = written(&tree, &format("auto"));
        assert_eq!(outcome.layer.descriptor.media_type, outcome.compression.media_type());
        outcome.compression.to_string()
    };
    // Normally distributed numbers, as weights are: the sum of uniform ones.
    let weights: Vec<u8> = noise(7, 24 << 20)
        .chunks_exact(12)
        .flat_map(|some| {
            let sum: f32 = some.iter().map(|byte| f32::from(*byte) - 127.5).sum::<f32>() + f32::from(some[0]) / 251.0;
            (sum * 0.000_123_7).to_le_bytes()
        })
        .collect();
    assert_eq!(choose(&[("/w", bytes(weights.clone()))]), "none");
    assert_eq!(choose(&[("/w", bytes(weights.clone())), ("/z", bytes(words(1, 200_000)))]), "none");
    assert_eq!(choose(&[("/w", bytes(weights)), ("/z", bytes(words(1, 24 << 20)))]), "zstd:9");
    assert_eq!(choose(&[("/so", bytes(words(1, 3 << 20)))]), "zstd:9");
    assert_eq!(choose(&[("/small", bytes(noise(1, 1000)))]), "zstd:9");
    assert_eq!(choose(&[("/d", directory())]), "zstd:9");
    let many: Vec<_> = (0..300).map(|number| (format!("/{number}"), bytes(noise(number, 1000)))).collect();
    let many: Vec<_> = many.iter().map(|(name, entry)| (name.as_str(), entry.clone())).collect();
    assert_eq!(choose(&many), "none");
}

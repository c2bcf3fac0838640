//! Layers found again, figures, and inputs that are not what they should be.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use super::super::source::Source;
use super::*;

fn one(name: &str, entry: Entry) -> BTreeMap<ImagePath, Entry> {
    [(path(name), entry)].into()
}

fn write_silently(tree: &BTreeMap<ImagePath, Entry>, codec: &str, store: &Store) -> Result<LayerOutcome, LayerError> {
    write(tree, &format(codec), store, &Progress::silent())
}

#[test]
fn a_known_layer_is_found_without_reading_its_files() {
    let (_folder, store) = store();
    let files = tempfile::tempdir().expect("a temporary folder");
    let mut tree = on_disk(&fixture(), files.path(), false, false);
    for (entry, known) in tree.values_mut().zip(fixture().into_values()) {
        if let (Kind::File { digest, .. }, Kind::File { content: Content::Bytes(bytes), .. }) = (&mut entry.kind, known.kind) {
            *digest = Some(Digest::of(&bytes));
        }
    }
    let first = write_silently(&tree, "auto", &store).expect("a layer");
    assert!(!first.reused);
    drop(files);
    for codec in ["auto", "zstd", "zstd:9"] {
        let again = write_silently(&tree, codec, &store).expect("found, although the files are gone");
        assert_eq!(again, LayerOutcome { reused: true, ..first.clone() }, "{codec}");
    }
    assert!(matches!(write_silently(&tree, "zstd:3", &store), Err(LayerError::Read { .. })), "another level reads the files");
    let other_time = LayerFormat { epoch: EPOCH + 1, ..format("zstd") };
    assert!(write(&tree, &other_time, &store, &Progress::silent()).is_err(), "another time reads the files");
    tree.get_mut(&path("/etc/passwd")).expect("in the fixture").mode = 0o600;
    assert!(write_silently(&tree, "zstd", &store).is_err(), "another mode reads the files");
}

#[test]
fn a_layer_whose_blob_was_damaged_is_written_again() {
    let (_folder, store) = store();
    let tree = fixture();
    let first = write_silently(&tree, "zstd", &store).expect("a layer");
    let file = first.layer.path.clone().expect("built here");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("ours");
    let mut bytes = fs::read(&file).expect("in the store");
    bytes[1000] ^= 1;
    fs::write(&file, bytes).expect("ours");
    let again = write_silently(&tree, "zstd", &store).expect("a layer");
    assert_eq!(again, first);
    assert_eq!(Digest::of(&blob(&again)), first.layer.descriptor.digest);
    fs::remove_file(&file).expect("ours");
    assert!(!write_silently(&tree, "zstd", &store).expect("a layer").reused);
    assert!(write_silently(&tree, "zstd", &store).expect("a layer").reused);
}

#[test]
fn digests_of_files_are_kept_once_the_files_are_at_rest() {
    let (_folder, store) = store();
    let files = tempfile::tempdir().expect("a temporary folder");
    let file = files.path().join("model");
    fs::write(&file, "weights").expect("a temporary folder");
    let tree = one("/model", disk(&file));
    assert!(!write_silently(&tree, "none", &store).expect("a layer").reused);
    assert!(!write_silently(&tree, "none", &store).expect("a layer").reused, "the file was written to just now");
    let metadata = fs::metadata(&file).expect("just made");
    let later = SystemTime::now() + Duration::from_secs(5);
    recipe::remember_file(&file, &metadata, later, Digest::of(b"weights"), &store).expect("a record");
    assert!(write_silently(&tree, "none", &store).expect("a layer").reused);
    assert_eq!(digest_file(&file, &store).expect("readable"), (Digest::of(b"weights"), 7));
    fs::write(&file, "WEIGHTS").expect("a temporary folder");
    let changed = write_silently(&tree, "none", &store).expect("a layer");
    assert!(!changed.reused);
    assert_eq!(changed.files[0].digest, Digest::of(b"WEIGHTS"));
    assert_eq!(digest_file(&file, &store).expect("readable"), (Digest::of(b"WEIGHTS"), 7));
    assert!(digest_file(files.path(), &store).is_err());
}

#[test]
fn a_digest_in_the_tree_is_checked_before_a_layer_is_written() {
    let (folder, store) = store();
    let files = tempfile::tempdir().expect("a temporary folder");
    let file = files.path().join("lib");
    fs::write(&file, noise(1, 2_000_000)).expect("a temporary folder");
    let mut entry = disk(&file);
    let Kind::File { digest, .. } = &mut entry.kind else { unreachable!("a file") };
    *digest = Some(Digest::of(b"other"));
    for codec in ["none", "zstd"] {
        let error = write_silently(&one("/lib", entry.clone()), codec, &store).expect_err("other bytes");
        assert!(matches!(error, LayerError::FileDigest { actual, .. } if actual == Digest::of(&noise(1, 2_000_000))), "{error}");
    }
    let mut entry = bytes("memory");
    let Kind::File { digest, .. } = &mut entry.kind else { unreachable!("a file") };
    *digest = Some(Digest::of(b"other"));
    assert!(matches!(write_silently(&one("/m", entry), "none", &store), Err(LayerError::FileDigest { .. })));
    assert_eq!(store.list().expect("a store"), []);
    assert_eq!(fs::read_dir(folder.path().join("tmp")).expect("a store").count(), 0, "nothing is left behind");
}

#[test]
fn a_file_in_the_store_is_relied_on() {
    let (_folder, store) = store();
    let content = words(1, 400_000);
    let blob = store.add(&content[..], None).expect("a blob");
    let mut entry = disk(&blob.path);
    let Kind::File { digest, .. } = &mut entry.kind else { unreachable!("a file") };
    *digest = Some(blob.digest);
    let outcome = write_silently(&one("/lib", entry), "zstd", &store).expect("a layer");
    assert_eq!(outcome.files[0].digest, Digest::of(&content));
}

#[test]
fn the_figures_add_up_to_the_blob() {
    for codec in ["none", "gzip", "zstd"] {
        let (_store, outcome) = written(&fixture(), &format(codec));
        let files: u64 = outcome.files.iter().map(|file| file.compressed).sum();
        assert_eq!(files + outcome.overhead, outcome.layer.descriptor.size, "{codec}");
        assert_eq!(outcome.files.len(), 11);
        for (found, (path, entry)) in
            outcome.files.iter().zip(fixture().iter().filter(|(_, entry)| matches!(entry.kind, Kind::File { .. })))
        {
            let Kind::File { content: Content::Bytes(bytes), size, .. } = &entry.kind else { unreachable!("in memory") };
            assert_eq!((&found.path, found.size, found.digest), (path, *size, Digest::of(bytes)));
            match codec {
                "none" => assert!(found.compressed >= size.next_multiple_of(512) + 512, "{path}"),
                _ => assert!(found.compressed > 0 && found.compressed <= size + 2048, "{path}"),
            }
        }
    }
}

#[test]
fn a_large_file_has_frames_of_its_own_and_is_counted_exactly() {
    let content = words(9, 5_000_000);
    let tree: BTreeMap<_, _> = [("/a", bytes("first")), ("/big", bytes(content.clone())), ("/c", bytes("last"))]
        .map(|(name, entry)| (path(name), entry))
        .into();
    let (_store, outcome) = written(&tree, &format("zstd"));
    let [first, big, last] = &outcome.files[..] else { panic!("three files") };
    let blob = blob(&outcome);
    let frames = &blob[first.compressed as usize..][..big.compressed as usize];
    let tar = zstd::decode_all(frames).expect("whole frames");
    assert_eq!(tar.len(), 512 + content.len().next_multiple_of(512));
    assert_eq!(tar[512..512 + content.len()], content);
    assert!(last.compressed > 0 && first.compressed > 0);
}

#[test]
fn inputs_that_are_no_files_are_named() {
    let (_folder, store) = store();
    let files = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| files.path().join(name);
    let named = |file: &Path| entry(Kind::File { content: Content::Disk(file.to_owned()), size: 3, digest: None }, 0o644);
    let error = |entry: Entry| write_silently(&one("/x", entry), "zstd", &store).expect_err("no file").to_string();

    assert_eq!(error(named(&at("none"))), format!("failed to read `{}` for `/x`", at("none").display()));
    assert_eq!(
        error(named(files.path())),
        format!("`{}` for `/x` is a directory, expected a regular file", files.path().display())
    );
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o644.into(), 0).expect("a pipe");
    assert!(error(named(&at("pipe"))).contains("is a pipe, expected a regular file"));
    fs::write(at("four"), "four").expect("a temporary folder");
    assert!(error(named(&at("four"))).contains("has 4 bytes, expected 3: it changed during the build"));
    let lying = entry(Kind::File { content: Content::Bytes(b"xy".to_vec()), size: 3, digest: None }, 0o644);
    assert!(error(lying).contains("has 2 bytes, expected 3"));
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: an unreadable file, which root can read");
    } else {
        fs::write(at("secret"), "abc").expect("a temporary folder");
        fs::set_permissions(at("secret"), fs::Permissions::from_mode(0o000)).expect("ours");
        assert!(error(named(&at("secret"))).contains("secret"));
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let files = tempfile::tempdir().expect("a temporary folder");
    let (name, x) = (files.path().join("f"), path("/x"));
    let content = Content::Disk(name.clone());
    let fresh = || {
        fs::write(&name, [7; 100]).expect("a temporary folder");
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::options().append(true).open(&name).and_then(|file| file.set_modified(old)).expect("ours");
        Source::open(&x, &content, 100).expect("readable")
    };
    let mut buffer = Vec::new();

    let mut grows = fresh();
    grows.read_into(&mut buffer, 100).expect("100 bytes");
    File::options().append(true).open(&name).and_then(|mut file| file.write_all(b"more")).expect("ours");
    assert!(matches!(grows.finish(), Err(LayerError::Size { actual: 104, expected: 100, .. })));

    let mut shrinks = fresh();
    File::options().write(true).open(&name).and_then(|file| file.set_len(50)).expect("ours");
    assert!(matches!(shrinks.read_into(&mut buffer, 100), Err(LayerError::Changed { .. })));

    let mut rewritten = fresh();
    rewritten.read_into(&mut buffer, 100).expect("100 bytes");
    File::options().write(true).open(&name).and_then(|mut file| file.write_all(b"other")).expect("ours");
    assert!(matches!(rewritten.finish(), Err(LayerError::Changed { .. })));

    let mut left_alone = fresh();
    left_alone.read_into(&mut buffer, 100).expect("100 bytes");
    left_alone.finish().expect("nothing changed");
}

#[test]
fn entries_that_no_tar_can_hold_are_refused() {
    let (_folder, store) = store();
    let parent = write_silently(&one("/a/b", bytes("x")), "none", &store).expect_err("no parent");
    assert_eq!(parent.to_string(), "`/a/b` lies in `/a`, which is no directory of this layer");
    let below_file: BTreeMap<_, _> = [(path("/a"), bytes("x")), (path("/a/b"), bytes("x"))].into();
    assert!(matches!(write_silently(&below_file, "none", &store), Err(LayerError::Parent { .. })));
    assert!(matches!(write_silently(&one("/l", symlink("")), "none", &store), Err(LayerError::Link { .. })));
    assert!(matches!(write_silently(&one("/l", symlink("a\0b")), "none", &store), Err(LayerError::Link { .. })));
    let late = LayerFormat { epoch: 1 << 33, ..format("none") };
    let error = write(&one("/d", directory()), &late, &store, &Progress::silent()).expect_err("too late");
    assert!(matches!(error, LayerError::Epoch { .. }) && error.hint().is_some());
    let level = LayerFormat { compression: CompressionChoice::Gzip(Some(99)), ..format("none") };
    let error = write(&one("/d", directory()), &level, &store, &Progress::silent()).expect_err("no such level");
    assert!(matches!(error, LayerError::Compress { .. }), "{error}");
}

#[test]
fn an_empty_layer_is_a_valid_one() {
    for codec in ["none", "gzip", "zstd", "auto"] {
        let (_store, outcome) = written(&BTreeMap::new(), &format(codec));
        assert_eq!((outcome.layer.unpacked, outcome.files.len()), (1024, 0));
        let blob = blob(&outcome);
        let mut reader = LayerReader::new(&blob[..], 0, Limits::default()).expect("readable");
        assert_eq!(reader.next_member().expect("valid"), None);
    }
}

#[test]
fn select_takes_the_directories_above_from_other_layers() {
    let mut tree = Tree::default();
    for (name, entry, layer) in [
        ("/opt", entry(Kind::Directory, 0o711), LayerName::Base),
        ("/opt/models", directory(), LayerName::Base),
        ("/opt/models/m.onnx", bytes("m"), LayerName::Model),
        ("/usr", directory(), LayerName::Base),
    ] {
        tree.entries.insert(path(name), Entry { layer, ..entry });
    }
    let selected = select(&tree, LayerName::Model);
    assert_eq!(selected.keys().map(ToString::to_string).collect::<Vec<_>>(), ["/opt", "/opt/models", "/opt/models/m.onnx"]);
    let (_folder, store) = store();
    write(&selected, &format("none"), &store, &Progress::silent()).expect("whole");
}

#[test]
fn the_same_layer_can_be_written_by_many_at_once() {
    let (_folder, store) = store();
    let tree = fixture();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4).map(|_| scope.spawn(|| write_silently(&tree, "zstd:3", &store).expect("a layer"))).collect();
        writers.into_iter().map(|writer| writer.join().expect("no panic").layer).collect()
    });
    assert!(outcomes.iter().all(|layer| *layer == outcomes[0]));
    assert!(write_silently(&tree, "zstd:3", &store).expect("a layer").reused);
}

/// A file system of its own, where the test may mount one.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        eprintln!("skipped: a full disk, which takes a user who may mount one");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

#[test]
fn a_full_disk_is_an_error_with_the_place_and_the_need() {
    let Some(disk) = SmallDisk::new("1m") else { return };
    let store = Store::open(disk.0.path()).expect("room enough");
    let tree = one("/w", bytes(noise(1, 20_000_000)));
    for codec in ["none", "zstd:1", "gzip:1"] {
        let error = write_silently(&tree, codec, &store).expect_err("no room");
        assert!(matches!(error, LayerError::Full { needed: 20_001_792, .. }), "{codec}: {error}");
        assert!(error.to_string().contains(&store.root().display().to_string()) && error.hint().is_some());
        assert_eq!(fs::read_dir(store.scratch()).expect("a store").count(), 0);
    }
}

/// Needs 10 s and reads 8 GiB of zeros; run with `--ignored`.
#[test]
#[ignore = "slow"]
fn a_file_larger_than_ustar_can_say_is_written_and_read() {
    let (_folder, store) = store();
    let files = tempfile::tempdir().expect("a temporary folder");
    let name = files.path().join("huge");
    let size = (8 << 30) + 12345;
    File::create(&name).and_then(|file| file.set_len(size)).expect("a file with a hole");
    let outcome = write_silently(&one("/huge", disk(&name)), "zstd:1", &store).expect("a layer");
    assert_eq!(outcome.layer.unpacked, 3 * 512 + size.next_multiple_of(512) + 1024);
    let mut tar = Command::new("tar");
    tar.args(["--zstd", "-tvf"]).arg(outcome.layer.path.as_ref().expect("built here"));
    assert!(String::from_utf8_lossy(&run(&mut tar, b"")).contains(&size.to_string()));
    let compressed = File::open(outcome.layer.path.expect("built here")).expect("in the store");
    let mut reader = LayerReader::new(compressed, 0, Limits::default()).expect("readable");
    assert_eq!(reader.next_member().expect("valid").map(|member| member.size), Some(size));
    assert_eq!(reader.next_member().expect("valid"), None);
    assert_eq!(fs::metadata(&name).expect("there").size(), size);
}

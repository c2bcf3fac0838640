//! What the store promises: blobs exist only finished, are never trusted when they changed, and builds may share it.

use std::fs::{self, File, FileTimes};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;

const CHILD: &str = "IMGBUILD_TEST_STORE";

fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(folder.path()).expect("an empty folder becomes a store");
    (folder, store)
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).expect("part of the store").count()
}

fn blobs(store: &Store) -> usize {
    entries(&store.root().join("blobs/sha256"))
}

/// Writes to a blob as no user of the store would.
fn damage(blob: &Blob, content: &[u8]) {
    fs::set_permissions(&blob.path, fs::Permissions::from_mode(0o644)).expect("ours");
    fs::write(&blob.path, content).expect("ours");
}

#[test]
fn a_blob_is_found_as_it_was_added() {
    let (_folder, store) = store();
    let blob = store.add(&b"abc"[..], Some(&Digest::of(b"abc"))).expect("the right digest");
    assert_eq!((blob.digest, blob.size), (Digest::of(b"abc"), 3));
    assert_eq!(store.find(&blob.digest).expect("readable"), Some(blob.clone()));
    assert_eq!(fs::read(&blob.path).expect("readable"), b"abc");
    assert_eq!(fs::metadata(&blob.path).expect("there").permissions().mode() & 0o7777, 0o444);
    assert_eq!(entries(&store.scratch()), 0);
    assert_eq!(store.find(&Digest::of(b"other")).expect("readable"), None);
}

#[test]
fn a_damaged_blob_is_removed_and_not_found() {
    let (_folder, store) = store();
    for wrong in [&b"abd"[..], b"ab", b"abcd", b""] {
        let blob = store.add(&b"abc"[..], None).expect("room");
        damage(&blob, wrong);
        assert_eq!(store.find(&blob.digest).expect("readable"), None, "{wrong:?}");
        assert!(!blob.path.exists());
        assert_eq!(store.add(&b"abc"[..], None).expect("room"), blob);
        assert_eq!(store.find(&blob.digest).expect("readable"), Some(blob));
    }
}

#[test]
fn a_blob_that_only_looks_different_is_hashed_again_and_kept() {
    let (_folder, store) = store();
    let blob = store.add(&b"abc"[..], None).expect("room");
    let stamp = store.root().join("stamps/sha256").join(blob.digest.hex());
    let before = fs::read(&stamp).expect("written with the blob");
    damage(&blob, b"abc");
    assert_eq!(store.find(&blob.digest).expect("readable"), Some(blob.clone()));
    assert_ne!(fs::read(&stamp).expect("written again"), before);
    fs::write(&stamp, "nonsense").expect("ours");
    assert_eq!(store.find(&blob.digest).expect("readable"), Some(blob.clone()));
    fs::remove_file(&stamp).expect("ours");
    assert_eq!(store.find(&blob.digest).expect("readable"), Some(blob));
}

#[test]
fn something_else_in_the_place_of_a_blob_is_an_error() {
    let (_folder, store) = store();
    let digest = Digest::of(b"abc");
    fs::create_dir(store.root().join("blobs/sha256").join(digest.hex())).expect("ours");
    let error = store.find(&digest).expect_err("a folder");
    assert!(error.to_string().contains(&digest.hex()), "{error}");
}

#[test]
fn bytes_of_another_digest_are_not_kept() {
    let (_folder, store) = store();
    let expected = Digest::of(b"other");
    let error = store.add(&b"abc"[..], Some(&expected)).expect_err("another digest");
    assert!(matches!(error, StoreError::Digest { actual, expected: said } if actual == Digest::of(b"abc") && said == expected));
    assert_eq!((blobs(&store), entries(&store.scratch())), (0, 0));
}

#[test]
fn a_reader_that_fails_leaves_nothing() {
    struct Fails(u8);
    impl Read for Fails {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 > 3 {
                return Err(io::Error::other("the line was cut"));
            }
            buffer.fill(0);
            Ok(buffer.len())
        }
    }
    let (_folder, store) = store();
    assert!(store.add(Fails(0), None).is_err());
    drop(store.writer().expect("room"));
    assert_eq!((blobs(&store), entries(&store.scratch())), (0, 0));
}

#[test]
fn a_long_blob_is_the_same_with_its_syncs_on_the_way() {
    let (_folder, store) = store();
    let part: Vec<u8> = (0..1_000_003_u32).flat_map(u32::to_le_bytes).collect();
    let mut writer = store.writer().expect("room");
    let mut all = crate::digest::HashingWriter::new(io::sink());
    for _ in 0..40 {
        writer.write_all(&part).expect("room");
        all.write_all(&part).expect("a sink");
    }
    let (_, digest, size) = all.finish();
    assert_eq!(writer.written(), size);
    let blob = writer.finish().expect("room");
    assert_eq!((blob.digest, blob.size), (digest, size));
    let read = Digest::of_reader(File::open(&blob.path).expect("there")).expect("readable");
    assert_eq!(read, (digest, size));
    let mut unhashed = store.unhashed_writer().expect("room");
    unhashed.reserve(4).expect("room");
    unhashed.write_all(b"four").expect("room");
    let blob = unhashed.finish_unverified(Digest::of(b"four")).expect("room");
    assert_eq!(store.find(&Digest::of(b"four")).expect("readable"), Some(blob));
}

#[test]
fn many_writers_of_one_blob_do_not_disturb_each_other() {
    let (_folder, store) = store();
    let content = vec![7; 3_000_000];
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let blob = store.add(&content[..], None).expect("room");
                assert_eq!(store.find(&blob.digest).expect("readable").map(|blob| blob.size), Some(3_000_000));
            });
        }
    });
    assert_eq!((blobs(&store), entries(&store.scratch())), (1, 0));
    let found = store.find(&Digest::of(&content)).expect("readable").expect("there");
    assert_eq!(Digest::of_reader(File::open(found.path).expect("there")).expect("readable").0, found.digest);
}

/// Runs in a process of its own, which the test below kills.
#[test]
#[ignore = "started by `a_killed_writer_leaves_nothing_that_is_trusted`"]
fn child() {
    let root = PathBuf::from(std::env::var_os(CHILD).expect("set by the parent"));
    let store = Store::open(&root).expect("a store");
    let mut writer = store.writer().expect("room");
    writer.write_all(&[1; 1 << 20]).expect("room");
    fs::write(root.join("started"), "").expect("room");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_writer_leaves_nothing_that_is_trusted() {
    let (folder, store) = store();
    let test = std::env::current_exe().expect("a test");
    let mut command = Command::new(test);
    command.args(["--exact", "store::tests::child", "--ignored"]).env(CHILD, folder.path()).stdout(Stdio::null());
    let mut child = command.spawn().expect("it runs");
    while !folder.path().join("started").exists() {
        assert_eq!(child.try_wait().expect("ours"), None, "the writer ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("ours");
    child.wait().expect("ours");
    assert_eq!((blobs(&store), entries(&store.scratch())), (0, 1));
    assert_eq!(store.list().expect("readable"), []);
    let again = Store::open(folder.path()).expect("still a store");
    assert_eq!(again.prune(Duration::ZERO).expect("ours"), Pruned::default(), "the file could be a running build's");
    let left = fs::read_dir(store.scratch()).expect("there").next().expect("one file").expect("there").path();
    let long_ago = SystemTime::now() - Duration::from_secs(25 * 60 * 60);
    let times = FileTimes::new().set_accessed(long_ago).set_modified(long_ago);
    File::options().write(true).open(left).and_then(|file| file.set_times(times)).expect("ours");
    assert_eq!(again.prune(Duration::MAX).expect("ours"), Pruned { files: 1, bytes: 1 << 20 });
    assert_eq!(entries(&store.scratch()), 0);
}

#[test]
fn records_are_given_back_or_not_at_all() {
    let (_folder, store) = store();
    let key = Digest::of(b"key");
    assert_eq!(store.record("kind", &key), None);
    for body in [&b"{}"[..], b"", b"longer\nthan before"] {
        store.put_record("kind", &key, body).expect("room");
        assert_eq!(store.record("kind", &key).as_deref(), Some(body));
        assert_eq!(store.record("other", &key), None);
    }
    let file = store.root().join("records/kind").join(key.hex());
    let whole = fs::read(&file).expect("there");
    for end in 0..whole.len() {
        fs::write(&file, &whole[..end]).expect("ours");
        assert_eq!(store.record("kind", &key), None, "the first {end} bytes");
        let mut damaged = whole.clone();
        damaged[end] ^= 0x20;
        fs::write(&file, &damaged).expect("ours");
        assert_eq!(store.record("kind", &key), None, "byte {end}");
    }
}

#[test]
fn pruning_takes_what_was_idle_for_long() {
    let (_folder, store) = store();
    let age = |blob: &Blob, seconds: u64| {
        let then = SystemTime::now() - Duration::from_secs(seconds);
        fs::set_permissions(&blob.path, fs::Permissions::from_mode(0o644)).expect("ours");
        let times = FileTimes::new().set_accessed(then).set_modified(then);
        File::options().write(true).open(&blob.path).and_then(|file| file.set_times(times)).expect("ours");
    };
    let [old, young] = [&b"old one"[..], b"young"].map(|content| store.add(content, None).expect("room"));
    age(&old, 1000);
    age(&young, 10);
    let listed = store.list().expect("readable");
    assert_eq!(listed.iter().map(|usage| (usage.digest, usage.size)).collect::<Vec<_>>(), [(old.digest, 7), (young.digest, 5)]);
    assert!(listed[0].idle_seconds >= 1000 && listed[1].idle_seconds < 1000);
    assert_eq!(store.prune(Duration::from_secs(500)).expect("ours"), Pruned { files: 1, bytes: 7 });
    assert_eq!(store.find(&old.digest).expect("readable"), None);
    assert_eq!(store.find(&young.digest).expect("readable").map(|blob| blob.size), Some(5));
    assert_eq!(store.prune(Duration::ZERO).expect("ours"), Pruned { files: 1, bytes: 5 });
    assert_eq!(entries(&store.root().join("stamps/sha256")), 0);
}

#[test]
fn a_store_of_another_version_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("version"), "2\n").expect("ours");
    let error = Store::open(folder.path()).expect_err("a newer store").to_string();
    assert!(error.contains("is a store of version `2`, expected version `1`"), "{error}");
    assert_eq!(entries(folder.path()), 1);
    let file = folder.path().join("file");
    fs::write(&file, "").expect("ours");
    assert!(matches!(Store::open(&file), Err(StoreError::Io { .. })));
}

#[test]
fn opening_twice_is_opening_once() {
    let (folder, store) = store();
    store.add(&b"abc"[..], None).expect("room");
    let again = Store::open(folder.path()).expect("a store");
    assert_eq!(again.find(&Digest::of(b"abc")).expect("readable").map(|blob| blob.size), Some(3));
}

#[test]
fn a_full_disk_is_an_error_and_keeps_nothing() {
    let disk = tempfile::tempdir().expect("a temporary folder");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(disk.path()).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a full disk, which takes a user who may mount one");
        return;
    }
    let full = Store::open(disk.path()).and_then(|store| {
        let error = store.add(&vec![1; 3 << 20][..], None).expect_err("no room");
        let reserved = store.unhashed_writer()?.reserve(3 << 20).expect_err("no room");
        Ok((error, reserved.kind(), entries(&store.scratch()), blobs(&store)))
    });
    let unmounted = Command::new("umount").arg(disk.path()).status();
    assert!(unmounted.expect("umount is there").success());
    let (error, reserved, left, blobs) = full.expect("room for an empty store");
    let StoreError::Io { source, .. } = error else { panic!("{error}") };
    assert_eq!((source.kind(), reserved), (io::ErrorKind::StorageFull, io::ErrorKind::StorageFull));
    assert_eq!((left, blobs), (0, 0));
}

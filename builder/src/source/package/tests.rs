//! Packages that are hostile, damaged or unusual. Real ones are in `source::tests`.

use std::io::{Cursor, Write as _};

use base64::Engine as _;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::source::Glob;

/// A file of a package to be made: path, mode, bytes; a link where the mode says so.
type Made<'a> = (&'a str, u32, &'a [u8]);

const WHEEL: &str = "pack-1.0-py3-none-any.whl";
const DEB: &str = "pack_1.0_amd64.deb";

fn zip_of(files: &[Made<'_>]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (path, mode, bytes) in files {
        let options = zip::write::SimpleFileOptions::default().unix_permissions(*mode);
        if *mode & 0o170_000 == 0o120_000 {
            writer.add_symlink(*path, std::str::from_utf8(bytes).expect("text"), options).expect("memory");
            continue;
        }
        writer.start_file(*path, options).expect("memory");
        writer.write_all(bytes).expect("memory");
    }
    writer.finish().expect("memory").into_inner()
}

fn wheel_of(files: &[Made<'_>]) -> Vec<u8> {
    let metadata: &[u8] =
        b"Metadata-Version: 2.1\nName: Pack\nVersion: 1.0\nClassifier: License :: OSI Approved :: MIT License\n\nLicense: no\n";
    let mut files = files.to_vec();
    files.push(("pack-1.0.dist-info/METADATA", 0o644, metadata));
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let hash = |bytes: &[u8]| {
        let hex = Digest::of(bytes).hex();
        let bytes: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex")).collect();
        engine.encode(bytes)
    };
    let line = |(path, _, bytes): &Made<'_>| format!("{path},sha256={},{}\n", hash(bytes), bytes.len());
    let record = files.iter().map(line).collect::<String>() + "pack-1.0.dist-info/RECORD,,\n";
    files.push(("pack-1.0.dist-info/RECORD", 0o644, record.as_bytes()));
    zip_of(&files)
}

/// An entry of a `tar` whose path is written as it is, however hostile.
fn tar_of(entries: &[(&str, tar::EntryType, u32, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, mode, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        let link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
        if link {
            header.as_old_mut().linkname[..bytes.len()].copy_from_slice(bytes);
        }
        header.set_size(if link { 0 } else { bytes.len() as u64 });
        header.set_cksum();
        builder.append(&header, if link { &[][..] } else { bytes }).expect("memory");
    }
    builder.into_inner().expect("memory")
}

fn deb_of(data: &[(&str, tar::EntryType, u32, &[u8])]) -> Vec<u8> {
    let control = tar_of(&[
        ("./", tar::EntryType::Directory, 0o755, b""),
        ("./control", tar::EntryType::Regular, 0o644, b"Package: pack\nVersion: 1.0\nArchitecture: amd64\n"),
        ("./md5sums", tar::EntryType::Regular, 0o644, b"900150983cd24fb0d6963f7d28e17f72  usr/lib/libpack.so.1\n"),
    ]);
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&tar_of(data)).expect("memory");
    let data = xz.finish().expect("memory");
    let control = zstd::encode_all(&control[..], 1).expect("memory");
    let mut builder = ar::Builder::new(Vec::new());
    for (name, bytes) in [("debian-binary", &b"2.0\n"[..]), ("control.tar.zst", &control), ("data.tar.xz", &data)] {
        builder.append(&ar::Header::new(name.into(), bytes.len() as u64), bytes).expect("memory");
    }
    builder.into_inner().expect("memory")
}

fn good_wheel() -> Vec<u8> {
    wheel_of(&[("pack/lib/libpack.so.1", 0o100_775, b"abc"), ("pack/LICENSE", 0o100_600, &[b'l'; 5000])])
}

fn good_deb() -> Vec<u8> {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    deb_of(&[
        ("./", Directory, 0o755, b""),
        ("./usr/", Directory, 0o700, b""),
        ("./usr/lib/", Directory, 0o755, b""),
        ("./usr/lib/libpack.so.1", Regular, 0o4755, b"abc"),
        ("./usr/lib/libpack.so", Symlink, 0o777, b"libpack.so.1"),
        ("./usr/lib/same.so", Link, 0o644, b"./usr/lib/libpack.so.1"),
        ("./lib64/absolute.so", Symlink, 0o777, b"/usr/lib/../lib/libpack.so"),
        ("./lib64/loop", Symlink, 0o777, b"loop"),
    ])
}

struct Bench {
    _folder: TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(folder.path()).expect("a new store");
        Self { _folder: folder, store }
    }

    fn open(&self, file: &str, bytes: &[u8]) -> Result<Package, PackageError> {
        let blob = self.store.add(bytes, None).expect("space for a small file");
        let path = (!file.ends_with(".whl") && !file.ends_with(".deb")).then(|| file.to_owned());
        let kind = match &path {
            Some(_) => SourceKind::File,
            None if file.ends_with(".whl") => SourceKind::Pip,
            None => SourceKind::Apt,
        };
        let (name, version) = ("pack".to_owned(), "1.0".to_owned());
        let pin = Pin { name, version, kind, file: file.to_owned(), path, sha256: blob.digest, size: blob.size };
        Package::open(&pin, &blob, &self.store)
    }

    fn refused(&self, file: &str, bytes: &[u8]) -> PackageError {
        self.open(file, bytes).map(|package| package.entries().to_vec()).expect_err("a refusal")
    }
}

#[test]
fn a_wheel_reads_and_extracts() {
    let bench = Bench::new();
    let package = bench.open(WHEEL, &good_wheel()).expect("good");
    assert_eq!(package.licence(), Some("MIT License"));
    assert_eq!(package.entry("pack/lib/libpack.so.1").map(|entry| entry.mode), Some(0o755));
    assert_eq!(package.entry("pack/LICENSE").map(|entry| entry.mode), Some(0o644));
    let licence = package.entry("pack/LICENSE").expect("listed");
    assert!(matches!(licence.kind, EntryKind::File { size: 5000, compressed: Some(1..1000), digest: Some(_) }), "{licence:?}");
    let blobs = package.extract(&["pack/LICENSE", "pack/lib/libpack.so.1"], &bench.store).expect("good");
    assert_eq!(blobs[1].digest, Digest::of(b"abc"));
    assert_eq!((blobs[0].size, package.read("pack/lib/libpack.so.1", &bench.store).expect("good")), (5000, b"abc".to_vec()));
    let patterns = ["nothing".parse::<Glob>().expect("valid"), "**/lib*.so*".parse().expect("valid")];
    assert_eq!(package.files_of(&patterns).expect("one")[0].path, "pack/lib/libpack.so.1");
    let error = package.extract(&["pack/libpack.so.1"], &bench.store).expect_err("not there");
    assert_eq!(error.to_string(), format!("`{WHEEL}` holds no file `pack/libpack.so.1`, but `pack/lib/libpack.so.1`"));
}

#[test]
fn a_debian_package_reads_and_extracts_over_links() {
    let bench = Bench::new();
    let package = bench.open(DEB, &good_deb()).expect("good");
    assert_eq!(package.entry("usr/lib/libpack.so.1").map(|entry| entry.mode), Some(0o755), "set-user-id goes");
    for path in ["usr/lib/libpack.so.1", "usr/lib/libpack.so", "usr/lib/same.so", "lib64/absolute.so"] {
        assert_eq!(package.resolve(path).map(|entry| &*entry.path), Some("usr/lib/libpack.so.1"), "{path}");
        assert_eq!(package.extract(&[path], &bench.store).expect(path)[0].digest, Digest::of(b"abc"));
    }
    for path in ["lib64/loop", "usr/lib", "usr/lib/libpack.so.1/x", "", "nothing"] {
        assert!(package.resolve(path).is_none(), "{path}");
    }
    let files = crate::source::debian::scanner_files(&package, &["usr/lib/libpack.so.1"]);
    assert_eq!(files[0].path, "/var/lib/dpkg/status.d/pack");
    assert!(files[0].content.starts_with(b"Package: pack\nVersion: 1.0\n"));
    assert_eq!(files[1].content, b"900150983cd24fb0d6963f7d28e17f72  usr/lib/libpack.so.1\n");
    assert_eq!(crate::source::debian::scanner_files(&package, &[])[1].content, b"");
}

#[test]
fn what_was_read_once_is_not_read_again() {
    let bench = Bench::new();
    let package = bench.open(DEB, &good_deb()).expect("good");
    let blob = package.extract(&["usr/lib/libpack.so.1"], &bench.store).expect("good").remove(0);
    // Only records are left to answer from.
    let gone = Blob { path: "/nowhere".into(), ..package.blob.clone() };
    let again = Package::open(package.pin(), &gone, &bench.store).expect("from the record");
    assert_eq!(again.entries(), package.entries());
    assert_eq!(again.extract(&["usr/lib/libpack.so"], &bench.store).expect("from the record"), std::slice::from_ref(&blob));
    // A damaged file is taken out of the package again.
    std::fs::remove_file(&blob.path).expect("there");
    std::fs::write(&blob.path, "abd").expect("space");
    assert!(matches!(again.extract(&["usr/lib/libpack.so"], &bench.store), Err(PackageError::Io { .. })));
    assert_eq!(package.extract(&["usr/lib/libpack.so.1"], &bench.store).expect("good"), [blob]);
}

#[test]
fn entries_that_leave_their_folder_are_refused() {
    use tar::EntryType::{Block, Fifo, Link, Regular, Symlink};
    let bench = Bench::new();
    for path in ["../evil", "/etc/evil", "a/../../evil", "a//b", "a/./b", "..", "a\\..\\b", "a/.wh.b"] {
        let error = bench.refused(WHEEL, &wheel_of(&[(path, 0o644, b"x")]));
        assert!(matches!(&error, PackageError::Entry { entry, .. } if entry == path), "{path}: {error}");
        let error = bench.refused(DEB, &deb_of(&[(path, Regular, 0o644, b"x")]));
        assert!(matches!(&error, PackageError::Entry { entry, .. } if entry == path), "{path}: {error}");
    }
    for (kind, target) in [(Block, ""), (Fifo, ""), (Symlink, ""), (Link, "../../etc/passwd")] {
        let error = bench.refused(DEB, &deb_of(&[("./x", kind, 0o644, target.as_bytes())]));
        assert!(matches!(error, PackageError::Entry { .. }), "{kind:?}: {error}");
    }
    // A link into the system, and a file that would be written through it.
    let through = [("./a", Symlink, 0o777, &b"/etc"[..]), ("./a/passwd", Regular, 0o644, b"x")];
    assert!(bench.refused(DEB, &deb_of(&through)).to_string().contains("`a/passwd`, which lies below a file or a link"));
    let twice = [("./a", Regular, 0o644, &b"1"[..]), ("a", Regular, 0o644, b"2")];
    assert!(bench.refused(DEB, &deb_of(&twice)).to_string().contains("which is there twice"));
    let zip = zip_of(&[("a", 0o120_777, b"/etc"), ("a/passwd", 0o644, b"x")]);
    assert!(bench.refused("x.zip", &zip).to_string().contains("which lies below a file or a link"));
}

#[test]
fn a_wheel_must_be_what_its_record_and_its_name_say() {
    let bench = Bench::new();
    // Changed after the record was written: same length, other bytes, and a checksum that fits.
    let files: &[Made<'_>] = &[("pack/a", 0o644, b"abc")];
    let honest = wheel_of(files);
    let mut zip = zip::ZipArchive::new(Cursor::new(honest)).expect("good");
    let mut text = |path| {
        let mut text = Vec::new();
        zip.by_name(path).expect("there").read_to_end(&mut text).expect("good");
        text
    };
    let (metadata, record) = (text("pack-1.0.dist-info/METADATA"), text("pack-1.0.dist-info/RECORD"));
    let forged = |bytes: &[u8], extra: Option<Made<'_>>, metadata: &[u8]| {
        let mut files: Vec<Made<'_>> = vec![("pack/a", 0o644, bytes), ("pack-1.0.dist-info/METADATA", 0o644, metadata)];
        files.push(("pack-1.0.dist-info/RECORD", 0o644, &record));
        files.extend(extra);
        zip_of(&files)
    };
    let package = bench.open(WHEEL, &forged(b"abd", None, &metadata)).expect("its list is good");
    let error = package.extract(&["pack/a"], &bench.store).expect_err("forged");
    assert!(matches!(&error, PackageError::Digest { actual, .. } if *actual == Digest::of(b"abd")), "{error}");
    assert!(matches!(bench.refused(WHEEL, &forged(b"abcd", None, &metadata)), PackageError::Size { actual: 4, expected: 3, .. }));
    let error = bench.refused(WHEEL, &forged(b"abc", Some(("pack/b", 0o644, b"")), &metadata));
    assert!(error.to_string().contains("`pack/b`, which the wheel's `RECORD` does not list"), "{error}");
    let other = String::from_utf8(metadata.clone()).expect("text").replace("1.0", "1.1");
    let error = bench.refused(WHEEL, &forged(b"abc", None, other.as_bytes()));
    assert_eq!(error.to_string(), format!("`{WHEEL}` holds Pack 1.1, expected pack 1.0"));
    assert!(bench.refused(WHEEL, &zip_of(&[("a", 0o644, b"")])).to_string().contains("no `RECORD`"));
    let error = bench.refused("other_1.0_amd64.deb", b"!<arch>\n");
    assert!(matches!(error, PackageError::Format { .. }), "{error}");
}

#[test]
fn truncated_packages_are_refused() {
    let bench = Bench::new();
    for (file, bytes) in [(WHEEL, good_wheel()), (DEB, good_deb())] {
        for length in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
            let cut = bench.open(file, &bytes[..length]).and_then(|package| {
                let every: Vec<&str> =
                    package.entries().iter().map(|entry| &*entry.path).filter(|path| package.resolve(path).is_some()).collect();
                package.extract(&every, &bench.store)
            });
            // The last bytes of the compressed data say nothing about the files.
            assert!(cut.is_err() || (file == DEB && length + 64 > bytes.len()), "{file} cut to {length} of {}", bytes.len());
        }
    }
}

#[test]
fn archives_of_every_compression_read_alike() {
    let bench = Bench::new();
    let tar = tar_of(&[("top/lib/libx.so.1", tar::EntryType::Regular, 0o755, b"abc")]);
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar).expect("memory");
        encoder.finish().expect("memory")
    };
    let xz = {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(&tar).expect("memory");
        encoder.finish().expect("memory")
    };
    let zstd = zstd::encode_all(&tar[..], 1).expect("memory");
    let zip = zip_of(&[("top/lib/libx.so.1", 0o755, b"abc")]);
    for (file, bytes) in
        [("x.tar", tar), ("x.tgz", gzip.clone()), ("x.tar.gz", gzip), ("x.TAR.XZ", xz), ("x.tar.zst", zstd), ("x.zip", zip)]
    {
        let package = bench.open(file, &bytes).expect(file);
        assert_eq!(package.extract(&["top/lib/libx.so.1"], &bench.store).expect(file)[0].digest, Digest::of(b"abc"), "{file}");
        assert_eq!(package.origin(), Origin::User { path: file.to_owned() });
    }
    let single = bench.open("libcustom.so", b"\x7fELF").expect("any file");
    assert_eq!(single.read("libcustom.so", &bench.store).expect("it is in the store"), b"\x7fELF");
    assert_eq!((single.unpacked_size(), single.download_size()), (4, 4));
}

/// Reads all there is in a package; whether that works does not matter.
fn read_all(bench: &Bench, file: &str, bytes: &[u8]) {
    let Ok(package) = bench.open(file, bytes) else { return };
    for entry in package.entries() {
        let _ = package.extract(&[&*entry.path], &bench.store);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_packages_never_panic(
        which in 0..3_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let bench = Bench::new();
        let (file, mut bytes) = match which {
            0 => (WHEEL, good_wheel()),
            1 => (DEB, good_deb()),
            // Uncompressed, so that changes reach the headers.
            _ => ("x.tar", tar_of(&[
                ("a", tar::EntryType::Regular, 0o644, b"abc"),
                ("b", tar::EntryType::Symlink, 0o644, b"a"),
                ("c", tar::EntryType::Link, 0o644, b"a"),
            ])),
        };
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all(&bench, file, &bytes);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), which in 0..4_usize) {
        read_all(&Bench::new(), [WHEEL, DEB, "x.tar", "x.tar.xz"][which], &bytes);
    }
}

//! Reading what others wrote: every tar dialect, every way of compressing.

use std::process::Command;

use super::*;

fn members(layer: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, ReadError> {
    let mut reader = LayerReader::new(layer, 0, Limits::default())?;
    let mut found = Vec::new();
    while let Some(member) = reader.next_member()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).map_err(|error| reader.io(error))?;
        found.push((member, content));
    }
    Ok(found)
}

#[test]
fn what_was_written_is_read_again() {
    let tree = fixture();
    for codec in ["none", "gzip", "zstd"] {
        let (_store, outcome) = written(&tree, &format(codec));
        let found = members(&blob(&outcome)).expect("valid");
        assert_eq!(found.len(), tree.len());
        for ((path, entry), (member, content)) in tree.iter().zip(found) {
            assert_eq!(member.image_path().as_ref(), Some(path));
            match (&entry.kind, &member.kind) {
                (Kind::Directory, MemberKind::Directory) => {}
                (Kind::Symlink { target }, MemberKind::Symlink(found)) => assert_eq!(Path::new(target), found),
                (Kind::File { content: Content::Bytes(bytes), .. }, MemberKind::File) => assert!(*bytes == content, "{path}"),
                (expected, found) => panic!("{path} is {found:?}, expected {expected:?}"),
            }
            assert!(matches!(entry.kind, Kind::Symlink { .. }) || member.mode == entry.mode, "{path}");
        }
    }
}

#[test]
fn every_dialect_of_gnu_tar_and_python_is_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(130));
    fs::create_dir(folder.path().join("d".repeat(120))).expect("a temporary folder");
    fs::write(folder.path().join(&long), "long").expect("a temporary folder");
    fs::write(folder.path().join("short"), "short").expect("a temporary folder");
    std::os::unix::fs::symlink("t".repeat(140), folder.path().join("link")).expect("a temporary folder");
    fs::hard_link(folder.path().join("short"), folder.path().join("second")).expect("a temporary folder");
    let read = |tar: &[u8], dialect: &str| -> BTreeMap<PathBuf, String> {
        let found = members(tar).unwrap_or_else(|error| panic!("{dialect}: {error}"));
        found
            .into_iter()
            .map(|(member, content)| {
                let said = match member.kind {
                    MemberKind::File => format!("file {}", String::from_utf8_lossy(&content)),
                    MemberKind::Symlink(target) => format!("link {}", target.display().to_string().len()),
                    MemberKind::HardLink(target) => format!("hard {}", target.display()),
                    other => format!("{other:?}"),
                };
                (member.path, said)
            })
            .collect()
    };
    let mut tars = Vec::new();
    for dialect in ["gnu", "pax"] {
        let mut command = Command::new("tar");
        command.args(["--sort=name", &format!("--format={dialect}"), "-cf", "-", "-C"]).arg(folder.path()).arg(".");
        tars.push((dialect, run(&mut command, b"")));
    }
    for dialect in ["GNU_FORMAT", "PAX_FORMAT"] {
        let script = format!(
            "import sys,tarfile\nwith tarfile.open(fileobj=sys.stdout.buffer, mode='w|gz', format=tarfile.{dialect}) as t: t.add(sys.argv[1], arcname='')"
        );
        tars.push((dialect, run(Command::new("python3").args(["-c", &script]).arg(folder.path()), b"")));
    }
    for (dialect, tar) in tars {
        let found = read(&tar, dialect);
        assert_eq!(found.get(Path::new(&long)).map(String::as_str), Some("file long"), "{dialect}");
        assert_eq!(found.get(Path::new("link")).map(String::as_str), Some("link 140"), "{dialect}");
        let pair = [found.get(Path::new("short")), found.get(Path::new("second"))].map(|said| said.map(String::as_str));
        assert!(
            pair == [Some("file short"), Some("hard short")] || pair == [Some("hard second"), Some("file short")],
            "{dialect}: {pair:?}"
        );
    }
}

#[test]
fn any_number_of_members_and_frames_is_one_layer() {
    let tar = archive(&[file("a", "first"), file("b", "second")]);
    let (head, tail) = tar.split_at(700);
    let zip = |bytes: &[u8]| frame::compress(Compression::Gzip { level: 6 }, bytes, &mut Vec::new()).expect("memory");
    let zst = |bytes: &[u8]| frame::compress(Compression::Zstd { level: 3 }, bytes, &mut Vec::new()).expect("memory");
    let skippable = [&[0x53, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"note"].concat();
    for (what, layer) in [
        ("plain", tar.clone()),
        ("gzip", [zip(head), zip(b""), zip(tail)].concat()),
        ("zstd", [zst(head), zst(b""), zst(tail)].concat()),
        ("zstd with a note first", [skippable.clone(), zst(head), skippable, zst(tail)].concat()),
    ] {
        let found: Vec<_> = members(&layer).expect(what).into_iter().map(|(_, content)| content).collect();
        assert_eq!(found, [b"first".to_vec(), b"second".to_vec()], "{what}");
    }
}

#[test]
fn a_damaged_or_shortened_layer_is_an_error() {
    let tar = archive(&[file("a", "first"), file("b", &"x".repeat(3000))]);
    for end in [1, 100, 511, 513, 900, 1025, 1536, 4000] {
        assert!(matches!(members(&tar[..end]), Err(ReadError::Io { .. })), "the first {end} bytes");
    }
    let mut damaged = tar.clone();
    damaged[5] ^= 1;
    let error = members(&damaged).expect_err("a wrong checksum").to_string();
    assert!(error.starts_with("layer 0, byte 512 of its tar: header checksum is"), "{error}");
    let mut lone = file("a", "x");
    lone.extend_from_slice(&[0; 512]);
    lone.extend(file("b", "y"));
    assert!(matches!(members(&lone), Err(ReadError::Header { .. })));
    for compression in [Compression::Gzip { level: 6 }, Compression::Zstd { level: 3 }] {
        let whole = frame::compress(compression, &tar, &mut Vec::new()).expect("memory");
        assert!(members(&whole[..whole.len() - 3]).is_err(), "{compression}");
    }
    assert!(members(b"not a tar, not gzip and not zstd").is_err());
    assert!(members(&noise(1, 5000)).is_err());
}

#[test]
fn a_blob_with_another_digest_is_an_error_even_where_the_tar_ends_early() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut tar = archive(&[file("a", "first")]);
    tar.extend_from_slice(&[0; 9000]);
    let (descriptors, blobs) = blobs(&[tar.clone()], folder.path());
    Index::of(&descriptors, &blobs, &Limits::default()).expect("whole");
    let end = tar.len() - 1;
    tar[end] = 1;
    fs::write(folder.path().join("layer-0"), tar).expect("a temporary folder");
    let error = Index::of(&descriptors, &blobs, &Limits::default()).expect_err("damaged after the archive's end");
    let ReadError::Io { source, .. } = error else { panic!("{error}") };
    assert!(source.to_string().contains("digest is"), "{source}");
}

#[test]
fn limits_hold_for_what_unfolds() {
    let bomb = archive(&[member("zeros", b'0', "", &vec![0; 8 << 20])]);
    let bomb = frame::compress(Compression::Zstd { level: 3 }, &bomb, &mut Vec::new()).expect("memory");
    assert!(bomb.len() < 2000);
    let read = |layer: &[u8], limits| {
        let mut reader = LayerReader::new(layer, 3, limits)?;
        while reader.next_member()?.is_some() {}
        Ok(())
    };
    let small = Limits { bytes: 1 << 20, ..Limits::default() };
    let error: ReadError = read(&bomb, small).expect_err("too large");
    assert_eq!(error.to_string(), "layer 3 has more than 1048576 bytes, the most that is allowed");
    let many = archive(&(0..20).map(|number| file(&number.to_string(), "")).collect::<Vec<_>>());
    assert!(matches!(read(&many, Limits { members: 10, ..Limits::default() }), Err(ReadError::Limit { limit: 10, .. })));
    read(&many, Limits { members: 20, ..Limits::default() }).expect("just as many");
    let pax = archive(&[member("././@PaxHeader", b'x', "", &vec![b'1'; 2 << 20]), file("a", "")]);
    assert!(matches!(read(&pax, Limits::default()), Err(ReadError::Limit { limit: 1_048_576, .. })));
    // What comes after the archive's end counts too.
    let mut tail = archive(&[file("a", "")]);
    tail.resize(2 << 20, 0);
    assert!(matches!(read(&tail, small), Err(ReadError::Limit { .. })));
    // A size that no disk holds.
    let mut header = tar::Header::new_ustar();
    header.set_path("huge").expect("fits");
    header.set_size(u64::MAX);
    header.set_cksum();
    assert!(matches!(read(header.as_bytes(), Limits::default()), Err(ReadError::Limit { .. })));
}

#[test]
fn the_index_knows_what_unpacking_gives_and_extracts_chosen_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let base = archive(&[
        member("usr/lib/", b'5', "", b""),
        file("usr/lib/libc.so.6", "libc"),
        member("lib", b'2', "/usr/lib", b""),
        file("etc/secret", "s"),
        member("usr/lib/alias.so", b'1', "lib/libc.so.6", b""),
    ]);
    let upper =
        archive(&[file("etc/.wh.secret", ""), file("lib/libm.so.6", "libm"), member("hard", b'1', "usr/lib/libc.so.6", b"")]);
    let upper = frame::compress(Compression::Zstd { level: 3 }, &upper, &mut Vec::new()).expect("memory");
    let (descriptors, blobs) = blobs(&[base, upper], folder.path());
    let limits = Limits::default();
    let index = Index::of(&descriptors, &blobs, &limits).expect("valid");
    let names: Vec<_> = index.entries().map(|(path, entry)| format!("{path} {}", entry.layer)).collect();
    assert_eq!(
        names,
        [
            "/etc 0",
            "/hard 1",
            "/lib 0",
            "/usr 0",
            "/usr/lib 0",
            "/usr/lib/alias.so 0",
            "/usr/lib/libc.so.6 0",
            "/usr/lib/libm.so.6 1"
        ]
    );
    assert_eq!(index.resolve(&path("/lib/libm.so.6")), Some(path("/usr/lib/libm.so.6")));
    assert_eq!(index.resolve(&path("/lib/none")), None);
    assert_eq!(index.get(&path("/hard")).map(|entry| entry.kind.clone()), Some(IndexKind::File { size: 4 }));
    let wanted = ["/hard", "/usr/lib/alias.so", "/usr/lib/libm.so.6", "/usr/lib/libc.so.6"].map(path);
    let out = folder.path().join("out");
    let found = index.extract(&wanted, &descriptors, &blobs, &out, &limits).expect("all are files");
    let said: Vec<_> = found.values().map(|file| fs::read_to_string(file).expect("extracted")).collect();
    assert_eq!(said, ["libc", "libc", "libc", "libm"]);
    assert_eq!(found.get(&path("/hard")), Some(&out.join("hard")));
    for none in ["/lib", "/usr/lib", "/etc/secret"] {
        let error = index.extract(&[path(none)], &descriptors, &blobs, &out, &limits).expect_err(none);
        assert_eq!(error.to_string(), format!("`{none}` is no regular file of the image"));
    }
}

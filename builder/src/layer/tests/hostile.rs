//! Layers that try to get out.

use proptest::prelude::*;

use super::*;

/// A folder to unpack into with something outside that must not change.
struct Prison {
    folder: TempDir,
}

impl Prison {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("outside")).expect("a temporary folder");
        fs::write(folder.path().join("outside/canary"), "alive").expect("a temporary folder");
        Self { folder }
    }

    fn unpack(&self, layers: &[Vec<u8>]) -> Result<Unpacked, ReadError> {
        let mut unpacker = Unpacker::new(&self.folder.path().join("root"), Limits { bytes: 1 << 30, ..Limits::default() })?;
        layers.iter().try_for_each(|layer| unpacker.layer(&layer[..]))?;
        unpacker.finish()
    }

    fn check(&self) {
        let outside: Vec<_> =
            fs::read_dir(self.folder.path()).expect("there").map(|entry| entry.expect("there").file_name()).collect();
        assert!(outside.iter().all(|name| name == "outside" || name == "root"), "{outside:?}");
        let canary = self.folder.path().join("outside/canary");
        assert_eq!(fs::read_to_string(&canary).expect("still there"), "alive");
        assert_eq!(fs::read_dir(self.folder.path().join("outside")).expect("there").count(), 1);
        let links = std::os::unix::fs::MetadataExt::nlink(&fs::metadata(&canary).expect("there"));
        assert_eq!(links, 1, "a hard link to the outside was made");
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }
}

#[test]
fn names_that_lead_out_are_errors() {
    for name in ["../outside/canary", "a/../../outside/canary", "..", "a/..", "/../outside/x", "x/../y"] {
        let prison = Prison::new();
        let error = prison.unpack(&[archive(&[file(name, "dead")])]).expect_err(name);
        assert!(matches!(&error, ReadError::Name { name: found, .. } if found == name), "{error}");
        prison.check();
    }
    for (name, kind) in
        [("", b'0'), ("./", b'2'), (".", b'0'), (".wh.", b'0'), (".wh...", b'0'), ("a/.wh..", b'0'), (".wh.a/b", b'0')]
    {
        let prison = Prison::new();
        assert!(prison.unpack(&[archive(&[member(name, kind, "x", b"")])]).is_err(), "{name:?}");
        prison.check();
    }
    let mut nul = b"17 path=a\0b/c/dd\n".to_vec();
    nul.truncate(17);
    let layer = archive(&[member("x", b'x', "", &nul), file("a", "")]);
    assert!(matches!(Prison::new().unpack(&[layer]), Err(ReadError::Name { reason: "it holds a zero byte", .. })));
}

#[test]
fn absolute_names_lie_below_the_folder() {
    let prison = Prison::new();
    prison.unpack(&[archive(&[file("/etc/passwd", "x"), file("//a//b", "y"), file("./././c", "z")])]).expect("harmless");
    assert_eq!(walk(&prison.root()).len(), 5);
    prison.check();
}

#[test]
fn links_do_not_lead_out() {
    let link = |name: &str, target: &str| member(name, b'2', target, b"");
    let hard = |name: &str, target: &str| member(name, b'1', target, b"");
    for members in [
        // Through a link to the outside, relative, absolute, chained, in the middle, made in another layer.
        vec![link("l", "../outside"), file("l/canary", "dead")],
        vec![link("l", "/../../outside"), file("l/canary", "dead")],
        vec![link("a", ".."), link("b", "a/outside"), file("b/canary", "dead")],
        vec![link("d/l", "../../outside"), file("d/l/x/y", "dead")],
        vec![link("l", ".."), file("l/outside/.wh.canary", "")],
        vec![link("l", "../outside"), file("l/.wh..wh..opq", "")],
        // The link itself is replaced, not what it points at.
        vec![link("l", "../outside/canary"), file("l", "dead")],
        vec![link("l", "../outside"), member("l/", b'5', "", b""), file("l/canary", "dead")],
        // Hard links through links, and writing through hard links.
        vec![link("l", "../outside"), hard("h", "l/canary"), file("h", "dead")],
        vec![link("l", "../outside/canary"), hard("h", "l"), file("h", "dead")],
    ] {
        for split in [false, true] {
            let prison = Prison::new();
            let layers: Vec<_> = if split {
                members.iter().map(|one| archive(std::slice::from_ref(one))).collect()
            } else {
                vec![archive(&members)]
            };
            // Whether it is an error is another question.
            let _ = prison.unpack(&layers);
            prison.check();
        }
    }
    for target in ["../outside/canary", "/../outside/canary", "", "none"] {
        let prison = Prison::new();
        assert!(prison.unpack(&[archive(&[hard("h", target)])]).is_err(), "{target}");
        prison.check();
    }
}

#[test]
fn devices_are_left_out_and_dangerous_bits_dropped() {
    let prison = Prison::new();
    let mut suid = tar::Header::new_ustar();
    suid.set_path("bin").expect("fits");
    suid.set_mode(0o6755);
    suid.set_size(0);
    suid.set_entry_type(tar::EntryType::Regular);
    suid.set_cksum();
    let layer = archive(&[
        member("dev/sda", b'4', "", b""),
        member("dev/null", b'3', "", b""),
        member("pipe", b'6', "", b""),
        suid.as_bytes().to_vec(),
        file(".wh..wh.plnk", "notes of another file system"),
        file(".wh..wh.plnk/1.2", "x"),
    ]);
    let unpacked = prison.unpack(&[layer]).expect("harmless");
    assert_eq!((unpacked.files, unpacked.skipped), (1, 3));
    let found = walk(&prison.root());
    assert_eq!(
        found.into_iter().map(|(path, said)| format!("{} {}", path.display(), &said[..5])).collect::<Vec<_>>(),
        ["bin f 755", "dev d 755"]
    );
}

#[test]
fn what_is_not_supported_is_named() {
    let sparse = archive(&[member("x", b'x', "", b"22 GNU.sparse.major=1\n"), file("a", "")]);
    let error = Prison::new().unpack(&[sparse]).expect_err("sparse").to_string();
    assert!(error.contains("`a` is of type `0`, which is not supported (a file with holes left out)"), "{error}");
    assert!(Prison::new().unpack(&[archive(&[member("a", b'S', "", b"")])]).is_err());
    assert!(Prison::new().unpack(&[archive(&[member("a", b'V', "", b"")])]).is_err());
    for records in [
        &b"9 path=a\n"[..],
        b"x path=a\n",
        b"10 path=ab",
        b"8 patha\n",
        b"0 path=a\n",
        b"99999999999999999999999 path=a\n",
        b" \n",
    ] {
        let layer = archive(&[member("x", b'x', "", records), file("a", "")]);
        let result = Prison::new().unpack(&[layer]);
        assert_eq!(result.is_ok(), records == b"9 path=a\n", "{:?}", String::from_utf8_lossy(records));
    }
}

#[test]
fn what_a_layer_replaces_itself_does_not_count_as_its_own() {
    let prison = Prison::new();
    let upper = archive(&[file("c/a", "upper"), member("c/a", b'6', "", b""), file(".wh..wh..opq", "")]);
    prison.unpack(&[archive(&[file("c/b", "lower")]), upper]).expect("harmless");
    assert_eq!(walk(&prison.root()).len(), 0);
}

#[test]
fn a_folder_in_use_is_refused() {
    let prison = Prison::new();
    fs::create_dir(prison.root()).expect("a temporary folder");
    fs::write(prison.root().join("x"), "").expect("a temporary folder");
    assert!(matches!(prison.unpack(&[]), Err(ReadError::NotEmpty { .. })));
}

#[test]
fn a_directory_may_forbid_writing_into_it() {
    let prison = Prison::new();
    let mut closed = tar::Header::new_ustar();
    closed.set_path("closed/").expect("fits");
    closed.set_mode(0o555);
    closed.set_size(0);
    closed.set_entry_type(tar::EntryType::Directory);
    closed.set_cksum();
    let layer = archive(&[closed.as_bytes().to_vec(), file("closed/a", "a")]);
    prison.unpack(&[layer, archive(&[file("closed/b", "b")])]).expect("harmless");
    assert_eq!(walk(&prison.root()).get(Path::new("closed")).map(String::as_str), Some("d 555"));
    fs::set_permissions(prison.root().join("closed"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
}

/// Names and targets that meet each other often, and lead out where they can.
fn name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        8 => prop::sample::select(vec!["a", "b", "c"]),
        1 => prop::sample::select(vec!["..", ".", ".wh.a", ".wh.b", ".wh..wh..opq", "outside", "canary", ""]),
    ];
    (any::<prop::sample::Index>(), prop::collection::vec(part, 1..4))
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute.index(6) == 0 { "/" } else { "" }, parts.join("/")))
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![3 => name(), 1 => prop::sample::select(vec!["..", "/", "../outside", "../outside/canary", "../../outside", "."]).prop_map(str::to_owned)]
}

/// A member as it is shown where a case fails.
#[derive(Debug, Clone)]
struct Spec {
    name: String,
    kind: char,
    target: String,
    content: String,
}

impl Spec {
    fn bytes(&self) -> Vec<u8> {
        member(&self.name, self.kind as u8, &self.target, self.content.as_bytes())
    }
}

fn any_member() -> impl Strategy<Value = Spec> {
    let kind = prop::sample::select(b"0005522163".to_vec());
    (name(), kind, target(), "[a-z]{0,9}").prop_map(|(name, kind, target, content)| {
        let content = if kind == b'0' { content } else { String::new() };
        Spec { name, kind: char::from(kind), target, content }
    })
}

fn image() -> impl Strategy<Value = Vec<Vec<Spec>>> {
    prop::collection::vec(prop::collection::vec(any_member(), 0..9), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing outside changes; and where nothing is refused, the index says what unpacking gives.
    #[test]
    fn no_image_gets_out_and_the_index_agrees_with_the_folder(image in image()) {
        let prison = Prison::new();
        // Members that are refused are taken out one by one, so that what is left is a valid image.
        let mut index = Index::default();
        let mut limits = Limits::default();
        let mut layers = Vec::new();
        for members in image {
            let mut kept: Vec<Vec<u8>> = Vec::new();
            for member in members {
                kept.push(member.bytes());
                if index.clone().add(&archive(&kept)[..], &mut limits.clone()).is_err() {
                    let whole: Vec<_> = layers.iter().cloned().chain([archive(&kept)]).collect();
                    let alone = Prison::new();
                    prop_assert!(alone.unpack(&whole).is_err(), "the index refuses what is unpacked");
                    alone.check();
                    kept.pop();
                }
            }
            layers.push(archive(&kept));
            index.add(&archive(&kept)[..], &mut limits).expect("checked member by member");
        }
        let unpacked = prison.unpack(&layers);
        prison.check();
        prop_assert!(unpacked.is_ok(), "unpacking refuses what the index has: {:?}", unpacked);
        let found: BTreeMap<_, _> = walk(&prison.root()).into_iter().map(|(path, said)| {
            let words: Vec<_> = said.split(' ').collect();
            (path, match words[0] {
                "f" => format!("f {}", words[2]),
                _ => said,
            })
        }).collect();
        let indexed: BTreeMap<_, _> = index.entries().map(|(path, entry)| (PathBuf::from(path.as_str()), match &entry.kind {
            IndexKind::Directory => format!("d {:o}", entry.mode),
            IndexKind::File { size } => format!("f {size}"),
            IndexKind::Symlink { target } => format!("l {}", target.display()),
        })).collect();
        prop_assert_eq!(found, indexed);
    }

    /// Whatever the bytes are, reading ends without a panic.
    #[test]
    fn damaged_archives_are_errors_or_read(
        image in prop::collection::vec(any_member(), 0..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        codec in prop::sample::select(vec!["none", "zstd:1", "gzip:1"]),
    ) {
        let mut layer = archive(&image.iter().map(Spec::bytes).collect::<Vec<_>>());
        let compression = codec.parse::<CompressionChoice>().expect("valid").fixed().expect("not auto");
        if compression != Compression::None {
            layer = frame::compress(compression, &layer, &mut Vec::new()).expect("memory");
        }
        for (place, byte, fix) in damage {
            let place = place.index(layer.len());
            layer[place] = byte;
            let block = place / 512 * 512;
            if fix && compression == Compression::None && block + 512 <= layer.len() {
                let mut header = tar::Header::from_byte_slice(&layer[block..block + 512]).clone();
                header.set_cksum();
                layer[block..block + 512].copy_from_slice(header.as_bytes());
            }
        }
        if let Some(cut) = cut {
            layer.truncate(cut.index(layer.len() + 1));
        }
        let prison = Prison::new();
        let _ = prison.unpack(std::slice::from_ref(&layer));
        prison.check();
        let _ = Index::default().add(&layer[..], &mut Limits::default());
    }

    /// Any names and targets that a tree can have come back as they were.
    #[test]
    fn headers_say_what_the_tree_says(
        names in prop::collection::btree_set("[a-zäß]{1,130}(/[a-z ]{1,130}){0,3}", 1..4),
        link in "[a-zé/.]{1,200}",
        size in any::<u64>().prop_map(|size| size >> 1),
        mode in 0_u32..0o10000,
    ) {
        for name in names {
            let path: ImagePath = format!("/{name}").parse().expect("a valid path");
            for kind in [
                Kind::Directory,
                Kind::Symlink { target: link.clone() },
                Kind::File { content: Content::Bytes(Vec::new()), size, digest: None },
            ] {
                let mut head = Vec::new();
                header::append(&mut head, &path, &entry(kind.clone(), mode), EPOCH).expect("a header");
                prop_assert_eq!(head.len() % 512, 0);
                let mut reader = LayerReader::new(&head[..], 0, Limits { bytes: u64::MAX, ..Limits::default() }).expect("memory");
                let member = reader.next_member().expect("valid").expect("one member");
                prop_assert_eq!(member.image_path(), Some(path.clone()));
                match kind {
                    Kind::Directory => prop_assert_eq!((member.kind, member.mode), (MemberKind::Directory, mode)),
                    Kind::Symlink { target } => {
                        prop_assert_eq!((member.kind, member.mode), (MemberKind::Symlink(PathBuf::from(target)), 0o777));
                    }
                    Kind::File { .. } => {
                        prop_assert_eq!((member.kind, member.mode, member.size), (MemberKind::File, mode, size));
                    }
                }
            }
        }
    }
}

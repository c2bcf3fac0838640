//! What the tests of layers share: a fixed tree, independent tools as judges, and hand-made tars.

mod hostile;
mod judges;
mod measure;
mod read;
mod same_bytes;
mod write;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::image::{Descriptor, LocalBlobs, media_type};
use crate::progress::Progress;
use crate::store::Store;
use crate::tree::{Content, Kind, Origin};

pub(super) const EPOCH: u64 = 1_700_000_000;

pub(super) fn path(text: &str) -> ImagePath {
    text.parse().expect(text)
}

pub(super) fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(folder.path()).expect("an empty folder becomes a store");
    (folder, store)
}

pub(super) fn format(compression: &str) -> LayerFormat {
    LayerFormat { compression: compression.parse().expect(compression), epoch: EPOCH, threads: 2 }
}

pub(super) fn entry(kind: Kind, mode: u32) -> Entry {
    Entry { kind, mode, layer: LayerName::Runtime, origin: Origin::Generated, reason: "test".to_owned() }
}

pub(super) fn directory() -> Entry {
    entry(Kind::Directory, 0o755)
}

pub(super) fn bytes(content: impl Into<Vec<u8>>) -> Entry {
    let content = content.into();
    entry(Kind::File { size: content.len() as u64, content: Content::Bytes(content), digest: None }, 0o644)
}

pub(super) fn disk(file: &Path) -> Entry {
    let size = fs::metadata(file).expect("the test made it").len();
    entry(Kind::File { size, content: Content::Disk(file.to_owned()), digest: None }, 0o644)
}

pub(super) fn symlink(target: &str) -> Entry {
    entry(Kind::Symlink { target: target.to_owned() }, 0o644)
}

/// Bytes that look random and never change.
pub(super) fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_685_821_657_736_338_717) | 1;
    let mut made = Vec::with_capacity(count + 8);
    while made.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        made.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    made.truncate(count);
    made
}

/// Bytes that compress as libraries do: repeated words with noise between.
pub(super) fn words(seed: u64, count: usize) -> Vec<u8> {
    let choices = noise(seed, count / 4 + 8);
    let mut made = Vec::with_capacity(count + 16);
    for choice in choices {
        match choice % 4 {
            0 => made.push(choice),
            1 => made.extend_from_slice(b"mov rax, [rbp"),
            2 => made.extend_from_slice(&[0; 7]),
            _ => made.extend_from_slice(&u32::from(choice).to_le_bytes()),
        }
    }
    made.truncate(count);
    assert_eq!(made.len(), count);
    made
}

/// A tree with every kind of entry and every shape of name, whose files are larger and smaller than frames.
pub(super) fn fixture() -> BTreeMap<ImagePath, Entry> {
    let long = "n".repeat(120);
    let deep = format!("/opt/{}/{}", "d".repeat(90), "e".repeat(90));
    let mut tree: BTreeMap<ImagePath, Entry> = [
        ("/etc".to_owned(), directory()),
        ("/etc/passwd".to_owned(), bytes("nobody:x:65534:65534::/:/none\n")),
        ("/etc/empty".to_owned(), bytes("")),
        ("/tmp".to_owned(), entry(Kind::Directory, 0o1777)),
        ("/usr".to_owned(), directory()),
        ("/usr/lib".to_owned(), directory()),
        ("/usr/lib-x".to_owned(), bytes("sorts between a directory and its children")),
        ("/usr/lib/libbig.so.1.2".to_owned(), bytes(words(1, 9_000_001))),
        ("/usr/lib/libbig.so".to_owned(), symlink("libbig.so.1.2")),
        ("/usr/lib/libown.so".to_owned(), bytes(words(2, 262_144))),
        ("/usr/lib/libsmall.so".to_owned(), bytes(words(3, 262_143))),
        ("/usr/lib/block".to_owned(), bytes(noise(4, 512))),
        ("/lib".to_owned(), symlink("usr/lib")),
        ("/models".to_owned(), directory()),
        ("/models/weights.bin".to_owned(), bytes(noise(5, 3_000_000))),
        ("/opt".to_owned(), directory()),
        (format!("/opt/{long}"), bytes("a name of more than 100 bytes without a slash")),
        (format!("/opt/{}", "d".repeat(90)), directory()),
        (deep.clone(), directory()),
        (format!("{deep}/file"), bytes("a name that is divided")),
        ("/opt/far".to_owned(), symlink(&format!("/{}", "t/".repeat(80)))),
        ("/opt/größe".to_owned(), bytes("not ASCII")),
    ]
    .into_iter()
    .map(|(name, entry)| (path(&name), entry))
    .collect();
    tree.get_mut(&path("/usr/lib/libbig.so.1.2")).expect("just made").mode = 0o755;
    tree
}

/// Puts a tree's files on disk, in the given order, and gives the tree that reads them from there.
pub(super) fn on_disk(
    tree: &BTreeMap<ImagePath, Entry>,
    folder: &Path,
    reverse: bool,
    holes: bool,
) -> BTreeMap<ImagePath, Entry> {
    let mut moved = tree.clone();
    let mut numbered: Vec<_> = moved.values_mut().enumerate().collect();
    if reverse {
        numbered.reverse();
    }
    for (number, entry) in numbered {
        let Kind::File { content, .. } = &mut entry.kind else { continue };
        let Content::Bytes(bytes) = content else { continue };
        let name = folder.join(format!("file-{number}"));
        let mut file = File::create(&name).expect("a file in a temporary folder");
        for block in bytes.chunks(4096) {
            if holes && block.iter().all(|byte| *byte == 0) {
                file.seek(SeekFrom::Current(block.len() as i64)).expect("seek");
            } else {
                file.write_all(block).expect("write");
            }
        }
        file.set_len(bytes.len() as u64).expect("set the length");
        *content = Content::Disk(name);
    }
    moved
}

pub(super) fn written(tree: &BTreeMap<ImagePath, Entry>, format: &LayerFormat) -> (TempDir, LayerOutcome) {
    let (folder, store) = store();
    let outcome = write(tree, format, &store, &Progress::silent()).expect("a layer");
    (folder, outcome)
}

pub(super) fn blob(outcome: &LayerOutcome) -> Vec<u8> {
    fs::read(outcome.layer.path.as_ref().expect("built here")).expect("in the store")
}

/// Whether a tool is installed; says so where it is not.
pub(super) fn has(tool: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()));
    if !found {
        eprintln!("skipped: `{tool}` is not installed");
    }
    found
}

/// Runs a command with bytes on its standard input; gives its standard output, and fails where it does.
pub(super) fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    let output = std::thread::scope(|scope| {
        // A tool that stops reading early is judged by its exit status.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().expect("it runs")
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A member of a hand-made tar: any name, any type, with a valid checksum.
pub(super) fn member(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    let fields = header.as_old_mut();
    fields.name[..name.len()].copy_from_slice(name.as_bytes());
    fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
    fields.linkflag[0] = kind;
    header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut made = header.as_bytes().to_vec();
    made.extend_from_slice(content);
    made.resize(made.len().next_multiple_of(512), 0);
    made
}

pub(super) fn file(name: &str, content: &str) -> Vec<u8> {
    member(name, b'0', "", content.as_bytes())
}

pub(super) fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut made = members.concat();
    made.extend_from_slice(&[0; 1024]);
    made
}

/// Layers in memory as blobs of files.
pub(super) fn blobs(layers: &[Vec<u8>], folder: &Path) -> (Vec<Descriptor>, LocalBlobs) {
    let mut blobs = LocalBlobs::default();
    let describe = |(number, bytes): (usize, &Vec<u8>)| {
        let file = folder.join(format!("layer-{number}"));
        fs::write(&file, bytes).expect("a temporary folder");
        let descriptor = Descriptor::of(media_type::LAYER, bytes);
        blobs.add_file(descriptor.digest, file);
        descriptor
    };
    (layers.iter().enumerate().map(describe).collect(), blobs)
}

/// Everything below a folder by its path: `d` and the mode, `f` with the mode and content, `l` and the target.
pub(super) fn walk(root: &Path) -> BTreeMap<PathBuf, String> {
    use std::os::unix::fs::PermissionsExt;
    let entries = walkdir::WalkDir::new(root).min_depth(1).into_iter().map(|entry| {
        let entry = entry.expect("readable");
        let metadata = entry.metadata().expect("readable");
        let mode = metadata.permissions().mode() & 0o7777;
        let said = if metadata.is_symlink() {
            format!("l {}", fs::read_link(entry.path()).expect("a link").display())
        } else if metadata.is_dir() {
            format!("d {mode:o}")
        } else {
            let mut content = Vec::new();
            File::open(entry.path()).and_then(|mut file| file.read_to_end(&mut content)).expect("readable");
            format!("f {mode:o} {} {}", content.len(), Digest::of(&content))
        };
        (entry.path().strip_prefix(root).expect("below").to_owned(), said)
    });
    entries.collect()
}

//! Where the loader looks for a library, and which of the files there it takes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::root::LinkRoot;
use crate::elf::{ByteOrder, Class, ElfError, ElfObject, Identity, Machine};

/// Files that have been read already, by their real path in the image.
pub(super) struct Files<'root> {
    pub(super) root: &'root LinkRoot,
    read: HashMap<String, Outcome>,
    defaults: HashMap<String, Option<Vec<String>>>,
}

/// What became of one path.
#[derive(Clone)]
pub(super) enum Outcome {
    /// No file is there.
    Absent,
    /// The loader passes over it and searches on: it is for another machine.
    OtherMachine(String),
    /// The loader gives up here.
    Broken(Arc<ElfError>),
    /// It can be loaded.
    Object(Arc<ElfObject>),
}

/// The result of a search.
pub(super) enum Found {
    /// The path by which it was found, the real path, the object.
    Object { path: String, file: String, object: Arc<ElfObject> },
    /// The search ends at a file that cannot be loaded.
    Broken { path: String, source: Arc<ElfError> },
    /// Nothing that fits.
    Nowhere { searched: Vec<String>, rejected: Vec<(String, String)> },
}

impl<'root> Files<'root> {
    pub(super) fn new(root: &'root LinkRoot) -> Self {
        Self { root, read: HashMap::new(), defaults: HashMap::new() }
    }

    /// Opens a path of the image.
    pub(super) fn open(&mut self, path: &str) -> (String, Outcome) {
        let Some((file, disk)) = self.root.find(path) else { return (path.to_owned(), Outcome::Absent) };
        let machine = self.root.machine();
        let outcome = self.read.entry(file.clone()).or_insert_with(|| match examine(disk) {
            Err(error) => Outcome::Broken(Arc::new(error)),
            Ok(identity) if !concerns(identity, machine) => Outcome::OtherMachine(identity.to_string()),
            Ok(identity) if identity.byte_order == ByteOrder::Big => {
                Outcome::Broken(Arc::new(ElfError::Header { field: "EI_DATA", found: 2, expected: "1 (little-endian)" }))
            }
            Ok(_) => match ElfObject::load(disk) {
                Ok(object) => Outcome::Object(Arc::new(object)),
                Err(error) => Outcome::Broken(Arc::new(error)),
            },
        });
        let outcome = outcome.clone();
        (file, outcome)
    }

    /// Looks for a name as the loader does: a path as it is, anything else in the directories.
    pub(super) fn search(&mut self, name: &str, directories: Vec<String>) -> Found {
        let (searched, paths) = if name.contains('/') {
            (vec![parent(name).to_owned()], vec![name.to_owned()])
        } else {
            let mut unique: Vec<String> = Vec::with_capacity(directories.len());
            for directory in directories {
                let directory = directory.trim_end_matches('/');
                // A relative entry depends on the working directory, which no image is proven to have.
                if directory.starts_with('/') && !unique.iter().any(|known| known == directory) {
                    unique.push(directory.to_owned());
                }
            }
            let paths = unique.iter().map(|directory| format!("{directory}/{name}")).collect();
            (unique, paths)
        };
        let mut rejected = Vec::new();
        for path in paths {
            match self.open(&path) {
                (_, Outcome::Absent) => {}
                (_, Outcome::OtherMachine(found)) => rejected.push((path, format!("for {found}"))),
                (_, Outcome::Broken(source)) => return Found::Broken { path, source },
                (file, Outcome::Object(object)) => return Found::Object { path, file, object },
            }
        }
        Found::Nowhere { searched, rejected }
    }

    /// The directories that a loader searches last: those that the caller set, else those that are built into the
    /// loader itself, else the usual ones.
    pub(super) fn defaults(&mut self, interpreter: Option<&str>) -> Vec<String> {
        if let Some(set) = self.root.default_directories() {
            return set.to_vec();
        }
        let machine = self.root.machine();
        let path = interpreter.unwrap_or(match machine {
            Machine::Aarch64 => "/lib/ld-linux-aarch64.so.1",
            _ => "/lib64/ld-linux-x86-64.so.2",
        });
        let built_in = self.defaults.entry(path.to_owned()).or_insert_with(|| {
            let (_, disk) = self.root.find(path)?;
            built_in_directories(&fs::read(disk).ok()?)
        });
        built_in.clone().unwrap_or_else(|| usual_directories(machine))
    }

    /// Puts in the values of `$ORIGIN`, `$LIB` and `$PLATFORM`.
    pub(super) fn expand(&self, text: &str, origin: &str) -> String {
        let machine = self.root.machine();
        let lib = format!("lib/{}", machine.multiarch());
        let values = [("ORIGIN", origin), ("LIB", lib.as_str()), ("PLATFORM", machine.platform())];
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            expanded.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let token = values.iter().find_map(|&(name, value)| {
                if let Some(tail) =
                    after.strip_prefix('{').and_then(|tail| tail.strip_prefix(name)).and_then(|tail| tail.strip_prefix('}'))
                {
                    return Some((value, tail));
                }
                let tail = after.strip_prefix(name)?;
                let ends = !tail.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_');
                ends.then_some((value, tail))
            });
            match token {
                Some((value, tail)) => {
                    expanded.push_str(value);
                    rest = tail;
                }
                None => {
                    expanded.push('$');
                    rest = after;
                }
            }
        }
        expanded.push_str(rest);
        expanded
    }
}

/// Whether a loader looks any further into a file. It compares the machine before it minds the order of bytes.
fn concerns(identity: Identity, machine: Machine) -> bool {
    let as_little_endian = match identity.byte_order {
        ByteOrder::Little => identity.machine.raw(),
        ByteOrder::Big => identity.machine.raw().swap_bytes(),
    };
    identity.class == Class::Elf64 && as_little_endian == machine.raw()
}

/// Reads enough of a file to tell whether the loader would look any further into it.
fn examine(disk: &Path) -> Result<Identity, ElfError> {
    let unreadable = |source| ElfError::Unreadable { path: disk.to_owned(), source };
    let metadata = disk.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(ElfError::NotRegular { path: disk.to_owned(), found: "not a file" });
    }
    let mut head = Vec::with_capacity(64);
    File::open(disk).map_err(unreadable)?.take(64).read_to_end(&mut head).map_err(unreadable)?;
    Identity::parse(&head)
}

/// The directory part of a path in the image.
pub(super) fn parent(path: &str) -> &str {
    path.rfind('/').map_or("", |end| &path[..end])
}

/// The search path compiled into a glibc loader: directory names that end in a slash, one after the other.
///
/// `None` where the bytes hold no such list: another C library's loader, or no loader at all.
#[must_use]
pub fn built_in_directories(loader: &[u8]) -> Option<Vec<String>> {
    let is_directory = |piece: &[u8]| {
        piece.len() > 1 && piece.starts_with(b"/") && piece.ends_with(b"/") && piece.iter().all(u8::is_ascii_graphic)
    };
    let mut best: Vec<&[u8]> = Vec::new();
    let mut run: Vec<&[u8]> = Vec::new();
    for piece in loader.split(|&byte| byte == 0) {
        if is_directory(piece) {
            run.push(piece);
        } else {
            if run.len() > best.len() {
                best.clone_from(&run);
            }
            run.clear();
        }
    }
    if best.len() < 2 {
        return None;
    }
    Some(best.iter().map(|piece| String::from_utf8_lossy(&piece[..piece.len() - 1]).into_owned()).collect())
}

/// The directories of Debian's glibc, then those that other distributions add.
fn usual_directories(machine: Machine) -> Vec<String> {
    let multiarch = machine.multiarch();
    let mut directories = Vec::new();
    if !multiarch.is_empty() {
        directories.extend([format!("/lib/{multiarch}"), format!("/usr/lib/{multiarch}")]);
    }
    directories.extend(["/lib", "/usr/lib", "/lib64", "/usr/lib64"].map(str::to_owned));
    directories
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::output;

    #[test]
    fn reads_the_search_path_out_of_the_loader() {
        let loader = "/lib64/ld-linux-x86-64.so.2";
        let help = output(loader, &["--help"]);
        let named: Vec<String> =
            help.lines().filter_map(|line| line.trim().strip_suffix(" (system search path)")).map(str::to_owned).collect();
        assert!(!named.is_empty());
        assert_eq!(built_in_directories(&fs::read(loader).expect("it just ran")), Some(named));
        assert_eq!(built_in_directories(b"\0/lib/\0x\0/usr"), None);
    }

    #[test]
    fn expands_only_the_loaders_own_tokens() {
        let root = LinkRoot::new(Machine::X86_64);
        let files = Files::new(&root);
        for (text, expected) in [
            ("$ORIGIN/../lib", "/app/../lib"),
            ("${ORIGIN}", "/app"),
            ("/x/$LIB/${PLATFORM}/y", "/x/lib/x86_64-linux-gnu/x86_64/y"),
            ("$ORIGINAL/$HOME$", "$ORIGINAL/$HOME$"),
            ("a$ORIGIN$ORIGIN", "a/app/app"),
        ] {
            assert_eq!(files.expand(text, "/app"), expected);
        }
    }
}

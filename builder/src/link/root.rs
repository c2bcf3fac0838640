//! The files of an image, as far as linking is concerned.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::elf::Machine;

/// Symbolic links that the kernel follows in one path.
const MOST_LINKS: usize = 40;

/// Candidate files by their absolute path in the image, with the symbolic links between them.
///
/// Files are given by their real path: if `/lib` is a link to `usr/lib`, a library is added as `/usr/lib/…` and found by
/// both names. The order of additions does not matter; a later one of the same path replaces the earlier.
#[derive(Debug, Clone)]
pub struct LinkRoot {
    machine: Machine,
    entries: HashMap<String, Entry>,
    default_directories: Option<Vec<String>>,
    library_path: Vec<String>,
    cache: HashMap<String, String>,
}

#[derive(Debug, Clone)]
enum Entry {
    File(PathBuf),
    Symlink(String),
}

impl LinkRoot {
    /// An empty image for one machine.
    pub fn new(machine: Machine) -> Self {
        Self { machine, entries: HashMap::new(), default_directories: None, library_path: Vec::new(), cache: HashMap::new() }
    }

    /// Adds a file: its absolute path in the image, and where its bytes are on this machine.
    pub fn add_file(&mut self, image_path: &str, disk_path: impl Into<PathBuf>) -> &mut Self {
        self.entries.insert(normalize(image_path), Entry::File(disk_path.into()));
        self
    }

    /// Adds a symbolic link; a relative target starts from the link's directory.
    pub fn add_symlink(&mut self, image_path: &str, target: &str) -> &mut Self {
        self.entries.insert(normalize(image_path), Entry::Symlink(target.to_owned()));
        self
    }

    /// Sets the directories that the loader of this image searches last. Without this they are read from the loader.
    pub fn set_default_directories(&mut self, directories: Vec<String>) -> &mut Self {
        self.default_directories = Some(directories);
        self
    }

    /// Sets the directories that the image's environment gives as `LD_LIBRARY_PATH`.
    pub fn set_library_path(&mut self, directories: Vec<String>) -> &mut Self {
        self.library_path = directories;
        self
    }

    /// Sets what the image's `ld.so.cache` says: the path of each name.
    pub fn set_cache(&mut self, cache: HashMap<String, String>) -> &mut Self {
        self.cache = cache;
        self
    }

    /// The path that the image's `ld.so.cache` has for a name.
    pub fn cached(&self, name: &str) -> Option<&str> {
        self.cache.get(name).map(String::as_str)
    }

    /// The machine that the image is for.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// The directories that are searched last, where they were set.
    pub fn default_directories(&self) -> Option<&[String]> {
        self.default_directories.as_deref()
    }

    /// The directories of `LD_LIBRARY_PATH`.
    pub fn library_path(&self) -> &[String] {
        &self.library_path
    }

    /// Follows a path through the image's links: the real path, and the file on this machine. `None` if nothing, or
    /// something else than a file, is there.
    pub fn find(&self, path: &str) -> Option<(String, &Path)> {
        self.follow(path, |_| {})
    }

    /// The symbolic links that a path passes through, in order: what an image needs besides the file itself.
    pub fn links(&self, path: &str) -> Vec<String> {
        let mut passed = Vec::new();
        self.follow(path, |link| passed.push(link.to_owned()));
        passed
    }

    fn follow(&self, path: &str, mut passes: impl FnMut(&str)) -> Option<(String, &Path)> {
        if !path.starts_with('/') {
            return None;
        }
        let mut pending: Vec<&str> = path.split('/').rev().collect();
        let mut current = String::with_capacity(path.len());
        let mut links = 0;
        while let Some(component) = pending.pop() {
            match component {
                "" | "." => {}
                ".." => current.truncate(current.rfind('/').unwrap_or(0)),
                name => {
                    let parent = current.len();
                    current.push('/');
                    current.push_str(name);
                    if let Some(Entry::Symlink(target)) = self.entries.get(&current) {
                        links += 1;
                        if links > MOST_LINKS {
                            return None;
                        }
                        passes(&current);
                        current.truncate(if target.starts_with('/') { 0 } else { parent });
                        pending.extend(target.split('/').rev());
                    }
                }
            }
        }
        match self.entries.get(&current)? {
            Entry::File(disk) => Some((current, disk)),
            Entry::Symlink(_) => None,
        }
    }
}

/// The path as absolute, without empty and dot components; `..` goes up.
fn normalize(path: &str) -> String {
    let mut clean = String::with_capacity(path.len() + 1);
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => clean.truncate(clean.rfind('/').unwrap_or(0)),
            name => {
                clean.push('/');
                clean.push_str(name);
            }
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_links_of_files_and_directories() {
        let mut root = LinkRoot::new(Machine::X86_64);
        root.add_symlink("/lib", "usr/lib").add_symlink("lib64", "/lib/x").add_file("./usr/lib/x/liba.so.1.0", "/disk/a");
        root.add_symlink("/usr/lib/x/liba.so.1", "liba.so.1.0").add_symlink("/usr/lib/x/up.so", "../x/../x/./liba.so.1");
        for path in ["/lib/x/liba.so.1", "/lib64/liba.so.1", "/usr/lib/x/up.so", "//lib/../lib/x/up.so", "/../lib64/liba.so.1.0"]
        {
            assert_eq!(root.find(path), Some(("/usr/lib/x/liba.so.1.0".to_owned(), Path::new("/disk/a"))), "{path}");
        }
        assert_eq!(root.links("/lib64/liba.so.1"), ["/lib64", "/lib", "/usr/lib/x/liba.so.1"]);
        for path in ["/lib/liba.so.1", "/lib", "lib64/liba.so.1", "/usr/lib/x/liba.so.1.0/more", "/", ""] {
            assert_eq!(root.find(path), None, "{path}");
        }
    }

    #[test]
    fn gives_up_on_links_in_a_circle() {
        let mut root = LinkRoot::new(Machine::Aarch64);
        root.add_symlink("/a", "b").add_symlink("/b", "/a").add_symlink("/c", "c/c");
        assert_eq!(root.find("/a"), None);
        assert_eq!(root.find("/c/d"), None);
    }
}

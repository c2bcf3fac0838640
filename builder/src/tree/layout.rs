//! Building a [`Tree`]: entries go in one by one, their parents with them, and nothing is overwritten silently.

use super::{Content, Entry, ImagePath, Kind, LayerName, Origin, Tree};

/// Two things that want the same place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Two different entries at one path.
    #[error("two files want to be `{path}`: {first} and {second}")]
    Conflict {
        /// The path.
        path: ImagePath,
        /// Who was there first.
        first: String,
        /// Who came second.
        second: String,
    },
    /// An entry below something that is no directory.
    #[error("`{path}` cannot be placed: `{parent}` is no directory but {what}")]
    NotADirectory {
        /// The path.
        path: ImagePath,
        /// Which of its parents.
        parent: ImagePath,
        /// What that is.
        what: String,
    },
}

/// Why and from where an entry is there.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// In which layer it goes.
    pub layer: LayerName,
    /// From where it came.
    pub origin: Origin,
    /// Why it is there.
    pub reason: String,
}

impl Provenance {
    /// Something the builder makes.
    #[must_use]
    pub fn generated(layer: LayerName, reason: &str) -> Self {
        Self { layer, origin: Origin::Generated, reason: reason.to_owned() }
    }
}

impl Tree {
    /// Adds a directory, or does nothing where it is one already.
    ///
    /// # Errors
    /// Where something else is there, or above it.
    pub fn add_directory(&mut self, path: ImagePath, mode: u32, provenance: Provenance) -> Result<(), LayoutError> {
        if let Some(existing) = self.entries.get(&path)
            && existing.kind == Kind::Directory
        {
            return Ok(());
        }
        self.add(path, Kind::Directory, mode, provenance)
    }

    /// Adds a file whose bytes are in memory.
    ///
    /// # Errors
    /// Where something else is there, or above it.
    pub fn add_bytes(&mut self, path: ImagePath, bytes: Vec<u8>, mode: u32, provenance: Provenance) -> Result<(), LayoutError> {
        let size = bytes.len() as u64;
        let digest = Some(crate::digest::Digest::of(&bytes));
        self.add(path, Kind::File { content: Content::Bytes(bytes), size, digest }, mode, provenance)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// Where something else is there, or above it.
    pub fn add_symlink(&mut self, path: ImagePath, target: &str, provenance: Provenance) -> Result<(), LayoutError> {
        self.add(path, Kind::Symlink { target: target.to_owned() }, 0o777, provenance)
    }

    /// Adds an entry, and directories of mode 755 above it.
    ///
    /// # Errors
    /// Where something else is there, or something above it is no directory. The same entry twice is no conflict.
    pub fn add(&mut self, path: ImagePath, kind: Kind, mode: u32, provenance: Provenance) -> Result<(), LayoutError> {
        let mut parent = path.parent();
        while let Some(current) = parent {
            match self.entries.get(&current) {
                Some(Entry { kind: Kind::Directory, .. }) => {}
                Some(other) => {
                    return Err(LayoutError::NotADirectory { path, parent: current, what: describe(other) });
                }
                None => {
                    let above = Entry {
                        kind: Kind::Directory,
                        mode: 0o755,
                        layer: provenance.layer,
                        origin: Origin::Generated,
                        reason: "holds other files".to_owned(),
                    };
                    self.entries.insert(current.clone(), above);
                }
            }
            parent = current.parent();
        }
        let Provenance { layer, origin, reason } = provenance;
        let entry = Entry { kind, mode, layer, origin, reason };
        match self.entries.get(&path) {
            Some(existing) if existing.kind == entry.kind && existing.mode == entry.mode => Ok(()),
            Some(existing) => Err(LayoutError::Conflict { first: describe(existing), second: describe(&entry), path }),
            None => {
                self.entries.insert(path, entry);
                Ok(())
            }
        }
    }
}

fn describe(entry: &Entry) -> String {
    let what = match &entry.kind {
        Kind::Directory => "a directory".to_owned(),
        Kind::File { size, .. } => format!("a file of {size} bytes"),
        Kind::Symlink { target } => format!("a link to `{target}`"),
    };
    let whose = match &entry.origin {
        Origin::Package { name, version, .. } => format!("of package {name} {version}"),
        Origin::User { path } => format!("that is `{path}`"),
        Origin::Server { .. } => "that is the server".to_owned(),
        Origin::BaseImage => "of the base image".to_owned(),
        Origin::Generated => "that the builder makes".to_owned(),
    };
    format!("{what} {whose}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ImagePath {
        text.parse().expect("valid")
    }

    fn provenance() -> Provenance {
        Provenance::generated(LayerName::Base, "test")
    }

    #[test]
    fn parents_come_with_an_entry_and_conflicts_name_both_sides() {
        let mut tree = Tree::default();
        tree.add_bytes(path("/etc/passwd"), b"x".to_vec(), 0o644, provenance()).expect("free");
        assert_eq!(tree.entries[&path("/etc")].kind, Kind::Directory);
        tree.add_bytes(path("/etc/passwd"), b"x".to_vec(), 0o644, provenance()).expect("the same again");

        let user = Provenance { origin: Origin::User { path: "mine".to_owned() }, ..provenance() };
        let error = tree.add_bytes(path("/etc/passwd"), b"yy".to_vec(), 0o644, user).expect_err("another");
        assert_eq!(
            error.to_string(),
            "two files want to be `/etc/passwd`: a file of 1 bytes that the builder makes and a file of 2 bytes that is `mine`"
        );
        let error = tree.add_symlink(path("/etc/passwd/x"), "y", provenance()).expect_err("below a file");
        assert!(matches!(error, LayoutError::NotADirectory { .. }));
    }
}

//! Follows symbolic links as the system would with the image's root as its root: nothing leads out of it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// As many links as the system follows before it gives up.
const MOST_LINKS: usize = 40;

/// What lies at a path whose directories are no links.
pub(crate) enum Node {
    /// Nothing.
    Missing,
    /// A directory.
    Directory,
    /// A symbolic link, and its target as written.
    Symlink(PathBuf),
    /// Anything else.
    Other,
}

/// Finds where a path leads, following links in all of its components. `look` tells what lies at a path below the root;
/// components below a missing one are taken as they are.
///
/// # Errors
/// Why the path leads nowhere, or those of `look`.
pub(crate) fn resolve<E>(
    path: &Path,
    mut look: impl FnMut(&Path) -> Result<Node, E>,
) -> Result<Result<PathBuf, &'static str>, E> {
    let mut left: VecDeque<OsString> = names(path).collect();
    let mut found = PathBuf::new();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            found.pop();
            continue;
        }
        // Members have no such names; only links can say them.
        if name.as_bytes().starts_with(b".wh.") {
            return Ok(Err("its directory is a symbolic link to a mark for deletions"));
        }
        found.push(&name);
        match look(&found)? {
            Node::Missing | Node::Directory => {}
            Node::Other if left.is_empty() => {}
            Node::Other => return Ok(Err("a file lies where its directory should be")),
            Node::Symlink(target) => {
                links += 1;
                if links > MOST_LINKS {
                    return Ok(Err("its directory is a symbolic link in a circle"));
                }
                found.pop();
                if target.is_absolute() {
                    found.clear();
                }
                for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                    left.push_front(name);
                }
            }
        }
    }
    Ok(Ok(found))
}

fn names(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn links_never_lead_out_of_the_root() {
        let links: BTreeMap<&str, &str> = [
            ("lib", "usr/lib"),
            ("up", "../../.."),
            ("abs", "/usr"),
            ("usr/back", "../../../../etc"),
            ("loop", "loop"),
            ("a", "b"),
            ("b", "a"),
            ("chain", "lib/x"),
        ]
        .into();
        let look = |path: &Path| -> Result<Node, Infallible> {
            let path = path.to_str().expect("test names");
            Ok(match links.get(path) {
                Some(target) => Node::Symlink(PathBuf::from(target)),
                None if path == "file" => Node::Other,
                None => Node::Directory,
            })
        };
        let to = |path: &str| {
            let found = match resolve(Path::new(path), look) {
                Ok(found) => found,
                Err(never) => match never {},
            };
            found.map(|path| path.to_str().expect("test names").to_owned())
        };
        assert_eq!(to("lib/x"), Ok("usr/lib/x".to_owned()));
        assert_eq!(to("up/etc/passwd"), Ok("etc/passwd".to_owned()));
        assert_eq!(to("abs/back/passwd"), Ok("etc/passwd".to_owned()));
        assert_eq!(to("chain/y"), Ok("usr/lib/x/y".to_owned()));
        assert_eq!(to("up"), Ok(String::new()));
        assert!(to("loop/x").is_err());
        assert!(to("a/x").is_err());
        assert!(to("file/x").is_err());
        assert_eq!(to("file"), Ok("file".to_owned()));
    }
}

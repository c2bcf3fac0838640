//! What is left out of the packages, and what that saves.

use std::collections::BTreeSet;

use super::candidates::is_shared_library;
use super::{Runtime, RuntimeError, RuntimeRequest, file_sizes, licence};
use crate::recipe::Minimize;
use crate::report::{Level, Omission, PackageSize};
use crate::source::package::Package;
use crate::store::Store;
use crate::tree::{Kind, Origin};

impl Runtime {
    /// Accounts for every file of every package: taken, or left out and why.
    pub(super) fn leave_out(
        &mut self,
        request: &RuntimeRequest<'_>,
        cuts: &[Omission],
        store: &Store,
    ) -> Result<(), RuntimeError> {
        let mut level = Level { minimize: Minimize::Package, unpacked: 0, compressed: 0 };
        let packages = request.base_packages.iter().map(|package| (package, false));
        for (package, is_stack) in packages.chain(request.stack_packages.iter().map(|package| (package, true))) {
            let sizes = file_sizes(package);
            let installed: u64 = sizes.values().sum();
            let taken = self.taken_of(package);
            level.unpacked += installed;
            level.compressed += package.download_size();
            self.packages.push(PackageSize {
                name: package.pin().name.clone(),
                version: package.pin().version.clone(),
                digest: package.pin().sha256,
                license: licence::of(package, request.base_packages, store)?,
                download: package.download_size(),
                installed,
                taken: taken.bytes,
            });
            let mut rest = Omission {
                name: "other files".to_owned(),
                package: package.pin().name.clone(),
                files: 0,
                unpacked: 0,
                reason: if is_stack {
                    "Python modules, headers and data, which serving does not need"
                } else {
                    "nothing in the image reaches them"
                }
                .to_owned(),
            };
            for (path, size) in &sizes {
                let name = path.rsplit('/').next().unwrap_or(path);
                let is_taken = match package.entry(path).map(|entry| &entry.kind) {
                    Some(crate::source::package::EntryKind::File { digest: Some(digest), .. }) => taken.digests.contains(digest),
                    _ => taken.names.contains(name),
                } || taken.names.contains(name);
                if is_taken {
                    continue;
                }
                if is_stack && is_shared_library(name) {
                    self.omitted.push(Omission {
                        name: name.to_owned(),
                        package: package.pin().name.clone(),
                        files: 1,
                        unpacked: *size,
                        reason: reason(request, name),
                    });
                } else {
                    rest.files += 1;
                    rest.unpacked += size;
                }
            }
            // Files that are in the image under another name were counted as left out by none of the above.
            let named: u64 =
                self.omitted.iter().filter(|omission| omission.package == rest.package).map(|omission| omission.unpacked).sum();
            rest.unpacked = rest.unpacked.min(installed.saturating_sub(named));
            if rest.files > 0 {
                self.omitted.push(rest);
            }
        }
        let in_image = |cut: &&Omission| self.taken.iter().any(|taken| taken.path.file_name() == cut.name);
        let cuts: Vec<Omission> = cuts.iter().filter(in_image).cloned().collect();
        self.omitted.extend(cuts);
        self.omitted.sort_by(|a, b| b.unpacked.cmp(&a.unpacked).then_with(|| (&a.package, &a.name).cmp(&(&b.package, &b.name))));
        self.package_level = level;
        Ok(())
    }

    fn taken_of(&self, package: &Package) -> TakenOf {
        let mut found = TakenOf::default();
        for taken in &self.taken {
            let Kind::File { size, digest, content } = &taken.kind else { continue };
            let same = match (&taken.provenance.origin, package.origin()) {
                (Origin::Package { digest: a, .. }, Origin::Package { digest: b, .. }) => *a == b,
                (a, b) => *a == b,
            };
            // What the builder writes about a package is not one of the package's files.
            if !same || matches!(content, crate::tree::Content::Bytes(_)) {
                continue;
            }
            found.bytes += size;
            found.digests.extend(digest);
            found.names.insert(taken.path.file_name().to_owned());
        }
        found
    }
}

#[derive(Default)]
struct TakenOf {
    bytes: u64,
    digests: BTreeSet<crate::digest::Digest>,
    names: BTreeSet<String>,
}

/// Why a library of the stack is not in the image: the template's reason where it has one.
fn reason(request: &RuntimeRequest<'_>, name: &str) -> String {
    let rule = request.stack.omit.iter().find(|rule| rule.library.matches(name) && rule.when.holds(request.model));
    rule.map_or_else(|| "nothing in the image links to it or opens it".to_owned(), |rule| rule.reason.clone())
}

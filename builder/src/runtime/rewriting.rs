//! Rewriting of the libraries that an image gets: stripped, bound to what they are loaded with, without what they need in vain, and
//! with the device code of some GPUs alone.
//!
//! What a library is loaded with decides what may be bound, so this comes after the first proof that the image links, and the
//! proof is made again of the result. A library that cannot be rewritten goes into the image as it is, with a warning.

use super::candidates::{Candidate, Candidates};
use super::{Linked, RuntimeError, RuntimeRequest, on_disk, whose};
use crate::digest::Digest;
use crate::fatbin::{self, FatbinError, Pruned, Share, Sm, prune_in_store};
use crate::layer;
use crate::link::Closure;
use crate::progress::Progress;
use crate::recipe::Minimize;
use crate::report::Omission;
use crate::rewrite::{BindRules, KeepError, Neighbours, RewriteReport, Rewritten, Transformation, rewrite_in_store};
use crate::store::Store;
use crate::template::{DeviceCode, LibraryRule};
use crate::tree::Origin;

/// The changes that a template asks for and the recipe allows, in the order in which they are made.
pub(super) fn changes(rule: &LibraryRule, request: &RuntimeRequest<'_>) -> Vec<Transformation> {
    if request.minimize == Minimize::Package {
        return Vec::new();
    }
    let strip = rule.strip.then_some(Transformation::Strip);
    let is_dropped = |name: &&String| request.minimize == Minimize::Model && !request.keep.contains(name);
    let dropped: Vec<String> = rule.drop_needed.iter().filter(is_dropped).cloned().collect();
    let dropped = (!dropped.is_empty()).then_some(Transformation::DropNeeded(dropped));
    let is_packed = rule.pack && request.prune_vendor;
    let bind = rule.bind.clone().or_else(|| is_packed.then(BindRules::pack_alone));
    let bind = bind.filter(|_| request.bind).map(Transformation::Bind);
    strip.into_iter().chain(dropped).chain(bind).collect()
}

/// The GPUs that the device code of a library is kept for; none where all of it stays.
pub(super) fn gpus(rule: &LibraryRule, request: &RuntimeRequest<'_>) -> Vec<Sm> {
    let is_pruned = match rule.device_code {
        Some(DeviceCode::Free) => true,
        Some(DeviceCode::Vendor) => request.prune_vendor,
        None => false,
    };
    if is_pruned { request.gpus.to_vec() } else { Vec::new() }
}

impl Linked {
    /// Rewrites the libraries whose rules say so, and proves again that the image links.
    ///
    /// # Errors
    /// Where the store fails. Libraries that cannot be rewritten, and an image that would not link with them, stay as they are.
    pub fn rewritten(self, request: &RuntimeRequest<'_>, store: &Store, progress: &Progress) -> Result<Self, RuntimeError> {
        let mut candidates = self.candidates.clone();
        let names = candidates.rewrite(&self.closure, store, progress)?;
        if names.is_empty() {
            return Ok(self);
        }
        match Self::of(request, candidates) {
            Ok(linked) => Ok(linked),
            Err(errors) => {
                let first = errors.first().map(ToString::to_string).unwrap_or_default();
                progress.warn(format!("{} stay as they are: rewritten, the image would not link: {first}", names.join(", ")));
                Ok(self)
            }
        }
    }
}

impl Candidates {
    /// Puts rewritten libraries in the places of those that a closure has; gives their names.
    fn rewrite(&mut self, closure: &Closure, store: &Store, progress: &Progress) -> Result<Vec<String>, RuntimeError> {
        let has_changes = |candidate: &&Candidate| !candidate.changes.is_empty() || !candidate.gpus.is_empty();
        let wanted: Vec<(String, Candidate)> = closure
            .objects
            .iter()
            .filter_map(|object| Some((object.file.clone(), self.files.get(&object.file).filter(has_changes)?.clone())))
            .collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let digests = self.digests(closure, store)?;
        let mut names = Vec::new();
        for (file, candidate) in wanted {
            let others: Vec<Digest> = digests.iter().filter(|(other, _)| *other != file).map(|(_, digest)| *digest).collect();
            let neighbours = Neighbours::in_closure(closure, &file);
            names.push(candidate.path.file_name().to_owned());
            if let Some(rewritten) = rewritten(&candidate, &neighbours, &others, store, progress)? {
                self.replace(candidate, rewritten);
            }
            let current = self.files[&file].clone();
            if let Some(pruned) = pruned(&current, store, progress)? {
                self.replace_pruned(current, pruned);
            }
        }
        Ok(names)
    }

    /// The digest of each file of a closure.
    fn digests<'a>(&self, closure: &'a Closure, store: &Store) -> Result<Vec<(&'a str, Digest)>, RuntimeError> {
        let mut digests = Vec::with_capacity(closure.objects.len());
        for object in &closure.objects {
            let known = self.files.get(&object.file).and_then(Candidate::digest);
            let on_disk = self.root.find(&object.file).filter(|_| known.is_none());
            let digest = match (known, on_disk) {
                (Some(digest), _) => digest,
                (None, Some((_, path))) => layer::digest_file(path, store)?.0,
                (None, None) => continue,
            };
            digests.push((object.file.as_str(), digest));
        }
        Ok(digests)
    }

    /// Puts a rewritten library in a candidate's place, and accounts for the difference.
    fn replace(&mut self, mut candidate: Candidate, rewritten: Rewritten) {
        if let Origin::Package { name, .. } = &candidate.origin {
            self.cuts.extend(cuts(candidate.path.file_name(), name, &rewritten.report));
        }
        candidate.size = rewritten.blob.size;
        candidate.kind = on_disk(rewritten.blob.path, rewritten.blob.size, Some(rewritten.blob.digest));
        self.add(candidate);
    }

    /// Puts a pruned library in a candidate's place, and accounts for the difference.
    fn replace_pruned(&mut self, mut candidate: Candidate, pruned: Pruned) {
        if let Origin::Package { name: package, .. } | Origin::User { path: package } = &candidate.origin {
            let reason = |shares: &[Share]| {
                let mut names: Vec<&str> = shares.iter().map(|share| share.architecture.as_str()).collect();
                names.dedup();
                names.join(", ")
            };
            let gpus: Vec<String> = candidate.gpus.iter().map(Sm::to_string).collect();
            self.cuts.push(Omission {
                name: candidate.path.file_name().to_owned(),
                package: package.clone(),
                files: 0,
                unpacked: pruned.report.bytes_before.saturating_sub(pruned.report.bytes_after),
                reason: format!(
                    "device code for {}, which {} cannot or would not run",
                    reason(&pruned.report.dropped),
                    gpus.join(", ")
                ),
            });
        }
        candidate.size = pruned.blob.size;
        candidate.kind = on_disk(pruned.blob.path, pruned.blob.size, Some(pruned.blob.digest));
        self.add(candidate);
    }
}

/// Prunes the device code of one library. `None` where all of it stays.
fn pruned(candidate: &Candidate, store: &Store, progress: &Progress) -> Result<Option<Pruned>, RuntimeError> {
    let (Some(path), Some(digest)) = (candidate.file(), candidate.digest()) else { return Ok(None) };
    if candidate.gpus.is_empty() {
        return Ok(None);
    }
    let library = candidate.path.file_name();
    match prune_in_store(path, &digest, &candidate.gpus, store) {
        Ok(pruned) => Ok(Some(pruned)),
        Err(fatbin::KeepError::Store(error)) => Err(error.into()),
        // That the GPU cannot run it is for the user to know. What is damaged or unknown stays whole.
        Err(fatbin::KeepError::Fatbin(source @ FatbinError::NoCode { .. })) => {
            Err(RuntimeError::DeviceCode { library: library.to_owned(), package: whose(&candidate.origin), source })
        }
        Err(fatbin::KeepError::Fatbin(error)) => {
            progress.warn(format!("the device code of {library} stays as it is: {error}"));
            Ok(None)
        }
    }
}

/// Rewrites one library; where binding fails, it is stripped only. `None` where nothing can be done.
fn rewritten(
    candidate: &Candidate,
    neighbours: &Neighbours<'_>,
    others: &[Digest],
    store: &Store,
    progress: &Progress,
) -> Result<Option<Rewritten>, RuntimeError> {
    let (Some(path), Some(digest)) = (candidate.file(), candidate.digest()) else { return Ok(None) };
    let mut changes = candidate.changes.clone();
    while let Some(last) = changes.last() {
        let what = match last {
            Transformation::Strip => "stripped",
            Transformation::Bind(_) => "bound",
            Transformation::DropNeeded(_) => "without what it needs in vain",
        };
        match rewrite_in_store(path, &digest, &changes, neighbours, others, store) {
            Ok(rewritten) => return Ok(Some(rewritten)),
            Err(KeepError::Store(error)) => return Err(error.into()),
            Err(KeepError::Rewrite(error)) => {
                progress.warn(format!("{} is not {what}: {error}", candidate.path.file_name()));
                changes.pop();
            }
        }
    }
    Ok(None)
}

/// What was cut off a library, by the reason.
fn cuts(name: &str, package: &str, report: &RewriteReport) -> Vec<Omission> {
    let saved = report.bytes_before.saturating_sub(report.bytes_after);
    let stripped = report.strip.as_ref().map_or(0, |strip| strip.bytes.min(saved));
    let cut = |unpacked: u64, reason: String| {
        (unpacked > 0).then(|| Omission { name: name.to_owned(), package: package.to_owned(), files: 0, unpacked, reason })
    };
    let strip = cut(stripped, "symbol tables and debug information, which no loader reads".to_owned());
    let bind = report.bind.as_ref().and_then(|bind| {
        if bind.exports_dropped == 0 && bind.packed > 0 {
            return cut(saved - stripped, format!("{} relocations, of which packed ones take fewer bytes", bind.packed));
        }
        let reason = format!(
            "{} of {} dynamic symbols, which nothing else in the image names, and the lookups of {} references to them",
            bind.symbols_before - bind.symbols_after,
            bind.symbols_before,
            bind.bound
        );
        cut(saved - stripped, reason)
    });
    strip.into_iter().chain(bind).collect()
}

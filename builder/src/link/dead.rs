//! Needed entries of which nothing is used.

use std::collections::HashSet;

use serde::Serialize;

use super::bind::Findings;
use super::closure::LinkObject;
use super::process::{Edge, Process};

/// A needed entry whose object binds no symbol and wants no version of the library. The loader loads the library all the
/// same, so it stays in the closure; [`super::Closure::resolve_without`] shows what happens without the entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadNeed {
    /// Path of the object that has the entry.
    pub object: String,
    /// The needed name.
    pub soname: String,
    /// Path of the library.
    pub library: String,
    /// Length of the library in bytes.
    pub bytes: u64,
    /// Real paths of the files that only this entry brings in, the library among them unless something else wants it.
    pub exclusive: Vec<String>,
    /// Bytes of those files.
    pub exclusive_bytes: u64,
    /// Functions that run when the library is loaded. More than one may mean that it is there for its side effects.
    pub initializers: u64,
    /// Whether no object that stays uses anything of what would go.
    pub is_droppable: bool,
}

pub(super) fn find(objects: &[LinkObject], edges: &[Edge], processes: &[Process], findings: &Findings) -> Vec<DeadNeed> {
    let roots: HashSet<usize> = processes.iter().map(|process| process.loaded[0].object).collect();
    let mut found = Vec::new();
    for edge in edges {
        let Some(soname) = &edge.needed else { continue };
        if edge.from == edge.to || findings.uses.contains(&(edge.from, edge.to)) {
            continue;
        }
        let stays = reached(&roots, edges, edge);
        let exclusive: Vec<&LinkObject> =
            (0..objects.len()).filter(|index| !stays.contains(index)).map(|index| &objects[index]).collect();
        let is_droppable = !findings.uses.iter().any(|(user, used)| stays.contains(user) && !stays.contains(used));
        let library = &objects[edge.to];
        found.push(DeadNeed {
            object: objects[edge.from].path.clone(),
            soname: soname.clone(),
            library: library.path.clone(),
            bytes: library.bytes,
            exclusive: exclusive.iter().map(|object| object.file.clone()).collect(),
            exclusive_bytes: exclusive.iter().map(|object| object.bytes).sum(),
            initializers: library.elf.dynamic.as_ref().map_or(0, |dynamic| dynamic.initializers),
            is_droppable,
        });
    }
    found
}

/// The objects that are reached without one entry.
fn reached(roots: &HashSet<usize>, edges: &[Edge], without: &Edge) -> HashSet<usize> {
    let mut reached = roots.clone();
    let mut pending: Vec<usize> = roots.iter().copied().collect();
    while let Some(from) = pending.pop() {
        for edge in edges.iter().filter(|edge| edge.from == from && *edge != without) {
            if reached.insert(edge.to) {
                pending.push(edge.to);
            }
        }
    }
    reached
}

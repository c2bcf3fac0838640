//! The tree partitioned into layers by how often they change. Pure: nothing is read or written.

use std::collections::BTreeMap;

use crate::layer;
use crate::tree::{Entry, ImagePath, LayerName, Tree};

/// One layer to be written: the entries of one name, with the directories above them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLayer<'a> {
    /// Its name.
    pub name: LayerName,
    /// Its entries by path.
    pub entries: BTreeMap<&'a ImagePath, &'a Entry>,
}

/// Partitions a tree into its layers, lowest first. Layers without entries are left out.
///
/// Applied over one another, the layers give the tree.
#[must_use]
pub fn partition(tree: &Tree) -> Vec<PlannedLayer<'_>> {
    let select = |name| PlannedLayer { name, entries: layer::select(tree, name) };
    LayerName::ALL.into_iter().map(select).filter(|layer| !layer.entries.is_empty()).collect()
}

//! The tree partitioned into layers by how often they change. Pure: nothing is read or written.

use std::collections::BTreeMap;

use crate::tree::{Entry, ImagePath, Kind, LayerName, Tree};

/// One layer to be written: the entries of one name, with the directories they need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLayer<'a> {
    /// Its name.
    pub name: LayerName,
    /// Its entries by path. A directory that a lower layer already has is not repeated.
    pub entries: BTreeMap<&'a ImagePath, &'a Entry>,
}

/// Partitions a tree into its layers, lowest first. Layers without entries are left out.
///
/// Applied over one another, the layers give the tree: a directory lies in the lowest layer that needs it.
#[must_use]
pub fn partition(tree: &Tree) -> Vec<PlannedLayer<'_>> {
    let mut lowest: BTreeMap<&ImagePath, LayerName> = BTreeMap::new();
    for (path, entry) in &tree.entries {
        let mut next = Some(path.clone());
        while let Some(current) = next {
            if let Some((key, _)) = tree.entries.get_key_value(&current) {
                let layer = lowest.entry(key).or_insert(entry.layer);
                *layer = entry.layer.min(*layer);
            }
            next = current.parent();
        }
    }
    LayerName::ALL
        .into_iter()
        .filter_map(|name| {
            let entries: BTreeMap<_, _> = tree
                .entries
                .iter()
                .filter(|(path, entry)| match entry.kind {
                    Kind::Directory => lowest.get(path) == Some(&name),
                    _ => entry.layer == name,
                })
                .collect();
            (!entries.is_empty()).then_some(PlannedLayer { name, entries })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Origin};

    fn entry(kind: Kind, layer: LayerName) -> Entry {
        Entry { kind, mode: 0o755, layer, origin: Origin::Generated, reason: "test".to_owned() }
    }

    fn file() -> Kind {
        Kind::File { content: Content::Bytes(Vec::new()), size: 0, digest: None }
    }

    #[test]
    fn every_entry_is_in_exactly_one_layer_and_directories_in_the_lowest_that_needs_them() {
        let mut tree = Tree::default();
        for (path, kind, layer) in [
            ("/usr", Kind::Directory, LayerName::Model),
            ("/usr/bin", Kind::Directory, LayerName::Base),
            ("/usr/bin/imgserve", file(), LayerName::Server),
            ("/usr/lib", Kind::Directory, LayerName::Model),
            ("/usr/lib/libc.so.6", file(), LayerName::Base),
            ("/usr/lib/libonnxruntime.so.1", file(), LayerName::Runtime),
            ("/models", Kind::Directory, LayerName::Model),
            ("/models/m.onnx", file(), LayerName::Model),
        ] {
            tree.entries.insert(path.parse().expect("valid"), entry(kind, layer));
        }
        let plan = partition(&tree);
        let shown: Vec<(LayerName, Vec<String>)> =
            plan.iter().map(|layer| (layer.name, layer.entries.keys().map(ToString::to_string).collect())).collect();
        let texts = |paths: &[&str]| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            shown,
            [
                (LayerName::Base, texts(&["/usr", "/usr/bin", "/usr/lib", "/usr/lib/libc.so.6"])),
                (LayerName::Runtime, texts(&["/usr/lib/libonnxruntime.so.1"])),
                (LayerName::Server, texts(&["/usr/bin/imgserve"])),
                (LayerName::Model, texts(&["/models", "/models/m.onnx"])),
            ]
        );
    }
}

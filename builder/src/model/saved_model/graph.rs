//! Streams a `saved_model.pb`: what its graphs are tagged, and what one of them uses.
//!
//! Nodes are looked at one by one and never held, so that memory depends on the number of different operators and functions
//! and not on the size of the graph or of the weights in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::proto::{AssetFileDef, AttributeEntry, MetaInfoDef, SignatureDef, SignatureEntry};
use crate::model::error::ModelError;
use crate::model::wire::{Cursor, Damage, DamageKind, Item, Message};

/// A message that is decoded whole has at most this many bytes; the largest real ones have some thousands.
const WHOLE_LIMIT: usize = 16 << 20;

/// Names of operators and functions that one graph may have.
const NAME_LIMIT: usize = 1 << 20;

/// A `saved_model.pb`, mapped.
pub(super) struct File<'a> {
    pub bytes: &'a [u8],
    pub path: &'a Path,
}

/// One graph of a file, by its tags.
#[derive(Debug)]
pub(super) struct Tagged {
    pub tags: BTreeSet<String>,
    pub tensorflow_version: String,
    content: Item,
}

/// What one graph of a file says.
#[derive(Debug, Default)]
pub(super) struct MetaGraph {
    pub signatures: BTreeMap<String, SignatureDef>,
    /// How often each operator is used, calls of the graph's own functions not counted.
    pub operators: BTreeMap<String, u64>,
    /// Whether a node or a function asks to be compiled by XLA.
    pub must_compile: bool,
    /// Names of files below `assets/`.
    pub assets: BTreeSet<String>,
}

impl File<'_> {
    /// Lists the graphs.
    pub fn graphs(&self) -> Result<Vec<Tagged>, ModelError> {
        let mut graphs = Vec::new();
        self.each(0, self.bytes.len(), "", |item| {
            if item.number != 2 {
                return Ok(());
            }
            let mut info = MetaInfoDef::default();
            self.each(item.start, item.end, "meta_graphs.", |part| {
                if part.number == 1 {
                    info = self.decode(part, "meta_graphs.meta_info_def")?;
                }
                Ok(())
            })?;
            let tags = info.tags.into_iter().collect();
            graphs.push(Tagged { tags, tensorflow_version: info.tensorflow_version, content: item });
            Ok(())
        })?;
        Ok(graphs)
    }

    /// Reads one graph.
    pub fn read(&self, graph: &Tagged) -> Result<MetaGraph, ModelError> {
        let mut found = Graph::default();
        self.each(graph.content.start, graph.content.end, "meta_graphs.", |item| match item.number {
            2 => self.graph(item, &mut found),
            5 => {
                let entry: SignatureEntry = self.decode(item, "meta_graphs.signature_def")?;
                found.meta.signatures.insert(entry.key, entry.value.unwrap_or_default());
                Ok(())
            }
            6 => {
                let asset: AssetFileDef = self.decode(item, "meta_graphs.asset_file_def")?;
                found.meta.assets.insert(asset.filename);
                Ok(())
            }
            _ => Ok(()),
        })?;
        let Graph { mut meta, functions } = found;
        meta.operators.retain(|name, _| !functions.contains(name));
        Ok(meta)
    }

    fn graph(&self, graph: Item, found: &mut Graph) -> Result<(), ModelError> {
        self.each(graph.start, graph.end, "meta_graphs.graph_def.", |item| match item.number {
            1 => self.node(item, "meta_graphs.graph_def.node", found),
            2 => self.each(item.start, item.end, "meta_graphs.graph_def.library.", |function| match function.number {
                1 => self.function(function, found),
                _ => Ok(()),
            }),
            _ => Ok(()),
        })
    }

    fn function(&self, function: Item, found: &mut Graph) -> Result<(), ModelError> {
        const PATH: &str = "meta_graphs.graph_def.library.function";
        self.each(function.start, function.end, PATH, |item| match item.number {
            1 => self.each(item.start, item.end, "meta_graphs.graph_def.library.function.signature.", |part| {
                if part.number == 1 {
                    found.functions.insert(self.text(part));
                    self.limit(part, found.functions.len())?;
                }
                Ok(())
            }),
            3 => self.node(item, "meta_graphs.graph_def.library.function.node_def", found),
            5 => self.attribute(item, found),
            _ => Ok(()),
        })
    }

    fn node(&self, node: Item, path: &str, found: &mut Graph) -> Result<(), ModelError> {
        self.each(node.start, node.end, path, |item| match item.number {
            2 => {
                *found.meta.operators.entry(self.text(item)).or_default() += 1;
                self.limit(item, found.meta.operators.len())
            }
            5 => self.attribute(item, found),
            _ => Ok(()),
        })
    }

    fn attribute(&self, item: Item, found: &mut Graph) -> Result<(), ModelError> {
        const NAME: &[u8] = b"_XlaMustCompile";
        // Keys come first, as every writer has it; most attributes are passed over by two bytes of them.
        let bytes = &self.bytes[item.start..item.end];
        if bytes.get(2..2 + NAME.len()) != Some(NAME) {
            return Ok(());
        }
        let entry: AttributeEntry = self.decode(item, "attr")?;
        found.meta.must_compile |= entry.value.and_then(|value| value.b).unwrap_or(false);
        Ok(())
    }

    /// Gives every field of a message to `visit`.
    fn each(
        &self,
        start: usize,
        end: usize,
        path: &str,
        mut visit: impl FnMut(Item) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let mut cursor = Cursor::over(self.bytes, start, end);
        while !cursor.is_done() {
            match cursor.next(Message::Leaf) {
                Ok(item) => visit(item)?,
                Err((number, offset, kind)) => return Err(self.damage(path, number, offset, kind)),
            }
        }
        Ok(())
    }

    fn damage(&self, path: &str, number: Option<u64>, offset: usize, kind: DamageKind) -> ModelError {
        let field = match (path, number) {
            ("", Some(2)) => "meta_graphs".to_owned(),
            ("meta_graphs.", Some(2)) => "meta_graphs.graph_def".to_owned(),
            ("meta_graphs.graph_def.", Some(1)) => "meta_graphs.graph_def.node".to_owned(),
            ("meta_graphs.graph_def.", Some(2)) => "meta_graphs.graph_def.library".to_owned(),
            (path, Some(number)) => format!("{}.#{number}", path.trim_end_matches('.')).trim_start_matches('.').to_owned(),
            (path, None) => format!("{path}(key)"),
        };
        Damage { field, offset: offset as u64, kind }.into_error(self.path)
    }

    fn decode<T: prost::Message + Default>(&self, item: Item, field: &str) -> Result<T, ModelError> {
        let bad = |problem: String| ModelError::Damaged {
            path: self.path.to_owned(),
            field: field.to_owned(),
            offset: item.start as u64,
            problem,
        };
        if item.end - item.start > WHOLE_LIMIT {
            return Err(bad(format!("has {} bytes, expected at most {WHOLE_LIMIT}", item.end - item.start)));
        }
        T::decode(&self.bytes[item.start..item.end]).map_err(|error| bad(format!("does not decode: {error}")))
    }

    fn text(&self, item: Item) -> String {
        crate::model::proto::text(&self.bytes[item.start..item.end])
    }

    fn limit(&self, item: Item, count: usize) -> Result<(), ModelError> {
        if count <= NAME_LIMIT {
            return Ok(());
        }
        let problem = format!("is one name too many, expected at most {NAME_LIMIT} operators and functions");
        let field = "meta_graphs.graph_def".to_owned();
        Err(ModelError::Damaged { path: self.path.to_owned(), field, offset: item.start as u64, problem })
    }
}

#[derive(Default)]
struct Graph {
    meta: MetaGraph,
    functions: BTreeSet<String>,
}

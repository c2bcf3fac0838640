//! Reads the table of what a runtime can execute.
//!
//! A table is data, written by `tests/tools/operators.py` from a release of the runtime:
//!
//! - `max_ir_version`, and per domain `max_opset`: the highest that a session accepts.
//! - per operator one entry for each version of its definition, keyed by the opset that introduced it:
//!   `{}` has no kernel; `deprecated` is refused; `function` is executed whatever the types are, by a
//!   body that the runtime inlines or by folding, in models up to the opset `until`; `kernels` lists
//!   what is implemented.
//! - a kernel maps labels to an index into `type_sets`; `inputs` and `outputs` give each parameter its
//!   label. Parameters with one label have one type. `*` ends a label that repeats, and alone stands
//!   for values of any types.
//! - `functions`: whether a model's own function may define a new operator in the domain.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::error::ModelError;

/// The only format that this version reads.
const FORMAT: u32 = 1;

/// What one release of a runtime can execute with one of its providers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorTable {
    format: u32,
    /// The runtime's package name.
    pub runtime: String,
    /// The runtime's version.
    pub version: String,
    /// The execution provider whose kernels are listed.
    pub provider: String,
    /// The platform that the release was read on, as OCI writes it.
    pub platform: String,
    /// The highest IR version that the runtime reads.
    pub max_ir_version: i64,
    type_sets: Vec<Vec<String>>,
    pub(crate) domains: BTreeMap<String, Domain>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Domain {
    pub max_opset: i64,
    pub functions: bool,
    operators: BTreeMap<String, BTreeMap<i64, Definition>>,
}

/// One version of an operator.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Definition {
    pub deprecated: bool,
    pub function: bool,
    until: Option<i64>,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    kernels: Vec<BTreeMap<String, usize>>,
}

/// What a table says of an operator at an opset.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lookup<'a> {
    /// The version that began with opset `since` holds.
    Defined { since: i64, definition: &'a Definition },
    /// The operator exists from a later opset on only.
    Later { since: i64 },
    /// The domain has no such operator.
    Unknown,
}

impl fmt::Display for OperatorTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.runtime, self.version)
    }
}

impl OperatorTable {
    /// Reads a table from a file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or [`OperatorTable::parse`] refuses it.
    pub fn load(path: &Path) -> Result<OperatorTable, ModelError> {
        let text = fs::read_to_string(path).map_err(|source| ModelError::TableRead { path: path.to_owned(), source })?;
        OperatorTable::parse(&text).map_err(|error| match error {
            ModelError::TableParse { source, .. } => ModelError::TableParse { path: Some(path.to_owned()), source },
            other => other,
        })
    }

    /// Reads a table from its JSON text.
    ///
    /// # Errors
    ///
    /// If the text is not JSON of this shape, has unknown keys or another format number, or refers to
    /// type sets that it does not have.
    pub fn parse(text: &str) -> Result<OperatorTable, ModelError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let invalid = |source| ModelError::TableParse { path: None, source };
        // A newer table is refused for its number, not for a key that this version does not know.
        let head: Head = serde_json::from_str(text).map_err(invalid)?;
        if head.format != FORMAT {
            return Err(ModelError::TableFormat { found: head.format, expected: FORMAT });
        }
        let table: OperatorTable = serde_json::from_str(text).map_err(invalid)?;
        debug_assert_eq!(table.format, FORMAT);
        table.verify()?;
        Ok(table)
    }

    fn verify(&self) -> Result<(), ModelError> {
        for (domain, content) in &self.domains {
            for (name, versions) in &content.operators {
                let wrong =
                    |reference: String| Err(ModelError::TableReference { operator: format!("{domain}:{name}"), reference });
                if versions.is_empty() {
                    return wrong("a version".to_owned());
                }
                for definition in versions.values() {
                    let labels = || definition.inputs.iter().chain(&definition.outputs);
                    for (label, &set) in definition.kernels.iter().flatten() {
                        if set >= self.type_sets.len() {
                            return wrong(format!("type set {set}"));
                        }
                        if !labels().any(|known| known.trim_end_matches('*') == label) {
                            return wrong(format!("label {label}"));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds operators, written `domain:Name`, that something else than the runtime itself executes.
    pub fn provide(&mut self, operators: &[String]) {
        let definition = || Definition { function: true, ..Definition::default() };
        for (domain, name) in operators.iter().filter_map(|operator| operator.split_once(':')) {
            if let Some(domain) = self.domains.get_mut(domain) {
                domain.operators.insert(name.to_owned(), BTreeMap::from([(1, definition())]));
            }
        }
    }

    /// Adds the kernels of another provider of the same runtime.
    pub fn add_kernels(&mut self, other: &OperatorTable) {
        let offset = self.type_sets.len();
        self.type_sets.extend(other.type_sets.iter().cloned());
        for (domain, content) in &other.domains {
            let Some(own) = self.domains.get_mut(domain) else { continue };
            for (name, versions) in &content.operators {
                for (since, added) in versions.iter().filter(|(_, added)| !added.kernels.is_empty()) {
                    let definition = own.operators.entry(name.clone()).or_default().entry(*since).or_default();
                    if definition.kernels.is_empty() {
                        definition.inputs.clone_from(&added.inputs);
                        definition.outputs.clone_from(&added.outputs);
                    }
                    let moved = |kernel: &BTreeMap<String, usize>| {
                        kernel.iter().map(|(label, set)| (label.clone(), set + offset)).collect()
                    };
                    definition.kernels.extend(added.kernels.iter().map(moved));
                }
            }
        }
    }

    pub(crate) fn lookup(&self, domain: &str, name: &str, opset: i64) -> Lookup<'_> {
        let Some(versions) = self.domains.get(domain).and_then(|domain| domain.operators.get(name)) else {
            return Lookup::Unknown;
        };
        match versions.range(..=opset).next_back() {
            Some((&since, definition)) => Lookup::Defined { since, definition },
            None => versions.keys().next().map_or(Lookup::Unknown, |&since| Lookup::Later { since }),
        }
    }

    /// Returns the opset from which a later definition of an operator has kernels, if there is one.
    pub(crate) fn served_from(&self, domain: &str, name: &str, after: i64) -> Option<i64> {
        let versions = self.domains.get(domain)?.operators.get(name)?;
        versions.range(after + 1..).find(|(since, definition)| definition.is_served(**since)).map(|(&since, _)| since)
    }

    /// Whether a kernel takes values of the given types, by label.
    ///
    /// The runtime inserts casts around kernels that lack `float16`, so `float` serves for it.
    pub(crate) fn has_kernel(&self, definition: &Definition, types: &BTreeMap<&str, &str>) -> bool {
        definition.kernels.iter().any(|kernel| {
            kernel.iter().all(|(label, &set)| {
                let set = &self.type_sets[set];
                let has = |name: &str| set.iter().any(|known| known == name);
                types.get(label.as_str()).is_none_or(|&name| has(name) || (name == "tensor(float16)" && has("tensor(float)")))
            })
        })
    }
}

impl Definition {
    /// Whether anything executes it in a model of an opset.
    pub(crate) fn is_served(&self, opset: i64) -> bool {
        (self.function && self.until.is_none_or(|until| opset <= until)) || !self.kernels.is_empty()
    }

    /// Returns the label of a parameter by position, `None` where any type may stand.
    pub(crate) fn label(parameters: &[String], position: usize) -> Option<&str> {
        let label = match parameters.get(position) {
            Some(label) => label,
            None => parameters.last().filter(|label| label.ends_with('*'))?,
        };
        Some(label.trim_end_matches('*')).filter(|label| !label.is_empty())
    }
}

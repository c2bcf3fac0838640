use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a rewriting did to one library.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RewriteReport {
    /// Length of the original in bytes.
    pub bytes_before: u64,
    /// Length of the result in bytes.
    pub bytes_after: u64,
    /// What was stripped, where that was asked for.
    pub strip: Option<StripReport>,
    /// Needed libraries that were taken off the list.
    #[serde(default)]
    pub dropped: Vec<String>,
    /// What was bound, where that was asked for.
    pub bind: Option<BindReport>,
}

/// What was stripped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StripReport {
    /// Names of the sections that were dropped.
    pub sections: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
}

/// What was bound.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BindReport {
    /// Dynamic symbols before.
    pub symbols_before: u64,
    /// Dynamic symbols after.
    pub symbols_after: u64,
    /// Exports that nothing else names, and that are gone.
    pub exports_dropped: u64,
    /// Exports that stay because another object of the closure names them.
    pub exports_named: u64,
    /// Exports that stay because a pattern of the rules keeps them.
    pub exports_kept: u64,
    /// Relocations before, of all kinds.
    pub relocations_before: u64,
    /// Relocations against a symbol that were bound to the library's own definition.
    pub bound: u64,
    /// Relocations that are packed now.
    pub packed: u64,
    /// Bytes of the packed form.
    pub packed_bytes: u64,
    /// Relocations that stay as they were, by the reason.
    pub left: BTreeMap<Cow<'static, str>, u64>,
    /// Why nothing is packed, where that is so.
    pub unpacked_because: Option<Cow<'static, str>>,
}

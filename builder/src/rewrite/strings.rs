//! A string table that is being made.

use std::collections::HashMap;

/// Strings, each of them once.
#[derive(Debug)]
pub(super) struct Strings<'a> {
    bytes: Vec<u8>,
    offsets: HashMap<&'a [u8], u32>,
}

impl Default for Strings<'_> {
    fn default() -> Self {
        Self { bytes: vec![0], offsets: HashMap::new() }
    }
}

impl<'a> Strings<'a> {
    /// Adds a string, and says where it is. A table of more than 4 GiB cannot come about: what goes in was in such a table.
    pub(super) fn add(&mut self, text: &'a [u8]) -> u32 {
        if text.is_empty() {
            return 0;
        }
        *self.offsets.entry(text).or_insert_with(|| {
            let offset = self.bytes.len() as u32;
            self.bytes.extend_from_slice(text);
            self.bytes.push(0);
            offset
        })
    }

    /// The table.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

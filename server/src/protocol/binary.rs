//! The binary form of strings: each behind its length in four bytes, little-endian.

use super::ProtocolError;
use crate::tensor::Strings;

/// Reads `count` strings that fill `bytes`.
///
/// # Errors
/// [`ProtocolError::StringTooShort`] when a length exceeds what is left. That there are `count` of them is the tensor's
/// business: reading stops after one too many.
pub fn decode_strings(input: &str, mut bytes: &[u8], count: usize) -> Result<Strings, ProtocolError> {
    let short = |index, claimed, left| ProtocolError::StringTooShort { input: input.to_owned(), index, claimed, left };
    // Each string takes at least its prefix, so a lying shape reserves no more than the body is long.
    let mut strings = Strings::with_capacity(count.min(bytes.len() / 4), bytes.len());
    while !bytes.is_empty() && strings.len() <= count {
        let (prefix, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| short(strings.len(), 4, bytes.len()))?;
        let length = u32::from_le_bytes(*prefix) as usize;
        let (string, rest) = rest.split_at_checked(length).ok_or_else(|| short(strings.len(), length, rest.len()))?;
        strings.push(string);
        bytes = rest;
    }
    Ok(strings)
}

/// Writes strings; `None` when one is longer than four bytes can say.
pub fn encode_strings(strings: &Strings) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(strings.total_bytes() + 4 * strings.len());
    for string in strings.iter() {
        bytes.extend_from_slice(&u32::try_from(string.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(string);
    }
    Some(bytes)
}

//! Text that must not be seen: [`Secret`].

use std::fmt;

/// A password or token. It has no `Display`, and its `Debug` shows only that there is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Removes secrets from a text that somebody else wrote, control characters too, and bounds its length.
pub(crate) fn sanitised(text: &str, secrets: &[Secret]) -> String {
    const LONGEST: usize = 300;
    let mut clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        clean = clean.replace(secret.expose(), "…");
    }
    let mut clean = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    if clean.chars().count() > LONGEST {
        clean = clean.chars().take(LONGEST).collect::<String>() + "…";
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some(Secret(…))");
    }

    #[test]
    fn foreign_text_loses_secrets_control_characters_and_length() {
        let text = format!("bad\u{1b}[31m token hunter2\r\n{}", "x".repeat(1000));
        let clean = sanitised(&text, &[Secret::new("hunter2"), Secret::new("")]);
        assert!(clean.starts_with("bad [31m token … xxx"), "{clean}");
        assert_eq!(clean.chars().count(), 301);
    }
}

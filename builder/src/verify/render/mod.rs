//! Verifications for people: text for a terminal, Markdown for a pull request, and a page.

mod html;
mod plot;
mod words;

pub use html::render_html;
pub use words::{render_markdown, render_text};

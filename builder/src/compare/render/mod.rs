//! Comparisons and histories for people: text, Markdown for a pull request, and a page. All print the same tables ([`crate::page::Table`]).

mod html;
mod markdown;
mod table;
mod text;
mod treemap;

pub use html::{comparison as html, history as history_html};
pub use markdown::comparison as markdown;
pub use text::{comparison as text, history as history_text};

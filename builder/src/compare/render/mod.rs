//! Comparisons and histories for people: text, Markdown for a pull request, and a page. All print the same tables ([`table::Table`]).

mod html;
mod markdown;
mod plot;
mod table;
mod text;

pub use html::{comparison as html, history as history_html};
pub use markdown::comparison as markdown;
pub use table::clean;
pub use text::{comparison as text, history as history_text};

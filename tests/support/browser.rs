//! Pages in a real browser.

use std::path::Path;
use std::process::Command;

use crate::{succeed, text};

/// What a browser says of a page.
#[derive(Debug)]
pub struct Browsed {
    /// The document after a script measured the page at phone width: attributes of `body` say `data-overflow`, `data-tip` and
    /// `data-tables`.
    pub dom: String,
    /// What went wrong.
    pub log: String,
    /// What it asked the network for.
    pub requests: String,
}

/// Opens a page with plots in Chromium, in a frame as wide as a phone, with the pointer over the first area of the first plot.
///
/// # Panics
/// Where Chromium cannot be run.
#[must_use]
pub fn browse(folder: &Path, page: &str) -> Browsed {
    let probe = r#"<script>addEventListener("load", () => {
        const plot = document.querySelector(".plot.narrow");
        const svg = plot.querySelector("svg");
        const box = svg.getBoundingClientRect();
        const scale = box.width / svg.viewBox.baseVal.width;
        const [left, top, width, height] = JSON.parse(plot.dataset.areas)[0];
        const middle = { clientX: box.x + (left + width / 2) * scale, clientY: box.y + (top + height / 2) * scale };
        svg.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, ...middle }));
        const { scrollWidth, clientWidth } = document.documentElement;
        parent.document.body.dataset.overflow = scrollWidth - clientWidth;
        parent.document.body.dataset.tip = document.getElementById("tip").textContent;
        parent.document.body.dataset.tables = document.querySelectorAll("table").length;
    })</script></body>"#;
    let inner = page.replace("</body>", probe).replace('&', "&amp;").replace('"', "&quot;");
    let file = folder.join("phone.html");
    std::fs::write(
        &file,
        format!("<!doctype html><body><iframe style='width:360px;height:900px;border:0' srcdoc=\"{inner}\"></iframe>"),
    )
    .expect("written");
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", folder.join("profile").display()));
    command.arg(format!("--log-net-log={}", folder.join("net.json").display())).arg(format!("file://{}", file.display()));
    let output = succeed(&mut command);
    let requests = std::fs::read_to_string(folder.join("net.json")).expect("a log");
    Browsed { dom: text(&output.stdout), log: text(&output.stderr), requests }
}

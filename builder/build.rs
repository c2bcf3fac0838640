//! Builds the data files of `templates/` and `base-images/` into the program.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("..").canonicalize()?;
    let mut files = Vec::new();
    for (folder, suffix) in [
        ("base-images", "toml"),
        ("templates", "toml"),
        ("templates/engines", "toml"),
        ("templates/operators", "json"),
        ("templates/ci", "yaml"),
        ("templates/deploy", "yaml"),
    ] {
        let folder = root.join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        collect(&folder, suffix, &mut files)?;
    }
    files.sort();
    let mut text = String::from("static FILES: &[(&str, &[u8])] = &[\n");
    for file in &files {
        let name = file.strip_prefix(&root)?.to_str().ok_or("the name of a data file is not UTF-8")?;
        writeln!(text, "    ({name:?}, include_bytes!({file:?})),")?;
    }
    text.push_str("];\n");
    fs::write(Path::new(&env::var("OUT_DIR")?).join("data.rs"), text)?;
    Ok(())
}

fn collect(folder: &Path, suffix: &str, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == suffix) {
            println!("cargo::rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
    Ok(())
}

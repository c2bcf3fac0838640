//! Rewrites libraries as a build does: `rewrite_libraries strip|bind OUT LIBRARY… -- NEIGHBOUR…`.
//!
//! Patterns of exports to keep come from the variable `KEEP`, separated by commas. Reports go to standard output as JSON.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use imgbuild::elf::ElfObject;
use imgbuild::rewrite::{BindRules, Neighbours, Transformation, rewrite_file};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, folder, rest @ ..] = arguments.as_slice() else {
        return Err("usage: rewrite_libraries strip|bind OUT LIBRARY… -- NEIGHBOUR…".into());
    };
    let keep = std::env::var("KEEP").unwrap_or_default();
    let rules = BindRules { keep: keep.split(',').filter(|pattern| !pattern.is_empty()).map(str::to_owned).collect() };
    let transformations = match mode.as_str() {
        "strip" => vec![Transformation::Strip],
        _ => vec![Transformation::Strip, Transformation::Bind(rules)],
    };
    let libraries: Vec<PathBuf> = rest.iter().take_while(|argument| *argument != "--").map(PathBuf::from).collect();
    let objects =
        rest.iter().filter(|argument| *argument != "--").map(|path| Ok((PathBuf::from(path), ElfObject::load(Path::new(path))?)));
    let objects: BTreeMap<PathBuf, ElfObject> = objects.collect::<Result<_, Box<dyn Error>>>()?;
    for library in &libraries {
        let start = Instant::now();
        let neighbours = Neighbours::new(objects.iter().filter(|(path, _)| *path != library).map(|(_, object)| object));
        let name = library.file_name().ok_or("a library has no name")?;
        let mut target = File::options().read(true).write(true).create(true).truncate(true).open(Path::new(folder).join(name))?;
        let report = rewrite_file(library, &transformations, &neighbours, &mut target)?;
        serde_json::to_writer_pretty(std::io::stdout(), &report)?;
        eprintln!("\n{}: {:.1} s", library.display(), start.elapsed().as_secs_f64());
    }
    Ok(())
}

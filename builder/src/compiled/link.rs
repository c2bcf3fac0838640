//! Compiles XLA's runtime, each part once, and links a model with it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::description::Facts;
use super::programs::Programs;
use super::{CompileError, add};
use crate::digest::Digest;
use crate::progress::Progress;
use crate::source::Ended;
use crate::store::{Blob, Store};
use crate::template::{CompilerTemplate, Processor};

/// Sources of the builder's own, by name. Those below `absl/` stand before Abseil's headers.
const SOURCES: [(&str, &str); 5] = [
    ("model.h", include_str!("model.h")),
    ("model.cc", include_str!("model.cc")),
    ("abseil.cc", include_str!("abseil.cc")),
    ("absl/log/check.h", include_str!("absl/log/check.h")),
    ("absl/log/log.h", include_str!("absl/log/log.h")),
];
/// Where sources seem to lie, wherever they do: paths are part of messages, and of the bytes.
const SHOWN: [&str; 2] = ["imgbuild", "packages"];
const OBJECT: &str = "compiled-object";

/// What links a model.
pub(super) struct Linker<'a> {
    pub template: &'a CompilerTemplate,
    pub programs: &'a Programs,
    /// The folder of the compiler's packages.
    pub packages: &'a Path,
    pub processor: &'a Processor,
    /// The model, for errors.
    pub model: &'a Path,
}

/// What decides how the runtime is compiled and linked, besides the packages.
pub(super) fn key(template: &CompilerTemplate, programs: &Programs, processor: &Processor) -> Digest {
    let mut text = format!("{template:?}\n{}\n{}\n", processor.runtime(), programs.compiler_key());
    for (name, source) in SOURCES {
        let _ = writeln!(text, "{name} {}", Digest::of(source.as_bytes()));
    }
    Digest::of(text.as_bytes())
}

impl Linker<'_> {
    /// Links what lies in a folder: a header and two objects for each variant.
    pub fn link(&self, folder: &Path, facts: &Facts, store: &Store, progress: &Progress) -> Result<Blob, CompileError> {
        for (name, source) in SOURCES {
            write(&folder.join(name), source)?;
        }
        write(&folder.join("variants.h"), &variants(facts))?;
        let generated = self.generated(folder, facts)?;
        let wanted: Vec<PathBuf> = self.parts(&generated);
        let runtime = self.objects(folder, &wanted, store, progress)?;
        let _task = progress.task("link the model", None);
        self.compile(folder, Path::new("model.cc"), &self.template.optimize_model, "model.o")?;
        let mut arguments: Vec<String> =
            ["-shared", "-o", "libmodel.so", "-Wl,-soname,libmodel.so", "-Wl,--version-script=exports", "model.o"]
                .map(str::to_owned)
                .to_vec();
        write(&folder.join("exports"), "{ global: imgbuild_model; local: *; };\n")?;
        for variant in &facts.variants {
            arguments.extend(
                ["", "_constants"]
                    .map(|kind| format!("b{}{kind}.o", variant.rows))
                    .into_iter()
                    .filter(|name| folder.join(name).exists()),
            );
        }
        arguments.extend(runtime.iter().map(|object| object.path.display().to_string()));
        arguments.extend(self.template.link.iter().cloned());
        let ended = self.programs.run_compiler(folder, &arguments)?;
        let missing = undefined(&ended.output);
        if !missing.is_empty() {
            let reason = format!("its code needs parts of XLA's runtime that are not linked: {}", missing.join(", "));
            return Err(CompileError::Refused { model: self.model.to_owned(), reason });
        }
        self.succeeded(&ended, "the library of the model")?;
        add(&folder.join("libmodel.so"), store)
    }

    /// The text of the generated headers.
    fn generated(&self, folder: &Path, facts: &Facts) -> Result<String, CompileError> {
        let mut text = String::new();
        for variant in &facts.variants {
            let path = folder.join(format!("b{}.h", variant.rows));
            text.push_str(&std::fs::read_to_string(&path).map_err(|source| CompileError::io("read", &path, source))?);
        }
        Ok(text)
    }

    /// The sources that a model needs.
    fn parts(&self, generated: &str) -> Vec<PathBuf> {
        let sources = self.packages.join(&self.template.sources);
        let needed =
            self.template.runtime.iter().filter(|part| part.when.as_ref().is_none_or(|text| generated.contains(text.as_str())));
        std::iter::once(PathBuf::from("abseil.cc")).chain(needed.map(|part| sources.join(&part.source))).collect()
    }

    /// Objects of sources, those that the store lacks compiled side by side.
    fn objects(&self, folder: &Path, sources: &[PathBuf], store: &Store, progress: &Progress) -> Result<Vec<Blob>, CompileError> {
        let next = Mutex::new(sources.iter().enumerate());
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(sources.len());
        let work = || {
            let mut made = Vec::new();
            loop {
                let Some((at, source)) = next.lock().ok().and_then(|mut next| next.next()) else { return Ok(made) };
                made.push((at, self.object(folder, at, source, store, progress)?));
            }
        };
        let results: Vec<Result<Vec<(usize, Blob)>, CompileError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().expect("a worker does not panic")).collect()
        });
        let mut objects = results.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        objects.sort_by_key(|(at, _)| *at);
        Ok(objects.into_iter().map(|(_, object)| object).collect())
    }

    /// The object of a source, compiled where the store has none.
    fn object(&self, folder: &Path, at: usize, source: &Path, store: &Store, progress: &Progress) -> Result<Blob, CompileError> {
        let name = source.strip_prefix(self.packages).unwrap_or(source).display().to_string();
        let key = Digest::of(
            format!("{}\n{:?}\n{name}\n", key(self.template, self.programs, self.processor), self.packages.file_name())
                .as_bytes(),
        );
        let known = store.record(OBJECT, &key).and_then(|body| serde_json::from_slice::<Digest>(&body).ok());
        if let Some(object) = known.map(|digest| store.find(&digest)).transpose()?.flatten() {
            return Ok(object);
        }
        let _task = progress.task(format!("compile {}, once", name.rsplit('/').next().unwrap_or(&name)), None);
        let file = format!("runtime{at}.o");
        self.compile(folder, source, &self.template.optimize_runtime, &file)?;
        let object = add(&folder.join(&file), store)?;
        store.put_record(OBJECT, &key, &serde_json::to_vec(&object.digest).expect("a digest is JSON"))?;
        Ok(object)
    }

    fn compile(&self, folder: &Path, source: &Path, optimize: &str, object: &str) -> Result<(), CompileError> {
        let mut arguments = self.template.compile.clone();
        arguments.push(optimize.to_owned());
        arguments.push(format!("-march={}", self.processor.runtime()));
        // The folder's own headers come first.
        arguments.push("-I.".to_owned());
        arguments
            .extend(self.template.headers.iter().map(|headers| format!("-isystem{}", self.packages.join(headers).display())));
        for (real, shown) in [folder, self.packages].into_iter().zip(SHOWN) {
            arguments.push(format!("-ffile-prefix-map={}={shown}", real.display()));
        }
        arguments.extend(["-c".to_owned(), source.display().to_string(), "-o".to_owned(), object.to_owned()]);
        let what = source.strip_prefix(self.packages).unwrap_or(source);
        self.run(folder, &arguments, &format!("`{}`", what.display()))
    }

    fn run(&self, folder: &Path, arguments: &[String], what: &str) -> Result<(), CompileError> {
        self.succeeded(&self.programs.run_compiler(folder, arguments)?, what)
    }

    fn succeeded(&self, ended: &Ended, what: &str) -> Result<(), CompileError> {
        if ended.success {
            return Ok(());
        }
        Err(CompileError::Cpp {
            compiler: self.programs.version.clone(),
            what: what.to_owned(),
            status: ended.status.clone(),
            output: ended.tail(),
        })
    }
}

/// The functions that a linker did not find, each once.
fn undefined(output: &str) -> Vec<String> {
    let after = |line: &str| {
        line.split_once("undefined reference to `").map(|(_, name)| name.split(['(', '\'']).next().unwrap_or(name).to_owned())
    };
    let names: BTreeSet<String> = output.lines().filter_map(after).collect();
    names.into_iter().map(|name| format!("`{name}`")).collect()
}

/// The header that names the generated classes.
fn variants(facts: &Facts) -> String {
    let mut text = String::new();
    for variant in &facts.variants {
        let _ = writeln!(text, "#include \"b{}.h\"", variant.rows);
    }
    let first = facts.variants.first().map_or(0, |variant| variant.rows);
    let _ = writeln!(text, "namespace imgbuild {{\nusing First = Rows{first};");
    let _ = writeln!(text, "constexpr uint64_t kVariants = {};", facts.variants.len());
    let _ = writeln!(text, "constexpr uint64_t kWeights = {};\n}}", facts.weights_size());
    let entries =
        facts.variants.iter().enumerate().map(|(at, variant)| format!("IMGBUILD_VARIANT({at}, Rows{0}, {0})", variant.rows));
    let _ = writeln!(text, "#define IMGBUILD_VARIANTS {}", entries.collect::<Vec<_>>().join(" "));
    text
}

fn write(path: &Path, text: &str) -> Result<(), CompileError> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(path, text)).map_err(|source| CompileError::io("write", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_linker_misses_is_named_once() {
        let output = "ld: a.o: undefined reference to `xla::cpu::Fft(int, void*)'\nld: b.o: undefined reference to `xla::cpu::Fft(int)'\ncollect2: error";
        assert_eq!(undefined(output), ["`xla::cpu::Fft`"]);
        assert!(undefined("ld: cannot find -lm").is_empty());
    }
}

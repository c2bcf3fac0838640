//! Finding templates, base images and operator tables: [`Data`].

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::strict::nearest;
use super::{BaseImage, EngineCompiler, Snippet, StackTemplate, TemplateError};
use crate::digest::Digest;

// `FILES`: the path below the repository's root and the bytes of every data file, by path.
include!(concat!(env!("OUT_DIR"), "/data.rs"));

/// The folders of [`Snippet`]s.
const SNIPPETS: [&str; 2] = ["templates/ci", "templates/deploy"];

/// Finds data files: in a folder where it has them, else among those that are built into the program.
#[derive(Debug, Clone)]
pub struct Data {
    folder: Option<PathBuf>,
}

/// A data file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<T> {
    /// What it says.
    pub value: T,
    /// Digest of its text: a lock names it, so that a changed file is noticed.
    pub digest: Digest,
    /// Where it was found, in words that errors can use.
    pub found_in: String,
}

/// The bytes of a data file, and where it was found.
type Found = (Cow<'static, [u8]>, String);

impl Data {
    /// The data of this program: `$IMGBUILD_DATA`, or `../share/imgbuild` beside the program, or what is built in.
    #[must_use]
    pub fn locate() -> Self {
        let named = std::env::var_os("IMGBUILD_DATA").filter(|value| !value.is_empty()).map(PathBuf::from);
        let beside = || {
            let program = std::env::current_exe().and_then(fs::canonicalize).ok()?;
            Some(program.parent()?.parent()?.join("share/imgbuild")).filter(|folder| folder.is_dir())
        };
        Self { folder: named.or_else(beside) }
    }

    /// The data of a folder with `templates/` and `base-images/`, before what is built in.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: Some(folder.to_owned()) }
    }

    /// What is built into the program.
    #[must_use]
    pub fn built_in() -> Self {
        Self { folder: None }
    }

    /// Loads a stack's template by name, or from a file where the name is a path to one.
    ///
    /// # Errors
    /// Where there is none of that name, or it is not as it should be.
    pub fn template(&self, name: &str) -> Result<Loaded<StackTemplate>, TemplateError> {
        self.load("stack", "templates", ".toml", name, StackTemplate::parse)
    }

    /// Loads a base image by name, or from a file where the name is a path to one.
    ///
    /// # Errors
    /// Where there is none of that name, or it is not as it should be.
    pub fn base_image(&self, name: &str) -> Result<Loaded<BaseImage>, TemplateError> {
        self.load("base image", "base-images", ".toml", name, BaseImage::parse)
    }

    /// Loads what compiles engines without a GPU by name, or from a file where the name is a path to one.
    ///
    /// # Errors
    /// Where there is none of that name, or it is not as it should be.
    pub fn engine_compiler(&self, name: &str) -> Result<Loaded<EngineCompiler>, TemplateError> {
        self.load("engine compiler", "templates/engines", ".toml", name, EngineCompiler::parse)
    }

    /// Reads an operator table: a file in `templates/operators/`.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn operators(&self, file: &str) -> Result<Loaded<Vec<u8>>, TemplateError> {
        let path = format!("templates/operators/{file}");
        match self.read(&path)? {
            Some((bytes, found_in)) => Ok(Loaded { digest: Digest::of(&bytes), value: bytes.into_owned(), found_in }),
            None => Err(unknown("operator table", file, self.names("templates/operators", ""))),
        }
    }

    /// Loads a file for pipelines or clusters by name.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn snippet(&self, name: &str) -> Result<Loaded<Snippet>, TemplateError> {
        for folder in SNIPPETS {
            if self.names(folder, ".yaml").iter().any(|known| known == name) {
                return self.load("template", folder, ".yaml", name, |text, _| Ok(Snippet::new(text)));
            }
        }
        Err(unknown("template", name, self.snippets()))
    }

    /// The names of the files for pipelines and clusters, those for pipelines first.
    #[must_use]
    pub fn snippets(&self) -> Vec<String> {
        SNIPPETS.iter().flat_map(|folder| self.names(folder, ".yaml")).collect()
    }

    /// The names of the stacks, sorted.
    #[must_use]
    pub fn templates(&self) -> Vec<String> {
        self.names("templates", ".toml")
    }

    /// The names of the base images, sorted.
    #[must_use]
    pub fn base_images(&self) -> Vec<String> {
        self.names("base-images", ".toml")
    }

    fn load<T>(
        &self,
        kind: &'static str,
        folder: &str,
        suffix: &str,
        name: &str,
        parse: impl Fn(&str, &str) -> Result<T, TemplateError>,
    ) -> Result<Loaded<T>, TemplateError> {
        let found = if name.contains('/') || name.ends_with(suffix) {
            let path = Path::new(name);
            let bytes = fs::read(path).map_err(|source| TemplateError::Io { path: path.to_owned(), source })?;
            Some((Cow::Owned(bytes), name.to_owned()))
        } else {
            self.read(&format!("{folder}/{name}{suffix}"))?
        };
        let (bytes, found_in) = found.ok_or_else(|| unknown(kind, name, self.names(folder, suffix)))?;
        let not_text = |_| TemplateError::Inconsistent { file: found_in.clone(), reason: "it is not UTF-8".to_owned() };
        let text = std::str::from_utf8(&bytes).map_err(not_text)?;
        Ok(Loaded { value: parse(text, &found_in)?, digest: Digest::of(&bytes), found_in })
    }

    fn read(&self, path: &str) -> Result<Option<Found>, TemplateError> {
        // A name is one component: it cannot lead out of the folder.
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Ok(None);
        }
        if let Some(folder) = &self.folder {
            let file = folder.join(path);
            match fs::read(&file) {
                Ok(bytes) => return Ok(Some((Cow::Owned(bytes), file.display().to_string()))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(TemplateError::Io { path: file, source }),
            }
        }
        let at = FILES.binary_search_by(|(known, _)| (*known).cmp(path));
        Ok(at.ok().map(|at| (Cow::Borrowed(FILES[at].1), format!("{path} (built in)"))))
    }

    fn names(&self, folder: &str, suffix: &str) -> Vec<String> {
        let built_in = FILES.iter().filter_map(|(path, _)| path.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned));
        let mut names: BTreeSet<String> = built_in.collect();
        if let Some(root) = &self.folder {
            let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
            names.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
        }
        let plain = names.iter().filter(|name| !name.contains('/'));
        plain.filter_map(|name| name.strip_suffix(suffix)).map(str::to_owned).collect()
    }
}

fn unknown(kind: &'static str, name: &str, known: Vec<String>) -> TemplateError {
    TemplateError::Unknown { kind, name: name.to_owned(), nearest: nearest(name, &known), known }
}

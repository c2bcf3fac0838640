//! What `imgbuild engine` wrote beside a model that holds engines: [`EngineRecord`].

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{ExtraFile, Recipe, RecipeError, field};
use crate::engine::record_of;
use crate::fatbin::Sm;

/// What engines were compiled by and for, as far as an image of them has to go with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct EngineRecord {
    /// What runs them, as the server names it.
    pub provider: String,
    /// The GPUs that they were compiled for; none where an image compiled them on the GPU that it found.
    #[serde(default)]
    pub gpus: Vec<Sm>,
    /// The packages that compiled them, as `NAME==VERSION` or `NAME VERSION`.
    #[serde(default)]
    pub packages: Vec<String>,
    /// A file that they lie in, beside the model.
    #[serde(default)]
    engine_file: Option<String>,
    /// Further files beside the model.
    #[serde(default)]
    files: Vec<String>,
}

impl EngineRecord {
    /// Reads the record of a model; `None` where there is none beside it, or something else of its name.
    fn of(model: &Path) -> Result<Option<Self>, RecipeError> {
        let path = record_of(model);
        let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
        let Ok(value) = serde_json::from_str::<Value>(&text) else { return Ok(None) };
        if value.get("engine").is_none() || value.get("provider").is_none() {
            return Ok(None);
        }
        let expected = "what `imgbuild engine` writes beside a model";
        serde_json::from_value(value).map(Some).map_err(|error| field(&path.display().to_string(), &error.to_string(), expected))
    }

    /// The packages by name, with their versions.
    pub fn versions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.packages.iter().filter_map(|package| package.split_once("==").or_else(|| package.split_once(' ')))
    }
}

impl Recipe {
    /// Takes what is known of a model that holds engines: the GPUs, unless some were asked for, and the files beside it.
    pub(super) fn with_engines(mut self) -> Result<Self, RecipeError> {
        let Some(record) = EngineRecord::of(&self.model)? else { return Ok(self) };
        if let Some(gpu) = self.gpus.iter().find(|gpu| !record.gpus.is_empty() && !record.gpus.contains(gpu)) {
            let known: Vec<String> = record.gpus.iter().map(Sm::to_string).collect();
            let expected = format!("GPUs that `{}` has engines for: {}", self.model.display(), known.join(", "));
            return Err(field("runtime.gpu", &gpu.to_string(), &expected));
        }
        if self.gpus.is_empty() {
            self.gpus.clone_from(&record.gpus);
        }
        let folder = self.model.parent().unwrap_or(Path::new("")).to_owned();
        for name in record.engine_file.iter().chain(&record.files) {
            let is_name = !name.is_empty() && name != ".." && name != "." && !name.contains('/');
            if !is_name {
                return Err(field(&record_of(&self.model).display().to_string(), name, "names of files beside the model"));
            }
            let to = format!("/models/{}/{name}", self.name).parse()?;
            self.files.push(ExtraFile { from: folder.join(name), to, mode: 0o644 });
        }
        self.engines = Some(record);
        Ok(self)
    }
}

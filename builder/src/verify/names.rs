//! Names of inputs and outputs in two models that are the same and call them differently: [`Names`].

use std::collections::BTreeMap;

use super::data::{ModelSpec, Sample, TensorSpec};
use super::error::VerifyError;

/// What the user said of names: what the test set or reference calls it, and what the image calls it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Names that differ.
    pub renamed: BTreeMap<String, String>,
}

/// Every name of the set with its name in the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    inputs: BTreeMap<String, String>,
    outputs: BTreeMap<String, String>,
}

impl Names {
    /// The model as the test set names it, where there is no reference: the image's own names, but for those that were renamed.
    pub(super) fn set_model(&self, model: &ModelSpec) -> Result<ModelSpec, VerifyError> {
        let mut renamed = model.clone();
        for (set_name, name) in &self.renamed {
            let specs = || model.inputs.iter().chain(&model.outputs);
            if !specs().any(|spec| spec.name == *name) {
                return Err(VerifyError::Unlike { problem: unknown(name, specs()) });
            }
            for spec in renamed.inputs.iter_mut().chain(&mut renamed.outputs).filter(|spec| spec.name == *name) {
                spec.name.clone_from(set_name);
            }
        }
        Ok(renamed)
    }

    /// Finds for each name of the set the image's: as the user said, the same name, or the only one of its datatype and shape.
    pub(super) fn resolve(&self, set: &ModelSpec, model: &ModelSpec) -> Result<Resolved, VerifyError> {
        Ok(Resolved {
            inputs: self.match_all("input", &set.inputs, &model.inputs)?,
            outputs: self.match_all("output", &set.outputs, &model.outputs)?,
        })
    }

    fn match_all(&self, what: &str, set: &[TensorSpec], model: &[TensorSpec]) -> Result<BTreeMap<String, String>, VerifyError> {
        let mut names = BTreeMap::new();
        for spec in set {
            let wanted = self.renamed.get(&spec.name).unwrap_or(&spec.name);
            let found = model.iter().find(|other| other.name == *wanted).or_else(|| {
                let alike = |list: &'_ [TensorSpec]| list.iter().filter(|other| is_like(spec, other)).count();
                (alike(model) == 1 && alike(set) == 1).then(|| model.iter().find(|other| is_like(spec, other))).flatten()
            });
            let Some(found) = found else {
                let problem = format!(
                    "{}; say which {what} `{}` is by `--rename {}=NAME`",
                    unknown(wanted, model.iter()),
                    spec.name,
                    spec.name
                );
                return Err(VerifyError::Unlike { problem });
            };
            names.insert(spec.name.clone(), found.name.clone());
        }
        Ok(names)
    }
}

impl Resolved {
    /// The sample with its inputs named as the image names them.
    pub fn sample_for_candidate(&self, sample: &Sample) -> Sample {
        let mut renamed = sample.clone();
        for tensor in &mut renamed.inputs {
            if let Some(name) = self.inputs.get(&tensor.name) {
                tensor.name.clone_from(name);
            }
        }
        renamed
    }

    /// What the image calls an output of the set.
    pub fn candidate_output(&self, name: &str) -> String {
        self.outputs.get(name).cloned().unwrap_or_else(|| name.to_owned())
    }
}

/// The same datatype, and dimensions that are equal or dynamic on one side.
fn is_like(one: &TensorSpec, other: &TensorSpec) -> bool {
    one.datatype == other.datatype
        && one.shape.len() == other.shape.len()
        && one.shape.iter().zip(&other.shape).all(|(a, b)| a == b || *a < 0 || *b < 0)
}

fn unknown<'a>(name: &str, specs: impl Iterator<Item = &'a TensorSpec>) -> String {
    let known: Vec<String> = specs.map(|spec| format!("`{}`", spec.name)).collect();
    format!("the image has no `{name}`, it has {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::tensor::Datatype;

    fn spec(name: &str, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.to_owned(), datatype: Datatype::Fp32, shape: shape.to_vec() }
    }

    fn model(outputs: Vec<TensorSpec>) -> ModelSpec {
        ModelSpec { name: "m".to_owned(), inputs: Vec::new(), outputs }
    }

    #[test]
    fn names_match_by_word_by_request_and_by_shape_but_are_never_guessed() {
        let set = model(vec![spec("note", &[1, 88]), spec("contour", &[1, 264])]);
        let image = model(vec![spec("out:0", &[-1, 264]), spec("note", &[1, 88])]);
        let resolved = Names::default().resolve(&set, &image).expect("names");
        assert_eq!(resolved.candidate_output("contour"), "out:0");
        let alike = model(vec![spec("a", &[-1, 88]), spec("b", &[-1, 88])]);
        let set = model(vec![spec("note", &[1, 88]), spec("onset", &[1, 88])]);
        let error = Names::default().resolve(&set, &alike).expect_err("two are alike").to_string();
        assert!(error.contains("--rename note=NAME"), "{error}");
        let renamed = BTreeMap::from([("note".to_owned(), "b".to_owned()), ("onset".to_owned(), "a".to_owned())]);
        let resolved = Names { renamed }.resolve(&set, &alike).expect("names");
        assert_eq!(resolved.candidate_output("note"), "b");
    }
}

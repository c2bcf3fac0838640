//! What a build says of the GPU: labels, the server's options, warnings, the report.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Inputs, PublishedError};
use crate::fatbin::Sm;
use crate::image::label;
use crate::progress::Progress;
use crate::recipe::{Minimize, Recipe};
use crate::report::{GpuReport, OnCpu};
use crate::template::{Gpu, StackTemplate, When};

/// What the backend is called, and begins the names of its libraries.
const TENSORFLOW: &str = "tensorflow";

/// The GPUs that an image of a recipe has device code for; `all` where none was taken out.
fn architectures(recipe: &Recipe, gpu: &Gpu) -> String {
    let gpus = if recipe.gpus.is_empty() { &gpu.architectures } else { recipe.device_gpus() };
    if gpus.is_empty() {
        return "all".to_owned();
    }
    gpus.iter().map(Sm::to_string).collect::<Vec<_>>().join(",")
}

/// Labels by which a host can tell beforehand whether it can run the image.
pub(super) fn labels(recipe: &Recipe, stack: &StackTemplate) -> BTreeMap<String, String> {
    let Some(gpu) = &stack.gpu else { return BTreeMap::new() };
    let labels = [
        (label::SM, architectures(recipe, gpu)),
        (label::DRIVER, gpu.driver.clone()),
        (label::CUDA, gpu.cuda.clone()),
        (label::PROVIDER, gpu.provider.clone()),
    ];
    labels.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Options of the server: its provider, and what the rules that left libraries out ask for.
pub(super) fn server_options(recipe: &Recipe, inputs: &Inputs) -> BTreeMap<&'static str, Value> {
    let mut options = BTreeMap::new();
    let Some(gpu) = &inputs.stack.gpu else { return options };
    options.insert("provider", Value::from(gpu.provider.clone()));
    // TensorFlow opens these by name and says nothing where one is missing, so the server opens them first.
    let by_name = inputs
        .stack
        .opens
        .iter()
        .filter(|rule| inputs.stack.backend == TENSORFLOW && !rule.optional && rule.from.contains(TENSORFLOW));
    let by_name: Vec<Value> = by_name.map(|rule| Value::from(rule.opens.clone())).collect();
    if !by_name.is_empty() {
        options.insert("provider_libraries", Value::from(by_name));
    }
    let mut provider: BTreeMap<&String, &String> = BTreeMap::new();
    let mut session: BTreeMap<&String, &String> = BTreeMap::new();
    let named: BTreeSet<&str> = inputs.on_cpu.keys().map(|operator| operator.name.as_str()).collect();
    let mut only: BTreeSet<&str> = BTreeSet::new();
    for rule in inputs.stack.applied(inputs.model.as_ref(), recipe.minimize, &recipe.keep) {
        // What the provider is told to do without must not end on the CPU unseen, should a node of it turn up all the same. Nodes that
        // were named for the CPU while the image was built are no surprise.
        if let When::OperatorsAbsent(operators) = &rule.when
            && !rule.provider_options.is_empty()
        {
            only.extend(operators.iter().map(String::as_str).filter(|operator| !named.contains(operator)));
        }
        provider.extend(&rule.provider_options);
        session.extend(&rule.session_config);
    }
    if !only.is_empty() {
        options.insert("gpu_operators", only.into_iter().map(Value::from).collect());
    }
    for (key, values) in [("provider_options", provider), ("session_config", session)] {
        if !values.is_empty() {
            options.insert(key, values.into_iter().map(|(name, value)| (name.clone(), Value::from(value.clone()))).collect());
        }
    }
    options
}

/// Says what the user should know of before the image is written.
pub(super) fn tell(recipe: &Recipe, inputs: &Inputs, progress: &Progress) {
    let Some(gpu) = &inputs.stack.gpu else { return };
    if recipe.prune_vendor
        && let Some(licence) = &gpu.vendor_licence
    {
        progress.warn(licence.clone());
    }
    if !inputs.on_cpu.is_empty() {
        let nodes: u64 = inputs.on_cpu.values().sum();
        let operators: Vec<String> = inputs.on_cpu.iter().map(|(operator, count)| format!("{operator} ({count})")).collect();
        progress.warn(format!(
            "the provider `{}` has no kernel for {nodes} nodes of the model, which would run on the CPU: {}",
            gpu.provider,
            operators.join(", ")
        ));
    }
}

/// What the report says.
pub(super) fn report(recipe: &Recipe, inputs: &Inputs) -> Option<GpuReport> {
    let gpu = inputs.stack.gpu.as_ref()?;
    let on_cpu = inputs.on_cpu.iter().map(|(operator, nodes)| OnCpu { operator: operator.to_string(), nodes: *nodes });
    Some(GpuReport {
        provider: gpu.provider.clone(),
        cuda: gpu.cuda.clone(),
        driver: gpu.driver.clone(),
        architectures: architectures(recipe, gpu),
        vendor_pruned: recipe.prune_vendor,
        on_cpu: on_cpu.collect(),
    })
}

/// Layers that models share hold the same for all of them; with a stack whose libraries depend on the model they do not.
pub(super) fn check_shared(recipe: &Recipe, stack: &StackTemplate, name: impl Fn() -> String) -> Result<(), PublishedError> {
    if stack.depends_on_model() && recipe.minimize == Minimize::Model {
        return Err(PublishedError::Recipe { name: name(), what: "libraries that depend on the model (`minimize = \"model\"`)" });
    }
    Ok(())
}

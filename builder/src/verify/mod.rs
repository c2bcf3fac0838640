//! The promotion gate: does an image still answer as it should? [`verify`] sends a fixed test set through a running image and compares.
//!
//! [`data`] reads test sets, [`crate::inference`] asks the server by the protocol that production uses, [`metrics`] measures how far answers are off,
//! [`policy`] decides, [`diagnosis`] says in words what kind of difference it is, [`report`] is what remains: the [`VerificationReport`].
//! Samples stream through: memory does not grow with their number, and sums do not depend on which answer came first.

mod attached;
pub mod data;
mod diagnosis;
mod error;
pub mod metrics;
mod names;
pub mod policy;
mod render;
pub mod report;
mod stream;
#[cfg(test)]
mod tests;

pub use attached::Requirement;
pub use data::{Sample, TestSet, read_npy, write_protos};
pub use error::VerifyError;
pub use names::Names;
pub use policy::Policy;
pub use render::{render_html, render_markdown, render_text};
pub use report::{MEDIA_TYPE, OutputReport, VerificationReport};

use std::collections::BTreeMap;

use crate::inference::{Client, Datatype, InferRequest, InferenceError, Tensor};
use crate::progress::Progress;
use metrics::Accumulator;
use stream::{Answered, Stream};

/// How a test set is sent.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Rows of arrays in a request, where the model leaves that open.
    pub batch: u64,
    /// Requests at a time.
    pub clients: usize,
}

/// What was found when a test set went through an image.
#[derive(Debug)]
pub struct Findings {
    /// Samples that were compared.
    pub samples: u64,
    /// Each output that is expected or came.
    pub outputs: Vec<OutputReport>,
}

/// One output while samples come in.
#[derive(Debug)]
struct Output {
    datatype: Datatype,
    accumulator: Accumulator,
    /// Differences that are no numbers: a shape, a datatype, an output that is missing. The first few, and how many.
    problems: Vec<String>,
    problem_count: u64,
    /// What was expected and came in the first sample: outputs that were swapped show in it.
    first: Option<(Tensor, Tensor)>,
}

/// Most problems of an output that are kept in words.
const PROBLEMS: usize = 5;

/// Sends every sample of a test set to the candidate, and compares with what the set expects or, where there is one, with what the reference answers.
///
/// # Errors
/// Where a file cannot be read, a server refuses a sample, or nothing is there to compare with. Answers that differ are no error: they are in the findings.
pub fn verify(
    set: &TestSet,
    candidate: &Client,
    reference: Option<&Client>,
    names: &Names,
    policy: &Policy,
    options: &VerifyOptions,
    progress: &Progress,
) -> Result<Findings, VerifyError> {
    let model = candidate.model()?;
    let reference = match reference {
        None => None,
        Some(client) => Some((client, client.model()?)),
    };
    // The set is in the names of the reference, where there is one.
    let set_model = reference.as_ref().map_or_else(|| names.set_model(&model), |(_, model)| Ok(model.clone()))?;
    let names = names.resolve(&set_model, &model)?;
    let mut outputs: BTreeMap<String, Output> = BTreeMap::new();
    let mut samples = 0;
    let stream = Stream { set, model: &set_model, options };
    stream.run(
        progress,
        |sample| {
            let actual = infer(candidate, &names.sample_for_candidate(sample))?;
            let expected = match &reference {
                Some((client, _)) => infer(client, sample)?,
                None => sample.expected.clone(),
            };
            Ok((expected, actual))
        },
        |answered| {
            samples += 1;
            if answered.expected.is_empty() {
                return Err(VerifyError::NothingExpected { path: set.path().to_owned(), sample: answered.sample });
            }
            add(&mut outputs, policy, &names, answered);
            Ok(())
        },
    )?;
    if samples == 0 {
        return Err(VerifyError::Empty { path: set.path().to_owned() });
    }
    Ok(Findings { samples, outputs: finish(outputs, policy) })
}

/// The first sample of a test set that is in the reference's names, in those of the candidate.
///
/// # Errors
/// Where a file cannot be read, there is no sample, or names do not fit.
pub fn first_sample(
    set: &TestSet,
    reference: &Client,
    candidate: &Client,
    names: &Names,
    options: &VerifyOptions,
) -> Result<Sample, VerifyError> {
    let set_model = reference.model()?;
    let names = names.resolve(&set_model, &candidate.model()?)?;
    let first = set.samples(&set_model, options.batch)?.next();
    let sample = first.ok_or_else(|| VerifyError::Empty { path: set.path().to_owned() })??;
    Ok(names.sample_for_candidate(&sample))
}

/// Sends a sample; a refusal names it.
fn infer(server: &Client, sample: &Sample) -> Result<Vec<Tensor>, VerifyError> {
    server.infer(&InferRequest::new(&sample.inputs)).map_err(|error| match error {
        InferenceError::Refused { status, message, .. } => VerifyError::Refused { sample: sample.name.clone(), status, message },
        other => other.into(),
    })
}

fn add(outputs: &mut BTreeMap<String, Output>, policy: &Policy, names: &names::Resolved, answered: Answered) {
    let Answered { sample, expected, actual } = answered;
    for expected in expected {
        let name = names.candidate_output(&expected.name);
        let output = outputs.entry(name.clone()).or_insert_with(|| Output {
            datatype: expected.datatype,
            accumulator: Accumulator::new(policy.metrics),
            problems: Vec::new(),
            problem_count: 0,
            first: None,
        });
        let problem = match actual.iter().find(|actual| actual.name == name) {
            None => format!("`{sample}`: the image does not give this output"),
            Some(actual) if actual.shape != expected.shape => {
                format!("`{sample}`: shape is {:?}, expected {:?}", actual.shape, expected.shape)
            }
            Some(actual) if actual.datatype != expected.datatype => {
                format!("`{sample}`: datatype is {}, expected {}", actual.datatype, expected.datatype)
            }
            Some(actual) => {
                output.accumulator.add(&sample, &expected, actual);
                if output.first.is_none() {
                    output.first = Some((expected, actual.clone()));
                }
                continue;
            }
        };
        output.problem_count += 1;
        if output.problems.len() < PROBLEMS {
            output.problems.push(problem);
        }
    }
}

fn finish(outputs: BTreeMap<String, Output>, policy: &Policy) -> Vec<OutputReport> {
    let firsts: BTreeMap<String, (Tensor, Tensor)> =
        outputs.iter().filter_map(|(name, output)| Some((name.clone(), output.first.clone()?))).collect();
    outputs
        .into_iter()
        .map(|(name, output)| {
            let metrics = output.accumulator.finish();
            let checks = policy.check(&name, output.datatype, &metrics);
            let passed = output.problem_count == 0 && checks.iter().all(|check| check.passed);
            let diagnosis = if passed { Vec::new() } else { diagnosis::diagnose(&name, output.datatype, &metrics, &firsts) };
            OutputReport {
                name,
                datatype: output.datatype,
                passed,
                problems: output.problems,
                problem_count: output.problem_count,
                checks,
                diagnosis,
                metrics,
            }
        })
        .collect()
}

/// Sends every sample to a server and gives it with what was answered, in order.
///
/// # Errors
/// Where a file cannot be read, the server refuses a sample, or the receiver fails.
pub fn record(
    set: &TestSet,
    server: &Client,
    options: &VerifyOptions,
    progress: &Progress,
    mut receive: impl FnMut(u64, Sample) -> Result<(), VerifyError>,
) -> Result<u64, VerifyError> {
    let model = server.model()?;
    let mut count = 0;
    Stream { set, model: &model, options }.run(
        progress,
        |sample| Ok((sample.inputs.clone(), infer(server, sample)?)),
        |answered| {
            receive(count, Sample { name: answered.sample, inputs: answered.expected, expected: answered.actual })?;
            count += 1;
            Ok(())
        },
    )?;
    if count == 0 { Err(VerifyError::Empty { path: set.path().to_owned() }) } else { Ok(count) }
}

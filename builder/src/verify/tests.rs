//! Whole comparisons without a server: what is found, what is said of it, and that a report that was edited is refused.

use std::collections::BTreeMap;
use std::path::Path;

use super::metrics::{Accumulator, MetricOptions};
use super::report::{DataIdentity, MEDIA_TYPE, SCHEMA, VERSION};
use super::stream::Answered;
use super::tensor::{Datatype, Tensor};
use super::*;
use crate::digest::Digest;

fn tensor(name: &str, values: &[f32]) -> Tensor {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::new(name, Datatype::Fp32, vec![1, values.len() as u64], data).expect("a tensor")
}

fn compare(pairs: &[(Vec<Tensor>, Vec<Tensor>)]) -> Vec<OutputReport> {
    let mut outputs = BTreeMap::new();
    let policy = Policy::default();
    for (number, (expected, actual)) in pairs.iter().enumerate() {
        let answered = Answered { sample: format!("sample {number}"), expected: expected.clone(), actual: actual.clone() };
        add(&mut outputs, &policy, &names::Resolved::default(), answered);
    }
    finish(outputs, &policy)
}

const VALUES: [f32; 6] = [0.1, -2.0, 3.5, 0.0, 7.25, 1e-6];

fn one(actual: &[f32]) -> OutputReport {
    let pair = || (vec![tensor("y", &VALUES)], vec![tensor("y", actual)]);
    compare(&[pair(), pair()]).remove(0)
}

#[test]
fn equal_outputs_pass_and_small_numerics_do_too() {
    assert!(one(&VALUES).passed);
    let noise: Vec<f32> = VALUES.iter().map(|value| value * 1.000_01).collect();
    let report = one(&noise);
    assert!(report.passed, "{:?}", report.checks);
    assert!(report.metrics.max_relative < 2e-5);
}

#[test]
fn each_kind_of_difference_has_words_of_its_own() {
    let said = |actual: &[f32]| {
        let report = one(actual);
        assert!(!report.passed, "{actual:?}");
        report.diagnosis.join("; ")
    };
    let mut nan = VALUES;
    nan[3] = f32::NAN;
    assert!(said(&nan).contains("NaN that should be numbers"));
    let mut permuted = VALUES;
    permuted.reverse();
    assert!(said(&permuted).contains("another order"));
    let scaled: Vec<f32> = VALUES.iter().map(|value| 1.05 * value + 0.25).collect();
    assert!(said(&scaled).contains("1.0500 × expected + 2.5"), "{}", said(&scaled));
    let other: Vec<f32> = VALUES.iter().map(|value| value + value * value / 50.0).collect();
    assert!(said(&other).contains("every sample"));
    let mut infinite = VALUES;
    infinite[0] = f32::INFINITY;
    assert!(said(&infinite).contains("infinite"));
}

#[test]
fn swapped_outputs_are_named() {
    let (a, b) = (VALUES, VALUES.map(|value| 9.0 - value));
    let expected = vec![tensor("a", &a), tensor("b", &b)];
    let actual = vec![tensor("a", &b), tensor("b", &a)];
    let reports = compare(&[(expected, actual)]);
    assert!(reports[0].diagnosis[0].contains("expected of `b`"), "{:?}", reports[0].diagnosis);
    assert!(reports[1].diagnosis[0].contains("expected of `a`"), "{:?}", reports[1].diagnosis);
}

#[test]
fn another_shape_and_a_missing_output_fail_in_words() {
    let reports = compare(&[(vec![tensor("y", &VALUES)], vec![tensor("y", &VALUES[..3])])]);
    assert!(!reports[0].passed && reports[0].problems[0].contains("shape is [1, 3], expected [1, 6]"));
    let reports = compare(&[(vec![tensor("y", &VALUES)], vec![])]);
    assert!(!reports[0].passed && reports[0].problems[0].contains("does not give"));
}

#[test]
fn empty_and_zero_dimensional_tensors_are_compared() {
    let empty = Tensor::new("y", Datatype::Fp32, vec![0, 4], vec![]).expect("a tensor");
    assert!(compare(&[(vec![empty.clone()], vec![empty])])[0].passed);
    let scalar = |value: f32| Tensor::new("y", Datatype::Fp32, vec![], value.to_le_bytes().to_vec()).expect("a tensor");
    assert!(compare(&[(vec![scalar(1.0)], vec![scalar(1.0)])])[0].passed);
    assert!(!compare(&[(vec![scalar(1.0)], vec![scalar(1.5)])])[0].passed);
}

#[test]
fn integers_and_texts_must_be_equal() {
    let number = |value: i64| Tensor::new("y", Datatype::Int64, vec![1], value.to_le_bytes().to_vec()).expect("a tensor");
    // As floats these two are the same.
    let reports = compare(&[(vec![number(1 << 60)], vec![number((1 << 60) + 1)])]);
    assert!(!reports[0].passed);
    assert_eq!(reports[0].metrics.worst[0].actual, "1152921504606846977");
    let text = |value: &str| Tensor::of_texts("y", vec![1], &[value]);
    assert!(compare(&[(vec![text("cat")], vec![text("cat")])])[0].passed);
    assert!(!compare(&[(vec![text("cat")], vec![text("dog")])])[0].passed);
}

#[test]
fn sums_neither_overflow_nor_vanish() {
    for scale in [f64::MAX / 4.0, 1.0, 1e-300, 5e-324] {
        let values = [1.0, -1.0, 0.5].map(|value| value * scale);
        let data = |values: &[f64]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let expected = Tensor::new("y", Datatype::Fp64, vec![3], data(&values)).expect("a tensor");
        let actual = Tensor::new("y", Datatype::Fp64, vec![3], data(&values.map(|value| value * 2.0))).expect("a tensor");
        let mut accumulator = Accumulator::new(MetricOptions::default());
        accumulator.add("s", &expected, &actual);
        let metrics = accumulator.finish();
        assert!((metrics.relative_rmse - 1.0).abs() < 1e-9, "{scale:e}: {metrics:?}");
        assert!((metrics.max_peak - 1.0).abs() < 1e-9, "{scale:e}");
    }
}

#[test]
fn a_report_that_was_edited_is_refused() {
    let outputs = vec![one(&VALUES.map(|value| value * 1.5))];
    let policy = Policy::default();
    let report = VerificationReport {
        schema: SCHEMA.to_owned(),
        version: VERSION,
        imgbuild: "0".to_owned(),
        passed: false,
        image: Digest::of(b"image"),
        model: "m".to_owned(),
        reference: None,
        data: DataIdentity { name: "set".to_owned(), digest: Digest::of(b"set"), samples: 2 },
        runner: "embedded".to_owned(),
        policy_digest: policy.digest(),
        policy,
        outputs,
    };
    let text = report.to_json();
    let path = Path::new("verification.json");
    assert_eq!(VerificationReport::parse(&text, path).expect("a report"), report);
    assert!(render_text(&report).contains("FAILED"));
    assert!(render_markdown(&report).contains("❌"));
    for (from, to) in [
        ("\"passed\": false", "\"passed\": true"),
        ("\"limit\": 0.002", "\"limit\": 20.0"),
        ("\"relative-rmse\": 0.002", "\"relative-rmse\": 9.0"),
        ("\"version\": 1", "\"version\": 2"),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(VerificationReport::parse(&text.replace(from, to), path).is_err(), "{from}");
    }
    assert!(VerificationReport::parse(&text[..text.len() / 2], path).is_err());
    assert!(MEDIA_TYPE.ends_with("+json"));
}

//! Two forms of one model on the same inputs: do they give the same?

use std::path::PathBuf;

use serde::Serialize;

use crate::backend::{Backend, Cancel, ModelInterface, RunError, ShapeSpec};
use crate::protocol::half::f16_to_f32;
use crate::tensor::{Datatype, Elements, Tensor, TensorError, element_count, from_vec};
use crate::warm_up::{WarmUpError, read_folder};

/// Largest difference of a floating-point output, as a part of that output's largest magnitude.
const TOLERANCE: f64 = 1e-4;
/// The same for outputs of 16 bits.
const TOLERANCE_OF_HALVES: f64 = 1e-2;
/// Elements of all random inputs of a run, so that an undeclared size cannot take all memory.
const LARGEST: usize = 64 << 20;

/// How two models compare, as it is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// `data` where folders were given, else `random`.
    pub inputs: &'static str,
    /// Runs that the first model accepted and both were compared on.
    pub runs: usize,
    /// Elements of all outputs that were compared.
    pub elements: usize,
    /// The largest difference of an element, as a part of its output's largest magnitude.
    pub largest: f64,
    /// The first difference beyond the tolerance.
    pub difference: Option<String>,
    /// Why the first model ran on none of the inputs, or on not all of them.
    pub refused: Option<String>,
}

/// Random inputs of one kind: what a dynamic dimension is, and below what an integer stays.
#[derive(Clone, Copy)]
struct Kind {
    dimension: usize,
    below: u64,
}

/// From demanding to harmless: a model may well refuse a size, or take an integer for an index.
const KINDS: [Kind; 4] = [
    Kind { dimension: 2, below: 256 },
    Kind { dimension: 2, below: 2 },
    Kind { dimension: 1, below: 256 },
    Kind { dimension: 1, below: 2 },
];

/// Runs both on the inputs of the folders, or on seeded random ones where there are no folders.
///
/// # Errors
/// Where a folder holds no inputs of this model.
pub fn compare(first: &dyn Backend, second: &dyn Backend, data: &[PathBuf]) -> Result<Comparison, WarmUpError> {
    let inputs = if data.is_empty() { "random" } else { "data" };
    let mut comparison = Comparison { inputs, runs: 0, elements: 0, largest: 0.0, difference: None, refused: None };
    if !same_interface(first.interface(), second.interface()) {
        comparison.difference = Some("the inputs or outputs are others".to_owned());
        return Ok(comparison);
    }
    if data.is_empty() {
        for kind in KINDS {
            match random(first.interface(), kind) {
                Ok(inputs) => comparison.run(first, second, inputs),
                Err(error) => comparison.refused = Some(error.to_string()),
            }
        }
    }
    for folder in data {
        comparison.run(first, second, read_folder(folder, first.interface())?);
    }
    Ok(comparison)
}

fn same_interface(first: &ModelInterface, second: &ModelInterface) -> bool {
    let names = |interface: &ModelInterface| {
        let all = interface.inputs.iter().chain(&interface.outputs);
        all.map(|spec| (spec.name.clone(), spec.datatype)).collect::<Vec<_>>()
    };
    names(first) == names(second)
}

impl Comparison {
    fn run(&mut self, first: &dyn Backend, second: &dyn Backend, inputs: Vec<Tensor>) {
        let outputs: Vec<usize> = (0..first.interface().outputs.len()).collect();
        let run = |backend: &dyn Backend, inputs| -> Result<Vec<Tensor>, RunError> {
            backend.run(inputs, &outputs, &Cancel::default())
        };
        let expected = match run(first, inputs.clone()) {
            Ok(expected) => expected,
            Err(error) => {
                self.refused = Some(error.to_string());
                return;
            }
        };
        self.runs += 1;
        match run(second, inputs) {
            Ok(found) => {
                for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
                    self.tensors(&first.interface().outputs[index].name, expected, found);
                }
            }
            Err(error) => self.differs(format!("the optimised model fails where the other runs: {error}")),
        }
    }

    fn differs(&mut self, difference: String) {
        self.difference.get_or_insert(difference);
    }

    fn tensors(&mut self, name: &str, expected: &Tensor, found: &Tensor) {
        if expected.shape() != found.shape() || expected.datatype() != found.datatype() {
            let describe = |tensor: &Tensor| format!("{} {:?}", tensor.datatype(), tensor.shape());
            return self.differs(format!("output `{name}` is {}, was {}", describe(found), describe(expected)));
        }
        let (Some(was), Some(is)) = (floats(expected), floats(found)) else {
            if expected.elements() != found.elements() {
                self.differs(format!("output `{name}` of {} has other elements", expected.datatype()));
            }
            self.elements += element_count(expected.shape()).unwrap_or(0);
            return;
        };
        let halves = matches!(expected.datatype(), Datatype::Fp16 | Datatype::Bf16);
        let tolerance = if halves { TOLERANCE_OF_HALVES } else { TOLERANCE };
        let scale = was.iter().filter(|value| value.is_finite()).fold(f64::MIN_POSITIVE, |scale, value| scale.max(value.abs()));
        for (index, (was, is)) in was.iter().zip(&is).enumerate() {
            let same = was == is || (was.is_nan() && is.is_nan());
            let difference = if same { 0.0 } else { (was - is).abs() / scale };
            if difference.is_finite() {
                self.largest = self.largest.max(difference);
            }
            // A NaN on one side is a difference.
            if difference.is_nan() || difference > tolerance {
                self.differs(format!("output `{name}` has {is} as element {index}, was {was}"));
            }
        }
        self.elements += was.len();
    }
}

/// The elements of a floating-point tensor, widened; `None` for another.
fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    let Elements::Fixed(bytes) = tensor.elements() else { return None };
    Some(match tensor.datatype() {
        Datatype::Fp32 => bytes.as_chunks().0.iter().map(|chunk| f64::from(f32::from_le_bytes(*chunk))).collect(),
        Datatype::Fp64 => bytes.as_chunks().0.iter().map(|chunk| f64::from_le_bytes(*chunk)).collect(),
        Datatype::Fp16 => bytes.as_chunks().0.iter().map(|chunk| f64::from(f16_to_f32(u16::from_le_bytes(*chunk)))).collect(),
        Datatype::Bf16 => {
            let wide = |chunk: &[u8; 2]| f64::from(f32::from_bits(u32::from(u16::from_le_bytes(*chunk)) << 16));
            bytes.as_chunks().0.iter().map(wide).collect()
        }
        _ => return None,
    })
}

/// Inputs of the declared shapes: floating-point numbers from -1 to 1, integers from 0 on, empty strings.
fn random(interface: &ModelInterface, kind: Kind) -> Result<Vec<Tensor>, TensorError> {
    // SplitMix64, from a fixed seed: equal inputs everywhere.
    let mut state = 1_u64;
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    let mut total = 0_usize;
    interface
        .inputs
        .iter()
        .map(|input| {
            let shape: Vec<usize> = match &input.shape {
                ShapeSpec::Ranked(dimensions) => dimensions.iter().map(|size| size.unwrap_or(kind.dimension)).collect(),
                ShapeSpec::Unranked => Vec::new(),
            };
            let count = element_count(&shape)?;
            total = total.saturating_add(count);
            if total > LARGEST {
                return Err(TensorError::TooManyElements { shape });
            }
            let Some(size) = input.datatype.size() else { return Tensor::zeros(input.datatype, shape) };
            let mut bytes = Vec::with_capacity(count * size);
            for _ in 0..count {
                element(input.datatype, next(), kind.below, &mut bytes);
            }
            Ok(Tensor::new(input.datatype, shape, Elements::Fixed(from_vec(bytes)))?.aligned())
        })
        .collect()
}

/// Adds one element, made of 64 random bits.
fn element(datatype: Datatype, bits: u64, below: u64, bytes: &mut Vec<u8>) {
    // The upper 24 bits make a number that a binary32 holds exactly.
    #[expect(clippy::cast_precision_loss, reason = "24 bits are exact")]
    let unit = (bits >> 40) as f64 / 8_388_608.0 - 1.0;
    match datatype {
        Datatype::Fp64 => bytes.extend(unit.to_le_bytes()),
        #[expect(clippy::cast_possible_truncation, reason = "24 bits are exact")]
        Datatype::Fp32 => bytes.extend((unit as f32).to_le_bytes()),
        Datatype::Fp16 => bytes.extend(crate::protocol::half::f64_to_f16(unit).to_le_bytes()),
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is dropped on purpose")]
        Datatype::Bf16 => bytes.extend(&(unit as f32).to_le_bytes()[2..]),
        Datatype::Bool => bytes.push(u8::from(bits >> 63 == 1)),
        // An integer below 256 is its first byte; of the signed bytes, none is negative.
        _ => {
            let below = if datatype == Datatype::Int8 { below.min(128) } else { below };
            bytes.extend(&((bits >> 32) % below).to_le_bytes()[..datatype.size().unwrap_or(0)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::new(Datatype::Fp32, vec![values.len()], Elements::Fixed(from_vec(values.to_vec()))).expect("valid")
    }

    fn verdict(was: &Tensor, is: &Tensor) -> Comparison {
        let mut comparison = Comparison { inputs: "random", runs: 1, elements: 0, largest: 0.0, difference: None, refused: None };
        comparison.tensors("y", was, is);
        comparison
    }

    #[test]
    fn small_differences_pass_and_large_ones_are_named() {
        assert_eq!(verdict(&tensor(&[100.0, 0.0]), &tensor(&[100.0, 0.001])).difference, None);
        let large = verdict(&tensor(&[100.0, 0.0]), &tensor(&[100.0, 0.1]));
        assert_eq!(large.difference.as_deref(), Some("output `y` has 0.10000000149011612 as element 1, was 0"));
        assert!(verdict(&tensor(&[1.0]), &tensor(&[f32::NAN])).difference.is_some());
        assert!(verdict(&tensor(&[f32::INFINITY]), &tensor(&[1.0])).difference.is_some());
        assert_eq!(verdict(&tensor(&[f32::NAN]), &tensor(&[f32::NAN])).difference, None);
        assert!(verdict(&tensor(&[1.0]), &tensor(&[1.0, 1.0])).difference.is_some());
        let whole = |value: i64| Tensor::new(Datatype::Int64, vec![], Elements::Fixed(from_vec(vec![value]))).expect("valid");
        assert!(verdict(&whole(1), &whole(2)).difference.is_some());
    }

    #[test]
    fn random_inputs_are_the_same_every_time_and_fit_every_datatype() {
        for datatype in Datatype::ALL {
            let spec = crate::backend::TensorSpec { name: "x".into(), datatype, shape: ShapeSpec::Ranked(vec![None, Some(3)]) };
            let interface =
                ModelInterface { platform: "", runtime: String::new(), inputs: vec![spec], outputs: vec![], unserved: vec![] };
            let made = random(&interface, KINDS[0]).expect("it fits");
            assert_eq!(made[0].shape(), [2, 3]);
            assert_eq!(made, random(&interface, KINDS[0]).expect("it fits"));
        }
    }
}

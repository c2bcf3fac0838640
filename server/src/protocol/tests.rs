//! Tests of the protocol as a whole: examples, then properties over any bytes.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::backend::{ModelInterface, TensorSpec, UnservedOutput};
use crate::tensor::{Elements, Strings, Tensor, element_count};

fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    let shape = ShapeSpec::Ranked(shape.iter().map(|&size| usize::try_from(size).ok()).collect());
    TensorSpec { name: name.into(), datatype, shape }
}

/// A model that gives back its inputs.
fn identity(specs: Vec<TensorSpec>) -> ModelInterface {
    ModelInterface {
        platform: "onnx_onnxv1",
        runtime: "test".into(),
        inputs: specs.clone(),
        outputs: specs,
        unserved: vec![UnservedOutput { name: "map".into(), kind: "a map".into() }],
    }
}

fn bind(model: &ModelInterface, json: &str) -> Result<Bound, ProtocolError> {
    let body = Bytes::from(json.to_owned());
    Request::parse(&body, None)?.bind(model)
}

fn data(datatype: Datatype, shape: &[usize], text: &str) -> Result<Tensor, String> {
    let elements = read_data("x", datatype, shape, text).map_err(|error| error.to_string())?;
    Tensor::new(datatype, shape.to_vec(), elements).map_err(|error| error.to_string())
}

fn numbers(tensor: &Tensor) -> &[u8] {
    match tensor.elements() {
        Elements::Fixed(bytes) => bytes,
        Elements::Strings(_) => panic!("strings"),
    }
}

#[test]
fn nested_and_flat_data_are_the_same() {
    let nested = data(Datatype::Int16, &[2, 3], "[[1,2,3],[4,5,-6]]").expect("nested");
    let flat = data(Datatype::Int16, &[2, 3], " [1, 2,3,4,5,-6]\n").expect("flat");
    assert_eq!(nested, flat);
    assert_eq!(numbers(&flat), [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 0xfa, 0xff]);
}

#[test]
fn scalars_and_empty_tensors() {
    assert_eq!(data(Datatype::Fp32, &[], "1.5"), data(Datatype::Fp32, &[], "[1.5]"));
    assert!(data(Datatype::Fp32, &[], "[1,2]").is_err());
    assert!(data(Datatype::Fp32, &[1], "1").is_err());
    for text in ["[]", "[[],[]]"] {
        assert!(data(Datatype::Fp32, &[2, 0], text).is_ok(), "{text}");
    }
    assert!(data(Datatype::Fp32, &[2, 0], "[[]]").is_err());
    assert!(data(Datatype::Fp32, &[0, 2], "[]").is_ok());
    assert!(data(Datatype::Fp32, &[0, 2], "[[]]").is_err());
}

#[test]
fn data_that_disagree_with_the_shape_are_refused() {
    for text in [
        "[[1,2],[3,4],[5,6]]",
        "[[1,2,3],[4,5]]",
        "[[1,2,3],4,5,6]",
        "[1,2,3,[4,5,6]]",
        "[[[1,2,3]],[[4,5,6]]]",
        "[1,2,3,4,5]",
        "[1,2,3,4,5,6,7]",
        "[[1,2,3],[4,5,6]] []",
        "{}",
        "null",
        "[null,1,2,3,4,5]",
        "[1,2,3,4,5,6",
    ] {
        assert!(data(Datatype::Int32, &[2, 3], text).is_err(), "{text}");
    }
}

#[test]
fn elements_must_fit_the_datatype() {
    for (datatype, good, bad) in [
        (Datatype::Bool, "[true]", "[2]"),
        (Datatype::Uint8, "[255]", "[256]"),
        (Datatype::Uint8, "[0]", "[-1]"),
        (Datatype::Int8, "[-128]", "[-129]"),
        (Datatype::Int32, "[7]", "[7.0]"),
        (Datatype::Uint64, "[18446744073709551615]", "[18446744073709551616]"),
        (Datatype::Int64, "[-9223372036854775808]", "[9223372036854775808]"),
        (Datatype::Fp16, "[65504]", "[65520]"),
        (Datatype::Fp32, "[3.4028235e38]", "[3.5e38]"),
        (Datatype::Fp64, "[1e308]", "[1e309]"),
        (Datatype::Fp64, "[-0.0]", "[NaN]"),
        (Datatype::Fp64, "[1]", "[\"1\"]"),
        (Datatype::Bytes, r#"["\u00e9\u0000"]"#, "[1]"),
    ] {
        assert!(data(datatype, &[1], good).is_ok(), "{datatype} {good}");
        assert!(data(datatype, &[1], bad).is_err(), "{datatype} {bad}");
    }
    let error = data(Datatype::Uint8, &[1], "[300]").expect_err("300 exceeds a byte");
    assert!(error.contains("300 does not fit the datatype"), "{error}");
    assert!(read_data("x", Datatype::Bf16, &[1], "[1]").is_err());
}

#[test]
fn requests_are_checked_against_the_model() {
    let model = identity(vec![spec("a", Datatype::Fp32, &[-1, 2]), spec("b", Datatype::Bytes, &[1])]);
    let b = r#"{"name":"b","shape":[1],"datatype":"BYTES","data":["x"]}"#;
    let bound = bind(&model, &format!(r#"{{"inputs":[{b},{{"name":"a","shape":[1,2],"datatype":"FP32","data":[1,2]}}]}}"#))
        .expect("both inputs, in any order");
    assert_eq!(bound.inputs[0].shape(), [1, 2]);
    assert_eq!(bound.outputs.len(), 2);

    for (a, expected) in [
        (r#"{"name":"c","shape":[1],"datatype":"FP32","data":[1]}"#, "input `c` is unknown, the model has `a`, `b`"),
        (r#"{"name":"a","shape":[1,2],"datatype":"FP64","data":[1,2]}"#, "input `a` has datatype FP64, expected FP32"),
        (r#"{"name":"a","shape":[1,3],"datatype":"FP32","data":[1,2,3]}"#, "input `a` has shape [1,3], expected [-1,2]"),
        (r#"{"name":"a","shape":[2],"datatype":"FP32","data":[1,2]}"#, "input `a` has shape [2], expected [-1,2]"),
        (r#"{"name":"a","shape":[-1,2],"datatype":"FP32","data":[1,2]}"#, "input `a` has a dimension of -1"),
        (r#"{"name":"a","shape":[1,2],"datatype":"FLOAT","data":[1,2]}"#, "datatype `FLOAT` is unknown"),
        (r#"{"name":"a","shape":[1,2],"datatype":"FP32"}"#, "input `a` has neither `data` nor"),
        (r#"{"name":"b","shape":[1],"datatype":"BYTES","data":["y"]}"#, "input `b` is given twice"),
        (r#"{"name":"a","shape":[9223372036854775807,2],"datatype":"FP32","data":[1]}"#, "more elements than can be"),
        (
            r#"{"name":"a","shape":[1,2],"datatype":"FP32","parameters":{"shared_memory_region":"r"}}"#,
            "parameter `shared_memory_region` of `a` is not supported",
        ),
    ] {
        let error = bind(&model, &format!(r#"{{"inputs":[{b},{a}]}}"#)).expect_err(a).to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = bind(&model, &format!(r#"{{"inputs":[{b}]}}"#)).expect_err("`a` is missing").to_string();
    assert_eq!(error, "input `a` (FP32, shape [-1,2]) is missing");
}

#[test]
fn outputs_are_chosen_by_name() {
    let model = identity(vec![spec("a", Datatype::Int8, &[1]), spec("b", Datatype::Int8, &[1])]);
    let inputs =
        r#"[{"name":"a","shape":[1],"datatype":"INT8","data":[1]},{"name":"b","shape":[1],"datatype":"INT8","data":[2]}]"#;
    let ask = |rest: &str| bind(&model, &format!(r#"{{"inputs":{inputs}{rest}}}"#));
    let chosen = ask(
        r#","outputs":[{"name":"b","parameters":{"binary_data":false}},{"name":"a"}],"parameters":{"binary_data_output":true}"#,
    )
    .expect("known outputs");
    assert_eq!(chosen.outputs, [RequestedOutput { index: 1, binary: false }, RequestedOutput { index: 0, binary: true }]);
    assert_eq!(ask(r#","outputs":[]"#).expect("none means all").outputs.len(), 2);
    assert!(matches!(ask(r#","outputs":[{"name":"c"}]"#), Err(ProtocolError::UnknownOutput { .. })));
    assert!(matches!(ask(r#","outputs":[{"name":"a"},{"name":"a"}]"#), Err(ProtocolError::DuplicateOutput { .. })));
    let unserved = ask(r#","outputs":[{"name":"map"}]"#).expect_err("a map");
    assert!(unserved.is_unsupported());
    let classes = ask(r#","outputs":[{"name":"a","parameters":{"classification":3}}]"#).expect_err("an extension");
    assert!(classes.is_unsupported());
}

#[test]
fn binary_sizes_must_add_up() {
    let model = identity(vec![spec("a", Datatype::Int16, &[2])]);
    let json = |size: u64| {
        format!(r#"{{"inputs":[{{"name":"a","shape":[2],"datatype":"INT16","parameters":{{"binary_data_size":{size}}}}}]}}"#)
    };
    let send = |size: u64, tail: &[u8], header: Option<usize>| {
        let text = json(size);
        let body = Bytes::from([text.as_bytes(), tail].concat());
        Request::parse(&body, Some(header.unwrap_or(text.len())))?.bind(&model).map(|_| ())
    };
    assert!(send(4, &[1, 2, 3, 4], None).is_ok());
    assert!(matches!(send(4, &[1, 2, 3], None), Err(ProtocolError::BinaryTooShort { left: 3, .. })));
    assert!(matches!(send(u64::MAX, &[1, 2, 3], None), Err(ProtocolError::BinaryTooShort { .. })));
    assert!(matches!(send(4, &[1, 2, 3, 4, 5], None), Err(ProtocolError::BinaryTooLong { left: 1 })));
    assert!(matches!(send(2, &[1, 2], None), Err(ProtocolError::Tensor { .. })));
    assert!(matches!(send(4, &[1, 2, 3, 4], Some(10_000)), Err(ProtocolError::HeaderTooLong { .. })));
    assert!(matches!(send(4, &[1, 2, 3, 4], Some(3)), Err(ProtocolError::Json { .. })));
    assert!(matches!(send(4, &[1, 2, 3, 4], Some(usize::MAX)), Err(ProtocolError::HeaderTooLong { .. })));
}

#[test]
fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
    let model = identity(vec![spec("a", Datatype::Int8, &[-1])]);
    for depth in [10, 100_000] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        let text = format!(r#"{{"inputs":[{{"name":"a","shape":[1],"datatype":"INT8","data":{open}1{close}}}]}}"#);
        assert!(matches!(bind(&model, &text), Err(ProtocolError::Data { .. } | ProtocolError::Json { .. })));
        let text = format!(r#"{{"inputs":[],"parameters":{{"x":{open}{close}}}}}"#);
        assert!(bind(&model, &text).is_err());
        let text = format!(r#"{{"inputs":[],"unknown":{open}{close}}}"#);
        assert!(bind(&model, &text).is_err());
        let text = format!(r#"{{"inputs":{open}{close}}}"#);
        assert!(bind(&model, &text).is_err());
    }
}

#[test]
fn what_json_cannot_hold_is_refused() {
    let model = identity(vec![spec("a", Datatype::Fp32, &[-1])]);
    let tensor = data(Datatype::Fp32, &[1], "[1]").expect("one");
    let json = [RequestedOutput { index: 0, binary: false }];
    let write = |tensor: Tensor| respond(("m", "1"), None, &model, &json, &[tensor]);
    let reply = write(tensor).expect("a finite number");
    assert_eq!(
        reply.parts[0],
        r#"{"model_name":"m","model_version":"1","outputs":[{"name":"a","datatype":"FP32","shape":[1],"data":[1.0]}]}"#
    );
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let bytes = Bytes::copy_from_slice(&[0.5_f32.to_le_bytes(), value.to_le_bytes()].concat());
        let tensor = Tensor::new(Datatype::Fp32, vec![2], Elements::Fixed(bytes)).expect("two floats");
        let error = write(tensor).expect_err("JSON has no such number").to_string();
        assert!(error.contains("element 1 is") && error.contains("binary_data"), "{error}");
    }
    let strings = Elements::Strings([[0xff_u8].as_slice()].into_iter().collect());
    assert!(write(Tensor::new(Datatype::Bytes, vec![1], strings).expect("one string")).is_err());
}

/// A tensor of any datatype, of one to three dimensions.
fn any_tensor() -> impl Strategy<Value = Tensor> {
    let datatype = (0..Datatype::ALL.len()).prop_map(|index| Datatype::ALL[index]);
    (datatype, vec(0_usize..4, 0..4)).prop_flat_map(|(datatype, shape)| {
        let count = element_count(&shape).expect("small");
        match datatype.size() {
            Some(size) => vec(any::<u8>(), count * size)
                .prop_map(move |mut bytes| {
                    if datatype == Datatype::Bool {
                        bytes.iter_mut().for_each(|byte| *byte &= 1);
                    }
                    Tensor::new(datatype, shape.clone(), Elements::Fixed(bytes.into())).expect("sizes agree")
                })
                .boxed(),
            None => vec(vec(any::<u8>(), 0..6), count)
                .prop_map(move |strings| {
                    let strings: Strings = strings.iter().map(Vec::as_slice).collect();
                    Tensor::new(datatype, shape.clone(), Elements::Strings(strings)).expect("counts agree")
                })
                .boxed(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is answered in binary is read back as the same tensors, when sent as a request.
    #[test]
    fn binary_round_trips(tensors in vec(any_tensor(), 1..4)) {
        let specs = tensors.iter().enumerate().map(|(index, tensor)| TensorSpec {
            name: format!("t{index}"),
            datatype: tensor.datatype(),
            shape: ShapeSpec::Unranked,
        }).collect();
        let model = identity(specs);
        let outputs: Vec<_> = (0..tensors.len()).map(|index| RequestedOutput { index, binary: true }).collect();
        let reply = respond(("m", "1"), Some("é\"\n"), &model, &outputs, &tensors).expect("binary holds everything");
        let body = Bytes::from(reply.parts.concat());
        let header = reply.header_length.expect("binary follows");
        // An answer is a request but for the name of its list of tensors.
        let text = std::str::from_utf8(&body[..header]).expect("UTF-8").replacen("\"outputs\"", "\"inputs\"", 1);
        let body = Bytes::from([text.as_bytes(), &body[header..]].concat());
        let request = Request::parse(&body, Some(text.len())).expect("well-formed");
        prop_assert_eq!(request.id.as_deref(), Some("é\"\n"));
        prop_assert_eq!(request.bind(&model).expect("fits").inputs, tensors);
    }

    /// What is answered in JSON is read back bit for bit, or refused because JSON cannot hold it.
    #[test]
    fn json_round_trips(tensor in any_tensor()) {
        let mut text = Vec::new();
        match write_data(&tensor, &mut text) {
            Ok(()) => {
                let text = std::str::from_utf8(&text).expect("JSON is UTF-8");
                serde_json::from_str::<serde_json::Value>(text).expect("strict JSON");
                prop_assert_eq!(data(tensor.datatype(), tensor.shape(), text), Ok(tensor));
            }
            Err(NotJson::BinaryOnly { datatype }) => prop_assert_eq!(datatype, Datatype::Bf16),
            Err(NotJson::NotUtf8 { .. }) => prop_assert_eq!(tensor.datatype(), Datatype::Bytes),
            Err(NotJson::NotFinite { value, .. }) => prop_assert!(!value.is_finite()),
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(body in vec(any::<u8>(), 0..200), header in proptest::option::of(0_usize..250)) {
        let _ = Request::parse(&Bytes::from(body), header);
    }

    /// Requests that were sound before some bytes of them changed.
    #[test]
    fn damaged_requests_are_read_without_a_panic(
        tensor in any_tensor(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        header in proptest::option::of(0_usize..300),
    ) {
        let model = identity(vec![TensorSpec { name: "t".into(), datatype: tensor.datatype(), shape: ShapeSpec::Unranked }]);
        for binary in [true, false] {
            let outputs = [RequestedOutput { index: 0, binary }];
            let Ok(reply) = respond(("m", "1"), None, &model, &outputs, std::slice::from_ref(&tensor)) else { continue };
            let mut body = String::from_utf8_lossy(&reply.parts.concat()).replacen("\"outputs\"", "\"inputs\"", 1).into_bytes();
            for (place, byte) in &damage {
                let place = place.index(body.len());
                body[place] = *byte;
            }
            let length = header.or(reply.header_length);
            let body = Bytes::from(body);
            if let Ok(request) = Request::parse(&body, length) {
                let _ = request.bind(&model);
            }
        }
    }

    #[test]
    fn any_text_is_read_as_data_without_a_panic(
        text in r#"[\[\], 0-9a-e.\-"\\tru]{0,40}"#,
        shape in vec(0_usize..4, 0..4),
        datatype in 0..Datatype::ALL.len(),
    ) {
        let datatype = Datatype::ALL[datatype];
        if let Ok(elements) = read_data("x", datatype, &shape, &text) {
            prop_assert!(Tensor::new(datatype, shape, elements).is_ok());
        }
    }

    #[test]
    fn any_bytes_are_read_as_strings_without_a_panic(bytes in vec(any::<u8>(), 0..64), count in 0_usize..8) {
        if let Ok(strings) = decode_strings("x", &bytes, count)
            && strings.len() == count
        {
            prop_assert_eq!(encode_strings(&strings).expect("short"), bytes);
        }
    }
}

//! SavedModels written field by field, and what becomes of them.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use prost::Message as _;
use prost::encoding::encode_varint;

use super::proto::{BundleEntry, BundleHeader, TensorDimension, TensorInfo, TensorShape};
use super::*;
use crate::model::Model;
use crate::model::error::ExternalProblem;

/// A length-delimited field.
fn field(number: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_varint(number << 3 | 2, &mut bytes);
    encode_varint(content.as_ref().len() as u64, &mut bytes);
    bytes.extend_from_slice(content.as_ref());
    bytes
}

fn node(operator: &str) -> Vec<u8> {
    [field(1, "a_node"), field(2, operator), field(3, "an_input")].concat()
}

fn must_compile() -> Vec<u8> {
    [field(1, "_XlaMustCompile"), field(2, [0x28, 1])].concat()
}

fn tensor(dtype: i32, dims: &[i64]) -> TensorInfo {
    let dim = dims.iter().map(|&size| TensorDimension { size }).collect();
    TensorInfo {
        name: "serving_default_x:0".to_owned(),
        dtype,
        tensor_shape: Some(TensorShape { dim, unknown_rank: false }),
        ..TensorInfo::default()
    }
}

fn signature(key: &str, input: TensorInfo, output: TensorInfo) -> Vec<u8> {
    let signature = proto::SignatureDef {
        inputs: [("x".to_owned(), input)].into(),
        outputs: [("y".to_owned(), output)].into(),
        method_name: "tensorflow/serving/predict".to_owned(),
    };
    [field(1, key), field(2, signature.encode_to_vec())].concat()
}

/// A graph that reads a variable, calls a function, and has the signatures.
fn graph(tag: &str, signatures: &[Vec<u8>]) -> Vec<u8> {
    let info = [field(4, tag), field(5, "2.21.0")].concat();
    let function = [field(1, field(1, "a_function")), field(3, node("MatMul")), field(5, must_compile())].concat();
    let graph = [field(1, node("VarHandleOp")), field(1, node("a_function")), field(2, field(1, function))].concat();
    let signatures: Vec<u8> = signatures.iter().flat_map(|signature| field(5, signature)).collect();
    [field(1, info), field(2, graph), signatures].concat()
}

fn served() -> Vec<u8> {
    let default = signature("serving_default", tensor(1, &[-1, 3]), tensor(9, &[-1]));
    [vec![0x08, 1], field(2, graph("serve", &[default])), field(2, graph("train", &[]))].concat()
}

fn checkpoint(end: i64) -> Vec<u8> {
    let header = BundleHeader { num_shards: 1, endianness: 0 }.encode_to_vec();
    let entry = BundleEntry { dtype: 1, shard_id: 0, offset: 0, size: end, checksum: 0 }.encode_to_vec();
    checkpoint::tests::table(&[(b"", header), (b"kernel", entry)])
}

fn folder(graph: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir_all(folder.path().join("variables")).expect("writable");
    fs::create_dir_all(folder.path().join("assets")).expect("writable");
    let write = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).expect("writable");
    write("saved_model.pb", graph);
    write(INDEX, &checkpoint(12));
    write("variables/variables.data-00000-of-00001", &[0; 12]);
    write("assets/vocabulary.txt", b"a\nb\n");
    write("keras_metadata.pb", b"not part of it");
    folder
}

fn problem(folder: &Path) -> SavedModelProblem {
    match Model::open(folder) {
        Err(ModelError::SavedModel { problem, .. }) => *problem,
        other => panic!("{other:?}"),
    }
}

fn problem_of(graph: &[u8]) -> SavedModelProblem {
    problem(folder(graph).path())
}

#[test]
fn what_it_says_is_read() {
    let folder = folder(&served());
    let model = Model::open(folder.path()).expect("a sound model");
    let crate::model::Content::SavedModel(saved) = &model.content else { panic!("a SavedModel") };
    assert_eq!((saved.signature.as_str(), saved.tensorflow_version.as_str()), ("serving_default", "2.21.0"));
    assert!(saved.must_compile);
    assert_eq!(saved.variables, Some(Variables { tensors: 1, bytes: 12 }));
    // The call of a function is not an operator; what the function does is.
    let operators: Vec<(&str, u64)> = saved.operators.iter().map(|(name, &count)| (name.as_str(), count)).collect();
    assert_eq!(operators, [("MatMul", 1), ("VarHandleOp", 1)]);
    let signature = &saved.signatures["serving_default"];
    let tensor = |datatype, shape| ValueType::Tensor { datatype: DataType::from_number(datatype), shape: Some(shape) };
    assert_eq!(signature.inputs[0].r#type, tensor(1, vec![Dimension::Unknown, Dimension::Fixed(3)]));
    assert_eq!(signature.outputs[0].r#type, tensor(7, vec![Dimension::Unknown]));
    let files: Vec<String> = model.files().into_iter().map(|file| file.location).collect();
    let expected = ["assets/vocabulary.txt", "saved_model.pb", "variables/variables.data-00000-of-00001", INDEX];
    assert_eq!(files, expected);
    assert!(model.uses_operator("MatMul") && !model.uses_operator("Conv2D"));
}

#[test]
fn tags_and_signatures_are_chosen() {
    let two = [signature("one", tensor(1, &[]), tensor(1, &[])), signature("two", tensor(1, &[]), tensor(1, &[]))];
    let folder = folder(&field(2, graph("serve", &two)));
    let open = |tag: &str, signature: Option<&str>| {
        let selection = Selection { tags: vec![tag.to_owned()], signature: signature.map(str::to_owned) };
        Model::open_selected(folder.path(), &selection)
    };
    assert!(open("serve", Some("two")).is_ok());
    let known = |result: Result<Model, ModelError>| match result {
        Err(ModelError::SavedModel { problem, .. }) => problem.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(known(open("gpu", None)), "has no graph tagged `gpu`, expected `serve`");
    assert_eq!(known(open("serve", Some("three"))), "has no signature `three`, expected one of: `one`, `two`");
    assert_eq!(known(open("serve", None)), "has no signature `serving_default`, expected one of: `one`, `two`");
    assert!(matches!(problem_of(&field(2, graph("serve", &[]))), SavedModelProblem::NoSignature));
}

#[test]
fn tensors_that_no_request_carries_are_named() {
    let of = |input| problem_of(&field(2, graph("serve", &[signature("s", input, tensor(1, &[]))]))).to_string();
    assert!(of(tensor(20, &[])).contains("an input `x` of signature `s`, which is a tensor of TensorFlow's type 20"));
    assert!(of(tensor(8, &[])).contains("which is a tensor of complex64"));
    let sparse = TensorInfo { coo_sparse: Some(proto::Skipped {}), ..TensorInfo::default() };
    assert!(of(sparse).contains("which is a sparse tensor"));
}

#[test]
fn missing_and_damaged_files_are_named() {
    let folder = folder(&served());
    let path = |name: &str| folder.path().join(name);
    let data = "variables/variables.data-00000-of-00001";
    fs::write(path(data), [0; 11]).expect("writable");
    let cut = problem(folder.path());
    assert!(matches!(&cut, SavedModelProblem::Shard { tensor, expected: 12, found: 11, .. } if tensor == "kernel"), "{cut}");
    fs::remove_file(path(data)).expect("it is there");
    let missing = problem(folder.path());
    let SavedModelProblem::File { location, problem: ExternalProblem::Missing { .. } } = &missing else { panic!("{missing}") };
    assert_eq!(location, data);
    fs::write(path(INDEX), b"not a table").expect("writable");
    assert!(matches!(problem(folder.path()), SavedModelProblem::Index { .. }));
    fs::remove_file(path(INDEX)).expect("it is there");
    assert!(matches!(problem(folder.path()), SavedModelProblem::File { location, .. } if location == INDEX));
    fs::rename(path("saved_model.pb"), path("saved_model.pbtxt")).expect("it is there");
    assert!(matches!(problem(folder.path()), SavedModelProblem::Text));
}

#[test]
fn assets_outside_of_the_folder_are_refused() {
    for name in ["../secret", "/etc/passwd"] {
        let asset =
            field(2, [graph("serve", &[signature("s", tensor(1, &[]), tensor(1, &[]))]), field(6, field(2, name))].concat());
        assert!(matches!(problem_of(&asset), SavedModelProblem::File { .. }), "{name}");
    }
    let folder = folder(&served());
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("assets/link")).expect("writable");
    let escape = problem(folder.path());
    assert!(matches!(&escape, SavedModelProblem::File { problem: ExternalProblem::Escapes { .. }, .. }), "{escape}");
}

#[test]
fn every_truncation_is_an_error_or_falls_between_fields() {
    let content = served();
    let mut truncated = 0;
    for length in 1..content.len() {
        match SavedModel::parse(&content[..length], Path::new("cut.pb"), &Selection::default(), Path::new("cut")) {
            Err(ModelError::Truncated { claimed, remaining, .. }) => {
                truncated += 1;
                assert!(remaining < claimed);
            }
            Err(ModelError::Damaged { .. } | ModelError::SavedModel { .. }) => {}
            Ok(_) => assert!(crate::model::wire::is_message(&content[..length]), "cut at {length}"),
            Err(other) => panic!("cut at {length}: {other}"),
        }
    }
    assert!(truncated > content.len() / 2, "{truncated} of {} cuts", content.len());
}

#[test]
fn unknown_operators_are_listed() {
    let text = r#"{"format": 1, "runtime": "TensorFlow", "version": "2.21.0", "operators": ["MatMul"]}"#;
    let table = TensorFlowOperators::parse(text).expect("a table");
    let folder = folder(&served());
    let model = Model::open(folder.path()).expect("a sound model");
    let crate::model::Content::SavedModel(saved) = &model.content else { panic!("a SavedModel") };
    let error = saved.check_operators(&table, folder.path()).expect_err("an operator is unknown").to_string();
    assert!(error.ends_with("uses operators that TensorFlow 2.21.0 does not have: `VarHandleOp`"), "{error}");
}

#[test]
fn the_repositorys_own_table_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates/operators/tensorflow-2.21.0.json");
    let table = TensorFlowOperators::parse(&fs::read_to_string(path).expect("readable")).expect("a table");
    assert!(table.operators.contains("StatefulPartitionedCall") && table.operators.contains("Conv2D"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_models_do_not_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut content = served();
        for (index, byte) in changes {
            let at = index.index(content.len());
            content[at] = byte;
        }
        content.truncate(cut.index(content.len()) + 1);
        let _ = SavedModel::parse(&content, Path::new("fuzzed.pb"), &Selection::default(), Path::new("fuzzed"));
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = SavedModel::parse(&bytes, Path::new("fuzzed.pb"), &Selection::default(), Path::new("fuzzed"));
        let _ = checkpoint::parse(&bytes);
    }
}

//! External data.

use std::os::unix::fs::symlink;

use super::*;
use crate::model::ExternalProblem;

fn open_external(entries: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Result<Model, ModelError> {
    let mut graph = graph(vec![node("", "Add", &["x", "w"], &["y"])]);
    graph.initializer = vec![external("w", entries)];
    let file = on_disk(&model(graph).encode_to_vec());
    prepare(file.folder.path());
    Model::open(&file.path)
}

fn problem_of(entries: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> ExternalProblem {
    match open_external(entries, prepare) {
        Err(ModelError::External { tensor, problem, .. }) => {
            assert_eq!(tensor, "w");
            problem
        }
        other => panic!("expected a problem with external data, got {other:?}"),
    }
}

fn weights(folder: &Path) {
    fs::write(folder.join("w.bin"), [0; 64]).expect("writable");
}

#[test]
fn bad_external_locations_are_refused() {
    use ExternalProblem as P;
    let at = |location: &str| problem_of(&[("location", location)], weights);
    assert!(matches!(at("../w.bin"), P::ParentDirectory));
    assert!(matches!(at("sub/../w.bin"), P::ParentDirectory));
    assert!(matches!(at("/etc/passwd"), P::Absolute));
    assert!(matches!(at(""), P::NoLocation));
    assert!(matches!(at("."), P::NotRegular { .. }));
    assert!(matches!(at("w\0.bin"), P::BadName));
    assert!(matches!(at("w.bin/x"), P::Missing { .. }));
    assert!(matches!(at("none.bin"), P::Missing { .. }));
    assert!(matches!(at("sub\\w.bin"), P::Missing { .. }));
    assert!(matches!(problem_of(&[], weights), P::NoLocation));
    let directory = problem_of(&[("location", "sub")], |folder| fs::create_dir(folder.join("sub")).expect("writable"));
    assert!(matches!(directory, P::NotRegular { found: "a directory" }));
    let dangling = problem_of(&[("location", "w.bin")], |folder| symlink("gone", folder.join("w.bin")).expect("a link"));
    assert!(matches!(dangling, P::Missing { .. }));
}

#[test]
fn external_ranges_must_lie_in_the_file_and_fit_the_tensor() {
    use ExternalProblem as P;
    let with = |more: &[(&str, &str)]| {
        open_external(&[&[("location", "w.bin")], more].concat(), weights).map_err(|error| match error {
            ModelError::External { problem, .. } => problem,
            other => panic!("{other}"),
        })
    };
    assert!(with(&[]).is_ok());
    assert!(with(&[("offset", "48"), ("length", "16")]).is_ok());
    assert!(with(&[("length", "0")]).is_ok(), "a length of 0 is one that is not given");
    assert!(matches!(with(&[("offset", "49")]), Err(P::OutOfRange { offset: 49, end: 65, size: 64 })));
    assert!(matches!(with(&[("offset", "18446744073709551615")]), Err(P::OutOfRange { .. })));
    assert!(matches!(with(&[("length", "8")]), Err(P::Length { found: 8, expected: 16 })));
    assert!(matches!(with(&[("offset", "-1")]), Err(P::BadNumber { key: "offset", .. })));
    assert!(matches!(with(&[("length", "many")]), Err(P::BadNumber { key: "length", .. })));
}

#[test]
fn links_may_not_lead_out_of_the_folder_unless_the_model_is_a_link_too() {
    let outside = tempfile::tempdir().expect("a temporary folder");
    weights(outside.path());
    let link = |folder: &Path| symlink(outside.path().join("w.bin"), folder.join("w.bin")).expect("a link");
    let escape = problem_of(&[("location", "w.bin")], link);
    assert!(matches!(escape, ExternalProblem::Escapes { target, .. } if target.ends_with("w.bin")));
    let escape = problem_of(&[("location", "sub/w.bin")], |folder| {
        symlink(outside.path(), folder.join("sub")).expect("a link");
    });
    assert!(matches!(escape, ExternalProblem::Escapes { .. }));
    let inside = open_external(&[("location", "w.bin")], |folder| {
        fs::create_dir(folder.join("real")).expect("writable");
        weights(&folder.join("real"));
        symlink("real/w.bin", folder.join("w.bin")).expect("a link");
    });
    assert_eq!(inside.expect("a link inside").onnx().expect("ONNX").external[0].location, "w.bin");

    // A download cache: both are links into one store.
    let cache = tempfile::tempdir().expect("a temporary folder");
    let (store, shown) = (cache.path().join("store"), cache.path().join("shown"));
    fs::create_dir_all(&store).and_then(|()| fs::create_dir_all(&shown)).expect("writable");
    let mut graph = graph(vec![node("", "Add", &["x", "w"], &["y"])]);
    graph.initializer = vec![external("w", &[("location", "model.onnx_data")])];
    fs::write(store.join("1"), model(graph).encode_to_vec()).expect("writable");
    fs::write(store.join("2"), [0; 16]).expect("writable");
    symlink("../store/1", shown.join("model.onnx")).expect("a link");
    symlink("../store/2", shown.join("model.onnx_data")).expect("a link");
    let opened = Model::open(&shown.join("model.onnx")).expect("a cache's links are fine");
    assert_eq!(opened.onnx().expect("ONNX").external[0].path, shown.join("model.onnx_data"));
    assert_eq!(opened.total_size(), opened.size + 16);
}

#[test]
fn external_data_is_found_wherever_a_tensor_may_be() {
    let attribute = |tensors: Vec<TensorProto>| AttributeProto { tensors, ..AttributeProto::default() };
    let sparse = |name: &str| SparseTensorProto { values: Some(external(name, &[("location", name)])), indices: None };
    let mut inner = relu();
    inner.attribute = vec![AttributeProto {
        t: Some(external("a", &[("location", "a")])),
        sparse_tensor: Some(sparse("b")),
        sparse_tensors: vec![sparse("c")],
        ..attribute(vec![external("d", &[("location", "./d")]), external("d2", &[("location", "d"), ("offset", "8")])])
    }];
    let mut nested = GraphProto { node: vec![inner], ..GraphProto::default() };
    nested.initializer = vec![external("e", &[("location", "sub/e")])];
    let mut outer = relu();
    outer.attribute = vec![AttributeProto { graphs: vec![nested], ..AttributeProto::default() }];
    let mut graph = graph(vec![outer]);
    graph.sparse_initializer = vec![sparse("f")];
    let mut proto = model(graph);
    let mut unused = function("own", "F", vec![], vec![]);
    unused.attribute_proto = vec![attribute(vec![external("g", &[("location", "g")])])];
    proto.functions = vec![unused];
    let file = on_disk(&proto.encode_to_vec());
    fs::create_dir(file.folder.path().join("sub")).expect("writable");
    for name in ["a", "b", "c", "d", "sub/e", "f", "g"] {
        fs::write(file.folder.path().join(name), [0; 24]).expect("writable");
    }
    let opened = Model::open(&file.path).expect("all are there");
    let locations: Vec<&str> = opened.onnx().expect("ONNX").external.iter().map(|file| file.location.as_str()).collect();
    assert_eq!(locations, ["a", "b", "c", "d", "f", "g", "sub/e"]);
    for name in ["a", "b", "c", "d", "sub/e", "f", "g"] {
        let away = file.folder.path().join("away");
        fs::rename(file.folder.path().join(name), &away).expect("writable");
        let error = Model::open(&file.path).expect_err("one is missing");
        assert!(matches!(&error, ModelError::External { problem: ExternalProblem::Missing { .. }, .. }), "{name}: {error}");
        fs::rename(&away, file.folder.path().join(name)).expect("writable");
    }
}

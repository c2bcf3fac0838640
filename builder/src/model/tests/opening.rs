//! What is refused when it is opened.

use super::*;
use crate::model::wire::{self, DamageKind};
use crate::model::{Found, OnnxModel, SINGLE_FILE_LIMIT, detect, identify};

#[test]
fn files_of_other_kinds_are_named() {
    let with = |offset: usize, magic: &[u8]| {
        let mut bytes = vec![7u8; 600];
        bytes[offset..offset + magic.len()].copy_from_slice(magic);
        bytes
    };
    let zip = |name: &str| [b"PK\x03\x04", [0u8; 80].as_slice(), b"PK\x01\x02", name.as_bytes(), &[0; 40]].concat();
    let cases: Vec<(Vec<u8>, Found)> = vec![
        (with(4, b"TFL3"), Found::TensorFlowLite),
        (with(4, b"ORTM"), Found::Ort),
        (with(257, b"ustar"), Found::Tar),
        (with(0, b"\x89HDF\r\n\x1a\n"), Found::Hdf5),
        (with(0, b"ftrt"), Found::TensorRt),
        (with(0, b"\x80\x02}q"), Found::Pickle),
        (with(0, b"\x1f\x8b"), Found::Compressed),
        (zip("net/data.pkl"), Found::PyTorch),
        (zip("model.weights.h5"), Found::Keras),
        (zip("arr_0.npy"), Found::NumPy),
        (zip("readme"), Found::Zip),
        (b"\x40\0\0\0\0\0\0\0{\"w\":{}}".to_vec(), Found::Safetensors),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec(), Found::GitLfsPointer),
        (b"\n\n<!DOCTYPE html><html></html>".to_vec(), Found::Html),
        (b"<?xml version=\"1.0\"?><net/>".to_vec(), Found::Xml),
        (b"{\"message\": \"not found\"}".to_vec(), Found::Json),
        ("räksmörgås ".repeat(1000).into_bytes(), Found::Text),
        (b"r2d2: a text whose first letter is the key of a field".to_vec(), Found::Text),
        (vec![0; 5000], Found::Zeros),
        // A tensor: dims, type, and data.
        (vec![0x08, 2, 0x10, 1, 0x4a, 2, 0, 0], Found::OtherProtobuf),
    ];
    for (content, expected) in cases {
        assert_eq!(identify(&content), expected, "{:?}", &content[..content.len().min(40)]);
        let error = open(&content).expect_err("not a model");
        assert!(matches!(error, ModelError::NotOnnx { found, .. } if found == expected), "{error}");
        assert!(error.to_string().contains(&expected.to_string()), "{error}");
        assert!(error.hint().is_some(), "{error}");
    }
}

#[test]
fn paths_that_are_no_files_are_told_apart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    assert!(matches!(Model::open(&path.join("none.onnx")), Err(ModelError::Read { source, .. })
        if source.kind() == std::io::ErrorKind::NotFound));
    fs::write(path.join("b.onnx"), b"").expect("writable");
    assert!(matches!(Model::open(&path.join("b.onnx")), Err(ModelError::Empty { .. })));
    let error = Model::open(path).expect_err("a directory");
    assert!(matches!(&error, ModelError::Directory { models, .. } if models == &["b.onnx"]));
    assert!(error.hint().expect("a hint").contains("b.onnx"));
    assert!(matches!(Model::open(Path::new("/dev/null")), Err(ModelError::NotRegular { .. })));
    fs::write(path.join("saved_model.pb"), b"\x08\x01").expect("writable");
    assert!(matches!(Model::open(path), Err(ModelError::SavedModel { .. })), "a SavedModel without a graph");
    assert_eq!(detect(path).expect("recognised"), Found::SavedModel);
}

#[test]
fn an_unreadable_file_says_so() {
    use std::os::unix::fs::PermissionsExt as _;
    let file = on_disk(&model(graph(vec![relu()])).encode_to_vec());
    fs::set_permissions(&file.path, fs::Permissions::from_mode(0o000)).expect("own file");
    match Model::open(&file.path) {
        Err(ModelError::Read { source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied)
        }
        // Root reads everything.
        Ok(_) => assert_eq!(fs::metadata("/proc/self").map(|me| std::os::unix::fs::MetadataExt::uid(&me)).ok(), Some(0)),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn models_without_their_essentials_are_refused() {
    let sound = model(graph(vec![relu()]));
    let changed = |change: fn(&mut ModelProto)| {
        let mut proto = sound.clone();
        change(&mut proto);
        open_model(&proto).expect_err("incomplete")
    };
    assert!(matches!(changed(|m| m.graph = None), ModelError::NoGraph { .. }));
    assert!(matches!(changed(|m| m.opset_import.clear()), ModelError::NoOpsetImport { .. }));
    assert!(matches!(changed(|m| m.ir_version = None), ModelError::IrVersion { found: None, .. }));
    for version in [0, -1, 1001, i64::MAX] {
        let mut proto = sound.clone();
        proto.ir_version = Some(version);
        assert!(matches!(open_model(&proto), Err(ModelError::IrVersion { found, .. }) if found == Some(version)));
    }
    let twice = changed(|m| m.functions = vec![function("own", "F", vec![], vec![]), function("own", "F", vec![], vec![])]);
    assert!(matches!(twice, ModelError::DuplicateFunction { function, .. } if function == "own:F"));
    let shape = changed(|m| {
        if let Some(graph) = &mut m.graph {
            graph.initializer = vec![tensor("w", &[2, -3])];
        }
    });
    assert!(matches!(shape, ModelError::TensorShape { tensor, dims, .. } if tensor == "w" && dims == [2, -3]));
}

#[test]
fn a_file_beyond_protobufs_limit_is_refused_before_it_is_read() {
    let file = on_disk(&model(graph(vec![relu()])).encode_to_vec());
    let size = SINGLE_FILE_LIMIT + 1;
    fs::File::options().write(true).open(&file.path).and_then(|file| file.set_len(size)).expect("a hole");
    assert!(matches!(Model::open(&file.path), Err(ModelError::TooLarge { size: found, .. }) if found == size));
}

#[test]
fn every_truncation_is_an_error_or_falls_between_fields() {
    let content = rich_model().encode_to_vec();
    let path = Path::new("cut.onnx");
    let mut truncated = 0;
    for length in 0..content.len() {
        match OnnxModel::parse(&content[..length], path) {
            Err(ModelError::Truncated { offset, claimed, remaining, .. }) => {
                truncated += 1;
                assert!(remaining < claimed, "claims {claimed}, {remaining} remain");
                assert!(offset < length as u64);
            }
            Err(ModelError::Damaged { .. } | ModelError::NoGraph { .. } | ModelError::NoOpsetImport { .. }) => {}
            Err(other) => panic!("cut at {length}: {other}"),
            Ok(_) => assert!(wire::is_message(&content[..length]), "cut at {length}"),
        }
    }
    assert!(truncated > content.len() / 2, "{truncated} of {} cuts", content.len());
}

#[test]
fn a_truncated_graph_is_reported_with_its_numbers() {
    let content = model(graph(vec![relu()])).encode_to_vec();
    let error = open(&content[..30]).expect_err("cut off");
    let ModelError::Truncated { field, offset, claimed, remaining, .. } = &error else { panic!("{error}") };
    // Behind the IR version and the producer, each with its key and length.
    assert_eq!((field.as_str(), *offset, *remaining), ("graph", 9, 30 - 11));
    assert_eq!(*claimed, graph(vec![relu()]).encoded_len() as u64);
    assert!(error.to_string().contains("is truncated: field graph at byte 9 claims"), "{error}");
}

#[test]
fn damage_deep_inside_is_located() {
    let mut content = model(graph(vec![relu(), with_branches(relu(), relu())])).encode_to_vec();
    let at = content.windows(11).rposition(|window| window == b"else_branch").expect("the name of an attribute");
    content[at - 1] = 0x7f;
    let damage = wire::locate(&content).expect("a length that is too long");
    assert_eq!(damage.field, "graph.node[1].attribute[1].name");
    assert_eq!(damage.offset, at as u64 - 2);
    assert!(matches!(damage.kind, DamageKind::Overrun { claimed: 0x7f, .. }), "{damage:?}");
    assert!(matches!(open(&content), Err(ModelError::Truncated { field, .. }) if field == damage.field));
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    let mut inner = relu();
    for _ in 0..60 {
        inner = with_branches(inner, relu());
    }
    let error = open_model(&model(graph(vec![inner]))).expect_err("too deep");
    assert!(matches!(&error, ModelError::Damaged { problem, .. } if problem.contains("nested")), "{error}");
}

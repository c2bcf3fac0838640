//! Operator cases of the `onnx` package through the gate: each is built into an image, started and verified. `make verify-full` runs all.

use imgbuild_tests::{build_folder, imgbuild_path, imgserve_path, lock_in, python, root, shared_store, succeed, text};

#[test]
fn a_sample_of_the_operators_answers_in_images_as_the_onnx_package_expects() {
    let folder = tempfile::tempdir_in(build_folder()).expect("the build folder can be written");
    lock_in(folder.path());
    let mut command = python();
    command.arg(root().join("tests/tools/operator_cases.py")).arg("--imgbuild").arg(imgbuild_path()).arg("--sample");
    command.arg("--folder").arg(folder.path().join("cases")).arg("--lock").arg(folder.path().join("imgbuild.lock"));
    let judged = succeed(command.env("IMGBUILD_STORE", shared_store()).env("IMGBUILD_SERVER", imgserve_path()));
    let shown = text(&judged.stdout);
    assert!(shown.contains("\n41 cases: 38 passed, 1 refused, 2 unsupported, 0 failed"), "{shown}");
}

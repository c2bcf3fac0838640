//! The benchmark runs, with small sizes: the sections that take seconds. `make bench BENCH=quick` runs all of them.

use std::process::Command;

use imgbuild_tests::{has, imgbuild_path, imgserve_path, root, shared_store, succeed};

#[test]
fn second_builds_pushes_and_containers_are_measured() {
    if !["dockerd", "docker-registry", "buildah", "skopeo"].iter().all(|program| has(program)) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("benchmarks.md");
    let mut command = Command::new(root().join("tests/bench/run.sh"));
    command
        .env("BENCH", "quick")
        .env("SECTIONS", "push rebuild container_overhead")
        .env("BENCH_OUTPUT", &output)
        .env("BENCH_STORE", shared_store());
    succeed(command.env("IMGBUILD", imgbuild_path()).env("IMGBUILD_SERVER", imgserve_path()));
    let text = std::fs::read_to_string(&output).expect("it was written");
    for row in [
        "| imgbuild push |",
        "| skopeo copy |",
        "| model changed: imgbuild |",
        "| nothing changed: docker build |",
        "| container |",
    ] {
        assert!(text.contains(row) || text.contains("could not run"), "{row} is missing:\n{text}");
    }
}

#[test]
fn pruning_device_code_is_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("benchmarks.md");
    let mut command = Command::new(root().join("tests/bench/run.sh"));
    command.env("BENCH", "quick").env("SECTIONS", "fatbin").env("BENCH_OUTPUT", &output).env("BENCH_STORE", shared_store());
    succeed(command.env("IMGBUILD", imgbuild_path()).env("IMGBUILD_SERVER", imgserve_path()));
    let text = std::fs::read_to_string(&output).expect("it was written");
    for row in ["| copy and hash |", "| imgbuild fatbin prune --gpu sm_75 |", "may be written to"] {
        assert!(text.contains(row), "{row} is missing:\n{text}");
    }
}

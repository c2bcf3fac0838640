//! The benchmark runs from end to end, with small sizes.

use std::process::Command;

use imgbuild_tests::{build_folder, has, imgbuild_path, imgserve_path, root, shared_store, succeed};

#[test]
fn every_section_of_the_benchmark_runs() {
    if !["dockerd", "docker-registry", "buildah", "skopeo"].iter().all(|program| has(program)) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("benchmarks.md");
    // The baseline makes a distribution, which takes minutes the first time.
    let sections = if build_folder().join("bench/python-base.tar").exists() { "baseline push rebuild" } else { "push rebuild" };
    let mut command = Command::new(root().join("tests/bench/run.sh"));
    command.env("BENCH", "quick").env("SECTIONS", sections).env("BENCH_OUTPUT", &output).env("BENCH_STORE", shared_store());
    succeed(command.env("IMGBUILD", imgbuild_path()).env("IMGBUILD_SERVER", imgserve_path()));
    let text = std::fs::read_to_string(&output).expect("it was written");
    for row in ["| imgbuild push |", "| skopeo copy |", "| model changed: imgbuild |", "| nothing changed: docker build |"] {
        assert!(text.contains(row) || text.contains("could not run"), "{row} is missing:\n{text}");
    }
}

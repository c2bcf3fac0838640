//! The command itself: help, completions, recipes, the store, and the commands that the documentation shows.

use imgbuild_tests::{check_options, fail_with, imgbuild, model_in, root, succeed, text};

#[test]
fn every_command_has_help_and_every_shell_a_completion() {
    let help = text(&succeed(imgbuild().arg("--help")).stdout);
    let listed = help.split("Commands:").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list of commands");
    let commands: Vec<&str> = listed.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()).collect();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands.into_iter().filter(|command| *command != "help") {
        succeed(imgbuild().args([command, "--help"]));
    }
    assert!(help.contains("Exit codes"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(text(&succeed(imgbuild().args(["completions", shell])).stdout).contains("imgbuild"));
    }
    fail_with(imgbuild().arg("bild"), 2);
    fail_with(&mut imgbuild(), 2);
}

#[test]
fn a_recipe_is_written_once_and_builds() {
    let folder = tempfile::tempdir().expect("a folder");
    model_in(folder.path(), "basic-pitch");
    succeed(imgbuild().current_dir(&folder).args(["init", "basic-pitch.onnx"]));
    let error = fail_with(imgbuild().current_dir(&folder).arg("init"), 3);
    assert!(error.contains("--force"), "{error}");
    let shown = succeed(imgbuild().current_dir(&folder).arg("build"));
    assert!(text(&shown.stdout).contains("basic-pitch"));
    assert!(text(&shown.stderr).is_empty(), "nothing is said on stderr: {}", text(&shown.stderr));
    let again = succeed(imgbuild().current_dir(&folder).args(["build", "--locked", "--offline", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!(report["schema"], "imgbuild.size");
}

#[test]
fn the_store_is_listed_and_pruned() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    let model = model_in(folder.path(), "basic-pitch");
    succeed(imgbuild().current_dir(&folder).env("IMGBUILD_STORE", &store).args(["build", "--compression", "zstd"]).arg(&model));
    let list = succeed(imgbuild().env("IMGBUILD_STORE", &store).args(["cache", "list", "--json"]));
    let list: Vec<serde_json::Value> = serde_json::from_slice(&list.stdout).expect("JSON");
    assert!(list.len() > 8, "{list:?}");
    succeed(imgbuild().env("IMGBUILD_STORE", &store).args(["cache", "prune", "--days", "0"]));
    let list = succeed(imgbuild().env("IMGBUILD_STORE", &store).args(["cache", "list", "--json"]));
    assert_eq!(text(&list.stdout).trim(), "[]");
    succeed(imgbuild().current_dir(&folder).env("IMGBUILD_STORE", &store).args(["build", "--compression", "zstd"]).arg(&model));
}

#[test]
fn the_documentation_names_only_options_that_exist() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("a README");
    for line in readme.lines().filter_map(|line| line.trim().strip_prefix("imgbuild ")) {
        check_options("README", line);
    }
}

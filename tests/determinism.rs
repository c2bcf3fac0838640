//! The same inputs give the same bytes, whatever surrounds the build.

use std::os::unix::process::CommandExt;
use std::path::Path;

use imgbuild_tests::{imgbuild, json_file, model_in, succeed};

fn digest(folder: &Path, threads: &str, environment: &[(&str, &str)], umask: u32) -> String {
    let model = model_in(folder, "magika");
    let mut command = imgbuild();
    command.current_dir(folder).args(["build", "--threads", threads, "--report", "size.json"]).arg(model);
    command.env("IMGBUILD_STORE", folder.join("store"));
    command.envs(environment.iter().copied());
    // The shell's umask would reach the whole test process.
    command = {
        let mut shell = std::process::Command::new("sh");
        shell
            .arg("-c")
            .arg(format!("umask {umask:03o}; exec \"$@\""))
            .arg("sh")
            .arg(command.get_program())
            .args(command.get_args());
        shell.current_dir(folder);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.process_group(0);
        shell
    };
    succeed(&mut command);
    json_file(&folder.join("size.json"))["image"]["digest"].as_str().expect("a digest").to_owned()
}

#[test]
fn two_builds_with_stores_of_their_own_give_one_digest() {
    let first = tempfile::tempdir().expect("a folder");
    let second = tempfile::Builder::new().prefix("another place ").tempdir().expect("a folder");
    let one = digest(first.path(), "1", &[("TZ", "UTC"), ("LC_ALL", "C")], 0o022);
    let other = digest(second.path(), "4", &[("TZ", "Asia/Tokyo"), ("LC_ALL", "C.UTF-8"), ("USER", "someone")], 0o077);
    assert_eq!(one, other);
    let reports = [first.path(), second.path()].map(|folder| std::fs::read(folder.join("size.json")).expect("a report"));
    assert!(reports[0] == reports[1], "equal builds give equal reports");
    let locks = [first.path(), second.path()].map(|folder| std::fs::read(folder.join("imgbuild.lock")).expect("a lock"));
    assert!(locks[0] == locks[1], "equal builds give equal locks");
}

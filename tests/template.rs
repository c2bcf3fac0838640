//! Files for pipelines and clusters: filled in for a real image, and judged by the systems that read them.

use std::fs;
use std::process::Command;

use imgbuild_tests::{check_options, fail_with, imgbuild, model_in, root, succeed, text};

fn names() -> Vec<String> {
    let list = succeed(imgbuild().args(["template", "list", "--json"]));
    let list: Vec<serde_json::Value> = serde_json::from_slice(&list.stdout).expect("JSON");
    list.iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn every_template_is_accepted_by_the_schemas_of_its_system_with_and_without_an_image() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model_in(folder.path(), "magika");
    succeed(imgbuild().current_dir(&folder).args(["build", "--name", "Magika_3"]).arg(&model));
    let seen = succeed(imgbuild().current_dir(&folder).args(["inspect", "oci:magika.oci", "--json"]));
    let seen: serde_json::Value = serde_json::from_slice(&seen.stdout).expect("JSON");
    let digest = seen["digest"].as_str().expect("a digest");
    let (filled, plain) = (folder.path().join("filled"), folder.path().join("plain"));
    for place in [&filled, &plain] {
        fs::create_dir(place).expect("a folder");
    }
    for name in names() {
        let file = format!("{name}.yaml");
        let mut command = imgbuild();
        command.current_dir(&folder).args(["template", &name, "oci:magika.oci", "--output"]).arg(filled.join(&file));
        assert!(text(&succeed(&mut command).stderr).contains("registry.example.com"), "{name}");
        fs::write(plain.join(&file), succeed(imgbuild().args(["template", &name])).stdout).expect("the folder can be written");
    }
    let deployment = fs::read_to_string(filled.join("kubernetes.yaml")).expect("a Deployment");
    for part in ["name: magika-3\n", &format!("image: registry.example.com/acme/magika-3@{digest}\n"), "runAsUser: 65532\n"] {
        assert!(deployment.contains(part), "{part}{deployment}");
    }
    for place in [&filled, &plain] {
        succeed(Command::new(root().join("tests/tools/judge-templates.sh")).arg(place));
    }
    let error = fail_with(imgbuild().args(["template", "kubernets"]), 3);
    assert!(error.contains("did you mean `kubernetes`?"), "{error}");
}

#[test]
fn templates_run_only_commands_and_options_that_exist() {
    let help = text(&succeed(imgbuild().arg("--help")).stdout);
    let mut checked = 0;
    for name in names() {
        let file = text(&succeed(imgbuild().args(["template", &name])).stdout);
        for line in file.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let Some((_, shown)) = line.split_once("imgbuild ") else { continue };
            let shown = shown.split(['|', '>']).next().unwrap_or_default();
            let command = shown.split_whitespace().next().unwrap_or_default();
            // Reports of cold starts and their comparison are commands of the release that these files are for.
            if matches!(command, "coldstart" | "compare") && !help.contains(command) {
                continue;
            }
            check_options(&name, shown);
            checked += 1;
        }
    }
    assert!(checked > 5, "{checked}");
}

use std::path::Path;

use super::*;

fn resolve(text: &str) -> Result<Recipe, RecipeError> {
    let file = RecipeFile::parse(text, Path::new("imgbuild.toml"))?;
    Recipe::resolve(file, Overrides::default(), PathBuf::from("work"))
}

#[test]
fn the_template_is_a_recipe_and_every_commented_key_is_one_too() {
    let plain = resolve(TEMPLATE).expect("the template as written");
    assert_eq!((plain.name.as_str(), plain.model.as_path()), ("model", Path::new("work/model.onnx")));

    // A comment that holds a key or a table is one of `# key = …`, `# [table]`, `# "quoted" = …`.
    let uncommented: String = TEMPLATE
        .lines()
        .map(|line| {
            let body = line.strip_prefix("# ").unwrap_or(line);
            let is_code = body.starts_with('[') || body.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
            if is_code { format!("{body}\n") } else { format!("{line}\n") }
        })
        .collect();
    let full = resolve(&uncommented).expect("the template with every key in use");
    assert_eq!(full.name, "magika");
    assert_eq!(full.custom_operators, [Path::new("work/libmyops.so")]);
    assert_eq!(full.budgets.compressed, Some(ByteSize(60_000_000)));
    assert_eq!(full.files.len(), 1);
    assert_eq!(full.environment.len(), 1);
}

#[test]
fn the_command_line_overrides_the_file() {
    let file =
        RecipeFile::parse("model = \"a.onnx\"\nstack = \"x\"\ntags = [\"localhost/a:1\"]\n", Path::new("r.toml")).expect("valid");
    let overrides = Overrides {
        stack: Some("onnx-cpu".to_owned()),
        tags: vec!["localhost/a:2".to_owned()],
        model: Some(PathBuf::from("b.onnx")),
        ..Overrides::default()
    };
    let recipe = Recipe::resolve(file, overrides, PathBuf::from("work")).expect("valid");
    assert_eq!(recipe.stack.as_deref(), Some("onnx-cpu"));
    assert_eq!(recipe.tags, ["localhost/a:1", "localhost/a:2"]);
    assert_eq!((recipe.model.as_path(), recipe.name.as_str()), (Path::new("b.onnx"), "b"));
}

#[test]
fn bad_values_are_named() {
    for (text, expected) in [
        ("model = \"m.onnx\"\n[image]\nuser = \"0:0\"\n", "image.user is `0:0`"),
        ("model = \"m.onnx\"\n[image]\nuser = \"root\"\n", "image.user is `root`"),
        ("model = \"m.onnx\"\nname = \"../x\"\n", "name is `../x`"),
        ("model = \"m.onnx\"\nplatform = \"windows\"\n", "platform is `windows`"),
        ("model = \"m.onnx\"\n[[files]]\nfrom = \"a\"\nto = \"/a\"\nmode = \"9\"\n", "files.mode is `9`"),
        ("model = \"m.onnx\"\n[image.env]\n\"A=B\" = \"c\"\n", "image.env is `A=B`"),
        ("name = \"m\"\n", "no model is named"),
    ] {
        let error = resolve(text).expect_err(text).to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
    let error = resolve("model = \"m.onnx\"\n[[files]]\nfrom = \"a\"\nto = \"a/../b\"\n").expect_err("relative");
    assert!(matches!(error, RecipeError::ImagePath(_)));
}

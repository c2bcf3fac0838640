use super::reader::name_of;
use super::*;

fn resolve(text: &str, variables: &[(&str, &str)]) -> Result<Resolved, ConfigError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::resolve(Path::new("c.json"), Some(text.as_bytes()), variables)
}

fn error(text: &str, variables: &[(&str, &str)]) -> String {
    resolve(text, variables).expect_err("must be refused").to_string()
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = r#"{"model_name":"a","port":1,"threads":3,"session_config":{"session.disable_prepacking":"1"}}"#;
    let config = resolve(text, &[]).expect("sound").config;
    assert_eq!(config.model_path, Path::new("/models/a/model.onnx"));
    assert_eq!((config.listen.port(), config.threads, config.limits.concurrency), (1, 3, 3));
    assert_eq!(config.session_config["session.disable_prepacking"], "1");

    let variables = [
        ("SAGEMAKER_BIND_TO_PORT", "2"),
        ("AIP_HTTP_PORT", "3"),
        ("AIP_PREDICT_ROUTE", "/predict"),
        ("IMGSERVE_CUSTOM_OP_LIBRARIES", r#"["/a.so"]"#),
        ("IMGSERVE_LOG_LEVEL", "debug"),
        ("PATH", "/bin"),
    ];
    let config = resolve(text, &variables).expect("sound").config;
    assert_eq!(config.listen.port(), 3, "of the platforms' variables the more specific wins");
    assert_eq!(config.predict_route.as_deref(), Some("/predict"));
    assert_eq!(config.custom_op_libraries, [Path::new("/a.so")]);
    assert_eq!(config.log_level, Level::Debug);
    let config = resolve(text, &[("IMGSERVE_PORT", "4"), ("AIP_HTTP_PORT", "3")]).expect("sound").config;
    assert_eq!(config.listen.port(), 4);
}

#[test]
fn what_is_printed_is_read_back() {
    let text = r#"{"model_path":"/m/x.onnx","address":"::1","warm_up":"/m/data","predict_route":"/p","log_format":"text"}"#;
    let config = resolve(text, &[]).expect("sound").config;
    let printed = config.to_json();
    assert_eq!(resolve(&printed.to_string(), &[]).expect("sound").config, config);
    let printed: Vec<_> = printed.as_object().expect("an object").keys().cloned().collect();
    let mut keys: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    keys.sort_unstable();
    assert_eq!(printed, keys, "every option is printed");
}

#[test]
fn errors_name_the_key() {
    for (text, expected) in [
        (r#"{"model_nam":"a"}"#, "unknown key `model_nam` in `c.json`"),
        (r#"{"model_name":"a","port":"8080"}"#, r#"key `port` in `c.json` is "8080", expected a whole number from 0 to 65535"#),
        (r#"{"model_name":"a","port":65536}"#, "key `port` in `c.json` is 65536"),
        (r#"{"model_name":"a","backend":"tf"}"#, "expected `onnxruntime`"),
        (r#"{"model_name":"a","warm_up":"zero"}"#, "expected `off`, `zeros` or a path"),
        (r#"{"model_name":"a/b"}"#, "expected a name without `/`"),
        (r#"{"model_name":"a","address":"localhost"}"#, "expected an IP address"),
        (r#"{"model_name":"a","session_config":{"x":1}}"#, "expected an object of strings"),
        (r#"{"model_name":"a","max_body_bytes":100,"max_buffered_bytes":99}"#, "expected a whole number from 100"),
        ("{}", "neither `model_name` nor `model_path` is set"),
        ("[]", "failed to read `c.json`"),
        ("{", "failed to read `c.json`"),
    ] {
        let error = error(text, &[]);
        assert!(error.contains(expected), "{error}");
    }
    let misspelt = resolve(r#"{"model_nam":"a"}"#, &[]).expect_err("unknown");
    assert_eq!(misspelt.hint().as_deref(), Some("did you mean `model_name`?"));
    let variable = error(r#"{"model_name":"a"}"#, &[("IMGSERVE_THREADS", "many")]);
    assert_eq!(variable, "variable `IMGSERVE_THREADS` is `many`, expected a whole number of 0 or more, as JSON");
}

#[test]
fn variables_of_an_orchestrators_service_are_passed_over() {
    let variables = [("IMGSERVE_PORT", "tcp://10.0.0.1:80"), ("IMGSERVE_SERVICE_HOST", "10.0.0.1")];
    let resolved = resolve(r#"{"model_name":"a"}"#, &variables).expect("not ours to refuse");
    assert_eq!(resolved.config.listen.port(), 8080);
    assert_eq!(resolved.warnings.len(), 2);
}

#[test]
fn a_model_is_named_after_its_file_or_its_folder() {
    for (path, name) in [("/a/resnet.v2.onnx", "resnet.v2"), ("/models/cat/model.onnx", "cat"), ("model.onnx", "model")] {
        assert_eq!(name_of(Path::new(path)).as_deref(), Some(name), "{path}");
    }
    assert_eq!(name_of(Path::new("/")), None);
}

//! Says what the builder makes of models: one JSON object a line for each path on standard input.
//!
//! `tests/tools/model_judge.py` compares it with the onnx package and with ONNX Runtime itself.
//! Usage: `model_verdict TABLE [CUSTOM_DOMAIN…] < PATHS`

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::process::ExitCode;

use imgbuild::model::{Model, ModelError, OperatorTable, check_operators};

fn failure(stage: &str, error: &ModelError) -> serde_json::Value {
    let variant = format!("{error:?}");
    let variant: String = variant.chars().take_while(char::is_ascii_alphanumeric).collect();
    serde_json::json!({ "stage": stage, "variant": variant, "error": error.to_string(), "hint": error.hint() })
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(table) = arguments.next() else {
        eprintln!("usage: model_verdict TABLE [CUSTOM_DOMAIN…] < PATHS");
        return ExitCode::from(2);
    };
    let custom: Vec<String> = arguments.collect();
    let table = match OperatorTable::load(Path::new(&table)) {
        Ok(table) => table,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut out = io::stdout().lock();
    for path in io::stdin().lock().lines().map_while(Result::ok) {
        let started = std::time::Instant::now();
        let opened = Model::open(Path::new(&path));
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        let mut line = match &opened {
            Err(error) => failure("open", error),
            Ok(model) => match check_operators(model.onnx().expect("only ONNX models are given"), &table, &custom) {
                Ok(check) => {
                    serde_json::json!({ "stage": "accepted", "model": model, "check": check })
                }
                Err(error) => {
                    let mut line = failure("check", &error);
                    line["model"] = serde_json::json!(model);
                    line
                }
            },
        };
        line["path"] = path.into();
        line["open_ms"] = milliseconds.into();
        if writeln!(out, "{line}").is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

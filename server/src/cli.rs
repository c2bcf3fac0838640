//! The command line.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

use crate::config::{DEFAULT_PATH, KEYS};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Serve until a signal.
    Serve,
    /// Load the model, run the warm-up, end.
    Check,
    /// Write the model to this file as the runtime optimises it, end.
    Optimize(PathBuf),
    /// Write the model to this file with what the provider compiles of it, end.
    Engine(PathBuf),
    /// Run the model, and that of this other file of options, on the same inputs, print how they differ, end.
    Compare(PathBuf),
    /// Print the options as they are resolved.
    PrintConfig,
    /// Print how it is used.
    Help,
    /// Print the version.
    Version,
}

/// The command line, read.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    /// What to do.
    pub action: Action,
    /// The file of options.
    pub config: Option<PathBuf>,
    /// Folders with inputs to compare on.
    pub data: Vec<PathBuf>,
}

/// What is wrong with the command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// An argument that does not exist.
    #[error("unknown argument `{found}`")]
    Unknown {
        /// The argument.
        found: String,
    },
    /// An argument without its value.
    #[error("argument `{argument}` lacks its value")]
    NoValue {
        /// The argument.
        argument: &'static str,
    },
}

impl Arguments {
    /// Reads the arguments behind the program's name.
    ///
    /// # Errors
    /// See [`UsageError`].
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, UsageError> {
        let mut parsed = Self { action: Action::Serve, config: None, data: Vec::new() };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                // One platform starts every image with this word.
                Some("serve") => {}
                Some("--check") => parsed.action = Action::Check,
                Some("--print-config") => parsed.action = Action::PrintConfig,
                Some("--help" | "-h") => parsed.action = Action::Help,
                Some("--version" | "-V") => parsed.action = Action::Version,
                Some("--config") => parsed.config = Some(value(&mut arguments, "--config")?),
                Some("--optimize") => parsed.action = Action::Optimize(value(&mut arguments, "--optimize")?),
                Some("--engine") => parsed.action = Action::Engine(value(&mut arguments, "--engine")?),
                Some("--compare") => parsed.action = Action::Compare(value(&mut arguments, "--compare")?),
                Some("--data") => parsed.data.push(value(&mut arguments, "--data")?),
                Some(text) if text.starts_with("--config=") => parsed.config = Some(text["--config=".len()..].into()),
                _ => return Err(UsageError::Unknown { found: argument.to_string_lossy().into_owned() }),
            }
        }
        Ok(parsed)
    }
}

/// The path behind an argument.
fn value(arguments: &mut impl Iterator<Item = OsString>, argument: &'static str) -> Result<PathBuf, UsageError> {
    arguments.next().map(PathBuf::from).ok_or(UsageError::NoValue { argument })
}

/// How it is used.
pub fn help() -> String {
    let mut text = format!(
        "Serves one model over the Open Inference Protocol.\n\n\
         Usage: imgserve [serve] [--config FILE] [--check | --print-config]\n\
         \x20      imgserve [--config FILE] --optimize MODEL\n\
         \x20      imgserve [--config FILE] --engine MODEL\n\
         \x20      imgserve [--config FILE] --compare FILE [--data FOLDER]...\n\n\
         \x20 --config FILE    options, a JSON object [{DEFAULT_PATH}]\n\
         \x20 --check          load the model, run the warm-up, end\n\
         \x20 --optimize MODEL write the model as the runtime optimises it at `graph_optimization_level`, end\n\
         \x20 --engine MODEL   write the model with the engines that the provider compiles for the GPU that is there, end\n\
         \x20 --compare FILE   run the models of two files of options on the same inputs, print how they differ, end\n\
         \x20 --data FOLDER    compare on its input_0.pb and so on [seeded random inputs]\n\
         \x20 --print-config   print the options as they are resolved\n\
         \x20 --help           print this\n\
         \x20 --version        print the version\n\n\
         Options of the file; each is overridden by the variable IMGSERVE_<OPTION>:\n"
    );
    for key in KEYS {
        writeln!(text, "  {:<24} {}", key.name, key.help).expect("writing to a string does not fail");
    }
    text.push_str(
        "\nExit status: 0 after a signal and for --check, --optimize, --engine and --compare that passed, 1 internal error, 2 arguments or options,\n\
         3 the runtime's library, 4 the model, 5 the address, 6 the warm-up, 7 requests cut off by the drain timeout.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, UsageError> {
        Arguments::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn arguments_are_read() {
        assert_eq!(parse(&["serve"]), Ok(Arguments { action: Action::Serve, config: None, data: vec![] }));
        let with_file = Arguments { action: Action::Check, config: Some("f".into()), data: vec![] };
        assert_eq!(parse(&["--check", "--config", "f"]), Ok(with_file));
        assert_eq!(parse(&["--config=f"]).map(|arguments| arguments.config), Ok(Some("f".into())));
        assert_eq!(parse(&["--config"]), Err(UsageError::NoValue { argument: "--config" }));
        let compare = parse(&["--compare", "other", "--data", "a", "--data", "b"]).expect("valid");
        assert_eq!((compare.action, compare.data.len()), (Action::Compare("other".into()), 2));
        assert_eq!(parse(&["--optimize"]), Err(UsageError::NoValue { argument: "--optimize" }));
        assert_eq!(parse(&["--cheque"]), Err(UsageError::Unknown { found: "--cheque".into() }));
    }

    #[test]
    fn help_names_every_option() {
        let help = help();
        assert!(KEYS.iter().all(|key| help.contains(key.name)));
    }
}

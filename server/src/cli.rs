//! The command line.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

use crate::config::{DEFAULT_PATH, KEYS};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Serve until a signal.
    Serve,
    /// Load the model, run the warm-up, end.
    Check,
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
        let mut parsed = Self { action: Action::Serve, config: None };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                // One platform starts every image with this word.
                Some("serve") => {}
                Some("--check") => parsed.action = Action::Check,
                Some("--print-config") => parsed.action = Action::PrintConfig,
                Some("--help" | "-h") => parsed.action = Action::Help,
                Some("--version" | "-V") => parsed.action = Action::Version,
                Some("--config") => {
                    let path = arguments.next().ok_or(UsageError::NoValue { argument: "--config" })?;
                    parsed.config = Some(path.into());
                }
                Some(text) if text.starts_with("--config=") => parsed.config = Some(text["--config=".len()..].into()),
                _ => return Err(UsageError::Unknown { found: argument.to_string_lossy().into_owned() }),
            }
        }
        Ok(parsed)
    }
}

/// How it is used.
pub fn help() -> String {
    let mut text = format!(
        "Serves one model over the Open Inference Protocol.\n\n\
         Usage: imgserve [serve] [--config FILE] [--check | --print-config]\n\n\
         \x20 --config FILE    options, a JSON object [{DEFAULT_PATH}]\n\
         \x20 --check          load the model, run the warm-up, end\n\
         \x20 --print-config   print the options as they are resolved\n\
         \x20 --help           print this\n\
         \x20 --version        print the version\n\n\
         Options of the file; each is overridden by the variable IMGSERVE_<OPTION>:\n"
    );
    for key in KEYS {
        writeln!(text, "  {:<24} {}", key.name, key.help).expect("writing to a string does not fail");
    }
    text.push_str(
        "\nExit status: 0 after a signal and for --check that passed, 1 internal error, 2 arguments or options,\n\
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
        assert_eq!(parse(&["serve"]), Ok(Arguments { action: Action::Serve, config: None }));
        let with_file = Arguments { action: Action::Check, config: Some("f".into()) };
        assert_eq!(parse(&["--check", "--config", "f"]), Ok(with_file));
        assert_eq!(parse(&["--config=f"]).map(|arguments| arguments.config), Ok(Some("f".into())));
        assert_eq!(parse(&["--config"]), Err(UsageError::NoValue { argument: "--config" }));
        assert_eq!(parse(&["--cheque"]), Err(UsageError::Unknown { found: "--cheque".into() }));
    }

    #[test]
    fn help_names_every_option() {
        let help = help();
        assert!(KEYS.iter().all(|key| help.contains(key.name)));
    }
}

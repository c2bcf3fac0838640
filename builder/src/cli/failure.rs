//! Errors of the library as the user sees them: text, causes, a hint, an exit code.

use std::error::Error;
use std::fmt::Write as _;

use crate::build::BuildError;
use crate::cold_start::ColdStartError;
use crate::compare::CompareError;
use crate::exit_code;
use crate::inference::InferenceError;
use crate::lock::LockError;
use crate::optimize::OptimizeError;
use crate::parent::ParentError;
use crate::recipe::RecipeError;
use crate::registry::RegistryError;
use crate::report::ReportError;
use crate::runner::RunnerError;
use crate::runtime::RuntimeError;
use crate::store::StoreError;
use crate::transport::{ImageError, NameError, TransportError};
use crate::verify::VerifyError;

/// An error with what the user can do and the exit code.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: Box<dyn Error>,
    pub hint: Option<String>,
    pub code: u8,
}

impl Failure {
    pub fn new(error: impl Into<Box<dyn Error>>, code: u8) -> Self {
        Self { error: error.into(), hint: None, code }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `error: …`, a line `caused by: …` for each cause that says something new, and `hint: …`.
    pub fn render(&self) -> String {
        let mut text = format!("error: {}\n", self.error);
        let mut said = self.error.to_string();
        let mut cause = self.error.source();
        while let Some(error) = cause {
            let message = error.to_string();
            if !said.ends_with(&message) {
                let _ = writeln!(text, "caused by: {message}");
                said = message;
            }
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        let code = match &error {
            BuildError::Lock(LockError::Pin { .. } | LockError::Offline { .. }) | BuildError::Source(_) => exit_code::FETCH,
            BuildError::Lock(LockError::Base(error)) | BuildError::Parent(error) => parent_code(error),
            BuildError::Lock(_) => exit_code::LOCK,
            BuildError::Runtime(RuntimeError::Links(_) | RuntimeError::BaseLacks { .. }) => exit_code::LINK,
            BuildError::Store(_) | BuildError::Optimize(OptimizeError::Store(_) | OptimizeError::Rewrite { .. }) => {
                exit_code::STORAGE
            }
            BuildError::Compiled { .. } => exit_code::STORAGE,
            BuildError::Warm { .. } | BuildError::NotTimed => exit_code::CONTAINER,
            BuildError::Layer { source, .. } if is_about_input(source) => exit_code::UNUSABLE_INPUT,
            BuildError::Layer { .. } => exit_code::STORAGE,
            _ => exit_code::UNUSABLE_INPUT,
        };
        let hint = error.hint();
        Self { error: Box::new(error), hint, code }
    }
}

fn parent_code(error: &ParentError) -> u8 {
    match error {
        ParentError::Store(_) => exit_code::STORAGE,
        error if error.is_about_fetching() => exit_code::FETCH,
        _ => exit_code::UNUSABLE_INPUT,
    }
}

/// Tells whether a layer failed for what went into it, not for where it was written to.
fn is_about_input(error: &crate::layer::LayerError) -> bool {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<StoreError>() {
            return false;
        }
        cause = error.source();
    }
    true
}

macro_rules! failure {
    ($($kind:ty => $code:expr),* $(,)?) => {$(
        impl From<$kind> for Failure {
            fn from(error: $kind) -> Self {
                let hint = error.hint();
                Self { error: Box::new(error), hint, code: $code }
            }
        }
    )*};
}

failure! {
    CompareError => exit_code::UNUSABLE_INPUT,
    RecipeError => exit_code::UNUSABLE_INPUT,
    RegistryError => exit_code::DESTINATION,
    NameError => exit_code::UNUSABLE_INPUT,
    ImageError => exit_code::UNUSABLE_INPUT,
    RunnerError => exit_code::CONTAINER,
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        let hint = error.hint();
        let code = match &error {
            TransportError::Io { .. } | TransportError::Store(_) => exit_code::STORAGE,
            TransportError::NoDaemon { .. } | TransportError::Daemon { .. } => exit_code::DESTINATION,
            _ => exit_code::UNUSABLE_INPUT,
        };
        Self { error: Box::new(error), hint, code }
    }
}

impl From<ColdStartError> for Failure {
    fn from(error: ColdStartError) -> Self {
        use ColdStartError as E;
        let hint = error.hint();
        let code = match &error {
            E::Registry(_) => exit_code::DESTINATION,
            E::Store(_) | E::Serve { .. } => exit_code::STORAGE,
            E::Runner(_) | E::PhaseMissing { .. } => exit_code::CONTAINER,
            E::Inference(error) => code_of_inference(error),
            E::Interrupted => exit_code::FAILURE,
            _ => exit_code::UNUSABLE_INPUT,
        };
        Self { error: Box::new(error), hint, code }
    }
}

fn code_of_inference(error: &InferenceError) -> u8 {
    match error {
        InferenceError::Server { .. } | InferenceError::Refused { status: 500.., .. } => exit_code::CONTAINER,
        InferenceError::Write { .. } => exit_code::STORAGE,
        _ => exit_code::UNUSABLE_INPUT,
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        let hint = error.hint();
        let code = match &error {
            VerifyError::Write { .. } => exit_code::STORAGE,
            VerifyError::Refused { status: 500.., .. } => exit_code::CONTAINER,
            VerifyError::Inference(error) => code_of_inference(error),
            _ => exit_code::UNUSABLE_INPUT,
        };
        Self { error: Box::new(error), hint, code }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(error, exit_code::STORAGE)
    }
}

impl From<ReportError> for Failure {
    fn from(error: ReportError) -> Self {
        let code = if matches!(error, ReportError::Write { .. }) { exit_code::STORAGE } else { exit_code::UNUSABLE_INPUT };
        Self::new(error, code)
    }
}

//! A configuration to the options of a session.

use std::collections::BTreeMap;
use std::ffi::{CString, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ort_sys as sys;

use super::api::{Since, Status, api, check, has};
use super::call::SessionOptions;
use super::{Runtime, assignment, provider};
use crate::backend::LoadError;
use crate::backend::library::not_opened;
use crate::config::{Config, GraphOptimization, Provider};

/// What is written while a session is made.
#[derive(Clone, Copy)]
pub(super) enum Output<'a> {
    /// Nothing.
    None,
    /// The model as the runtime optimises it.
    Optimized(&'a Path),
    /// The model with what the provider compiled of it.
    Engine(&'a Path),
}

/// Makes the options, with the provider and everything that it needs.
///
/// # Errors
/// [`LoadError::Option`] for an option that the runtime refuses; those of [`provider::append`].
pub(super) fn make(runtime: &Runtime, config: &Config, output: Output<'_>) -> Result<SessionOptions, LoadError> {
    let options = SessionOptions::create().map_err(refused("session options".into()))?;
    let level = match config.graph_optimization {
        GraphOptimization::All => sys::GraphOptimizationLevel::ORT_ENABLE_ALL,
        GraphOptimization::Extended => sys::GraphOptimizationLevel::ORT_ENABLE_EXTENDED,
        GraphOptimization::Basic => sys::GraphOptimizationLevel::ORT_ENABLE_BASIC,
        GraphOptimization::Disable => sys::GraphOptimizationLevel::ORT_DISABLE_ALL,
    };
    let threads = c_int::try_from(config.threads).unwrap_or(c_int::MAX);
    // SAFETY: the options are valid, and the strings live through the calls.
    unsafe {
        check(((*api()).SetSessionGraphOptimizationLevel)(options.as_ptr(), level))
            .map_err(refused("`graph_optimization_level`".into()))?;
        check(((*api()).SetIntraOpNumThreads)(options.as_ptr(), threads)).map_err(refused("`threads`".into()))?;
        for (key, value) in entries(config, output) {
            let what = format!("`session_config` entry `{key}`");
            let (key, value) = (c_string(&what, key.as_bytes())?, c_string(&what, value.as_bytes())?);
            check(((*api()).AddSessionConfigEntry)(options.as_ptr(), key.as_ptr(), value.as_ptr())).map_err(refused(what))?;
        }
    }
    provider::append(runtime, &options, config)?;
    if let Output::Optimized(path) = output {
        let path = c_string("the path of the optimised model", path.as_os_str().as_bytes())?;
        // SAFETY: the options are valid, and the path lives through the call.
        unsafe { check(((*api()).SetOptimizedModelFilePath)(options.as_ptr(), path.as_ptr())) }
            .map_err(refused("the path of the optimised model".into()))?;
    }
    for library in &config.custom_op_libraries {
        let path = c_string("`custom_op_libraries`", library.as_os_str().as_bytes())?;
        // SAFETY: the options are valid, and the path lives through the call; that the library is one of custom
        // operators is what the configuration says.
        unsafe { check(((*api()).RegisterCustomOpsLibrary_V2)(options.as_ptr(), path.as_ptr())) }
            .map_err(|status| not_opened(PathBuf::from(library), status.message))?;
    }
    Ok(options)
}

/// The entries of the session: those of the configuration, over those that follow from the rest of it.
fn entries<'a>(config: &'a Config, output: Output<'_>) -> BTreeMap<&'a str, String> {
    let mut entries = BTreeMap::new();
    if has(Since::Assignment) {
        entries.insert(assignment::RECORD, "1".to_owned());
    } else if config.provider != Provider::Cpu {
        entries.insert(assignment::NO_FALLBACK, "1".to_owned());
    }
    if let Output::Engine(path) = output {
        entries.insert("ep.context_enable", "1".to_owned());
        entries.insert("ep.context_file_path", path.display().to_string());
        // One file, unless it would be too large for one.
        entries.insert("ep.context_embed_mode", "1".to_owned());
    }
    entries.extend(config.session_config.iter().map(|(key, value)| (key.as_str(), value.clone())));
    entries
}

fn refused(what: String) -> impl FnOnce(Status) -> LoadError {
    move |status| LoadError::Option { what, message: status.message }
}

fn c_string(what: &str, text: &[u8]) -> Result<CString, LoadError> {
    CString::new(text).map_err(|_| LoadError::Option { what: what.to_owned(), message: "it holds a zero byte".into() })
}

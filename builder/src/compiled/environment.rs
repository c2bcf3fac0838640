//! The folder of packages in which TensorFlow's compiler runs: pinned wheels, unpacked once.

use std::path::{Path, PathBuf};

use super::programs::Programs;
use super::{CompileError, CompileRequest};
use crate::digest::Digest;
use crate::lock::Lock;
use crate::progress::Progress;
use crate::source::{Pin, WheelName};
use crate::store::Store;

/// Unpacks wheels as `pip` does, without what it writes besides: arguments are the folder and the wheels.
const UNPACK: &str = r"
import sys, zipfile
for wheel in sys.argv[2:]:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(sys.argv[1])
";

/// What decides the packages.
pub(super) fn key(lock: &Lock, programs: &Programs) -> Digest {
    let pins: Vec<String> = lock.compiler.iter().map(|pin| format!("{} {}\n", pin.name, pin.sha256)).collect();
    Digest::of(format!("1\n{}\n{}", programs.python_version, pins.concat()).as_bytes())
}

/// Finds the packages unpacked, or fetches and unpacks them.
pub(super) fn obtain(request: &CompileRequest<'_>, store: &Store, progress: &Progress) -> Result<PathBuf, CompileError> {
    store.folder("packages", &key(request.lock, request.programs), |folder| {
        let pins: Vec<&Pin> = request.lock.compiler.iter().collect();
        let wheels = request.sources.obtain(&pins, store, request.reach, progress)?;
        let _task = progress.task("unpack the compiler", None);
        let mut arguments = vec!["-I", "-S", "-c", UNPACK, "."];
        let paths: Vec<String> = wheels.iter().map(|wheel| wheel.path.display().to_string()).collect();
        arguments.extend(paths.iter().map(String::as_str));
        let ended = request.programs.run_python(folder, &arguments)?;
        if ended.success { Ok(()) } else { Err(CompileError::Unpack { status: ended.status.clone(), output: ended.tail() }) }
    })
}

/// The bytes of the files of the compiler's own package: its module and what the wheel says of itself.
pub(super) fn size_of_first(request: &CompileRequest<'_>, packages: &Path) -> u64 {
    let Some(wheel) = request.lock.compiler.first().and_then(|pin| pin.file.parse::<WheelName>().ok()) else { return 0 };
    let about = packages.join(format!("{}-{}.dist-info", wheel.name, wheel.version));
    let modules = std::fs::read_to_string(about.join("top_level.txt")).unwrap_or_default();
    let folders = modules.lines().map(|module| packages.join(module.trim())).chain([about]);
    // Python keeps there what it compiled of the modules.
    let own = |entry: &walkdir::DirEntry| entry.file_name() != "__pycache__";
    let files = folders.flat_map(|folder| walkdir::WalkDir::new(folder).into_iter().filter_entry(own).flatten());
    files.filter(|file| file.file_type().is_file()).filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

//! The inference server; see the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    imgserve::run(std::env::args_os().skip(1))
}

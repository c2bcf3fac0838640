//! The helper process of the embedded runner as a program of its own: what a command that embeds the library does first in `main`.

fn main() -> Result<(), imgbuild::runner::RunnerError> {
    imgbuild::runner::embedded::helper_main()
}

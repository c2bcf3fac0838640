//! The command `imgbuild`; see `imgbuild::cli`.

fn main() -> std::process::ExitCode {
    imgbuild::cli::main()
}

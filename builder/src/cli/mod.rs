//! The command: parses what was typed, calls the library, prints results on stdout and everything else on stderr.

mod args;
mod attach;
mod attest;
mod build;
mod choose;
mod coldstart;
mod compare;
mod doctor;
mod engine;
mod failure;
mod fatbin;
mod images;
mod publish;
mod push;
mod require;
mod run;
mod serve;
mod several;
mod small;
mod template;
mod terminal;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use crate::exit_code;
use crate::progress::Progress;
use crate::store::Store;
use args::{Cli, Command};
use failure::Failure;

/// What every command is given.
struct Context {
    store: Option<std::path::PathBuf>,
    progress: Progress,
}

impl Context {
    fn store(&self) -> Result<Store, Failure> {
        let root = match &self.store {
            Some(root) => root.clone(),
            None => Store::default_root()?,
        };
        Ok(Store::open(&root)?)
    }
}

/// Runs the command line of this process and gives its exit code.
#[must_use]
pub fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(crate::runner::embedded::HELPER_SUBCOMMAND) {
        return crate::runner::embedded::helper_main().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { exit_code::USAGE } else { exit_code::SUCCESS };
            // A closed pipe is no reason to fail.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let progress = terminal::progress(terminal::Verbosity::new(cli.quiet, cli.verbose));
    let context = Context { store: cli.store, progress };
    let done = match cli.command {
        Command::Build(args) => build::build(&context, args),
        Command::Lock(args) => build::lock(&context, args),
        Command::Init(args) => small::init(&args),
        Command::Inspect(args) => images::inspect(&context, &args),
        Command::Why(args) => images::why(&context, &args),
        Command::Compare(args) => compare::compare(&context, &args),
        Command::History(args) => compare::history(&context, &args),
        Command::Run(args) => run::run(&context, args),
        Command::Push(args) => push::push(&context, &args),
        Command::PublishRuntime(args) => publish::publish(&context, args),
        Command::Attach(args) => attach::attach(&context, &args),
        Command::Referrers(args) => attach::referrers(&context, &args),
        Command::Engine(args) => engine::engine(&context, args),
        Command::Doctor(args) => doctor::doctor(&context, &args),
        Command::Choose(args) => choose::choose(&context, &args),
        Command::Coldstart(args) => coldstart::coldstart(&context, args),
        Command::Verify(args) => verify::verify(&context, &args),
        Command::Record(args) => verify::record(&context, &args),
        Command::Login(args) => small::login(&context, &args),
        Command::Logout(args) => small::logout(&context, &args),
        Command::Cache(args) => small::cache(&context, &args),
        Command::Template(args) => template::template(&context, &args),
        Command::Fatbin(args) => fatbin::fatbin(&args),
        Command::Completions(args) => small::completions(&args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprint!("{}", failure.render());
            ExitCode::from(failure.code)
        }
    }
}

/// Writes a result to stdout. A reader that went away is no error.
fn print(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stdout().write_all(text.as_bytes());
    let _ = std::io::stdout().flush();
}

/// Writes a value to stdout as indented JSON.
fn print_json(value: &impl serde::Serialize) {
    print(&format!("{}\n", serde_json::to_string_pretty(value).expect("results have string keys only")));
}

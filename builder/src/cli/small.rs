//! The small commands: `init`, `login`, `logout`, `cache`, `completions`.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use clap::CommandFactory;

use super::args::{CacheArgs, CacheCommand, Cli, CompletionsArgs, InitArgs, LoginArgs, LogoutArgs, RegistryArgs};
use super::failure::Failure;
use super::{Context, images, print, print_json};
use crate::exit_code;
use crate::recipe::{FILE_NAME, TEMPLATE};
use crate::registry::Secret;
use crate::units::ByteSize;

pub(super) fn init(args: &InitArgs) -> Result<u8, Failure> {
    let path = Path::new(FILE_NAME);
    if path.exists() && !args.force {
        return Err(
            Failure::new(format!("`{FILE_NAME}` is already there"), exit_code::UNUSABLE_INPUT).with_hint("`--force` replaces it")
        );
    }
    let text = match &args.model {
        None => TEMPLATE.to_owned(),
        Some(model) => {
            let line = format!("model = {}", toml::Value::from(model.display().to_string()));
            TEMPLATE.replace("model = \"model.onnx\"", &line)
        }
    };
    crate::files::write_atomically(path, text.as_bytes()).map_err(|error| Failure::new(error, exit_code::STORAGE))?;
    print(&format!("wrote {FILE_NAME}\n"));
    Ok(exit_code::SUCCESS)
}

pub(super) fn login(context: &Context, args: &LoginArgs) -> Result<u8, Failure> {
    let mut password = String::new();
    std::io::stdin().read_to_string(&mut password).map_err(|error| Failure::new(error, exit_code::FAILURE))?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::new("stdin holds no password", exit_code::UNUSABLE_INPUT));
    }
    let client = images::client(context, &args.options, Some(&args.registry));
    client.login(&args.registry, &args.username, &Secret::new(password))?;
    print(&format!("logged in to {} as {}\n", args.registry, args.username));
    Ok(exit_code::SUCCESS)
}

pub(super) fn logout(context: &Context, args: &LogoutArgs) -> Result<u8, Failure> {
    images::client(context, &RegistryArgs::default(), None).logout(&args.registry)?;
    print(&format!("logged out of {}\n", args.registry));
    Ok(exit_code::SUCCESS)
}

pub(super) fn cache(context: &Context, args: &CacheArgs) -> Result<u8, Failure> {
    let store = context.store()?;
    match args.command {
        CacheCommand::List { json } => {
            let list = store.list()?;
            if json {
                print_json(&list);
            } else {
                let mut text = String::new();
                for blob in &list {
                    text.push_str(&format!(
                        "{}  {:>10}  idle {} h\n",
                        blob.digest,
                        ByteSize(blob.size),
                        blob.idle_seconds / 3600
                    ));
                }
                let total: u64 = list.iter().map(|blob| blob.size).sum();
                text.push_str(&format!("{} blobs, {} in {}\n", list.len(), ByteSize(total), store.root().display()));
                print(&text);
            }
        }
        CacheCommand::Prune { days, json } => {
            let pruned = store.prune(Duration::from_secs(days.saturating_mul(24 * 60 * 60)))?;
            if json {
                print_json(&pruned);
            } else {
                print(&format!("removed {} files, {}\n", pruned.files, ByteSize(pruned.bytes)));
            }
        }
    }
    Ok(exit_code::SUCCESS)
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "imgbuild", &mut script);
    print(&String::from_utf8_lossy(&script));
    Ok(exit_code::SUCCESS)
}

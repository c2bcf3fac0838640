//! `imgbuild template`: prints files for pipelines and clusters, filled in for an image.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde::Serialize;

use super::args::RegistryArgs;
use super::failure::Failure;
use super::{Context, images, print, print_json};
use crate::exit_code;
use crate::platform::Platform;
use crate::template::{Data, TemplateError, Values, ValuesError};
use crate::transport::Transport;

/// `imgbuild template`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild template list
  imgbuild template kubernetes docker://localhost:5000/acme/magika:1 --output magika.yaml
  imgbuild template github-workflow")]
pub struct TemplateArgs {
    /// Name of a template, or `list`
    pub name: String,

    /// The image it is filled in for [default: placeholders stay]
    #[arg(value_hint = ValueHint::AnyPath)]
    pub image: Option<String>,

    /// Write it here instead of to stdout
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,

    /// Print the list, or the text and what was filled in, as JSON
    #[arg(long)]
    pub json: bool,

    /// Platform to choose from an index [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    purpose: String,
}

#[derive(Serialize)]
struct Filled<'a> {
    name: &'a str,
    image: Option<&'a str>,
    text: &'a str,
}

pub(super) fn template(context: &Context, args: &TemplateArgs) -> Result<u8, Failure> {
    let data = Data::locate();
    if args.name == "list" {
        return list(&data, args);
    }
    let snippet = data.snippet(&args.name)?.value;
    let values = args.image.as_ref().map(|image| values(context, args, image)).transpose()?;
    let text = snippet.fill(values.as_ref().unwrap_or(&Values::default()));
    if let Some(path) = &args.output {
        crate::files::write_atomically(path, text.as_bytes())
            .map_err(|error| Failure::new(format!("failed to write `{}`: {error}", path.display()), exit_code::STORAGE))?;
    }
    if args.json {
        print_json(&Filled { name: &args.name, image: values.as_ref().map(|values| values.image.as_str()), text: &text });
    } else if args.output.is_none() {
        print(&text);
    }
    Ok(exit_code::SUCCESS)
}

fn list(data: &Data, args: &TemplateArgs) -> Result<u8, Failure> {
    let mut listed = Vec::new();
    for name in data.snippets() {
        let purpose = data.snippet(&name)?.value.purpose().to_owned();
        listed.push(Listed { name, purpose });
    }
    if args.json {
        print_json(&listed);
    } else {
        print(&listed.iter().map(|one| format!("{:<16} {}\n", one.name, one.purpose)).collect::<String>());
    }
    Ok(exit_code::SUCCESS)
}

fn values(context: &Context, args: &TemplateArgs, name: &str) -> Result<Values, Failure> {
    let (transport, image) = images::open(context, name, args.platform, &args.registry)?;
    let config = images::config_of(&image)?;
    let composition = images::required_composition(&config, name)?;
    let reference = match &transport {
        Transport::Registry(reference) => Some(reference),
        _ => {
            context.progress.warn(format!("`{name}` is in no registry: replace registry.example.com in what is printed"));
            None
        }
    };
    Ok(Values::of(&config, &composition, reference, image.descriptor().digest)?)
}

impl From<TemplateError> for Failure {
    fn from(error: TemplateError) -> Self {
        let hint = error.hint();
        Self { error: Box::new(error), hint, code: exit_code::UNUSABLE_INPUT }
    }
}

impl From<ValuesError> for Failure {
    fn from(error: ValuesError) -> Self {
        Self::new(error, exit_code::UNUSABLE_INPUT)
    }
}

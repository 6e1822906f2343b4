//! `create`: make a container from an image.

use crate::cli::container_options::{ContainerOptions, create};
use crate::cli::context::Context;
use crate::cli::error::CommandError;

/// Arguments of `create`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: ContainerOptions,
}

/// Run `create`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let id = create(cx, &args.options, false)?;
    cx.line(id)
}

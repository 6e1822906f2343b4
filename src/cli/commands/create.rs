//! `create`: make a container from an image.

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::container::lifecycle::{LifecycleError, NewContainer, create};
use crate::image::{config, resolve};

/// Arguments of `create`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container's name; one is made up otherwise
    #[arg(long, allow_hyphen_values = true)]
    name: Option<String>,
    /// Tag, ID, or unambiguous prefix of an ID
    image: String,
    /// The command, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Run `create`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let image = resolve(&snapshot, &args.image)?.image;
    let config = match config::read(&cx.store, &image.id) {
        // Removed between the two looks.
        Err(e) if e.is_not_found() && !cx.db.read(|tx| tx.has_image(&image.id))? => {
            return Err(LifecycleError::NoSuchImage(args.image).into());
        }
        read => read?,
    };
    let entrypoint = config.config.entrypoint.unwrap_or_default();
    let command = match args.command.is_empty() {
        true => config.config.cmd.unwrap_or_default(),
        false => args.command,
    };
    let new = NewContainer {
        name: args.name.as_deref(),
        image: &image.id,
        reference: &args.image,
        command: [entrypoint, command].concat(),
    };
    let id = create(&mut cx.db, &cx.store, &new)?;
    cx.line(id)
}

//! `tag`: give an image another name.

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::image::tag::tag;

/// Arguments of `tag`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// Its new name; an image that has it loses it
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

/// Run `tag`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    Ok(tag(&mut cx.db, &args.source, &args.target)?)
}

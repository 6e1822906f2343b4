//! `demo`: deferred deletion from beginning to end, on a real image.
//!
//! Every step runs this program as a user would and prints the command with what it shows. What
//! the steps claim is checked: the demonstration fails where the claim does not hold.

mod image;
mod plot;
mod sampler;
mod story;

use std::path::PathBuf;

use crate::cli::error::CommandError;
use crate::cli::plot::{draw, picture_file};

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Any docker-archive, OCI archive or layout; else an image is made of this machine's programs
    archive: Option<PathBuf>,
    /// Draw what the store took over time, with the events
    #[arg(long, value_name = "FILE.svg|FILE.png", value_parser = picture_file)]
    plot: Option<PathBuf>,
    /// Where its store is made, and deleted at the end [default: /var/tmp]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

/// Run `demo`.
pub fn run(args: Args) -> Result<(), CommandError> {
    let scratch = args.scratch.unwrap_or_else(|| "/var/tmp".into());
    let told = story::tell(&scratch, args.archive)?;
    let timeline = told.timeline();
    story::show(format_args!(
        "\nTimeline (what the store takes on the disk):\n\n{timeline}\n"
    ))?;
    if let Some(path) = args.plot {
        draw(&path, &told).map_err(CommandError::new)?;
        story::show(format_args!("\nDrawn: {}\n", path.display()))?;
    }
    Ok(())
}

//! `rename`: give a container another name.

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::container::find;
use crate::container::lifecycle::rename;

/// Arguments of `rename`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name, ID, or unambiguous prefix of an ID
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The name that it gets
    #[arg(value_name = "NEW_NAME", allow_hyphen_values = true)]
    name: String,
}

/// Run `rename`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let old = args.container.trim();
    let new = args.name.trim();
    if old.is_empty() || new.is_empty() {
        return Err(CommandError::new("Neither old nor new names may be empty"));
    }
    let snapshot = cx.snapshot()?;
    let container = find(&snapshot, old)?;
    Ok(rename(&mut cx.db, container, new)?)
}

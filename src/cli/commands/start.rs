//! `start`: without an OCI runtime, mount the containers' views.

use super::{for_each, mount};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::container::find;

/// Arguments of `start`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, IDs, or unambiguous prefixes of IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Run `start`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    for_each(cx, &args.containers, |cx, name| {
        let snapshot = cx.snapshot()?;
        let id = find(&snapshot, name)?.id.clone();
        mount::ensure_mounted(cx, &id)?;
        cx.line(name)
    })
}

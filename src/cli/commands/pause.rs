//! `pause` and `unpause`: freeze the processes of containers, and let them go on.

use super::for_each;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::container::{find, process};

/// Arguments of both.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, IDs, or unambiguous prefixes of IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Run `pause`.
pub fn pause(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    for_each(cx, &args.containers, |cx, name| {
        let snapshot = cx.snapshot()?;
        process::pause(&cx.store, &snapshot, find(&snapshot, name)?)?;
        cx.line(name)
    })
}

/// Run `unpause`.
pub fn unpause(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    for_each(cx, &args.containers, |cx, name| {
        let snapshot = cx.snapshot()?;
        process::unpause(&cx.store, &snapshot, find(&snapshot, name)?)?;
        cx.line(name)
    })
}

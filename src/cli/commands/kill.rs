//! `kill`: send a signal to the processes of containers.

use super::for_each;
use super::start::wait_for_start;
use super::stop::stop;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::container::{find, process};
use crate::model::signal;

/// Arguments of `kill`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or number
    #[arg(short, long, default_value = "KILL", allow_hyphen_values = true)]
    signal: String,
    /// Names, IDs, or unambiguous prefixes of IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Run `kill`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let number = signal::number(&args.signal)?;
    for_each(cx, &args.containers, |cx, name| {
        wait_for_start(cx, name)?;
        let snapshot = cx.snapshot()?;
        let cannot = |why: &dyn std::fmt::Display| {
            CommandError::new(format!("Cannot kill container: {name}: {why}"))
        };
        let container = find(&snapshot, name).map_err(|e| cannot(&e))?;
        process::require_running(&snapshot, container).map_err(|e| cannot(&e))?;
        if number == libc::SIGKILL {
            // When this returns, it has ended.
            stop(cx, &container.id, number, None)?;
        } else {
            process::signal(&cx.store, &snapshot, container, number).map_err(|e| cannot(&e))?;
        }
        cx.line(name)
    })
}

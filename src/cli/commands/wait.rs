//! `wait`: block until containers stop, then print their exit codes.

use super::for_each;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::joined::wait_for_end;
use crate::container::attach::{Frame, connect};
use crate::container::bundle::RunDir;
use crate::container::{find, view};
use crate::model::ContainerId;

/// Arguments of `wait`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, IDs, or unambiguous prefixes of IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Run `wait`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    for_each(cx, &args.containers, |cx, name| {
        let snapshot = cx.snapshot()?;
        let id = find(&snapshot, name)?.id.clone();
        let code = wait(cx, &id)?;
        cx.line(code)?;
        // Whoever reads this acts on it.
        cx.flush()
    })
}

/// Wait for the end of a container's process and of its view, if it runs. Gives the last exit code.
fn wait(cx: &mut Context, id: &ContainerId) -> Result<i32, CommandError> {
    let runs = cx.db.read(|tx| tx.view(id))?;
    if runs.is_some_and(|view| view.process.is_some()) {
        let joined = connect(&RunDir::of(&cx.store, id)).and_then(|mut monitor| {
            Frame::Wait.send(&mut monitor)?;
            Ok(monitor)
        });
        // Nobody there: it has ended since, or its monitor was killed.
        if let Ok(mut monitor) = joined {
            let told = Frame::receive(&mut monitor);
            if let Ok(Some(Frame::Exit(code))) = told {
                wait_for_end(&mut monitor);
                return Ok(code);
            }
        }
        view::bury_the_dead(&mut cx.db, &cx.store)?;
    }
    let container = cx.db.read(|tx| tx.container(id))?;
    Ok(container.and_then(|c| c.exit_code).unwrap_or(0))
}

//! `wait`: block until containers stop, then print their exit codes.

use std::time::Duration;

use super::for_each;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::joined::wait_for_end;
use crate::container::attach::{Frame, connect};
use crate::container::bundle::RunDir;
use crate::container::{FindError, find, view};
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
    let view = cx.db.read(|tx| tx.view(id))?;
    if let Some(view) = view.filter(|view| view.process.is_some()) {
        let joined = connect(&RunDir::of(&cx.store, id)).and_then(|mut monitor| {
            Frame::Wait.send(&mut monitor)?;
            Ok(monitor)
        });
        // Nobody there: its end is about to be written down, or its monitor was killed.
        if let Ok(mut monitor) = joined {
            let told = Frame::receive(&mut monitor);
            if let Ok(Some(Frame::Exit(code))) = told {
                wait_for_end(&mut monitor);
                return Ok(code);
            }
        }
        loop {
            view::bury_the_dead(&mut cx.db, &cx.store)?;
            let now = cx.db.read(|tx| tx.view(id))?;
            if now.is_none_or(|now| !now.is_same(&view) || now.process.is_none()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    match cx.db.read(|tx| tx.container(id))? {
        Some(container) => Ok(container.exit_code.unwrap_or(0)),
        // It was to go at its end, and its monitor was killed: nobody knows.
        None => Err(FindError::NoSuchContainer(id.hex().to_owned()).into()),
    }
}

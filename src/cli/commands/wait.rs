//! `wait`: block until containers stop, then print their exit codes.

use std::time::Duration;

use super::for_each;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::joined::wait_for_end;
use crate::container::attach::{Frame, connect};
use crate::container::bundle::RunDir;
use crate::container::lifecycle::LifecycleError;
use crate::container::{find, view};
use crate::db::View;
use crate::model::ContainerId;

/// Arguments of `wait`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, IDs, or unambiguous prefixes of IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// How often it is looked whether an end was written down.
const PAUSE: Duration = Duration::from_millis(10);

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
    let first = cx.db.read(|tx| tx.view(id))?;
    loop {
        let view = cx.db.read(|tx| tx.view(id))?;
        let runs = |first: &View| {
            let now = view.as_ref();
            now.is_some_and(|now| now.is_same(first) && now.process.is_some())
        };
        if !first.as_ref().is_some_and(runs) {
            break;
        }
        let joined = connect(&RunDir::of(&cx.store, id)).and_then(|mut monitor| {
            Frame::Wait.send(&mut monitor)?;
            Ok(monitor)
        });
        // Nobody there: its monitor was killed, or is about to write down how it ended.
        if let Ok(mut monitor) = joined {
            let told = Frame::receive(&mut monitor);
            if let Ok(Some(Frame::Exit(code))) = told {
                wait_for_end(&mut monitor);
                return Ok(code);
            }
        }
        view::bury_the_dead(&mut cx.db, &cx.store)?;
        std::thread::sleep(PAUSE);
    }
    let container = cx.db.read(|tx| tx.container(id))?;
    // One that was to go at its end has gone, and how it ended with it.
    let gone = || LifecycleError::NoSuchContainer(id.short().to_owned());
    Ok(container.ok_or_else(gone)?.exit_code.unwrap_or(0))
}

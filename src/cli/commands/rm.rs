//! `rm`: remove containers.

use super::for_each;
use super::start::wait_for_start;
use super::stop::stop;
use super::umount::{Ended, end_view};
use crate::cli::context::Context;
use crate::cli::error::{CommandError, complain};
use crate::container::lifecycle::{self, LifecycleError};
use crate::container::{FindError, find, process};
use crate::db::{Container, Snapshot};

/// Arguments of `rm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also those that run or are mounted; a busy view is detached and goes when its last user has
    #[arg(short, long)]
    force: bool,
    /// Names, IDs, or unambiguous prefixes of IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Run `rm`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    for_each(cx, &args.containers, |cx, name| {
        wait_for_start(cx, name)?;
        let snapshot = cx.snapshot()?;
        match find(&snapshot, name) {
            // As for images: with --force a missing one is reported, but no failure.
            Err(missing @ FindError::NoSuchContainer(_)) if args.force => {
                cx.flush_and_go_on();
                complain(&missing);
                return Ok(());
            }
            found => remove(cx, &snapshot, found?, args.force)?,
        }
        cx.line(name)
    })
}

fn remove(
    cx: &mut Context,
    snapshot: &Snapshot,
    container: &Container,
    force: bool,
) -> Result<(), CommandError> {
    if let Some(view) = snapshot.view(&container.id) {
        if !force && process::is_paused(&cx.store, snapshot, container)? {
            return Err(LifecycleError::Paused(container.name.clone()).into());
        }
        if !force {
            return Err(LifecycleError::Active(container.name.clone()).into());
        }
        if view.process.is_some() {
            stop(cx, &container.id, libc::SIGKILL, None)?;
            let snapshot = cx.snapshot()?;
            // One that was to go at its end has gone.
            return match find(&snapshot, container.id.hex()) {
                Ok(container) => remove(cx, &snapshot, container, force),
                Err(_) => Ok(()),
            };
        }
        let busy = view.detached || matches!(end_view(cx, view, false)?, Ended::Busy(_));
        if busy {
            if let Ended::Busy(why) = end_view(cx, view, true)? {
                return Err(CommandError::new(format!(
                    "cannot remove container \"/{}\": {why}",
                    container.name
                )));
            }
            return Ok(lifecycle::abandon(&mut cx.db, &cx.store, container, view)?);
        }
    }
    match lifecycle::remove(&mut cx.db, &cx.store, container) {
        // Another process was faster.
        Err(LifecycleError::NoSuchContainer(_)) if force => Ok(()),
        // It has been started since: once more, with the view that it has now.
        Err(LifecycleError::Active(_)) if force && snapshot.view(&container.id).is_none() => {
            wait_for_start(cx, container.id.hex())?;
            let snapshot = cx.snapshot()?;
            match find(&snapshot, container.id.hex()) {
                Ok(container) if snapshot.view(&container.id).is_some() => {
                    remove(cx, &snapshot, container, force)
                }
                Ok(_) => Err(LifecycleError::Active(container.name.clone()).into()),
                Err(_) => Ok(()),
            }
        }
        other => Ok(other?),
    }
}

//! `run`: make a container and run its process.

use super::start::{start_detached, start_joined};
use crate::cli::container_options::{ContainerOptions, create};
use crate::cli::context::Context;
use crate::cli::error::{CommandError, complain};
use crate::cli::joined::{self, Manner};
use crate::container::lifecycle::{self, LifecycleError};
use crate::model::ContainerId;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave it to itself, and print its ID
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    options: ContainerOptions,
}

/// Run `run`. What keeps the process from being run exits with 125, as Docker's.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    run_options(&args, cx).map_err(|error| match error {
        CommandError::Message(text) => CommandError::Refused { text, code: 125 },
        other => other,
    })
}

fn run_options(args: &Args, cx: &mut Context) -> Result<(), CommandError> {
    if !args.detach {
        // Before there is a container that nobody wants.
        joined::check(Manner {
            input: args.options.interactive,
            tty: args.options.tty,
        })?;
    }
    let id = create(cx, &args.options, true)?;
    let started = match args.detach {
        false => start_joined(cx, &id, args.options.interactive),
        true => {
            // Docker's too: a container whose process cannot be started is there, and has an ID.
            let started = start_detached(cx, &id);
            cx.line(&id)?;
            cx.flush_and_go_on();
            started
        }
    };
    if started.is_err() && args.options.rm {
        remove_unstarted(cx, &id);
    }
    started
}

/// A container that was to go at its end goes too where there was not even a server to begin with: its
/// image was removed a moment ago, say.
fn remove_unstarted(cx: &mut Context, id: &ContainerId) {
    let container = cx.db.read(|tx| match tx.view(id)? {
        Some(_) => Ok(None),
        None => tx.container(id),
    });
    let removed = container
        .map_err(LifecycleError::from)
        .and_then(|container| match container {
            Some(container) => lifecycle::remove(&mut cx.db, &cx.store, &container),
            None => Ok(()),
        });
    match removed {
        Ok(()) | Err(LifecycleError::NoSuchContainer(_)) => {}
        Err(e) => complain(&e),
    }
}

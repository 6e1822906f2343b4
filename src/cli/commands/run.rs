//! `run`: make a container and run its process.

use super::start::{start_detached, start_joined};
use crate::cli::container_options::{ContainerOptions, create};
use crate::cli::context::Context;
use crate::cli::error::{CommandError, warn};
use crate::cli::joined::{self, Manner};
use crate::container::lifecycle::{self, LifecycleError};
use crate::container::view;
use crate::db::DbError;
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
    // Before there is a container: Ctrl-C must not leave one that nobody wants.
    let signals = match args.detach {
        false => Some(joined::pass_signals_on()?),
        true => None,
    };
    let id = create(cx, &args.options, true)?;
    let started = match signals {
        Some(signals) => start_joined(cx, &id, args.options.interactive, signals),
        None => {
            // Docker's too: a container whose process cannot be started is there, and has an ID.
            let started = start_detached(cx, &id);
            cx.line(&id)?;
            cx.flush_and_go_on();
            started
        }
    };
    if started.is_err()
        && args.options.rm
        && let Err(e) = remove_unstarted(cx, &id)
    {
        warn(&e);
    }
    started
}

/// A container that was to go at its end goes as well if it never ran: its server may not have come so
/// far as to see to that.
fn remove_unstarted(cx: &mut Context, id: &ContainerId) -> Result<(), LifecycleError> {
    view::bury_the_dead(&mut cx.db, &cx.store)?;
    let left = cx.db.read(|tx| -> Result<_, DbError> {
        Ok(match tx.view(id)? {
            Some(_) => None,
            None => tx.container(id)?.filter(|c| c.started.is_none()),
        })
    })?;
    match left.map(|container| lifecycle::remove(&mut cx.db, &cx.store, &container)) {
        Some(Err(LifecycleError::NoSuchContainer(_))) | None => Ok(()),
        Some(removed) => removed,
    }
}

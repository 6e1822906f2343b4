//! `run`: make a container and run its process.

use super::start::{start_detached, start_joined};
use crate::cli::container_options::{ContainerOptions, create};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::joined::{self, Manner};

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
    if !args.detach {
        return start_joined(cx, &id, args.options.interactive);
    }
    // Docker's too: a container whose process cannot be started is there, and has an ID.
    let started = start_detached(cx, &id);
    cx.line(id)?;
    cx.flush_and_go_on();
    started
}

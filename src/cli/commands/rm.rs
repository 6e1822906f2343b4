//! `rm`: remove containers.

use super::for_each;
use super::umount::{Ended, end_view};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::container::lifecycle::{self, LifecycleError};
use crate::container::{FindError, find};

/// Arguments of `rm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also those that are mounted; a busy view is detached and goes when its last user has
    #[arg(short, long)]
    force: bool,
    /// Names, IDs, or unambiguous prefixes of IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Run `rm`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    for_each(cx, &args.containers, |cx, name| {
        match remove(cx, name, args.force) {
            // As for images: with --force a missing one is reported, but no failure.
            Err(CommandError::Message(text))
                if args.force
                    && text == FindError::NoSuchContainer(name.to_owned()).to_string() =>
            {
                cx.flush()?;
                crate::cli::error::complain(&text);
                Ok(())
            }
            other => other,
        }
    })
}

fn remove(cx: &mut Context, name: &str, force: bool) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let container = find(&snapshot, name)?;
    if let Some(view) = snapshot.view(&container.id) {
        if !force {
            return Err(LifecycleError::Active(container.name.clone()).into());
        }
        let busy = view.detached || matches!(end_view(cx, view, false)?, Ended::Busy(_));
        if busy {
            // The row goes now, the files when the view's server ends: it finds no row.
            cx.db.write(|tx| tx.delete_container(&container.id))?;
            end_view(cx, view, true)?;
            return cx.line(name);
        }
    }
    lifecycle::remove(&mut cx.db, &cx.store, container)?;
    cx.line(name)
}

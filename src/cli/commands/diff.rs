//! `diff`: what a container has changed.

use std::io::{IsTerminal as _, stdout};
use std::os::fd::AsFd as _;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::view_access::{Access, ViewAccess, with_view};
use crate::container::changes::{Change, changes};
use crate::container::lower::lower;
use crate::model::tar::shown;
use crate::store::layout::open_directory;

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name, ID, or unambiguous prefix of an ID
    container: String,
}

/// Run `diff`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let changes = with_view(cx, &args.container, Access::Read, changes_of)?;
    let to_terminal = stdout().is_terminal();
    for change in changes {
        // Docker has no line for it.
        if change.path == b"/" {
            continue;
        }
        let kind = change.kind.letter();
        match to_terminal {
            // A name may be a command to the terminal.
            true => cx.line(format_args!("{kind} {}", shown(&change.path)))?,
            false => cx.bytes(&[&[kind as u8, b' '], change.path.as_slice(), b"\n"].concat())?,
        }
    }
    Ok(())
}

/// What the container has changed of its image.
pub fn changes_of(cx: &mut Context, access: &ViewAccess) -> Result<Vec<Change>, CommandError> {
    let (container, view) = (&access.container, &access.view);
    let lower = lower(&mut cx.db, &cx.store, container, view)?;
    let upper = open_directory(&cx.store.container(&container.id).upper())?;
    Ok(changes(access.root(), upper.as_fd(), &lower)?)
}

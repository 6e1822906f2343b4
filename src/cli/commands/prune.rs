//! `prune`: remove what no name leads to.

use std::collections::HashSet;
use std::io::{self, BufRead as _, IsTerminal as _};

use crate::cli::context::Context;
use crate::cli::error::{CommandError, complain};
use crate::image::removal::{self, Unfollowed};
use crate::model::human;
use crate::reclaim::execute::{Outcome, reclaim};

/// Arguments of `prune`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Run `prune`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    if !args.force && io::stdin().is_terminal() && !confirmed()? {
        return Ok(());
    }
    let snapshot = cx.snapshot()?;
    let mut rows = HashSet::new();
    let mut unfollowed = Vec::new();
    for image in snapshot
        .images
        .iter()
        .filter(|image| snapshot.is_dangling(image))
    {
        // Looked at again: it may have got a name meanwhile, or have gone.
        let Some(plan) = removal::remove_dangling(&mut cx.db, &image.id)? else {
            continue;
        };
        let images = plan.deleted.as_slice();
        unfollowed.extend(removal::follow_up(&mut cx.db, &cx.store, images)?);
        cx.line(format_args!("deleted: {}", image.id))?;
        rows.extend(plan.layers.iter().map(|l| l.row));
    }
    rows.extend(removal::mark_unused(&mut cx.db, |_| true)?);
    unfollowed.extend(removal::follow_up(&mut cx.db, &cx.store, &[])?);
    let mut reclaimed = 0;
    let mut failed = false;
    let mut complained = HashSet::new();
    for Unfollowed { layer, error } in &unfollowed {
        let row = layer.as_ref().map(|layer| layer.id);
        // Once a layer, though each follow-up has tried it; of others has been warned already.
        if row.is_none_or(|row| rows.contains(&row) && complained.insert(row)) {
            complain(error);
            failed = true;
        }
    }
    for layer in cx
        .snapshot()?
        .layers
        .iter()
        .filter(|l| rows.contains(&l.id))
    {
        match reclaim(&mut cx.db, &cx.store, layer, &mut cx.pace) {
            Ok(Outcome::Reclaimed) => {
                cx.line(format_args!("deleted: {}", layer.chain))?;
                reclaimed += layer.bytes;
            }
            Ok(Outcome::Pinned(_) | Outcome::Busy) => {}
            Err(e) => {
                complain(&e);
                failed = true;
            }
        }
    }
    cx.line(format_args!(
        "Total reclaimed space: {}",
        human::size(reclaimed)
    ))?;
    if failed {
        Err(CommandError::Reported)
    } else {
        Ok(())
    }
}

fn confirmed() -> Result<bool, CommandError> {
    eprint!(
        "WARNING! This will remove all dangling images and unused layers.\n\
         Are you sure you want to continue? [y/N] "
    );
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

//! `prune`: remove what no name leads to.

use std::collections::HashSet;
use std::io::{self, BufRead as _, IsTerminal as _};

use crate::cli::context::Context;
use crate::cli::error::{CommandError, complain};
use crate::image::removal;
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
    for image in snapshot
        .images
        .iter()
        .filter(|image| snapshot.is_dangling(image))
    {
        // Looked at again: it may have got a name meanwhile, or have gone.
        let Some(plan) = removal::remove_dangling(&mut cx.db, &image.id)? else {
            continue;
        };
        removal::follow_up(&mut cx.db, &cx.store, plan.deleted.as_slice())?;
        cx.line(format_args!("deleted: {}", image.id))?;
        rows.extend(plan.layers.iter().map(|l| l.row));
    }
    rows.extend(removal::mark_unused(&mut cx.db, &cx.store, |_| true)?);
    let mut reclaimed = 0;
    let mut failed = false;
    for layer in cx
        .snapshot()?
        .layers
        .iter()
        .filter(|l| rows.contains(&l.id))
    {
        match reclaim(&mut cx.db, &cx.store, layer) {
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

//! `prune`: remove what no name leads to.

use std::io::{self, BufRead as _, IsTerminal as _};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::image::removal;
use crate::image::removal_plan::Manner;
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
    let dangling = snapshot.images.iter().filter(|image| {
        image.tags.is_empty() && snapshot.containers_of(&image.id).next().is_none()
    });
    let mut reclaimed = 0;
    let mut rows = std::collections::HashSet::new();
    for image in dangling {
        let name = image.id.to_string();
        let manner = Manner {
            force: false,
            prune: true,
        };
        let plan = removal::remove(&mut cx.db, &cx.store, &name, manner)?;
        cx.line(format_args!("deleted: {name}"))?;
        rows.extend(plan.layers.iter().map(|l| l.row));
    }
    rows.extend(removal::mark_unused(&mut cx.db, &cx.store)?);
    for layer in cx
        .snapshot()?
        .layers
        .iter()
        .filter(|l| rows.contains(&l.id))
    {
        if reclaim(&mut cx.db, &cx.store, layer)? == Outcome::Reclaimed {
            cx.line(format_args!("deleted: {}", layer.chain))?;
            reclaimed += layer.bytes;
        }
    }
    cx.line(format_args!(
        "Total reclaimed space: {}",
        human::size(reclaimed)
    ))
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

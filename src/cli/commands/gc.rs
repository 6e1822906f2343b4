//! `gc`: reclaim now what nothing holds, and go on with what a crash cut short.

use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, complain};
use crate::db::Holder;
use crate::image::removal;
use crate::model::{Layer, Phase, human};
use crate::reclaim::execute::{Outcome, reclaim, sweep_orphans};

/// Arguments of `gc`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// How often a layer is looked at that another process is reclaiming.
const PAUSE: Duration = Duration::from_millis(20);

/// Run `gc`.
pub fn run(_: Args, cx: &mut Context) -> Result<(), CommandError> {
    let mut reclaimed = 0;
    let mut failed = false;
    // What cannot be renamed cannot be reclaimed either.
    for unfollowed in removal::follow_up(&mut cx.db, &cx.store, &[])? {
        complain(&unfollowed.error);
        failed = true;
    }
    let marked = cx.db.read(|tx| tx.marked_layers())?;
    for layer in marked.iter().filter(|l| l.phase != Phase::Marking) {
        match reclaim_or_wait(cx, layer) {
            Ok(Outcome::Reclaimed) => {
                reclaimed += layer.bytes;
                let size = human::size(layer.bytes);
                cx.line(format_args!("Reclaimed: {} ({size})", layer.chain))?;
            }
            Ok(Outcome::Pinned(holders)) => left(cx, layer, &views(&holders))?,
            Ok(Outcome::Busy) => left(cx, layer, "another process")?,
            Err(CommandError::Message(text)) => {
                complain(&text);
                failed = true;
            }
            Err(other) => return Err(other),
        }
    }
    let swept = sweep_orphans(&mut cx.db, &cx.store)?;
    if swept.count > 0 {
        let size = human::size(swept.bytes);
        let what = if swept.count == 1 {
            "orphan"
        } else {
            "orphans"
        };
        cx.line(format_args!("Removed {} {what} ({size})", swept.count))?;
    }
    for error in &swept.failed {
        complain(error);
        failed = true;
    }
    cx.line(format_args!(
        "Total reclaimed space: {}",
        human::size(reclaimed + swept.bytes)
    ))?;
    if failed {
        Err(CommandError::Reported)
    } else {
        Ok(())
    }
}

/// Another process that reclaims the layer is waited for.
fn reclaim_or_wait(cx: &mut Context, layer: &Layer) -> Result<Outcome, CommandError> {
    loop {
        match reclaim(&mut cx.db, &cx.store, layer)? {
            Outcome::Busy => std::thread::sleep(PAUSE),
            outcome => return Ok(outcome),
        }
    }
}

/// Say which layer stays, and who holds it.
fn left(cx: &mut Context, layer: &Layer, holder: &str) -> Result<(), CommandError> {
    let size = human::size(layer.bytes);
    cx.line(format_args!(
        "Left: {} ({size} held by {holder})",
        layer.chain
    ))
}

/// `container 9b8a7c6d5e4f, PID 123; container …`.
fn views(holders: &[Holder]) -> String {
    let one = |h: &Holder| format!("container {}, PID {}", h.container.short(), h.pid);
    holders.iter().map(one).collect::<Vec<_>>().join("; ")
}

//! `gc`: reclaim now what nothing holds, and go on with what a crash cut short.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cli::Format;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, complain};
use crate::db::Holder;
use crate::image::removal;
use crate::model::{ContainerId, Layer, Phase, Rate, human};
use crate::reclaim::execute::{Outcome, reclaim, sweep_orphans};
use crate::reclaim::pace::{Gone, Pace};
use crate::store::usage::measure;

/// Arguments of `gc`.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// How much may go in a second, for the sake of others who use the disk: bytes (50MB/s), entries
    /// (5000/s), both (50MB/s,5000/s), or unlimited [default: $LAYERCTL_RECLAIM_RATE, else unlimited]
    #[arg(long)]
    rate: Option<Rate>,
    /// Lines for people, or one JSON object
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How often a layer is looked at that another process is reclaiming.
const PAUSE: Duration = Duration::from_millis(20);

/// What was done, as JSON.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Allocated bytes.
    reclaimed_bytes: u64,
    /// Names that went.
    entries: u64,
    /// What the deletions took, without waiting for other processes.
    seconds: f64,
    /// The rate that was asked for.
    rate: String,
    /// Layers that are gone.
    layers: Vec<String>,
    /// How many orphans are gone.
    orphans: u64,
    /// Layers that stay.
    left: Vec<Left>,
}

#[derive(Debug, Serialize)]
struct Left {
    chain_id: String,
    bytes: u64,
    /// Empty: another process has it.
    pinned_by: Vec<ContainerId>,
}

/// Run `gc`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    if let Some(rate) = args.rate {
        cx.pace = Pace::new(rate);
    }
    let is_table = args.format == Format::Table;
    let mut report = Report {
        rate: cx.pace.rate().to_string(),
        ..Report::default()
    };
    let mut deleting = Duration::ZERO;
    let mut failed = false;
    // What cannot be renamed cannot be reclaimed either.
    for unfollowed in removal::follow_up(&mut cx.db, &cx.store, &[])? {
        complain(&unfollowed.error);
        failed = true;
    }
    let marked = cx.db.read(|tx| tx.marked_layers())?;
    for layer in marked.iter().filter(|l| l.phase != Phase::Marking) {
        let before = cx.pace.gone();
        // Of one that was cut short what is gone is gone, and not this command's merit.
        let bytes = match layer.phase {
            Phase::Reclaiming => measure(&cx.store.marked_layer(layer))?.bytes,
            _ => layer.bytes,
        };
        match reclaim_or_wait(cx, layer) {
            Ok((Outcome::Reclaimed, took)) => {
                report.reclaimed_bytes += bytes;
                report.layers.push(layer.chain.to_string());
                deleting += took;
                if is_table {
                    let size = human::size(bytes);
                    let price = human::price(cx.pace.gone().entries - before.entries, took);
                    cx.line(format_args!("Reclaimed: {} ({size}, {price})", layer.chain))?;
                    // The next one may take long, and be interrupted.
                    cx.flush_and_go_on();
                }
            }
            Ok((Outcome::Pinned(holders), _)) => {
                report.left(cx, is_table, layer, &views(&holders), &holders)?;
            }
            Ok((Outcome::Busy, _)) => report.left(cx, is_table, layer, "another process", &[])?,
            Err(CommandError::Message(text)) => {
                cx.flush_and_go_on();
                complain(&text);
                failed = true;
            }
            Err(other) => return Err(other),
        }
    }
    let begin = Instant::now();
    let swept = sweep_orphans(&mut cx.db, &cx.store, &mut cx.pace)?;
    report.orphans = swept.count;
    report.reclaimed_bytes += swept.bytes;
    if swept.count > 0 {
        deleting += begin.elapsed();
    }
    if swept.count > 0 && is_table {
        let size = human::size(swept.bytes);
        let what = if swept.count == 1 {
            "orphan"
        } else {
            "orphans"
        };
        cx.line(format_args!("Removed {} {what} ({size})", swept.count))?;
    }
    for error in &swept.failed {
        cx.flush_and_go_on();
        complain(error);
        failed = true;
    }
    let gone = cx.pace.gone();
    report.entries = gone.entries;
    report.seconds = deleting.as_secs_f64();
    match args.format {
        Format::Json => cx.json(&report)?,
        Format::Table => {
            let size = human::size(report.reclaimed_bytes);
            let price = price(gone, deleting, cx.pace.rate());
            cx.line(format_args!("Total reclaimed space: {size}{price}"))?;
        }
    }
    if failed {
        Err(CommandError::Reported)
    } else {
        Ok(())
    }
}

/// Another process that reclaims the layer is waited for. Gives how long this one took to reclaim it.
fn reclaim_or_wait(cx: &mut Context, layer: &Layer) -> Result<(Outcome, Duration), CommandError> {
    loop {
        let begin = Instant::now();
        match reclaim(&mut cx.db, &cx.store, layer, &mut cx.pace)? {
            Outcome::Busy => std::thread::sleep(PAUSE),
            outcome => return Ok((outcome, begin.elapsed())),
        }
    }
}

impl Report {
    /// Say which layer stays, and who holds it.
    fn left(
        &mut self,
        cx: &mut Context,
        is_table: bool,
        layer: &Layer,
        holder: &str,
        holders: &[Holder],
    ) -> Result<(), CommandError> {
        self.left.push(Left {
            chain_id: layer.chain.to_string(),
            bytes: layer.bytes,
            pinned_by: holders.iter().map(|h| h.container.clone()).collect(),
        });
        if !is_table {
            return Ok(());
        }
        let size = human::size(layer.bytes);
        cx.line(format_args!(
            "Left: {} ({size} held by {holder})",
            layer.chain
        ))
    }
}

/// What it took, and how fast it was if it was steered: ` in 21.3 s, at 49.8MB/s of 50MB/s`. Nothing
/// where nothing went.
fn price(gone: Gone, time: Duration, rate: Rate) -> String {
    if gone.entries == 0 {
        return String::new();
    }
    let a_second = |amount: u64| (amount as f64 / time.as_secs_f64().max(1e-3)) as u64;
    let bytes = rate
        .bytes
        .map(|_| format!("{}/s", human::size(a_second(gone.bytes))));
    let entries = rate
        .entries
        .map(|_| format!("{}/s", a_second(gone.entries)));
    let reached: Vec<String> = bytes.into_iter().chain(entries).collect();
    let took = human::took(time);
    match reached.as_slice() {
        [] => format!(" in {took}"),
        reached => format!(" in {took}, at {} of {rate}", reached.join(" and ")),
    }
}

/// `container 9b8a7c6d5e4f, PID 123; container …`.
fn views(holders: &[Holder]) -> String {
    let one = |h: &Holder| format!("container {}, PID {}", h.container.short(), h.pid);
    holders.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_price_says_what_was_asked_for_and_what_was_reached() {
        let gone = Gone {
            entries: 100_007,
            bytes: 5_000_000_000,
        };
        for (rate, text) in [
            ("unlimited", " in 125 s"),
            ("50MB/s", " in 125 s, at 40MB/s of 50MB/s"),
            ("900/s", " in 125 s, at 800/s of 900/s"),
            (
                "50MB/s,900/s",
                " in 125 s, at 40MB/s and 800/s of 50MB/s,900/s",
            ),
        ] {
            let rate = rate.parse().unwrap();
            assert_eq!(price(gone, Duration::from_secs(125), rate), text);
            assert_eq!(price(Gone::default(), Duration::ZERO, rate), "");
        }
    }
}

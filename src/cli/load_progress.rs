//! How a load's progress is shown: bars on a terminal, else a line for each layer.
//!
//! A bar stands only while its layer is being unpacked; what is done scrolls away above the bars as the same
//! lines that a file gets. So there are never more bars than layers being unpacked at once, whatever the terminal's
//! height, and nothing is left of them at the end, however that comes.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use crate::image::progress::{Done, Progress};
use crate::model::{DiffId, human};
use crate::sys::terminal;

/// Where a line of bar, bytes and rate has no room: fewer columns than this.
const NARROW: u16 = 60;

/// Shows a load's progress on standard error. What bars it has drawn vanish when it is dropped.
pub struct Shown(How);

enum How {
    Quiet,
    Lines,
    Bars(Bars),
}

struct Bars {
    all: MultiProgress,
    copying: Mutex<Option<ProgressBar>>,
    layers: Mutex<HashMap<DiffId, ProgressBar>>,
    is_narrow: bool,
}

impl Shown {
    /// As standard error wants it; nothing at all if `quiet`.
    pub fn new(quiet: bool) -> Shown {
        // Where lines cannot be drawn again.
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Shown(match () {
            () if quiet => How::Quiet,
            () if is_dumb || !io::stderr().is_terminal() => How::Lines,
            () => How::Bars(Bars {
                all: MultiProgress::new(),
                copying: Mutex::default(),
                layers: Mutex::default(),
                is_narrow: terminal::size(io::stderr()).is_ok_and(|(_, columns)| columns < NARROW),
            }),
        })
    }
}

impl Bars {
    fn style(&self, wide: &str, narrow: &str) -> ProgressStyle {
        let template = if self.is_narrow { narrow } else { wide };
        // A template that cannot be read shows a bar all the same.
        ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ")
            .with_key(
                "done",
                |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    out.write_str(&human::size(state.pos())).unwrap_or_default();
                },
            )
            .with_key(
                "of",
                |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    let size = human::size(state.len().unwrap_or(0));
                    out.write_str(&size).unwrap_or_default();
                },
            )
            .with_key(
                "rate",
                |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    let rate = human::size(state.per_sec() as u64);
                    write!(out, "{rate}/s").unwrap_or_default();
                },
            )
    }

    fn remove(&self, bar: &ProgressBar) {
        bar.finish_and_clear();
        self.all.remove(bar);
    }

    /// A stream that is copied ends unannounced: with the first layer.
    fn copied_all(&self) {
        if let Some(bar) = lock(&self.copying).take() {
            self.remove(&bar);
        }
    }
}

impl Progress for Shown {
    fn copied(&self, bytes: u64) {
        if let How::Bars(bars) = &self.0 {
            let mut copying = lock(&bars.copying);
            let bar = copying.get_or_insert_with(|| {
                let style = bars.style("Reading the archive  {done}  {rate}", "Reading  {done}");
                bars.all.add(ProgressBar::no_length().with_style(style))
            });
            bar.set_position(bytes);
        }
    }

    fn begun(&self, layer: &DiffId, stored: u64) {
        if let How::Bars(bars) = &self.0 {
            bars.copied_all();
            let style = bars.style(
                "{prefix}: [{wide_bar}] {done:>6}/{of}  {rate:>8}",
                "{prefix}: {percent:>3}%",
            );
            let bar = ProgressBar::new(stored).with_style(style);
            let bar = bars.all.add(bar.with_prefix(layer.short().to_owned()));
            lock(&bars.layers).insert(layer.clone(), bar);
        }
    }

    fn read(&self, layer: &DiffId, bytes: u64) {
        if let How::Bars(bars) = &self.0
            && let Some(bar) = lock(&bars.layers).get(layer)
        {
            bar.set_position(bytes);
        }
    }

    fn done(&self, layer: &DiffId, how: Done) {
        let line = line(layer, how);
        match &self.0 {
            How::Quiet => {}
            // Where it cannot be written there is nobody to be told.
            How::Lines => writeln!(io::stderr(), "{line}").unwrap_or_default(),
            How::Bars(bars) => {
                bars.copied_all();
                if let Some(bar) = lock(&bars.layers).remove(layer) {
                    bars.remove(&bar);
                }
                bars.all
                    .suspend(|| writeln!(io::stderr(), "{line}").unwrap_or_default());
            }
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let How::Bars(bars) = &self.0 {
            bars.copied_all();
            // Of layers that were given up.
            for (_, bar) in lock(&bars.layers).drain() {
                bars.remove(&bar);
            }
            bars.all.clear().unwrap_or_default();
        }
    }
}

/// What is said of a layer that is there.
fn line(layer: &DiffId, how: Done) -> String {
    let layer = layer.short();
    match how {
        Done::Present => format!("{layer}: Already exists"),
        Done::Adopted(size) => format!("{layer}: Already unpacked {}", human::size(size)),
        Done::Unpacked(size) => format!("{layer}: Unpacked {}", human::size(size)),
    }
}

/// Nothing is left half done when a thread panics that draws.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_layers() {
        let layer = DiffId::of(b"layer");
        let short = layer.short();
        for (how, text) in [
            (Done::Present, "Already exists"),
            (Done::Adopted(0), "Already unpacked 0B"),
            (Done::Unpacked(74_800_000), "Unpacked 74.8MB"),
        ] {
            assert_eq!(line(&layer, how), format!("{short}: {text}"));
        }
    }

    #[test]
    fn templates_can_be_read() {
        for template in [
            "Reading the archive  {done}  {rate}",
            "{prefix}: [{wide_bar}] {done:>6}/{of}  {rate:>8}",
            "{prefix}: {percent:>3}%",
        ] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}

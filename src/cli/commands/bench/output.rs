//! Arguments that all benchmarks have: what they give.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::bench::BenchError;
use crate::cli::plot::{Picture, draw, picture_file};

/// What a benchmark gives.
#[derive(Debug, clap::Args)]
pub struct Output {
    /// All that was measured, as JSON, instead of tables
    #[arg(long)]
    json: bool,
    /// Draw it
    #[arg(long, value_name = "FILE.svg|FILE.png", value_parser = picture_file)]
    plot: Option<PathBuf>,
}

impl Output {
    /// To tell on standard error what goes on.
    pub fn progress(&self) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Progress(bar)
    }

    /// Print what was measured, and draw it if that is asked for.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn give<P: Picture>(
        &self,
        report: &impl Serialize,
        text: impl FnOnce() -> String,
        picture: impl FnOnce() -> P,
    ) -> Result<(), BenchError> {
        let text = match self.json {
            true => serde_json::to_string(report).map_err(|e| BenchError::Wrong(e.to_string()))?,
            false => text(),
        };
        let mut out = std::io::stdout();
        let written = writeln!(out, "{text}").and_then(|()| out.flush());
        match written {
            // Nobody reads it; but a picture may be wanted.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
            other => other.map_err(BenchError::at("write", "the output".as_ref()))?,
        }
        match &self.plot {
            None => Ok(()),
            Some(path) => draw(path, &picture()).map_err(BenchError::Wrong),
        }
    }
}

/// A line that changes on a terminal, else a line for each thing that goes on.
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// This goes on now.
    pub fn tell(&self, what: &str) {
        match &self.0 {
            Some(bar) => bar.set_message(what.to_owned()),
            // Whoever does not read it does not want to know.
            None => writeln!(std::io::stderr(), "{what}").unwrap_or_default(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

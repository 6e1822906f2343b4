//! `events`: what has happened to images and layers.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use crate::cli::Format;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::db::Event;
use crate::model::human;

/// Arguments of `events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on with what happens from now on, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Lines for people, or JSON
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    time: Timestamp,
    action: &'static str,
    id: &'a str,
    bytes: Option<u64>,
    detail: &'a str,
}

/// How often the history is looked at with `--follow`.
const PAUSE: Duration = Duration::from_millis(100);

/// Run `events`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let mut last = 0;
    loop {
        for event in cx.db.read(|tx| tx.events_after(last))? {
            last = event.seq;
            print(cx, &event, args.format)?;
        }
        if !args.follow {
            return Ok(());
        }
        cx.flush()?;
        // Whoever reads may go away long before the next event: `events --follow | head -1`.
        if reader_is_gone(PAUSE)? {
            return Ok(());
        }
    }
}

/// Wait for a while, or until nobody can read the standard output any longer.
fn reader_is_gone(wait: Duration) -> Result<bool, CommandError> {
    let out = io::stdout();
    // Nothing is asked for: that there is no reader is told always.
    let mut polled = [PollFd::new(&out, PollFlags::empty())];
    let wait = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(wait.subsec_nanos()),
    };
    match poll(&mut polled, Some(&wait)) {
        Ok(_) | Err(Errno::INTR) => Ok(polled[0].revents().contains(PollFlags::ERR)),
        Err(e) => Err(e.into()),
    }
}

fn print(cx: &mut Context, event: &Event, format: Format) -> Result<(), CommandError> {
    if format == Format::Json {
        return cx.json(&Line {
            time: event.time,
            action: event.action.as_str(),
            id: &event.id,
            bytes: event.bytes,
            detail: &event.detail,
        });
    }
    let bytes = event
        .bytes
        .map(|b| format!(" ({})", human::size(b)))
        .unwrap_or_default();
    let detail = if event.detail.is_empty() {
        String::new()
    } else {
        format!(" {}", event.detail)
    };
    cx.line(format_args!(
        "{} {} {}{bytes}{detail}",
        event.time, event.action, event.id
    ))
}

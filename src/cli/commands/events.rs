//! `events`: what has happened to images and layers.

use std::time::Duration;

use jiff::Timestamp;
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
        std::thread::sleep(PAUSE);
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

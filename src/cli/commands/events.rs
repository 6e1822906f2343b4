//! `events`: what has happened to images and layers.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::interrupt::interrupted;
use crate::cli::{Format, time};
use crate::db::{Action, Event, UnknownAction};
use crate::model::{Reference, human};

/// Arguments of `events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on with what happens from now on, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only what happened since: RFC 3339, Unix seconds, a duration (10m: so long ago), now
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only what happened until then; with --follow, end then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// Only these: event=ACTION, image=ID or image=TAG; of several of a kind, any
    #[arg(long, value_name = "KEY=VALUE", value_parser = Filter::parse)]
    filter: Vec<Filter>,
    /// Lines for people, or JSON
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn moment(text: &str) -> Result<Timestamp, String> {
    time::parse_moment(text, Timestamp::now())
}

/// What `--filter` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    Event(Action),
    Image(String),
}

impl Filter {
    fn parse(text: &str) -> Result<Filter, String> {
        match text.split_once('=') {
            Some(("event", action)) => Ok(Filter::Event(
                action.parse().map_err(|e: UnknownAction| e.to_string())?,
            )),
            Some(("image", image)) if !image.is_empty() => Ok(Filter::Image(image.to_owned())),
            _ => Err("a filter is event=ACTION or image=ID|TAG".to_owned()),
        }
    }
}

/// Which events are shown: a pure function of what is asked for.
#[derive(Debug, Default)]
struct Choice {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    actions: Vec<Action>,
    images: Vec<String>,
}

impl Choice {
    fn of(args: &Args) -> Choice {
        let mut choice = Choice {
            since: args.since,
            until: args.until,
            ..Choice::default()
        };
        for filter in &args.filter {
            match filter {
                Filter::Event(action) => choice.actions.push(*action),
                Filter::Image(image) => choice.images.push(image.clone()),
            }
        }
        choice
    }

    fn has(&self, event: &Event) -> bool {
        self.since.is_none_or(|since| event.time >= since)
            && self.until.is_none_or(|until| event.time <= until)
            && (self.actions.is_empty() || self.actions.contains(&event.action))
            && (self.images.is_empty() || self.images.iter().any(|image| is_of(event, image)))
    }
}

/// Whether an event is about an image: by its ID or the beginning of it, or by a tag that it gets or
/// loses then.
fn is_of(event: &Event, image: &str) -> bool {
    if !event.action.is_about_image() {
        return false;
    }
    let hex = image.strip_prefix("sha256:").unwrap_or(image);
    let by_id = !hex.is_empty()
        && event
            .id
            .strip_prefix("sha256:")
            .is_some_and(|id| id.starts_with(hex));
    let tag = image.parse::<Reference>().map(|tag| tag.to_string());
    by_id || tag.is_ok_and(|tag| event.detail.split(' ').any(|detail| detail == tag))
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    time: Timestamp,
    action: &'static str,
    id: &'a str,
    bytes: Option<u64>,
    detail: &'a str,
}

/// How often it is looked, with `--follow`, whether anything was committed.
const PAUSE: Duration = Duration::from_millis(50);

/// Run `events`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let choice = Choice::of(&args);
    if !args.follow {
        return tell_after(cx, 0, &choice, args.format).map(|_| ());
    }
    // Between two lines, not within one.
    let is_interrupted = interrupted()?;
    let mut last = 0;
    let mut version = None;
    while !is_interrupted() {
        let is_over = choice.until.is_some_and(|until| Timestamp::now() > until);
        // The version first: what is committed between the two looks is told now, and looked for again.
        // Writers take turns, so that no event has a lower number than one that was seen before it.
        let now = cx.db.data_version()?;
        if version != Some(now) {
            last = tell_after(cx, last, &choice, args.format)?;
            version = Some(now);
            cx.flush()?;
        }
        // Whoever reads may go away long before the next event: `events --follow | head -1`.
        if is_over || reader_is_gone(PAUSE)? {
            return Ok(());
        }
    }
    Err(CommandError::Interrupted)
}

/// Print what comes after an event and is asked for; gives the last event that there is.
fn tell_after(
    cx: &mut Context,
    last: i64,
    choice: &Choice,
    format: Format,
) -> Result<i64, CommandError> {
    let events = cx.db.read(|tx| tx.events_after(last))?;
    for event in events.iter().filter(|event| choice.has(event)) {
        print(cx, event, format)?;
    }
    Ok(events.last().map_or(last, |event| event.seq))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: Action, id: &str, detail: &str) -> Event {
        Event {
            seq: 1,
            time: Timestamp::from_second(100).unwrap(),
            action,
            id: format!("sha256:{id}"),
            bytes: None,
            detail: detail.to_owned(),
        }
    }

    #[test]
    fn what_is_asked_for() {
        let tag = event(Action::Tag, "abcd", "app:1");
        let load = event(Action::Load, "abcd", "app:1 app:2");
        let mark = event(Action::Mark, "abcd", "");
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let choice = |filters: &[&str], since, until| {
            let filter = filters.iter().map(|f| Filter::parse(f).unwrap()).collect();
            Choice::of(&Args {
                follow: false,
                since,
                until,
                filter,
                format: Format::Table,
            })
        };
        for (filters, since, until, wanted) in [
            (&[][..], None, None, [true, true, true]),
            (&["event=tag"], None, None, [true, false, false]),
            (
                &["event=tag", "event=mark"],
                None,
                None,
                [true, false, true],
            ),
            (&["image=ab"], None, None, [true, true, false]),
            (&["image=sha256:abcd"], None, None, [true, true, false]),
            (&["image=bc"], None, None, [false; 3]),
            (&["image=app:2"], None, None, [false, true, false]),
            (&["image=app"], None, None, [false; 3]),
            (
                &["image=ab", "event=load"],
                None,
                None,
                [false, true, false],
            ),
            (&[], at(100), at(100), [true; 3]),
            (&[], at(101), None, [false; 3]),
            (&[], None, at(99), [false; 3]),
        ] {
            let choice = choice(filters, since, until);
            let found = [&tag, &load, &mark].map(|event| choice.has(event));
            assert_eq!(found, wanted, "{filters:?}");
        }
        for filter in ["event=boom", "image=", "event", "container=x"] {
            assert!(Filter::parse(filter).is_err(), "{filter}");
        }
    }
}

//! `stop`: end the processes of containers, by their stop signal first.

use std::time::{Duration, Instant};

use super::for_each;
use super::start::wait_for_start;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::serve::stop_signal;
use crate::container::find;
use crate::container::process::{self, ProcessError};
use crate::container::view::{Server, server};
use crate::db::{Container, View};
use crate::model::{ContainerId, ContainerState};

/// Arguments of `stop`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds to wait before SIGKILL; a negative number waits for ever
    #[arg(
        short,
        long,
        default_value_t = 10,
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    time: i64,
    /// Names, IDs, or unambiguous prefixes of IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Run `stop`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    for_each(cx, &args.containers, |cx, name| {
        wait_for_start(cx, name)?;
        let snapshot = cx.snapshot()?;
        let container = find(&snapshot, name)?;
        // As Docker: what does not run is stopped already.
        if snapshot.state(container) == ContainerState::Running {
            let patience = u64::try_from(args.time).ok().map(Duration::from_secs);
            stop(cx, &container.id, stop_signal(container), patience)?;
        }
        cx.line(name)
    })
}

/// How long a process that was sent SIGKILL, and the end of its view, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Send a signal to a container's process, and SIGKILL if it has not ended after `patience` (`None`:
/// never); return when it has ended and its view is gone or is held by others alone.
pub fn stop(
    cx: &mut Context,
    id: &ContainerId,
    signal: i32,
    patience: Option<Duration>,
) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let running = find(&snapshot, id.hex());
    let (Ok(container), Some(view)) = (running, snapshot.view(id)) else {
        return Ok(());
    };
    // Looked for before it can end: afterwards its ID may be another's.
    let server = server(&mut cx.db, &cx.store, view)?;
    send(cx, container, signal)?;
    if !wait(cx, view, &server, patience)? {
        send(cx, container, libc::SIGKILL)?;
        if !wait(cx, view, &server, Some(PATIENCE))? {
            return Err(CommandError::new(format!(
                "container {} was killed, but its process does not end",
                container.name
            )));
        }
    }
    // Its view goes with it, and then what that held is reclaimed; unless somebody else has it open.
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && !server.wait(Duration::from_millis(10))? {
        let now = cx.db.read(|tx| tx.view(id))?;
        if now.is_none_or(|now| !now.is_same(view)) {
            server.wait_for_reclaim()?;
            break;
        }
    }
    Ok(())
}

/// One that has ended meanwhile needs no signal.
fn send(cx: &mut Context, container: &Container, signal: i32) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    match process::signal(&cx.store, &snapshot, container, signal) {
        Ok(()) | Err(ProcessError::NotRunning(_)) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Wait until the process of a view has ended; false if it has not within `limit`.
fn wait(
    cx: &mut Context,
    view: &View,
    server: &Server,
    limit: Option<Duration>,
) -> Result<bool, CommandError> {
    let end = limit.map(|limit| Instant::now() + limit);
    loop {
        let now = cx.db.read(|tx| tx.view(&view.container))?;
        let runs = now.is_some_and(|now| now.is_same(view) && now.process.is_some());
        if !runs || server.wait(Duration::from_millis(10))? {
            return Ok(true);
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(false);
        }
    }
}

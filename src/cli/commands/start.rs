//! `start`: run the processes of containers that exist.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{for_each, mount};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::joined::{self, Joined, Manner};
use crate::cli::serve::Run;
use crate::container::bundle::RunDir;
use crate::container::find;
use crate::container::process::{self, ProcessError};
use crate::container::view::is_starting;
use crate::model::{ContainerId, ContainerState, Driver};

/// Arguments of `start`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show what the process writes, and exit as it does
    #[arg(short, long)]
    attach: bool,
    /// Pass standard input on, too
    #[arg(short, long)]
    interactive: bool,
    /// Names, IDs, or unambiguous prefixes of IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Run `start`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    if args.attach || args.interactive {
        let [name] = args.containers.as_slice() else {
            return Err(CommandError::new(
                "you cannot start and attach multiple containers at once",
            ));
        };
        let snapshot = cx.snapshot()?;
        let container = find(&snapshot, name)?;
        let id = container.id.clone();
        if snapshot.state(container) == ContainerState::Running {
            return super::attach::attach(cx, &id, args.interactive);
        }
        let input = args.interactive && container.settings.open_stdin;
        let started = joined::pass_signals_on()
            .map_err(CommandError::from)
            .and_then(|signals| start_joined(cx, &id, input, signals));
        return started.map_err(as_failure);
    }
    for_each(cx, &args.containers, |cx, name| {
        let snapshot = cx.snapshot()?;
        let container = find(&snapshot, name)?;
        match process::state(&cx.store, &snapshot, container)? {
            // As Docker: what runs is started already.
            ContainerState::Running => {}
            ContainerState::Paused => return Err(ProcessError::PausedForStart.into()),
            _ => start_detached(cx, &container.id)?,
        }
        cx.line(name)
    })
}

/// Only `run` exits with 125, 126 and 127.
fn as_failure(error: CommandError) -> CommandError {
    match error {
        CommandError::Refused { text, .. } => CommandError::Message(text),
        other => other,
    }
}

/// Start a container's process, and leave it to itself.
pub fn start_detached(cx: &mut Context, id: &ContainerId) -> Result<(), CommandError> {
    let started = mount::prepare(cx, id.hex(), None, Driver::Fuse).and_then(|mut service| {
        service.run = Run::Detached;
        mount::spawn(cx, &service)
    });
    match started {
        // Two commands at once: the other one was faster.
        Err(error @ CommandError::Message(_)) => {
            wait_for_start(cx, id.hex())?;
            match is_running(cx, id)? {
                true => Ok(()),
                false => Err(error),
            }
        }
        started => started,
    }
}

/// How long a container's start is waited for by what would end it, and how often it is looked.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// Wait while a container is just being started: it cannot be stopped nor unmounted before it runs.
pub fn wait_for_start(cx: &mut Context, name: &str) -> Result<(), CommandError> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let snapshot = cx.snapshot()?;
        match find(&snapshot, name).map(|container| snapshot.view(&container.id)) {
            Ok(Some(view)) if is_starting(view) => std::thread::sleep(PAUSE),
            // What is not found is told by who looks for it next.
            _ => break,
        }
    }
    Ok(())
}

fn is_running(cx: &mut Context, id: &ContainerId) -> Result<bool, CommandError> {
    let view = cx.db.read(|tx| tx.view(id))?;
    Ok(view.is_some_and(|view| view.process.is_some()))
}

/// Start a container's process and stay with it to its end: then this command ends as it did.
/// `signals` is told where those that have come are to go.
pub fn start_joined(
    cx: &mut Context,
    id: &ContainerId,
    input: bool,
    signals: mpsc::Sender<RunDir>,
) -> Result<(), CommandError> {
    let container = cx.db.read(|tx| tx.container(id))?;
    let tty = container.is_some_and(|c| c.settings.tty);
    let manner = Manner { input, tty };
    joined::check(manner)?;
    let mut service = mount::prepare(cx, id.hex(), None, Driver::Fuse)?;
    service.run = Run::Attached;
    let (ours, theirs) = UnixStream::pair()?;
    cx.flush_and_go_on();
    let run = RunDir::of(&cx.store, id);
    signals.send(run.clone())?;
    mount::spawn_with(cx, &service, Stdio::from(OwnedFd::from(theirs)))?;
    let joined = Joined::start(ours, run, manner)?;
    end_as_it_did(cx, id, joined.finish()?)
}

/// End as a container's process has. One whose monitor was killed is on record as such.
pub fn end_as_it_did(
    cx: &mut Context,
    id: &ContainerId,
    code: Option<i32>,
) -> Result<(), CommandError> {
    let code = match code {
        Some(code) => code,
        None => {
            crate::container::view::bury_the_dead(&mut cx.db, &cx.store)?;
            let container = cx.db.read(|tx| tx.container(id))?;
            let code = container.and_then(|c| c.exit_code);
            code.unwrap_or(128 + libc::SIGKILL)
        }
    };
    end_with(code)
}

/// End with the exit code of a container's process.
pub fn end_with(code: i32) -> Result<(), CommandError> {
    match u8::try_from(code) {
        Ok(0) => Ok(()),
        Ok(code) => Err(CommandError::Ended(code)),
        Err(_) => Err(CommandError::new(format!("the process ended with {code}"))),
    }
}

//! `attach`: join a running container.

use super::start::end_as_it_did;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::joined::{self, Joined, Manner};
use crate::container::attach::{Frame, connect};
use crate::container::bundle::RunDir;
use crate::container::find;
use crate::container::process::{self, ProcessError, require_running};
use crate::model::ContainerId;
use crate::sys::reason;

/// Arguments of `attach`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not pass standard input on
    #[arg(long)]
    no_stdin: bool,
    /// Name, ID, or unambiguous prefix of an ID
    container: String,
}

/// Run `attach`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let id = find(&snapshot, &args.container)?.id.clone();
    attach(cx, &id, !args.no_stdin)
}

/// Join a running container until its process has ended, and end as it did.
pub fn attach(cx: &mut Context, id: &ContainerId, input: bool) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let container = find(&snapshot, id.hex())?;
    let process = require_running(&snapshot, container)?;
    if process::is_paused(&cx.store, &snapshot, container)? {
        return Err(ProcessError::PausedForAttach.into());
    }
    let manner = Manner {
        input: input && container.settings.open_stdin,
        tty: container.settings.tty,
    };
    joined::check(manner)?;
    let run = RunDir::of(&cx.store, id);
    let joined = connect(&run).and_then(|mut socket| {
        Frame::Attach.send(&mut socket)?;
        Ok(socket)
    });
    let socket = joined.map_err(|e| match process::has_ended(&cx.store, id, process) {
        true => ProcessError::NotRunning(id.clone()).into(),
        false => CommandError::new(format!(
            "cannot join container {}: {}",
            container.name,
            reason(&e)
        )),
    })?;
    joined::pass_signals_on()?.send(run.clone())?;
    let joined = Joined::start(socket, run, manner)?;
    end_as_it_did(cx, id, joined.finish()?)
}

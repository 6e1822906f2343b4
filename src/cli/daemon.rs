//! A server that outlives the command that starts it.
//!
//! The command runs the same program again, in a session of its own and with none of the caller's
//! descriptors, and reads from its standard output whether it is ready or why it cannot be.

use std::io::{self, Read as _, Write as _};
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Signal, getpid, kill_process};
use tracing::info;

use super::error::CommandError;
use crate::sys::children::leads_a_session;
use crate::sys::descriptors::close_all_on_exec;
use crate::sys::reason;

/// What a server prints when it can be used.
const READY: &str = "ready";

/// What has become of a server.
#[derive(Debug)]
pub enum Started {
    /// It serves.
    Ready,
    /// It said why it does not, and what the command is to exit with.
    Refused(String, u8),
    /// It said nothing.
    Ended(ExitStatus),
}

/// This program, to be started once more.
pub fn this_program() -> Command {
    // By its name, so that ps shows it; by the kernel's link if it was replaced meanwhile.
    let program = std::env::current_exe().ok().filter(|path| path.exists());
    Command::new(program.unwrap_or_else(|| "/proc/self/exe".into()))
}

/// Starts a server, and waits until it is ready or cannot be. Its standard input and error are the
/// command's.
pub fn start(command: &mut Command) -> Result<Started, CommandError> {
    // The server must not keep the pipes of whoever called us: they would never see their end.
    close_all_on_exec()?;
    // It outlives the terminal from which it is started; Ctrl-C there is for us alone.
    leads_a_session(command);
    let mut server = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| CommandError::new(format!("cannot start the server: {e}")))?;
    let mut answer = String::new();
    if let Some(mut pipe) = server.stdout.take() {
        pipe.read_to_string(&mut answer)?;
    }
    Ok(match answer.trim_end().split_once(' ') {
        None if answer.trim_end() == READY => Started::Ready,
        Some((code, refusal)) => {
            server.wait()?;
            Started::Refused(refusal.to_owned(), code.parse().unwrap_or(1))
        }
        None => Started::Ended(server.wait()?),
    })
}

/// In the server: it can be used.
pub fn is_ready() {
    tell(READY);
}

/// In the server: end when standard input does, a pipe of whoever started it, who may be killed at any
/// time. To be called when SIGTERM finds its handler.
pub fn end_with_starter() -> Result<(), CommandError> {
    let watch = || {
        // Nothing is ever written to it; an error is an end as well.
        io::copy(&mut io::stdin(), &mut io::sink()).unwrap_or_default();
        if let Err(e) = kill_process(getpid(), Signal::TERM) {
            tracing::error!(
                "the view stays until it is unmounted: {}",
                reason(&e.into())
            );
        }
    };
    let thread = std::thread::Builder::new().name("starter".to_owned());
    thread.spawn(watch)?;
    Ok(())
}

/// In the server: why it cannot be used, and what the command is to exit with.
pub fn is_refused(why: &str, exit_code: u8) {
    tell(&format!("{exit_code} {why}"));
}

/// Whoever started the server may have died meanwhile; that is no reason for it to end.
fn tell(text: &str) {
    let mut out = std::io::stdout();
    if let Err(e) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        info!("nobody waits for this server: {e}");
    }
}

//! A peer's daemon that serves a benchmark alone.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::BenchError;
use super::program::find_or_lack;
use super::stop::Stop;
use crate::sys::children::{dies_with_us, signal, wait_and_measure};
use crate::sys::processes::Process;

/// A daemon; ended when this goes.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
}

/// How long it may take to begin, and to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(30);

impl Daemon {
    /// Start a program, and wait until `answers`. What it has to say is lost.
    ///
    /// # Errors
    /// It is not installed, ends, or does not answer.
    pub fn start(
        name: &str,
        args: &[String],
        stop: &Stop,
        answers: impl Fn() -> bool,
    ) -> Result<Daemon, BenchError> {
        let mut command = Command::new(find_or_lack(name)?);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        dies_with_us(&mut command);
        let failed = |said: String| BenchError::Failed {
            program: name.to_owned(),
            said,
        };
        let child = command.spawn().map_err(|e| failed(e.to_string()))?;
        let mut daemon = Daemon {
            name: name.to_owned(),
            child,
        };
        let end = Instant::now() + PATIENCE;
        while !answers() {
            stop.check()?;
            if let Ok(Some(status)) = daemon.child.try_wait() {
                return Err(failed(format!("does not start here ({status})")));
            }
            if Instant::now() > end {
                return Err(failed("does not answer".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = self.child.id().cast_signed();
        // Waited for already: it never began.
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        let mut ended = signal(pid, libc::SIGTERM).map(|()| false);
        if let (Ok(false), Some(process)) = (&ended, Process::open(pid)) {
            ended = process.wait(Some(PATIENCE));
        }
        let ended = match ended {
            Ok(true) => Ok(()),
            _ => signal(pid, libc::SIGKILL),
        };
        if let Err(e) = ended.and_then(|()| wait_and_measure(pid)) {
            tracing::warn!("{} cannot be ended: {e}", self.name);
        }
    }
}

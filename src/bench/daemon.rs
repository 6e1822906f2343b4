//! A peer's daemon that serves a benchmark alone.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
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
    /// Start a program, and wait until `answers`.
    ///
    /// # Errors
    /// It is not installed, ends, or does not answer; with the last line that it wrote to standard error.
    pub fn start(
        name: &str,
        args: &[String],
        stop: &Stop,
        answers: impl Fn() -> bool,
    ) -> Result<Daemon, BenchError> {
        let mut command = Command::new(find_or_lack(name)?);
        let cannot_log = |e: io::Error| BenchError::at("use", Path::new("/tmp"))(e);
        let mut log = tempfile::tempfile().map_err(cannot_log)?;
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.try_clone().map_err(cannot_log)?)
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
                let why = last_line(&mut log).unwrap_or_else(|| status.to_string());
                return Err(failed(format!("does not start here: {why}")));
            }
            if Instant::now() > end {
                return Err(failed("does not answer".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }
}

/// The last line that was written to a file, if it is text.
fn last_line(log: &mut File) -> Option<String> {
    let mut said = String::new();
    log.seek(SeekFrom::Start(0)).ok()?;
    log.read_to_string(&mut said).ok()?;
    let last = said.lines().rfind(|line| !line.trim().is_empty());
    last.map(|line| line.trim().to_owned())
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

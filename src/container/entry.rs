//! One more process in a running container: the command that wants it asks the monitor, which has the OCI
//! runtime start it and is its parent. So it is waited for whatever becomes of the command: the
//! container's end waits for all its processes (pid_namespaces(7)), and a command may be stopped, or its
//! own parent may never wait for anything.
//!
//! The command sends its standard streams along; or a place where it listens for a terminal.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::attach::{Frame, connect};
use super::bundle::RunDir;
use super::monitor::FirstProcess;
use super::runtime::{Files, Runtime, Streams};
use crate::model::ContainerId;
use crate::sys::descriptors::{receive, send};

/// What is asked for. The names are those of files in the container's `run/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Describes the process to the runtime.
    pub process: String,
    /// For its ID.
    pub pid: String,
    /// Where a terminal is waited for; without it the standard streams come along.
    pub console: Option<PathBuf>,
}

/// Ask for a process. What comes back is [`Frame::Started`] or [`Frame::Refused`], and in the end
/// [`Frame::Exit`]; a [`Frame::Signal`] that is sent is the process's.
pub fn ask(
    run: &RunDir,
    request: &Request,
    streams: Option<[BorrowedFd<'_>; 3]>,
) -> io::Result<UnixStream> {
    let mut monitor = connect(run)?;
    Frame::Enter(serde_json::to_vec(request)?).send(&mut monitor)?;
    if let Some(streams) = streams {
        send(&monitor, &streams)?;
    }
    Ok(monitor)
}

/// What the monitor needs to start a process.
#[derive(Debug)]
pub struct House {
    /// The runtime of the container.
    pub runtime: Runtime,
    /// Its directory.
    pub run: RunDir,
    /// The container.
    pub id: ContainerId,
}

impl House {
    /// Do what is asked for, until the process has ended and the command has gone.
    pub fn let_in(&self, client: &UnixStream, request: &[u8]) -> io::Result<()> {
        let request: Request = serde_json::from_slice(request)?;
        let streams = match &request.console {
            Some(socket) => Streams::Terminal(socket.clone()),
            None => {
                let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(receive::<3>(client)?)
                    .map_err(|_| io::Error::other("the standard streams did not come along"))?;
                Streams::Files(Files {
                    stdin: stdin.into(),
                    stdout: stdout.into(),
                    stderr: stderr.into(),
                })
            }
        };
        let path = |name: &str| self.run.path().join(name);
        let (process, pid) = (path(&request.process), path(&request.pid));
        let started = self
            .runtime
            .exec(&self.run, &self.id, &process, streams, &pid, client);
        let pid = match started {
            Ok(pid) => pid,
            Err(e) => return Frame::Refused(e.exit_code(), e.to_string()).send(&mut &*client),
        };
        let process = FirstProcess::new(pid);
        let told = Frame::Started.send(&mut &*client);
        let (waiting, to) = (process.clone(), client.try_clone()?);
        let thread = std::thread::Builder::new().name("waiting".to_owned());
        thread.spawn(move || {
            let ended = waiting
                .wait()
                .and_then(|code| Frame::Exit(code).send(&mut &to));
            if let Err(e) = ended {
                tracing::debug!("nobody waits for a process any more: {e}");
            }
        })?;
        told?;
        while let Some(frame) = Frame::receive(&mut &*client)? {
            if let Frame::Signal(number) = frame {
                process.signal(number)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        for console in [None, Some(PathBuf::from("/proc/7/fd/8/console"))] {
            let request = Request {
                process: "exec-1".into(),
                pid: "exec-1.pid".into(),
                console,
            };
            let bytes = serde_json::to_vec(&request).unwrap();
            assert_eq!(serde_json::from_slice::<Request>(&bytes).unwrap(), request);
        }
    }
}

//! The processes of running containers, as commands see and steer them: what is on record, what the
//! kernel says, and the OCI runtime.

use std::io::ErrorKind;
use std::path::Path;

use super::attach::{self, Frame};
use super::bundle::{RunDir, cgroup};
use super::runtime::{Runtime, RuntimeError};
use crate::db::{Container, Process, Snapshot};
use crate::model::{ContainerId, ContainerState};
use crate::store::{Store, StoreError};
use crate::sys::cgroups;

/// Why something cannot be done with a container's process. The texts are Docker's.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It has none.
    #[error("Container {0} is not running")]
    NotRunning(ContainerId),
    /// It is frozen.
    #[error("Container {0} is paused, unpause the container before exec")]
    PausedForExec(String),
    /// It is frozen.
    #[error("cannot start a paused container, try unpause instead")]
    PausedForStart,
    /// It is frozen.
    #[error("You cannot attach to a paused container, unpause it first")]
    PausedForAttach,
    /// It is frozen already.
    #[error("Container {0} is already paused")]
    AlreadyPaused(ContainerId),
    /// It is not frozen.
    #[error("Container {0} is not paused")]
    NotPaused(ContainerId),
    /// Its monitor is stopped, or hangs.
    #[error(
        "the server of container {0}'s view, which holds its process, does not answer: is it stopped?"
    )]
    Unanswered(ContainerId),
    /// Of the runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Of the store's or the kernel's files.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a container stands: also whether it is paused, which only the kernel knows.
pub fn state(
    store: &Store,
    snapshot: &Snapshot,
    container: &Container,
) -> Result<ContainerState, StoreError> {
    let state = snapshot.state(container);
    if state != ContainerState::Running {
        return Ok(state);
    }
    let name = cgroup(store, &container.id);
    let frozen = cgroups::is_frozen(&name)
        .map_err(StoreError::at("look at the cgroup", Path::new(&name)))?;
    Ok(match frozen {
        true => ContainerState::Paused,
        false => ContainerState::Running,
    })
}

/// Whether its processes are frozen.
pub fn is_paused(
    store: &Store,
    snapshot: &Snapshot,
    container: &Container,
) -> Result<bool, StoreError> {
    Ok(state(store, snapshot, container)? == ContainerState::Paused)
}

/// A container's process.
///
/// # Errors
/// [`ProcessError::NotRunning`] if it has none.
pub fn require_running<'a>(
    snapshot: &'a Snapshot,
    container: &Container,
) -> Result<&'a Process, ProcessError> {
    let view = snapshot.view(&container.id);
    view.and_then(|view| view.process.as_ref())
        .ok_or_else(|| ProcessError::NotRunning(container.id.clone()))
}

/// Whether a container's process, which was on record a moment ago, has ended since: its server may be
/// about to write that down.
pub fn has_ended(store: &Store, container: &ContainerId, process: &Process) -> bool {
    let run = RunDir::of(store, container);
    // A process that is there may be another's, which has its ID by now.
    !run.path().exists() || !Path::new("/proc").join(process.pid.to_string()).exists()
}

/// What goes wrong with the processes of a container that has ended meanwhile goes wrong for that.
fn or_ended(
    store: &Store,
    container: &Container,
    process: &Process,
    error: RuntimeError,
) -> ProcessError {
    match has_ended(store, &container.id, process) {
        true => ProcessError::NotRunning(container.id.clone()),
        false => error.into(),
    }
}

/// Send a signal. A paused container goes on, to get it: as Docker's.
pub fn signal(
    store: &Store,
    snapshot: &Snapshot,
    container: &Container,
    number: i32,
) -> Result<(), ProcessError> {
    let process = require_running(snapshot, container)?;
    let run = RunDir::of(store, &container.id);
    // By its parent, the monitor, which knows it for sure and is reached from any PID namespace.
    match attach::tell(&run, &Frame::Signal(number)) {
        Ok(()) => {}
        // It has ended since.
        Err(e) if is_gone(e.kind()) => {
            return Err(ProcessError::NotRunning(container.id.clone()));
        }
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            return Err(ProcessError::Unanswered(container.id.clone()));
        }
        Err(e) => return Err(StoreError::at("send a signal through", run.path())(e).into()),
    }
    if is_paused(store, snapshot, container)? {
        Runtime::at(&process.runtime).resume(&run, &container.id)?;
    }
    Ok(())
}

/// What a connection says whose other side has ended.
fn is_gone(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
    )
}

/// Freeze all of a container's processes.
pub fn pause(
    store: &Store,
    snapshot: &Snapshot,
    container: &Container,
) -> Result<(), ProcessError> {
    let process = require_running(snapshot, container)?;
    if is_paused(store, snapshot, container)? {
        return Err(ProcessError::AlreadyPaused(container.id.clone()));
    }
    let run = RunDir::of(store, &container.id);
    let paused = Runtime::at(&process.runtime).pause(&run, &container.id);
    paused.map_err(|e| or_ended(store, container, process, e))
}

/// Let all of a container's processes go on.
pub fn unpause(
    store: &Store,
    snapshot: &Snapshot,
    container: &Container,
) -> Result<(), ProcessError> {
    let not_paused = || ProcessError::NotPaused(container.id.clone());
    let process = require_running(snapshot, container).map_err(|_| not_paused())?;
    if !is_paused(store, snapshot, container)? {
        return Err(not_paused());
    }
    let run = RunDir::of(store, &container.id);
    Ok(Runtime::at(&process.runtime).resume(&run, &container.id)?)
}

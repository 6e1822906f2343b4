//! What is left of a container's process when whoever held it is gone, or could not start it.

use std::ffi::OsStr;
use std::time::Duration;

use super::bundle::{RunDir, cgroup};
use super::runtime::Runtime;
use crate::db::Process;
use crate::model::ContainerId;
use crate::store::Store;
use crate::sys::cgroups;
use crate::sys::processes::{self, with_command_line};

/// How long the kernel may take to let go of a process that was killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// End the runtime that was at work for a monitor that was killed. It is killed with that, but what it
/// makes until it is really gone would be left.
pub fn end_runtimes(store: &Store, id: &ContainerId) {
    let run = RunDir::of(store, id);
    if !run.path().exists() {
        return;
    }
    let state = run.state();
    let is_ours =
        |args: &[&OsStr]| args.contains(&state.as_os_str()) && args.contains(&id.hex().as_ref());
    // Not those that other commands have started, which are burying it as well; but what makes anything
    // is the dead one's.
    let is_at_it = |pid: i32, args: &[&OsStr]| {
        let is = |what: &&str| args.contains(&OsStr::new(*what));
        ["create", "start"].iter().any(is) || !processes::is_ours(pid)
    };
    let runtimes = with_command_line(|pid, args| is_ours(args) && is_at_it(pid, args));
    let ended = runtimes.and_then(|runtimes| {
        for runtime in runtimes {
            runtime.kill()?;
            runtime.wait(Some(PATIENCE))?;
        }
        Ok(())
    });
    if let Err(e) = ended {
        let id = id.short();
        tracing::warn!("cannot end the runtime of container {id}: {e}");
    }
}

/// Kill what is left of a container's processes; remove its cgroups and what its runtime kept. To be
/// called by who has the container's lock. What cannot be done is logged, and does not stop the rest.
///
/// The cgroups are enough to find the processes by; where there are none (in a user namespace, say),
/// the runtime that started `process` knows them.
pub fn clear(store: &Store, id: &ContainerId, process: Option<&Process>) {
    let run = RunDir::of(store, id);
    if let Some(process) = process
        && run.state().join(id.hex()).exists()
        && let Err(e) = Runtime::at(&process.runtime).delete(&run, id)
    {
        tracing::warn!("{e}");
    }
    if !run.path().exists() {
        return;
    }
    clear_cgroups(store, id);
    if let Err(e) = run.remove() {
        tracing::warn!("{e}");
    }
}

/// Remove a container's cgroups, with what is in them.
pub fn clear_cgroups(store: &Store, id: &ContainerId) {
    if let Err(e) = cgroups::remove(&cgroup(store, id)) {
        let id = id.short();
        tracing::warn!("cannot remove the cgroups of container {id}: {e}");
    }
}

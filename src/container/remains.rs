//! What is left of a container's process when whoever held it is gone, or could not start it.

use super::bundle::{RunDir, cgroup};
use super::runtime::Runtime;
use crate::db::Process;
use crate::model::ContainerId;
use crate::store::Store;
use crate::sys::cgroups;

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
    if let Err(e) = cgroups::remove(&cgroup(store, id)) {
        let id = id.short();
        tracing::warn!("cannot remove the cgroups of container {id}: {e}");
    }
    if let Err(e) = run.remove() {
        tracing::warn!("{e}");
    }
}

//! Views of kernel overlayfs whose server is dead.
//!
//! With FUSE a view dies with its server. The kernel's goes on: it is read and written as before, and the
//! locks that pinned its layers are gone with the process that held them. What keeps the layers then is
//! the record. Whoever reclaims asks it ([`crate::reclaim::execute`]), and it stays until the view is
//! over. So nothing is deleted under it, no other view gets its upper directory, and each command that
//! comes by looks whether it can end it by now, as it does with what a dead server of FUSE left mounted.

use std::os::fd::AsFd as _;

use super::lifecycle::LifecycleError;
use super::lock::{Look, ServerLock};
use super::view::mounts_of;
use crate::db::View;
use crate::model::Driver;
use crate::store::layout::open_directory;
use crate::store::{Store, StoreError};
use crate::sys::mounts::unmount;
use crate::sys::overlayfs::is_in_use;

/// Whether a view is over whose server is dead; to be called with the server's lock, or while nobody can
/// have it. It is unmounted if nobody uses it. False for one that goes on.
///
/// # Errors
/// What cannot be found out: then it may go on.
pub fn is_over(store: &Store, view: &View) -> Result<bool, StoreError> {
    if view.driver != Driver::Overlay {
        return Ok(true);
    }
    for mount in mounts_of(store, &view.container)? {
        let path = &mount.mountpoint;
        match unmount(path, false) {
            Ok(()) => {}
            Err(nix::errno::Errno::EBUSY) => return Ok(false),
            Err(e) => return Err(StoreError::at("unmount", path)(e)),
        }
    }
    // It may be mounted in another mount namespace, or have been detached under open handles.
    let upper = store.container(&view.container).upper();
    match open_directory(&upper) {
        // The container's files were deleted by hand: nothing is left that it could be asked by.
        Err(e) if e.is_not_found() => Ok(true),
        opened => Ok(!is_in_use(opened?.as_fd()).map_err(StoreError::at("look who uses", &upper))?),
    }
}

/// Whether a view that is on record goes on without its server.
pub fn is_unserved(store: &Store, view: &View) -> Result<bool, StoreError> {
    let directory = store.container(&view.container);
    Ok(view.driver == Driver::Overlay
        && matches!(ServerLock::look(directory.path())?, Look::Free(_)))
}

/// Who serves a view, in words: `server: PID 7`.
pub fn server_in_words(store: &Store, view: &View) -> Result<String, StoreError> {
    let pid = view.pid;
    Ok(match is_unserved(store, view)? {
        true => format!("its server, PID {pid}, was killed"),
        false => format!("server: PID {pid}"),
    })
}

/// For whoever would need the container for itself.
pub(super) fn goes_on(view: &View) -> LifecycleError {
    LifecycleError::Unserved {
        container: view.container.clone(),
        pid: view.pid,
    }
}

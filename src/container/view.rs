//! Views on record: their beginning, their end, and the discovery of those whose server died.
//!
//! Order at the beginning: lock the container, pin the layers, then, in one transaction, look
//! whether they still are the image's and write the view down. At the end the other way round: the
//! record first, then the pins, then the lock. So nothing is ever on record without a lock behind
//! it, unless its server is dead.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::lifecycle::LifecycleError;
use super::lock::{Look, ServerLock};
use super::{remains, unserved};
use crate::db::{Container, Db, DbError, NewView, Tx, View};
use crate::model::{ContainerId, Driver, Purpose};
use crate::store::remove_tree::remove_tree;
use crate::store::{Store, StoreError};
use crate::sys::mounts::{Mount, mounts, unmount};
use crate::sys::overlayfs;
use crate::sys::processes::{Life, Process, life_of};

/// Exit code on record for a view whose server was killed, as a shell counts SIGKILL.
const KILLED: i32 = 128 + libc::SIGKILL;

/// The source that a view's mount bears, by which it is known for one of this store: a copy of the
/// store has containers of the same IDs.
pub fn mount_source(store: &Store, container: &ContainerId) -> String {
    format!("layerctl:{}@{}", container.short(), store.identity())
}

/// Write down that this process serves a container's view. Gives what is on record now.
///
/// To be called in the transaction that has found `layers`, the rows of the image's layers, topmost
/// first, to be those that are pinned.
pub fn begin(
    tx: &Tx<'_>,
    container: &Container,
    mountpoint: &Path,
    (purpose, driver): (Purpose, Driver),
    layers: &[i64],
) -> Result<View, LifecycleError> {
    if !tx.has_container(&container.id)? {
        return Err(LifecycleError::NoSuchContainer(container.name.clone()));
    }
    Ok(tx.insert_view(&NewView {
        container: &container.id,
        image: &container.image,
        pid: std::process::id().cast_signed(),
        mountpoint,
        purpose,
        driver,
        pins: layers,
    })?)
}

/// Write down that a view has ended. False if another process has done so. Of a transient one the
/// container shows nothing; a container that has run keeps the exit code and the time of its process's end.
pub fn end(tx: &Tx<'_>, view: &View, exit_code: i32) -> Result<bool, DbError> {
    let ended = tx.delete_view(view)?;
    let container = tx.container(&view.container)?;
    if ended && view.purpose != Purpose::Transient && container.is_some_and(|c| c.started.is_none())
    {
        tx.set_container_ended(&view.container, exit_code)?;
    }
    Ok(ended)
}

/// Take back what [`begin`] wrote down: the view could not be mounted, so the container is what it
/// was before.
pub fn cancel(db: &mut Db, view: &View) -> Result<(), DbError> {
    db.write(|tx| tx.delete_view(view).map(|_| ()))
}

/// Delete the files of a container that was removed by force while its view was served.
pub fn remove_abandoned(
    db: &mut Db,
    store: &Store,
    id: &ContainerId,
) -> Result<(), LifecycleError> {
    if !db.read(|tx| tx.has_container(id))? {
        remove_tree(store.container(id).path())?;
    }
    Ok(())
}

/// Find the views whose server died, detach what it left mounted, write down their end. One of kernel
/// overlayfs that is in use goes on and stays on record ([`unserved`]). Returns what could not be detached.
pub fn bury_the_dead(db: &mut Db, store: &Store) -> Result<Vec<LifecycleError>, LifecycleError> {
    let mut failed = Vec::new();
    for view in db.read(|tx| tx.views())? {
        let directory = store.container(&view.container);
        let look = match ServerLock::look(directory.path())? {
            // In another PID namespace the ID on record may be nobody's here, or anybody's.
            Look::Held => match life_of(view.pid) {
                Life::Alive => Look::Held,
                Life::Dying => wait_for_release(directory.path())?,
                // It may have ended since the lock was looked at. If the lock is held still, then
                // by a server that is not to be seen from here.
                Life::Over => ServerLock::look(directory.path())?,
            },
            look @ Look::Free(_) => look,
        };
        // Kept until the end: as long as it is, no other server of this container can begin.
        let Look::Free(_guard) = look else { continue };
        // Looked at again: the view may have ended, and another one too, before the lock was free.
        if db.read(|tx| tx.view(&view.container))?.as_ref() != Some(&view) {
            continue;
        }
        match unserved::is_over(store, &view) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(e) => {
                failed.push(e.into());
                continue;
            }
        }
        failed.extend(bury(db, store, &view)?.map(LifecycleError::from));
        // What this command was called for may be quite another thing.
        if let Err(e) = remove_abandoned(db, store, &view.container) {
            failed.push(e);
        }
    }
    Ok(failed)
}

/// The same for one container, by the server that is about to begin and has its lock.
pub fn bury_predecessor(
    db: &mut Db,
    store: &Store,
    container: &ContainerId,
) -> Result<(), LifecycleError> {
    if let Some(view) = db.read(|tx| tx.view(container))? {
        if !unserved::is_over(store, &view)? {
            return Err(unserved::goes_on(&view));
        }
        match bury(db, store, &view)? {
            Some(error) => return Err(error.into()),
            None => return Ok(()),
        }
    }
    Ok(())
}

/// End what a dead server left running, detach what it left mounted, and write down the end of its view. Returns why it could
/// not be detached, if so: that does not keep its end from being recorded.
fn bury(db: &mut Db, store: &Store, view: &View) -> Result<Option<StoreError>, LifecycleError> {
    remains::end_runtimes(store, &view.container);
    remains::clear(store, &view.container, view.process.as_ref());
    let failed = detach(store, &view.container).err();
    db.write(|tx| {
        if tx.clear_view_process(view)? {
            match tx.container(&view.container)? {
                Some(container) if container.settings.auto_remove => {
                    tx.delete_container(&container.id)?;
                }
                _ => tx.set_container_ended(&view.container, KILLED)?,
            }
        }
        Ok::<_, DbError>(())
    })?;
    db.write(|tx| end(tx, view, KILLED))?;
    match discard_image(db, store, view) {
        Ok(()) => Ok(failed),
        Err(LifecycleError::Store(error)) => Ok(failed.or(Some(error))),
        Err(error) => Err(error),
    }
}

/// Delete what a removal has left of the image's own files, if no other view shows the image: to be
/// called when the end of one that did is on record.
pub fn discard_image(db: &mut Db, store: &Store, view: &View) -> Result<(), LifecycleError> {
    let Some(image) = &view.image else {
        return Ok(());
    };
    // A view that begins, and a removal that sets files aside, do so in write transactions.
    let aside = db.write(|tx| -> Result<_, LifecycleError> {
        match tx.is_shown(image)? {
            true => Ok(Vec::new()),
            false => Ok(store.images_aside(image)?),
        }
    })?;
    aside.iter().try_for_each(|path| Ok(remove_tree(path)?))
}

/// Whether a view's server is about to run the container's process: what the OCI runtime needs is there,
/// and the process is not on record yet. The runtime may have mounts of the view by then that are not
/// seen here.
pub fn is_starting(view: &View) -> bool {
    view.purpose == Purpose::Run && view.process.is_none() && !view.detached
}

/// A process that is killed keeps its locks until the kernel has taken it apart.
fn wait_for_release(directory: &Path) -> Result<Look, StoreError> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match ServerLock::look(directory)? {
            Look::Held if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
            look => return Ok(look),
        }
    }
}

/// The server of a view that was on record a moment ago.
#[derive(Debug)]
pub enum Server {
    /// This process.
    Here(Process),
    /// There is one, but it cannot be seen from here: it is in another PID namespace. What is known
    /// of it is the lock that it has on this directory.
    Elsewhere(PathBuf),
    /// The view has ended, or its server was killed.
    Ended,
}

/// Find the server of a view. The process ID on record says little: it may be of another PID
/// namespace, and the process that has it here may be anybody. The server is known by the
/// container's directory, which it has open, and locked.
pub fn server(db: &mut Db, store: &Store, view: &View) -> Result<Server, LifecycleError> {
    let directory = store.container(&view.container);
    let directory = directory.path();
    let process = Process::open(view.pid);
    if let Some(process) = process.filter(|process| process.has_open(directory)) {
        return Ok(Server::Here(process));
    }
    if let Look::Free(_) = ServerLock::look(directory)? {
        return Ok(Server::Ended);
    }
    // The lock may be another view's by now.
    let now = db.read(|tx| tx.view(&view.container))?;
    Ok(match now.is_some_and(|now| now.is_same(view)) {
        true => Server::Elsewhere(directory.to_owned()),
        false => Server::Ended,
    })
}

impl Server {
    /// Wait until it has ended (one that is elsewhere: until it has let go of the container); false
    /// if it has not within `limit`.
    pub fn wait(&self, limit: Duration) -> Result<bool, LifecycleError> {
        match self {
            Server::Here(process) => {
                let process_table = Path::new("/proc");
                Ok(process
                    .wait(Some(limit))
                    .map_err(StoreError::at("watch", process_table))?)
            }
            Server::Elsewhere(directory) => {
                std::thread::sleep(limit);
                Ok(matches!(ServerLock::look(directory)?, Look::Free(_)))
            }
            Server::Ended => Ok(true),
        }
    }

    /// Its view is over: wait until it has reclaimed what that held, as long as that takes. Of one that
    /// is elsewhere this cannot be known.
    pub fn wait_for_reclaim(&self) -> Result<(), LifecycleError> {
        if let Server::Here(process) = self {
            let process_table = Path::new("/proc");
            process
                .wait(None)
                .map_err(StoreError::at("watch", process_table))?;
        }
        Ok(())
    }
}

/// Detach every mount of this view, wherever it was moved or bound to.
pub fn detach(store: &Store, container: &ContainerId) -> Result<(), StoreError> {
    for mount in mounts_of(store, container)? {
        let path = &mount.mountpoint;
        unmount(path, true).map_err(StoreError::at("detach the view at", path))?;
    }
    Ok(())
}

/// Where a view is to be seen in this mount namespace: where it was mounted or, if it is no longer
/// there, where it was moved or bound to.
pub fn mount_of(store: &Store, view: &View) -> Result<Option<Mount>, StoreError> {
    let mut mounts = mounts_of(store, &view.container)?;
    let at = mounts
        .iter()
        .position(|m| m.mountpoint == view.mountpoint)
        .unwrap_or(0);
    Ok((at < mounts.len()).then(|| mounts.swap_remove(at)))
}

/// The mounts of a container's view in this mount namespace, topmost first.
pub fn mounts_of(store: &Store, container: &ContainerId) -> Result<Vec<Mount>, StoreError> {
    let source = mount_source(store, container);
    let path = Path::new("/proc/self/mountinfo");
    let mut mounts = mounts().map_err(StoreError::at("read", path))?;
    let is_view = |m: &Mount| m.fs_type.starts_with("fuse") || m.fs_type == overlayfs::TYPE;
    mounts.retain(|m| m.source == source && is_view(m));
    mounts.reverse();
    Ok(mounts)
}

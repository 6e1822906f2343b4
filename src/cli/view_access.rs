//! A container's files for a command that reads or changes them: through the view that is mounted or,
//! where none is, through one that is mounted for the command alone.
//!
//! Such a transient view is on record and pins layers like any other, but leaves no trace in the
//! container's state. Its server has the reading end of a pipe for its standard input: however the
//! command ends, by Ctrl-C or SIGKILL too, the view goes.
//!
//! The container is not to be trusted. All that is handed out is its root directory, open; whoever
//! uses it goes on by `openat2(RESOLVE_IN_ROOT)` and by descriptors (`sys::in_root`, `sys::dirfd`).

use std::io::{PipeWriter, pipe};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags, fstat, fstatvfs, major, minor};
use rustix::io::fcntl_dupfd_cloexec;

use super::commands::mount::{prepare, spawn_with};
use super::commands::umount::{Ended, end_view};
use super::context::Context;
use super::error::CommandError;
use super::serve::{Io, Service};
use crate::container::bundle::open_root;
use crate::container::find;
use crate::container::view::mount_of;
use crate::db::{Container, View};
use crate::model::{Driver, Purpose};
use crate::store::{Store, StoreError};
use crate::sys::descriptors::raise_limit;

/// What a command does with the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It only reads.
    Read,
    /// It changes some.
    Write,
}

/// A container whose files can be reached.
#[derive(Debug)]
pub struct ViewAccess {
    /// The container.
    pub container: Container,
    /// The view by which they are reached.
    pub view: View,
    root: OwnedFd,
    /// The server of a transient view ends when this is closed.
    starter: Option<PipeWriter>,
}

/// How long to wait for a transient view of another command, and for a view that comes or goes.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// Do something with a container's files. `name` is as a user gives it.
pub fn with_view<T>(
    cx: &mut Context,
    name: &str,
    access: Access,
    act: impl FnOnce(&mut Context, &ViewAccess) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let view = ViewAccess::open(cx, name, access)?;
    // A tree may be deep, and a walk has each directory on its way open.
    raise_limit();
    let result = act(cx, &view);
    let closed = view.close(cx);
    let value = result?;
    closed?;
    Ok(value)
}

impl ViewAccess {
    /// The root directory of the view itself, open as a location: the container's own files, whatever
    /// is mounted over them.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The root directory as the container's processes see it, with what is mounted there for them, open
    /// as a location. Where none runs that is the view's.
    pub fn inner_root(&self) -> Result<OwnedFd, CommandError> {
        let told = |root: &OwnedFd| fstat(root).map(|stat| (stat.st_dev, stat.st_ino));
        if let Some(process) = &self.view.process {
            let path = PathBuf::from(format!("/proc/{}/root", process.pid));
            // It may have ended; its ID may be another's, or of another PID namespace.
            if let Ok(root) = open_root(&path)
                && told(&root)? == told(&self.root)?
            {
                return Ok(root);
            }
        }
        Ok(fcntl_dupfd_cloexec(&self.root, 3)?)
    }

    fn open(cx: &mut Context, name: &str, access: Access) -> Result<ViewAccess, CommandError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let snapshot = cx.snapshot()?;
            let container = find(&snapshot, name)?;
            let is_late = Instant::now() > end;
            match snapshot.view(&container.id) {
                None => match ViewAccess::mount(cx, container, access) {
                    // Another command may have been faster: then its view is on record.
                    Err(error) if is_late => return Err(error),
                    Err(error) if cx.db.read(|tx| tx.view(&container.id))?.is_none() => {
                        return Err(error);
                    }
                    Err(_) => {}
                    opened => return opened,
                },
                Some(view) => match view_root(&cx.store, view, access)? {
                    Some(root) => {
                        return Ok(ViewAccess {
                            container: container.clone(),
                            view: view.clone(),
                            root,
                            starter: None,
                        });
                    }
                    // Says why there is no other.
                    None if is_late || view.detached && view.purpose != Purpose::Transient => {
                        prepare(cx, name, None, Driver::Fuse)?;
                    }
                    None => {}
                },
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn mount(
        cx: &mut Context,
        container: &Container,
        access: Access,
    ) -> Result<ViewAccess, CommandError> {
        let prepared = prepare(cx, container.id.hex(), None, Driver::Fuse)?;
        let reads = access == Access::Read;
        let service = Service {
            read_only: reads,
            // Many files are opened once each.
            io: if reads { Io::Cached } else { prepared.io },
            transient: true,
            ..prepared
        };
        let (input, starter) = pipe()?;
        spawn_with(cx, &service, input.into())?;
        if let Some(view) = cx.db.read(|tx| tx.view(&container.id))?
            && let Some(root) = view_root(&cx.store, &view, access)?
        {
            return Ok(ViewAccess {
                container: container.clone(),
                view,
                root,
                starter: Some(starter),
            });
        }
        Err(CommandError::new(format!(
            "the view of container {} was unmounted meanwhile",
            container.name
        )))
    }

    /// Unmount what was mounted for this command.
    fn close(self, cx: &mut Context) -> Result<(), CommandError> {
        drop(self.root);
        let Some(starter) = self.starter else {
            return Ok(());
        };
        match end_view(cx, &self.view, false)? {
            Ended::Yes => {}
            // Another command has found it and reads on: its server detaches it, and ends with that.
            Ended::Busy(why) => tracing::debug!("{why}"),
        }
        drop(starter);
        Ok(())
    }
}

/// The root directory of a container that has a view; `None` if the view is just coming or going, or
/// is another command's and does not serve this access.
fn view_root(store: &Store, view: &View, access: Access) -> Result<Option<OwnedFd>, CommandError> {
    let Some(mount) = mount_of(store, view)?.filter(|_| !view.detached) else {
        return Ok(None);
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |e: rustix::io::Errno| StoreError::at("open the view at", &path)(e)
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = match rustix::fs::open(&mount.mountpoint, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTCONN) => return Ok(None),
        other => other.map_err(failed(&mount.mountpoint))?,
    };
    let device = fstat(&root).map_err(failed(&mount.mountpoint))?.st_dev;
    if (major(device), minor(device)) != mount.device {
        // Unmounted since the table was read, or covered by another mount.
        return Ok(None);
    }
    if access == Access::Write && view.purpose == Purpose::Transient {
        let flags = fstatvfs(&root).map_err(failed(&mount.mountpoint))?.f_flag;
        if flags.contains(StatVfsMountFlags::RDONLY) {
            return Ok(None);
        }
    }
    Ok(Some(root))
}

/// Wait a while for a view to end that another command has mounted for itself.
pub fn wait_for_transient(cx: &mut Context, name: &str) -> Result<(), CommandError> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let snapshot = cx.snapshot()?;
        match snapshot.view(&find(&snapshot, name)?.id) {
            Some(view) if view.purpose == Purpose::Transient => std::thread::sleep(PAUSE),
            _ => break,
        }
    }
    Ok(())
}

//! `umount`: end views.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::fs::{major, minor};

use super::for_each;
use super::start::wait_for_start;
use crate::cli::context::Context;
use crate::cli::error::{CommandError, warn};
use crate::container::find;
use crate::container::unserved::is_unserved;
use crate::container::view::{Server, bury_the_dead, mount_of, mounts_of, server};
use crate::db::View;
use crate::store::StoreError;
use crate::sys::mounts::{Mount, unmount};
use crate::sys::processes::holders;
use crate::sys::reason;

/// Arguments of `umount`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Detach now; the view ends when the last open handle is closed
    #[arg(short, long)]
    lazy: bool,
    /// Names, IDs, or unambiguous prefixes of IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Run `umount`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    for_each(cx, &args.containers, |cx, name| {
        wait_for_start(cx, name)?;
        let snapshot = cx.snapshot()?;
        let container = find(&snapshot, name)?;
        let Some(view) = snapshot.view(&container.id) else {
            return Err(CommandError::new(format!(
                "container {name} is not mounted"
            )));
        };
        match end_view(cx, view, args.lazy)? {
            Ended::Yes => Ok(()),
            Ended::Busy(why) => Err(CommandError::new(format!(
                "the view of container {name} is busy: {why}"
            ))),
        }
    })
}

/// Whether a view could be ended.
#[derive(Debug)]
pub enum Ended {
    /// It is gone or, lazily, detached.
    Yes,
    /// It is in use, by whom.
    Busy(String),
}

/// How long a server may take to see that its view is over.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a lazy umount waits for a view that nobody uses to be gone.
const GRACE: Duration = Duration::from_millis(100);

/// Unmount a view and wait until its server has ended and reclaimed what it held; or detach it.
/// [`Ended::Busy`] lazily, if it is not mounted here and its server cannot be reached.
pub fn end_view(cx: &mut Context, view: &View, lazy: bool) -> Result<Ended, CommandError> {
    // The container has mounts of its own of it: ours could go, and the view would not end.
    if let (Some(process), false) = (&view.process, lazy) {
        let users = match mount_of(&cx.store, view)? {
            Some(mount) => users(mount.device)?.join("; "),
            None => format!("PID {}", process.pid),
        };
        return Ok(Ended::Busy(format!("the container is running: {users}")));
    }
    // Looked for before it can end: afterwards its ID may be another's.
    let server = server(&mut cx.db, &cx.store, view)?;
    let mounts = mounts_of(&cx.store, &view.container)?;
    if mounts.is_empty() {
        let pid = view.pid;
        let busy = match &server {
            Server::Ended if is_unserved(&cx.store, view)? => return end_unserved(cx, view, lazy),
            Server::Ended => return Ok(Ended::Yes),
            _ if view.detached && lazy => None,
            _ if view.detached => Some(format!(
                "it is detached, and used by open handles (server: PID {pid})"
            )),
            Server::Elsewhere(_) => Some(format!(
                "it is not mounted here, and its server is in another PID namespace (PID {pid} \
                 there)"
            )),
            Server::Here(_) if !lazy => Some(format!(
                "it is not mounted here, but in another mount namespace, or used by open handles \
                 (server: PID {pid}); --lazy detaches it there"
            )),
            // The server detaches it in its own mount namespace.
            Server::Here(process) => match process.terminate() {
                Ok(true) => None,
                Ok(false) => return Ok(Ended::Yes),
                Err(e) => Some(format!(
                    "it is not mounted here, and its server (PID {pid}) cannot be told to detach it: \
                     {}",
                    reason(&e)
                )),
            },
        };
        if let Some(why) = busy {
            return Ok(Ended::Busy(why));
        }
    }
    if let ([_, _, ..], false) = (mounts.as_slice(), lazy) {
        let places = mounts.iter().map(|m| m.mountpoint.as_path());
        let others: Vec<_> = places.filter(|place| *place != view.mountpoint).collect();
        let others: Vec<_> = others
            .iter()
            .map(|place| place.display().to_string())
            .collect();
        return Ok(Ended::Busy(format!(
            "it is mounted at {} as well",
            others.join(", ")
        )));
    }
    for mount in &mounts {
        if let Some(users) = unmount_or_tell(mount, lazy)? {
            return Ok(Ended::Busy(users));
        }
    }
    // A server that is elsewhere may have it mounted there still.
    if lazy && !matches!(server, Server::Elsewhere(_)) {
        cx.db.write(|tx| tx.set_view_detached(view))?;
    }
    if is_unserved(&cx.store, view)? {
        return end_unserved(cx, view, lazy);
    }
    wait_for_end(cx, view, &server, if lazy { GRACE } else { PATIENCE })?;
    Ok(Ended::Yes)
}

/// End a view of kernel overlayfs whose server is dead and that is mounted nowhere here, or no more: there
/// is nobody else to write it down. One that is in use goes on until a later command finds that it is over.
fn end_unserved(cx: &mut Context, view: &View, lazy: bool) -> Result<Ended, CommandError> {
    for error in bury_the_dead(&mut cx.db, &cx.store)? {
        warn(&error);
    }
    let now = cx.db.read(|tx| tx.view(&view.container))?;
    let Some(now) = now.filter(|now| now.is_same(view)) else {
        return Ok(Ended::Yes);
    };
    let pid = now.pid;
    let users = match now.device {
        Some(device) => users((major(device), minor(device)))?.join("; "),
        None => String::new(),
    };
    if lazy && (now.detached || !users.is_empty()) {
        cx.db.write(|tx| tx.set_view_detached(view))?;
        return Ok(Ended::Yes);
    }
    Ok(Ended::Busy(match users.as_str() {
        "" => format!(
            "it is not mounted here, but in another mount namespace or used from there, and its server \
             (PID {pid}) was killed"
        ),
        users => format!("it is mounted nowhere here, but used by open handles: {users}"),
    }))
}

/// Wait until the view is over and its server has reclaimed what it held: as long as that takes,
/// once it is over.
fn wait_for_end(
    cx: &mut Context,
    view: &View,
    server: &Server,
    patience: Duration,
) -> Result<(), CommandError> {
    let end = Instant::now() + patience;
    while !server.wait(Duration::from_millis(10))? {
        let on_record = cx.db.read(|tx| tx.view(&view.container))?;
        if on_record.is_none_or(|now| !now.is_same(view)) {
            server.wait_for_reclaim()?;
            break;
        } else if Instant::now() > end && patience == GRACE {
            break;
        } else if Instant::now() > end {
            return Err(CommandError::new(format!(
                "unmounted here, but the view's server (PID {}) goes on: another mount namespace \
                 has the view too, or the server is stopped",
                view.pid
            )));
        }
    }
    Ok(())
}

/// Unmount; or give, in words, who keeps that from happening.
fn unmount_or_tell(mount: &Mount, lazy: bool) -> Result<Option<String>, CommandError> {
    let mut tries = 10;
    loop {
        match unmount(&mount.mountpoint, lazy) {
            Ok(()) => return Ok(None),
            Err(Errno::EBUSY) => {}
            Err(e) => return Err(StoreError::at("unmount", &mount.mountpoint)(e).into()),
        }
        let users = users(mount.device)?;
        tries -= 1;
        match (users.as_slice(), tries) {
            // Held for a moment only: by a child between fork and exec, say, that has copies of
            // its parent's descriptors.
            ([], 1..) => std::thread::sleep(Duration::from_millis(20)),
            ([], _) => {
                let why = "something is mounted below it, or another mount namespace uses it";
                return Ok(Some(why.to_owned()));
            }
            (users, _) => return Ok(Some(users.join("; "))),
        }
    }
}

fn users(device: (u32, u32)) -> Result<Vec<String>, CommandError> {
    Ok(holders(device, None)?
        .iter()
        .map(ToString::to_string)
        .collect())
}

//! `umount`: end views.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::for_each;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::container::find;
use crate::container::view::mounts_of;
use crate::db::View;
use crate::store::StoreError;
use crate::sys::mounts::Mount;
use crate::sys::processes::{Process, holders};

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

/// How long a lazy umount waits for a view that nobody uses to be gone.
const GRACE: Duration = Duration::from_millis(100);

/// Unmount a view and wait until its server has ended and reclaimed what it held; or detach it.
pub fn end_view(cx: &mut Context, view: &View, lazy: bool) -> Result<Ended, CommandError> {
    // Opened before it can end: afterwards its ID may be another's.
    let server = Process::open(view.pid);
    let mounts = mounts_of(&view.container)?;
    if mounts.is_empty() && !lazy {
        return Ok(Ended::Busy(format!(
            "it is detached from its mount point, and used by open handles (server: PID {})",
            view.pid
        )));
    }
    for mount in &mounts {
        if let Some(users) = unmount_or_tell(mount, lazy)? {
            return Ok(Ended::Busy(users));
        }
    }
    if lazy {
        cx.db.write(|tx| tx.set_view_detached(&view.container))?;
    }
    if let Some(server) = server {
        server.wait(lazy.then_some(GRACE))?;
    }
    Ok(Ended::Yes)
}

/// Unmount; or give, in words, who keeps that from happening.
fn unmount_or_tell(mount: &Mount, lazy: bool) -> Result<Option<String>, CommandError> {
    let mut tries = 10;
    loop {
        match unmount_one(&mount.mountpoint, lazy) {
            Ok(()) => return Ok(None),
            Err(e) if e.source.raw_os_error() == Some(libc::EBUSY) => {}
            Err(e) => return Err(e.into()),
        }
        let users: Vec<String> = holders(mount)?.iter().map(ToString::to_string).collect();
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

fn unmount_one(path: &Path, lazy: bool) -> Result<(), StoreError> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    flags.set(MntFlags::MNT_DETACH, lazy);
    match umount2(path, flags) {
        // EINVAL: nothing is mounted there any longer, which is what was asked for.
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        // Not root: the set-user-ID helper that mounted it can.
        Err(Errno::EPERM) => {
            let helper = Command::new("fusermount3")
                .args(if lazy {
                    ["-u", "-z"].as_slice()
                } else {
                    ["-u"].as_slice()
                })
                .arg("--")
                .arg(path)
                .output();
            match helper {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) if String::from_utf8_lossy(&output.stderr).contains("busy") => {
                    Err(StoreError::at("unmount", path)(Errno::EBUSY))
                }
                _ => Err(StoreError::at("unmount", path)(Errno::EPERM)),
            }
        }
        Err(e) => Err(StoreError::at("unmount", path)(e)),
    }
}

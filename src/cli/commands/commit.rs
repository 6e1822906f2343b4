//! `commit`: make an image of a container.

use std::os::fd::BorrowedFd;

use clap::ArgAction;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::diff::changes_of;
use crate::archive::tree_tar::TreeTarError;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::interrupt::interrupted;
use crate::cli::view_access::{Access, ViewAccess, with_view};
use crate::container::changes::{Change, ChangeKind};
use crate::container::lifecycle::LifecycleError;
use crate::container::{find, process};
use crate::image::commit::{Commit, CommitError, LayerTar, commit};
use crate::model::{ContainerState, ImageId, Reference};
use crate::sys::in_root::open_beneath;

/// Arguments of `commit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who makes the image
    #[arg(short, long, default_value = "", hide_default_value = true)]
    author: String,
    /// An instruction of a Dockerfile for the image: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD,
    /// STOPSIGNAL, USER, VOLUME or WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// A remark
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Pause the container meanwhile
    #[arg(
        short,
        long,
        action = ArgAction::Set,
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true
    )]
    pause: bool,
    /// Name, ID, or unambiguous prefix of an ID
    container: String,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// Run `commit`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let tag = args.name.as_deref().map(str::parse::<Reference>);
    let tag = tag.transpose()?;
    let snapshot = cx.snapshot()?;
    let container = find(&snapshot, &args.container)?;
    // A view may be there without it.
    if snapshot.image(&container.image).is_none() {
        return Err(LifecycleError::NoSuchImage(container.reference.clone()).into());
    }
    let cancel = interrupted()?;
    let image = with_view(cx, container.id.hex(), Access::Read, |cx, view| {
        while_paused(cx, view, args.pause, |cx| {
            let what = Commit {
                container: &view.container,
                author: &args.author,
                message: &args.message,
                changes: &args.change,
                tag,
            };
            make(cx, view, &what, &cancel)
        })
    })?;
    cx.line(image)
}

/// Do something while the container's processes stand still, if it has some and `pause` says so. One
/// that is paused already stays so.
fn while_paused<T>(
    cx: &mut Context,
    view: &ViewAccess,
    pause: bool,
    act: impl FnOnce(&mut Context) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let snapshot = cx.snapshot()?;
    let container = &view.container;
    if !pause || process::state(&cx.store, &snapshot, container)? != ContainerState::Running {
        return act(cx);
    }
    process::pause(&cx.store, &snapshot, container)?;
    let result = act(cx);
    let unpaused = process::unpause(&cx.store, &snapshot, container);
    let value = result?;
    unpaused?;
    Ok(value)
}

fn make(
    cx: &mut Context,
    view: &ViewAccess,
    what: &Commit<'_>,
    cancel: &(dyn Fn() -> bool + Sync),
) -> Result<ImageId, CommandError> {
    let changes = changes_of(cx, view)?;
    let root = view.root();
    let layer = |tar: &mut LayerTar| write_changes(root, &changes, tar);
    let layer = (!changes.is_empty()).then_some(layer);
    commit(&mut cx.db, &cx.store, what, layer, cancel).map_err(|e| match e {
        CommitError::Interrupted => CommandError::Interrupted,
        other => other.into(),
    })
}

/// Write a layer of what was changed. Paths in a layer are relative to its root.
fn write_changes(
    root: BorrowedFd<'_>,
    changes: &[Change],
    tar: &mut LayerTar,
) -> Result<(), TreeTarError> {
    for change in changes {
        let path = match change.path.as_slice() {
            b"/" => b".",
            path => &path[1..],
        };
        if change.kind == ChangeKind::Deleted {
            tar.whiteout(path)?;
            continue;
        }
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        if name.starts_with(b".wh.") {
            return Err(TreeTarError::Name(path.to_vec()));
        }
        let is_there = match open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => {
                let stat = tar.entry(fd, path)?;
                FileType::from_raw_mode(stat.st_mode) != FileType::Socket
            }
            // Removed since the changes were looked for: it was not paused.
            Err(Errno::NOENT | Errno::NOTDIR) => false,
            Err(e) => {
                return Err(TreeTarError::Read {
                    path: path.to_vec(),
                    source: e.into(),
                });
            }
        };
        // What the layers have there must not be seen in its place.
        if !is_there && change.kind == ChangeKind::Modified {
            tar.whiteout(path)?;
        }
    }
    Ok(())
}

//! `cp`: copy files out of a container, or into one.

use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::FileType;

use crate::archive::tree_tar::{TreeTar, TreeTarError};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output_file::{Output, check_path};
use crate::cli::view_access::{Access, with_view};
use crate::container::copy::place::{Side, Source};
use crate::container::copy::tree::copy;
use crate::container::copy::untar::untar;
use crate::container::copy::{CopyError, Owner};
use crate::model::copy::{CopyRefusal, Found, How, Place, plan};
use crate::model::tar::shown;

/// Arguments of `cp`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep owners and groups
    #[arg(short, long)]
    archive: bool,
    /// Copy what a symbolic link leads to, if the source is one
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Print nothing but errors, as ever
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, or a path of this machine; `-` is a tar on the standard input or output
    #[arg(value_name = "SOURCE")]
    source: OsString,
    /// The other of both
    #[arg(value_name = "DESTINATION")]
    destination: OsString,
}

/// Run `cp`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let from = args.source.as_bytes();
    let to = args.destination.as_bytes();
    for (what, path) in [("source", from), ("destination", to)] {
        if path.is_empty() {
            return Err(CommandError::new(format!("{what} can not be empty")));
        }
    }
    match (Place::parse(from), Place::parse(to)) {
        (Place::Container { .. }, Place::Container { .. }) => Err(CommandError::new(
            "copying between containers is not supported",
        )),
        (Place::Container { name, path }, Place::Stream) => stream(cx, &args, &named(&name), &path),
        (Place::Container { name, path }, Place::Local(to)) => {
            copy_out(cx, &args, &named(&name), &path, &to)
        }
        (Place::Stream, Place::Container { name, path }) => {
            unpack_in(cx, &args, &named(&name), &path)
        }
        (Place::Local(from), Place::Container { name, path }) => {
            copy_in(cx, &args, &from, &named(&name), &path)
        }
        _ => Err(CommandError::new(
            "must specify at least one container source",
        )),
    }
}

/// No container has a name that is not text.
fn named(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn copy_out(
    cx: &mut Context,
    args: &Args,
    name: &str,
    from: &[u8],
    to: &[u8],
) -> Result<(), CommandError> {
    let here = std::path::Path::new(std::ffi::OsStr::from_bytes(to));
    check_path(here).map_err(CommandError::new)?;
    let owner = match args.archive {
        true => Owner::Kept,
        false => Owner::Caller,
    };
    with_view(cx, name, Access::Read, |_, view| {
        let root = view.inner_root()?;
        let root = root.as_fd();
        let side = Side::Container { name, root };
        Ok(between((side, from), (Side::Here, to), args, owner)?)
    })
}

fn copy_in(
    cx: &mut Context,
    args: &Args,
    from: &[u8],
    name: &str,
    to: &[u8],
) -> Result<(), CommandError> {
    let owner = match args.archive {
        true => Owner::Kept,
        false => Owner::Root,
    };
    // Before a view is mounted for nothing.
    Side::Here.source(&Side::Here.path(from), from, args.follow_link)?;
    with_view(cx, name, Access::Write, |_, view| {
        let root = view.inner_root()?;
        let root = root.as_fd();
        let side = Side::Container { name, root };
        Ok(between((Side::Here, from), (side, to), args, owner)?)
    })
}

/// What comes on standard input, a tar.
fn unpack_in(cx: &mut Context, args: &Args, name: &str, to: &[u8]) -> Result<(), CommandError> {
    let owner = match args.archive {
        true => Owner::Kept,
        false => Owner::Root,
    };
    with_view(cx, name, Access::Write, |_, view| {
        let root = view.inner_root()?;
        let root = root.as_fd();
        let side = Side::Container { name, root };
        let path = side.path(to);
        match side.destination(&path, to)?.found {
            Found::Directory => Ok(untar(std::io::stdin().lock(), root, &path.clean, owner)?),
            Found::Nothing | Found::Other => Err(CommandError::new(format!(
                "destination \"{name}:{}\" must be a directory",
                shown(to)
            ))),
        }
    })
}

fn between(
    (from_side, from): (Side<'_>, &[u8]),
    (to_side, to): (Side<'_>, &[u8]),
    args: &Args,
    owner: Owner,
) -> Result<(), CopyError> {
    let (from_path, to_path) = (from_side.path(from), to_side.path(to));
    let source = from_side.source(&from_path, from, args.follow_link)?;
    let destination = to_side.destination(&to_path, to)?;
    let how = plan(
        &from_path,
        is_directory(&source),
        &to_path,
        destination.found,
    )?;
    let name = match how {
        How::Into => Some(source.name.as_slice()),
        How::Contents => None,
        How::As => Some(destination.name.as_slice()),
    };
    let at = match how {
        How::Into | How::Contents => &to_path.clean,
        How::As => to_path.split().0,
    };
    copy(&source.fd, destination.directory.as_fd(), name, at, owner)
}

fn is_directory(source: &Source) -> bool {
    FileType::from_raw_mode(source.stat.st_mode) == FileType::Directory
}

/// A tar of what is copied, on standard output. Owners are in it as they are.
fn stream(cx: &mut Context, args: &Args, name: &str, from: &[u8]) -> Result<(), CommandError> {
    let mut output = Output::open(None, "copy")?;
    with_view(cx, name, Access::Read, |_, view| {
        let root = view.inner_root()?;
        let root = root.as_fd();
        let side = Side::Container { name, root };
        let path = side.path(from);
        let source = side.source(&path, from, args.follow_link)?;
        let is_directory = is_directory(&source);
        if path.must_be_directory && !is_directory {
            return Err(CopyRefusal::NotADirectory.into());
        }
        let prefix = match path.is_contents {
            true => b".".as_slice(),
            false => &source.name,
        };
        let mut tar = TreeTar::new(&mut output);
        let written = tar.entry(&source.fd, prefix).and_then(|_| {
            if is_directory {
                tar.tree(&source.fd, prefix)?;
            }
            tar.finish().map(drop)
        });
        written.map_err(|e| match e {
            TreeTarError::Write(e) => output.failed(e),
            other => other.into(),
        })
    })?;
    output.finish()
}
